"""The front's engine over replicas that do what a test says: no cluster is started, but Ray's own errors are raised."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve

from ml.cluster.engine import MOST_DEATHS, ClusterEngine
from ml.cluster.messages import Answer
from ml.cluster.replica import FULL_SCALE
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import RecognitionOptions, Waveform
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from tests.conftest import ON_RAY
from tests.support.fake_engines import chunk

pytestmark = ON_RAY

PATIENCE_S = 30
ONGOING = 2

Say = Callable[[int], Answer]


class FakeWatch:
    """As many replicas ready as the test says."""

    def __init__(self, ready: int = 1) -> None:
        self.ready = ready
        self.on_change: Callable[[], None] = lambda: None

    def total(self) -> dict[str, float]:
        return {}


class FakeReplicas:
    """Answers call number n with what `say(n)` returns or raises, once the gate is open."""

    def __init__(self, say: Say = lambda number: Answer(Completion("text"))) -> None:
        self._say = say
        self.recognise = self
        self.gate = threading.Event()
        self.gate.set()
        self.heard: list[np.ndarray] = []
        self.cancelled = 0
        self.inside = self.most_inside = 0

    def remote(self, samples: np.ndarray, options: RecognitionOptions) -> "FakeReplicas.Response":
        self.heard.append(samples)
        return FakeReplicas.Response(self, len(self.heard) - 1)

    class Response:
        """A call under way."""

        def __init__(self, replicas: "FakeReplicas", number: int) -> None:
            self._replicas, self._number = replicas, number

        def __await__(self) -> Any:
            return self._answer().__await__()

        async def _answer(self) -> Answer:
            replicas = self._replicas
            replicas.inside += 1
            replicas.most_inside = max(replicas.most_inside, replicas.inside)
            try:
                while not replicas.gate.is_set():
                    await asyncio.sleep(0.005)
                return replicas._say(self._number)
            finally:
                replicas.inside -= 1

        def cancel(self) -> None:
            self._replicas.cancelled += 1


Make = Callable[..., ClusterEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes an engine that is closed at the end."""
    made: list[ClusterEngine] = []

    def engine(replicas: FakeReplicas, watch: FakeWatch | None = None, timeout_s: float = PATIENCE_S) -> ClusterEngine:
        made.append(ClusterEngine(replicas, watch or FakeWatch(), ONGOING, 64, timeout_s))  # type: ignore[arg-type]
        return made[-1]

    yield engine
    for one in made:
        one.close()


def wait_until(true: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def raising(errors: list[BaseException]) -> Say:
    """Raises each of `errors`, one a call, and then answers."""

    def say(number: int) -> Answer:
        if number < len(errors):
            raise errors[number]
        return Answer(Completion("text"))

    return say


LOSSES = {
    "replica died": ray.exceptions.ActorDiedError(),
    "replica is out of reach": ray.exceptions.ActorUnavailableError("gone", None),
    "replica has no room": serve.exceptions.BackPressureError(num_queued_requests=1, max_queued_requests=1),
    "somebody cancelled it": ray.exceptions.TaskCancelledError(),
    "process crashed": ray.exceptions.WorkerCrashedError(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_chunk_is_sent_again(make: Make, loss: str) -> None:
    engine = make(FakeReplicas(raising([LOSSES[loss]] * 2)))
    assert engine.submit(chunk(), "a").result(PATIENCE_S).text == "text"
    assert engine.gauges()["cluster_retries"] == 2


def test_chunk_of_a_replica_that_stops_is_sent_again(make: Make) -> None:
    replicas = FakeReplicas(lambda number: Answer(Completion("text")) if number else Answer(stopped=True))
    assert make(replicas).submit(chunk(), "a").result(PATIENCE_S).text == "text"
    assert len(replicas.heard) == 2


def test_chunk_over_which_replicas_keep_dying_fails_alone(make: Make) -> None:
    engine = make(FakeReplicas(raising([ray.exceptions.ActorDiedError()] * MOST_DEATHS)))
    with pytest.raises(RecognitionError, match="Модель не смогла"):
        engine.submit(chunk(), "a").result(PATIENCE_S)
    assert engine.submit(chunk(), "a").result(PATIENCE_S).text == "text"


def test_chunk_over_which_the_model_fails_is_not_sent_again(make: Make) -> None:
    replicas = FakeReplicas(lambda number: Answer())
    with pytest.raises(RecognitionError):
        make(replicas).submit(chunk(), "a").result(PATIENCE_S)
    assert len(replicas.heard) == 1


def test_error_of_the_replicas_code_is_handed_on_as_it_is(make: Make) -> None:
    engine = make(FakeReplicas(raising([KeyError("a bug")])))
    with pytest.raises(KeyError):
        engine.submit(chunk(), "a").result(PATIENCE_S)


def test_no_more_chunks_are_sent_than_the_ready_replicas_hold(make: Make) -> None:
    replicas, watch = FakeReplicas(), FakeWatch(ready=3)
    replicas.gate.clear()
    engine = make(replicas, watch)
    futures = [engine.submit(chunk(), "a") for _ in range(20)]
    wait_until(lambda: replicas.inside == 3 * ONGOING)
    assert engine.gauges()["queued_chunks"] == 20 - 3 * ONGOING
    assert engine.queued_audio_s == 20 - 3 * ONGOING
    replicas.gate.set()
    assert [future.result(PATIENCE_S).text for future in futures] == ["text"] * 20
    assert replicas.most_inside == 3 * ONGOING


def test_recordings_take_turns(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    long = [engine.submit(chunk(2), "long") for _ in range(20)]
    wait_until(lambda: replicas.inside == ONGOING)
    short = engine.submit(chunk(1), "short")
    replicas.gate.set()
    for future in [*long, short]:
        future.result(PATIENCE_S)
    assert [len(samples) for samples in replicas.heard].index(16_000) <= ONGOING + 1


def test_cancelled_chunk_leaves_its_replica_or_the_line(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    futures = [engine.submit(chunk(), "a") for _ in range(ONGOING + 1)]
    wait_until(lambda: replicas.inside == ONGOING)
    assert all(future.cancel() for future in reversed(futures))
    wait_until(lambda: replicas.cancelled == ONGOING and engine.gauges()["cluster_chunks"] == 0)
    assert engine.queued_audio_s == 0 and len(replicas.heard) == ONGOING


def test_chunks_wait_for_a_replica_and_go_on_when_there_is_one(make: Make) -> None:
    replicas, watch = FakeReplicas(), FakeWatch(ready=0)
    engine = make(replicas, watch)
    future = engine.submit(chunk(), "a")
    time.sleep(0.2)
    assert not replicas.heard
    watch.ready = 1
    watch.on_change()
    assert future.result(PATIENCE_S).text == "text"


@pytest.mark.parametrize("ready", [0, 1])
def test_chunk_that_nobody_answers_is_given_up_in_time(make: Make, ready: int) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    future = make(replicas, FakeWatch(ready), timeout_s=0.3).submit(chunk(), "a")
    with pytest.raises(EngineStoppedError):
        future.result(PATIENCE_S)
    assert replicas.cancelled == ready  # and the replica hears of it


def test_closed_engine_gives_everybody_up_and_takes_nobody_in(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    futures = [engine.submit(chunk(), "a") for _ in range(ONGOING + 1)]
    wait_until(lambda: replicas.inside == ONGOING)
    engine.close()
    for future in futures:
        with pytest.raises(EngineStoppedError):
            future.result(PATIENCE_S)
    with pytest.raises(EngineStoppedError):
        engine.submit(chunk(), "a")


def test_sixteen_bits_come_to_the_very_same_samples(make: Make) -> None:
    replicas = FakeReplicas()
    every = np.arange(-FULL_SCALE, FULL_SCALE, dtype=np.int16)
    waveform: Waveform = every.astype(np.float32) / FULL_SCALE
    make(replicas).submit(waveform, "a").result(PATIENCE_S)
    assert np.array_equal(replicas.heard[0], every)
    assert np.array_equal(replicas.heard[0].astype(np.float32) / FULL_SCALE, waveform)


def test_texts_of_a_recording_come_in_order_whoever_is_lost(make: Make) -> None:
    def say(number: int) -> Answer:
        if number % 3 == 0:
            raise ray.exceptions.ActorDiedError
        return Answer(Completion(str(len(replicas.heard[number]))))

    replicas = FakeReplicas(say)
    lengths = list(range(1000, 1040))
    chunks = (Sized(np.zeros(length, np.float32)) for length in lengths)
    texts = recognise_with(make(replicas), window=8)(chunks, threading.Event(), RecognitionOptions())  # type: ignore[arg-type]
    assert [completion.text for completion in texts] == [str(length) for length in lengths]


class Sized:
    """Of a chunk, what a recogniser looks at."""

    def __init__(self, waveform: Waveform) -> None:
        self.waveform = waveform
