"""The client's engine: chunks are queued here in fair order, sent to the replicas, and come back as completions."""

import asyncio
import logging
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ml.cluster.messages import CLUSTER_GAUGES, Answer
from ml.cluster.monitor import ReplicaMonitor
from ml.cluster.replica import FULL_SCALE, Replica, Samples
from ml.engine.fair_queue import FairQueue
from ml.engine.request import FAILED, STOPPED, Request
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions, Waveform
from ml.transcript import Completion

MAX_DEATHS = 3  # a chunk over which so many replicas die is not sent to another
INITIAL_BACKOFF_S = 0.05  # before another attempt; doubled each time
MAX_BACKOFF_S = 1.0
CLOSE_TIMEOUT_S = 5.0  # for calls that are cancelled
# Losses of the replica, its node or its place in the queue: another replica may answer.
RETRYABLE = (
    ray.exceptions.RayError,
    serve.exceptions.BackPressureError,
    serve.exceptions.DeploymentUnavailableError,
    serve.exceptions.RequestCancelledError,
)

_log = logging.getLogger("BorealisCluster")


class ClusterEngine:
    """Sends chunks to the replicas, as many at once as those can take. Close it, or the program does not end.

    A chunk whose replica dies, stops or has no room is sent again, until there is an answer or its time is up.
    """

    busy_without_progress_s = 0.0  # each replica watches its own engine

    def __init__(
        self,
        replicas: "DeploymentHandle[Replica]",
        monitor: ReplicaMonitor,
        ongoing_per_replica: int,
        queue_capacity: int,
        timeout_s: float,
    ) -> None:
        """`queue_capacity` chunks of a recording may wait here; a chunk in flight is aborted after `timeout_s`."""
        self._replicas = replicas
        self._monitor = monitor
        self._ongoing_per_replica = ongoing_per_replica
        self._timeout_s = timeout_s
        self._queue: FairQueue[Request] = FairQueue(queue_capacity)
        self._tasks: dict[Request, asyncio.Task[None]] = {}
        self._changed = threading.Condition()
        self._in_flight = 0
        self._closed = False
        self.retries = 0  # chunks sent once more
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=self._loop.run_forever, name="cluster-calls"),
            threading.Thread(target=self._dispatch, name="cluster-dispatch"),
        ]
        monitor.on_change = self._notify
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def max_chunk_s(self) -> float:
        """Longest chunk that the replicas' model takes."""
        return self._monitor.latest.max_chunk_s

    @property
    def capabilities(self) -> Capabilities:
        """What the replicas' model can do."""
        return self._monitor.latest.capabilities

    @property
    def queued_audio_s(self) -> float:
        """Seconds of audio in the queue."""
        return sum(len(request.waveform) for request in self._queue.snapshot()) / SAMPLE_RATE

    def gauges(self) -> dict[str, float]:
        """Figures of this process and of all replicas, for the metrics."""
        found = self._monitor.total()
        found["queued_chunks"] = found.get("queued_chunks", 0.0) + len(self._queue)
        found["queued_audio_seconds"] = found.get("queued_audio_seconds", 0.0) + self.queued_audio_s
        own = (self._monitor.ready, self._in_flight, self.retries)
        return {**found, **dict(zip(CLUSTER_GAUGES, map(float, own), strict=True))}

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queue a waveform (N,); return the future of its completion. See ml.engine.engine.Engine.submit."""
        request = Request(waveform, recording_id, time.perf_counter(), options)
        if not self._queue.put(recording_id, request):
            raise EngineStoppedError(STOPPED)
        request.future.add_done_callback(lambda future: self._evict(request) if future.cancelled() else None)
        return request.future

    def abort_all(self) -> None:
        """Abort every request, queued or in flight."""
        self._abort_queued()
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks.values()])

    def close(self) -> None:
        """Abort every request and end the threads. May be called again."""
        if self._loop.is_closed():
            return
        for request in self._queue.close():
            request.abort()
        self.abort_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._in_flight == 0, CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _evict(self, request: Request) -> None:
        """Remove a cancelled request from the queue, or cancel its call."""
        if not self._queue.discard(request.recording_id, request):
            self._loop.call_soon_threadsafe(lambda: request in self._tasks and self._tasks[request].cancel())

    def _dispatch(self) -> None:
        """Send requests as there is room on the replicas."""
        while requests := self._queue.take(self._wait_for_room(), wait=True):
            with self._changed:
                self._in_flight += len(requests)
            for request in requests:
                self._loop.call_soon_threadsafe(self._send, request)

    def _wait_for_room(self) -> int:
        """Wait until requests may be sent; return how many. Where that takes `timeout_s`, abort what is queued."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed or self._room > 0, self._timeout_s):
                    return max(1, self._room)
            self._abort_queued()

    def _abort_queued(self) -> None:
        for request in self._queue.take(len(self._queue), wait=False):
            request.abort()

    @property
    def _room(self) -> int:
        return self._monitor.ready * self._ongoing_per_replica - self._in_flight

    def _send(self, request: Request) -> None:
        task = self._loop.create_task(self._answer(request))
        self._tasks[request] = task
        task.add_done_callback(lambda _: self._settle(request))
        if request.is_cancelled:
            task.cancel()

    def _settle(self, request: Request) -> None:
        del self._tasks[request]
        request.abort()  # unless it is settled already
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    async def _answer(self, request: Request) -> None:
        """Have a chunk recognised and settle its future."""
        try:
            async with asyncio.timeout(self._timeout_s):
                request.complete(await self._completion(_to_samples(request.waveform), request.options))
        except TimeoutError:
            _log.warning("Фрагмент не распознан за %.0f сек (RAY_CHUNK_TIMEOUT_S)", self._timeout_s)
        except asyncio.CancelledError:
            pass  # the caller has cancelled it, or all are aborted
        except RecognitionError as error:
            request.fail(error)
        except Exception as error:  # of the replica's own code
            _log.error("Ошибка в реплике", exc_info=error)
            request.fail(error)

    async def _completion(self, samples: Samples, options: RecognitionOptions) -> Completion:
        """Call replica after replica until one answers. Transcription is pure: another attempt does no harm."""
        deaths, backoff_s = 0, INITIAL_BACKOFF_S
        while True:
            try:
                answer = await self._call(samples, options)
            except ray.exceptions.RayTaskError:
                raise
            except RETRYABLE as error:
                deaths += isinstance(error, ray.exceptions.ActorDiedError)
                _log.info("Фрагмент потерян репликой (%s), отправляется снова", type(error).__name__)
            else:
                if answer.completion is not None:
                    return answer.completion
                if not answer.stopped:
                    raise RecognitionError(FAILED)
            if deaths == MAX_DEATHS:
                _log.warning("Над фрагментом умерло реплик: %d, больше он не отправляется", deaths)
                raise RecognitionError(FAILED)
            self.retries += 1
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    async def _call(self, samples: Samples, options: RecognitionOptions) -> Answer:
        """Call one replica; a cancelled call is cancelled there too."""
        response = self._replicas.recognise.remote(samples, options)
        try:
            answer: Answer = await response
            return answer
        except asyncio.CancelledError:
            response.cancel()
            raise


def _to_samples(waveform: Waveform) -> Samples:
    """A waveform in [-1, 1] as 16-bit samples: what was decoded from 16 bits comes to the same numbers."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
