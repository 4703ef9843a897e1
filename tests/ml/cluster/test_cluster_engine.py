"""The client's engine over scripted replicas: no cluster is started, but Ray's own errors are raised."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from ray import serve

from ml.cluster.app import app
from ml.cluster.client import ClusterOptions, make_spec
from ml.cluster.deployment import Scale
from ml.cluster.engine import MAX_DEATHS, ClusterEngine
from ml.cluster.messages import Answer
from ml.cluster.replica import FULL_SCALE, ReplicaSpec
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import RecognitionOptions, Waveform
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from resources.config import PROJECT_ROOT
from tests.conftest import ON_RAY
from tests.support.fake_engines import chunk
from tests.support.waiting import HANG_LIMIT_S, wait_until, wait_until_steady

pytestmark = ON_RAY

SERVE = PROJECT_ROOT / "deploy" / "ray" / "serve.yaml"

ONGOING = 2

Script = Callable[[int], Answer]


class FakeMonitor:
    """As many replicas ready as the test sets."""

    def __init__(self, ready: int = 1) -> None:
        self.ready = ready
        self.on_change: Callable[[], None] = lambda: None

    def total(self) -> dict[str, float]:
        return {}


class FakeReplicas:
    """Call number n returns or raises what `script(n)` does, once the gate is open."""

    def __init__(self, script: Script = lambda number: Answer(Completion("text"))) -> None:
        self._script = script
        self.recognise = self
        self.gate = threading.Event()
        self.gate.set()
        self.received: list[np.ndarray] = []
        self.cancelled = 0
        self.in_flight = self.most_in_flight = 0

    def remote(self, samples: np.ndarray, options: RecognitionOptions) -> "FakeReplicas.Response":
        self.received.append(samples)
        return FakeReplicas.Response(self, len(self.received) - 1)

    class Response:
        """A call under way."""

        def __init__(self, replicas: "FakeReplicas", number: int) -> None:
            self._replicas, self._number = replicas, number

        def __await__(self) -> Any:
            return self._answer().__await__()

        async def _answer(self) -> Answer:
            replicas = self._replicas
            replicas.in_flight += 1
            replicas.most_in_flight = max(replicas.most_in_flight, replicas.in_flight)
            try:
                while not replicas.gate.is_set():
                    await asyncio.sleep(0.005)
                return replicas._script(self._number)
            finally:
                replicas.in_flight -= 1

        def cancel(self) -> None:
            self._replicas.cancelled += 1


Make = Callable[..., ClusterEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes an engine that is closed at the end."""
    made: list[ClusterEngine] = []

    def engine(
        replicas: FakeReplicas, monitor: FakeMonitor | None = None, timeout_s: float = HANG_LIMIT_S
    ) -> ClusterEngine:
        made.append(ClusterEngine(replicas, monitor or FakeMonitor(), ONGOING, 64, timeout_s))  # type: ignore[arg-type]
        return made[-1]

    yield engine
    for one in made:
        one.close()


def raising(errors: list[BaseException]) -> Script:
    """Raises each of `errors`, one a call, and then answers."""

    def script(number: int) -> Answer:
        if number < len(errors):
            raise errors[number]
        return Answer(Completion("text"))

    return script


LOSSES = {
    "replica died": ray.exceptions.ActorDiedError(),
    "replica is out of reach": ray.exceptions.ActorUnavailableError("gone", None),
    "replica has no room": serve.exceptions.BackPressureError(num_queued_requests=1, max_queued_requests=1),
    "call was cancelled": ray.exceptions.TaskCancelledError(),
    "process crashed": ray.exceptions.WorkerCrashedError(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_chunk_is_sent_again(make: Make, loss: str) -> None:
    engine = make(FakeReplicas(raising([LOSSES[loss]] * 2)))
    assert engine.submit(chunk(), "a").result(HANG_LIMIT_S).text == "text"
    assert engine.gauges()["cluster_retries"] == 2


def test_chunk_of_a_replica_that_stops_is_sent_again(make: Make) -> None:
    replicas = FakeReplicas(lambda number: Answer(Completion("text")) if number else Answer(stopped=True))
    assert make(replicas).submit(chunk(), "a").result(HANG_LIMIT_S).text == "text"
    assert len(replicas.received) == 2


def test_chunk_over_which_replicas_keep_dying_fails_alone(make: Make) -> None:
    engine = make(FakeReplicas(raising([ray.exceptions.ActorDiedError()] * MAX_DEATHS)))
    with pytest.raises(RecognitionError, match="Модель не смогла"):
        engine.submit(chunk(), "a").result(HANG_LIMIT_S)
    assert engine.submit(chunk(), "a").result(HANG_LIMIT_S).text == "text"


def test_chunk_over_which_the_model_fails_is_not_sent_again(make: Make) -> None:
    replicas = FakeReplicas(lambda number: Answer())
    with pytest.raises(RecognitionError):
        make(replicas).submit(chunk(), "a").result(HANG_LIMIT_S)
    assert len(replicas.received) == 1


def test_error_of_the_replicas_code_fails_the_chunk_and_is_its_cause(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(FakeReplicas(raising([KeyError("a bug")])))
    with pytest.raises(RecognitionError) as failure:
        engine.submit(chunk(), "a").result(HANG_LIMIT_S)
    assert isinstance(failure.value.__cause__, KeyError) and "a bug" in caplog.text


def test_no_more_chunks_are_sent_than_the_ready_replicas_hold(make: Make) -> None:
    replicas, monitor = FakeReplicas(), FakeMonitor(ready=3)
    replicas.gate.clear()
    engine = make(replicas, monitor)
    futures = [engine.submit(chunk(), "a") for _ in range(20)]
    wait_until(lambda: replicas.in_flight == 3 * ONGOING)
    assert engine.gauges()["queued_chunks"] == 20 - 3 * ONGOING
    assert engine.queued_audio_s == 20 - 3 * ONGOING
    replicas.gate.set()
    assert [future.result(HANG_LIMIT_S).text for future in futures] == ["text"] * 20
    assert replicas.most_in_flight == 3 * ONGOING


def test_recordings_take_turns(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    long = [engine.submit(chunk(2), "long") for _ in range(20)]
    wait_until(lambda: replicas.in_flight == ONGOING)
    short = engine.submit(chunk(1), "short")
    replicas.gate.set()
    for future in [*long, short]:
        future.result(HANG_LIMIT_S)
    assert [len(samples) for samples in replicas.received].index(16_000) <= ONGOING + 1


def test_cancelled_chunk_is_removed_from_its_replica_or_from_the_queue(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    futures = [engine.submit(chunk(), "a") for _ in range(ONGOING + 1)]
    wait_until(lambda: replicas.in_flight == ONGOING)
    assert all(future.cancel() for future in reversed(futures))
    wait_until(lambda: replicas.cancelled == ONGOING and engine.gauges()["cluster_chunks"] == 0)
    assert engine.queued_audio_s == 0 and len(replicas.received) == ONGOING


def test_chunks_wait_for_a_replica_and_go_on_when_there_is_one(make: Make) -> None:
    replicas, monitor = FakeReplicas(), FakeMonitor(ready=0)
    engine = make(replicas, monitor)
    future = engine.submit(chunk(), "a")
    assert wait_until_steady(lambda: len(replicas.received)) == 0
    monitor.ready = 1
    monitor.on_change()
    assert future.result(HANG_LIMIT_S).text == "text"


@pytest.mark.parametrize("ready", [0, 1])
def test_chunk_without_an_answer_is_aborted_in_time(make: Make, ready: int) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    future = make(replicas, FakeMonitor(ready), timeout_s=0.3).submit(chunk(), "a")
    with pytest.raises(EngineStoppedError):
        future.result(HANG_LIMIT_S)
    assert replicas.cancelled == ready  # its call is cancelled as well


def test_closed_engine_aborts_every_chunk_and_accepts_none(make: Make) -> None:
    replicas = FakeReplicas()
    replicas.gate.clear()
    engine = make(replicas)
    futures = [engine.submit(chunk(), "a") for _ in range(ONGOING + 1)]
    wait_until(lambda: replicas.in_flight == ONGOING)
    engine.close()
    for future in futures:
        with pytest.raises(EngineStoppedError):
            future.result(HANG_LIMIT_S)
    with pytest.raises(EngineStoppedError):
        engine.submit(chunk(), "a")


def test_sixteen_bits_come_to_the_very_same_samples(make: Make) -> None:
    replicas = FakeReplicas()
    every = np.arange(-FULL_SCALE, FULL_SCALE, dtype=np.int16)
    waveform: Waveform = every.astype(np.float32) / FULL_SCALE
    make(replicas).submit(waveform, "a").result(HANG_LIMIT_S)
    assert np.array_equal(replicas.received[0], every)
    assert np.array_equal(replicas.received[0].astype(np.float32) / FULL_SCALE, waveform)


def test_texts_of_a_recording_come_in_order_whichever_replica_is_lost(make: Make) -> None:
    def script(number: int) -> Answer:
        if number % 3 == 0:
            raise ray.exceptions.ActorDiedError
        return Answer(Completion(str(len(replicas.received[number]))))

    replicas = FakeReplicas(script)
    lengths = list(range(1000, 1040))
    chunks = (Sized(np.zeros(length, np.float32)) for length in lengths)
    texts = recognise_with(make(replicas), window=8)(chunks, threading.Event(), RecognitionOptions())  # type: ignore[arg-type]
    assert [completion.text for completion in texts] == [str(length) for length in lengths]


def test_serve_configuration_file_builds_the_application() -> None:
    (application,) = yaml.safe_load(SERVE.read_text(encoding="utf-8"))["applications"]
    assert isinstance(app(application["args"]), serve.Application)
    for engine in ("whisper", "onnx"):
        assert isinstance(app({"engine": engine, "name": "a model", "device": "cpu"}), serve.Application)
    with pytest.raises(KeyError, match="another"):
        app({**application["args"], "engine": "another"})


@dataclass(frozen=True)
class AnyOptions:
    """The options of some model."""

    name: str
    revision: str | None = None
    batch_size: int = 1


def test_spec_of_any_engine_names_its_model_and_differs_where_an_option_does(tmp_path: Path) -> None:
    def spec(options: AnyOptions, cluster: ClusterOptions = ClusterOptions()) -> ReplicaSpec:  # noqa: B008 (frozen)
        return make_spec(lambda options: Any, options, cluster)  # type: ignore[arg-type, return-value]

    assert spec(AnyOptions(str(tmp_path))).model == (tmp_path.name, "")
    assert spec(AnyOptions("hub/name", "main")).model == ("hub/name", "main")
    assert spec(AnyOptions("a")).version == spec(AnyOptions("a")).version
    others = [spec(AnyOptions("a", batch_size=2)), spec(AnyOptions("a"), ClusterOptions(scale=Scale(gpus=1.0)))]
    assert len({spec(AnyOptions("a")).version, *(other.version for other in others)}) == 3


class Sized:
    """The part of a chunk that a recogniser reads."""

    def __init__(self, waveform: Waveform) -> None:
        self.waveform = waveform
