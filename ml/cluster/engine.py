"""The front's engine: chunks wait here in fair order, go to the replicas of the cluster, and come back as texts."""

import asyncio
import logging
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from ml.cluster import FRONT_FIGURES
from ml.cluster.messages import Answer
from ml.cluster.monitor import Watch
from ml.cluster.replica import FULL_SCALE, Replica, Samples
from ml.engine.fair_queue import FairQueue
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.transcript import Completion

MOST_DEATHS = 3  # a chunk over which so many replicas die is not given to another
FIRST_PAUSE_S = 0.05  # before another attempt; doubled each time
LONGEST_PAUSE_S = 1.0
CLOSING_S = 5.0  # for calls that are cancelled
FAILED = "Модель не смогла распознать фрагмент аудио."
STOPPED = "Распознавание остановлено: повторите запрос позже."
# What says nothing of the chunk: the replica, its node or its place in the line is gone. Another replica may answer.
LOST = (
    ray.exceptions.RayError,
    serve.exceptions.BackPressureError,
    serve.exceptions.DeploymentUnavailableError,
    serve.exceptions.RequestCancelledError,
)

_log = logging.getLogger("BorealisCluster")


@dataclass(eq=False)
class Request:
    """A chunk and its text to come."""

    waveform: Waveform
    options: RecognitionOptions
    future: "Future[Completion]" = field(default_factory=Future)

    def answer(self, completion: Completion) -> None:
        """Hands over the text, unless nobody wants it any more."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)

    def fail(self, error: BaseException) -> None:
        """Says that there will be no text, unless nobody waits for it any more."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class ClusterEngine:
    """Sends chunks to the replicas, as many at once as those can take. Close it, or the program does not end.

    A chunk whose replica dies, stops or has no room is sent again, until there is an answer or its time is up.
    """

    def __init__(
        self,
        replicas: "DeploymentHandle[Replica]",
        watch: Watch,
        ongoing_per_replica: int,
        queue_capacity: int,
        timeout_s: float,
    ) -> None:
        """`queue_capacity` chunks of a recording may wait here; a chunk under way is given up after `timeout_s`."""
        self._replicas = replicas
        self._watch = watch
        self._ongoing_per_replica = ongoing_per_replica
        self._timeout_s = timeout_s
        self._waiting: FairQueue[Request] = FairQueue(queue_capacity)
        self._under_way: dict[Request, asyncio.Task[None]] = {}
        self._changed = threading.Condition()
        self._in_flight = 0
        self._closed = False
        self.retries = 0  # chunks sent once more
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=self._loop.run_forever, name="cluster-calls"),
            threading.Thread(target=self._dispatch, name="cluster-dispatch"),
        ]
        watch.on_change = self._wake
        for thread in self._threads:
            thread.start()

    @property
    def queued_audio_s(self) -> float:
        """Seconds of audio that wait here."""
        return sum(len(job.waveform) for job in self._waiting.snapshot()) / SAMPLE_RATE

    def gauges(self) -> dict[str, float]:
        """What is going on here and on all replicas: for metrics."""
        waiting, found = self._waiting.snapshot(), self._watch.total()
        found["queued_chunks"] = found.get("queued_chunks", 0.0) + len(waiting)
        queued_audio_s = sum(len(job.waveform) for job in waiting) / SAMPLE_RATE
        found["queued_audio_seconds"] = found.get("queued_audio_seconds", 0.0) + queued_audio_s
        own = (self._watch.ready, self._in_flight, self.retries)
        return {**found, **dict(zip(FRONT_FIGURES, map(float, own), strict=True))}

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queues a waveform (N,) of at most 30 s and returns its text to come; see ml.engine.engine.Engine.submit."""
        job = Request(waveform, options)
        if not self._waiting.put(recording_id, job):
            raise EngineStoppedError(STOPPED)
        job.future.add_done_callback(lambda future: self._evict(recording_id, job) if future.cancelled() else None)
        return job.future

    busy_without_progress_s = 0.0  # each replica watches its own engine

    @property
    def is_alive(self) -> bool:
        """Whether its threads are there to answer."""
        return all(thread.is_alive() for thread in self._threads)

    def abort_all(self) -> None:
        """Gives up everybody who waits or is under way."""
        self._give_up_waiting()
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._under_way.values()])

    def close(self) -> None:
        """Gives up who waits or is under way, and ends the threads. May be called again."""
        if self._loop.is_closed():
            return
        for job in self._waiting.close():
            job.fail(EngineStoppedError(STOPPED))
        self.abort_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._in_flight == 0, CLOSING_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _evict(self, recording_id: Hashable, job: Request) -> None:
        """Takes a chunk that nobody wants any more out of the line, or from its replica."""
        if not self._waiting.discard(recording_id, job):
            self._loop.call_soon_threadsafe(lambda: job in self._under_way and self._under_way[job].cancel())

    def _dispatch(self) -> None:
        """Sends chunks on as there is room on the replicas."""
        while jobs := self._waiting.take(self._room(), wait=True):
            with self._changed:
                self._in_flight += len(jobs)
            for job in jobs:
                self._loop.call_soon_threadsafe(self._send, job)

    def _room(self) -> int:
        """How many chunks may be sent now; waits until there may be one. Where that takes too long, nobody waits on."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed or self._free > 0, self._timeout_s):
                    return max(1, self._free)
            self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        for job in self._waiting.take(len(self._waiting), wait=False):
            job.fail(EngineStoppedError(STOPPED))

    @property
    def _free(self) -> int:
        return self._watch.ready * self._ongoing_per_replica - self._in_flight

    def _send(self, job: Request) -> None:
        task = self._loop.create_task(self._answer(job))
        self._under_way[job] = task
        task.add_done_callback(lambda _: self._settle(job))
        if job.future.cancelled():
            task.cancel()

    def _settle(self, job: Request) -> None:
        del self._under_way[job]
        job.fail(EngineStoppedError(STOPPED))  # unless it has its end already
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    async def _answer(self, job: Request) -> None:
        """Has a chunk recognised and tells whoever waits for it."""
        try:
            async with asyncio.timeout(self._timeout_s):
                job.answer(await self._completion(_samples(job.waveform), job.options))
        except TimeoutError:
            _log.warning("Фрагмент не распознан за %.0f сек (RAY_CHUNK_TIMEOUT_S)", self._timeout_s)
        except asyncio.CancelledError:
            pass  # nobody wants it, or everybody is given up
        except Exception as error:  # a RecognitionError, or one of the replica's code that nobody expected
            job.fail(error)

    async def _completion(self, samples: Samples, options: RecognitionOptions) -> Completion:
        """Asks replica after replica until one answers. Transcription is pure: nothing is lost by asking again."""
        deaths, pause_s = 0, FIRST_PAUSE_S
        while True:
            try:
                answer = await self._ask(samples, options)
            except ray.exceptions.RayTaskError:
                raise
            except LOST as error:
                deaths += isinstance(error, ray.exceptions.ActorDiedError)
                _log.info("Фрагмент потерян репликой (%s), отправляется снова", type(error).__name__)
            else:
                if not answer.stopped:
                    return _completion_of(answer)
            if deaths == MOST_DEATHS:
                _log.warning("Над фрагментом умерло реплик: %d, больше он не отправляется", deaths)
                raise RecognitionError(FAILED)
            self.retries += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _ask(self, samples: Samples, options: RecognitionOptions) -> Answer:
        """Asks one replica; the replica hears of it when nobody waits for its answer any more."""
        response = self._replicas.recognise.remote(samples, options)
        try:
            answer: Answer = await response
            return answer
        except asyncio.CancelledError:
            response.cancel()
            raise


def _completion_of(answer: Answer) -> Completion:
    if answer.completion is None:
        raise RecognitionError(FAILED)
    return answer.completion


def _samples(waveform: Waveform) -> Samples:
    """A waveform in [-1, 1] as 16-bit samples: what was decoded from 16 bits comes to the very same numbers."""
    return np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
