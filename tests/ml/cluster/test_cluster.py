"""Several nodes on this machine: spread, a node lost under load, rolling update, cancellation, health, metrics."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import ray
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import generate_latest

from api.grpc.server import TranscriptionServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from ml import benchmark
from ml.benchmarks.workloads import Sizes
from ml.borealis.runner import make_engine
from ml.cluster import deployment as on_cluster
from ml.cluster.client import ClusterOptions
from ml.cluster.deployment import Scale
from ml.cluster.messages import ReplicaStatus
from ml.cluster.replica import FULL_SCALE, ReplicaSpec
from ml.errors import RecognitionError
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.implementations.borealis_ray_service import BorealisRayTranscriptionService
from tests.conftest import ON_RAY, RAY_NODE, settings_for_tests
from tests.support.audio import voice_wav as wav
from tests.support.fake_engines import EXIT, FAIL, LONGEST_S, SLOW, STOP, chunk, recipe
from tests.support.fake_models import FakeModel

pytestmark = ON_RAY

PATIENCE_S = 300
VALUES: dict[str, Any] = {"ray_replicas": 2, "ray_max_ongoing_requests": 8, "model_chunk_duration": 3}


def wait_until(true: Callable[[], object], within_s: float = PATIENCE_S) -> float:
    """How many seconds it took."""
    started_s = time.monotonic()
    while not true():
        assert time.monotonic() - started_s < within_s
        time.sleep(0.05)
    return time.monotonic() - started_s


class OverSleepers(BorealisRayTranscriptionService):
    """The implementation over a cluster, with replicas that sleep."""

    def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
        return recipe()


class Served:
    """A server over the cluster, with a client."""

    def __init__(self, service: OverSleepers, cluster: Any, **values: Any) -> None:
        self.service = service
        settings = settings_for_tests(**{**VALUES, "ray_address": cluster.address, **values})
        self.server = TranscriptionServer(service, settings)
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.stub = transcription_pb2_grpc.TranscriptionServiceStub(self.channel)
        assert service._cluster
        self.engine, self.watch = service._cluster.engine, service._cluster.watch

    def nodes(self, response: transcription_pb2.TranscriptionResponse) -> Counter[str]:
        """How many chunks of a response each node has answered."""
        assert response.success, response.error_message
        return Counter(segment.text.split()[0] for segment in response.segments)

    def ask(self, seconds: float, seed: int = 0) -> Any:
        return self.stub.TranscribeAudio(
            transcription_pb2.AudioRequest(audio_data=wav(seconds, seed), filename="a.wav"), timeout=PATIENCE_S
        )

    def health(self) -> int:
        self.server.sync_readiness()  # as the program does twice a second
        return int(health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status)

    def close(self) -> None:
        self.channel.close()
        self.server.stop()


@contextmanager
def serving(cluster: Any, **values: Any) -> Iterator[Served]:
    served = Served(OverSleepers(), cluster, **values)
    try:
        yield served
    finally:
        served.close()


@pytest.fixture(scope="module")
def front(cluster: Any) -> Iterator[Served]:
    """A front over two replicas, one on each worker."""
    with serving(cluster) as served:
        wait_until(lambda: served.watch.ready == 2)
        # Whoever sends hears of them later.
        wait_until(lambda: served.ask(12).success and min(done().values(), default=0) > 0)
        yield served


def replicas() -> list[ReplicaStatus]:
    """All replicas that answer."""
    return on_cluster.pulses(on_cluster.handle())


def done() -> Counter[str]:
    """How many chunks, and seams between them, each node's replica has answered."""
    return Counter({pulse.node: int(pulse.figures["engine_chunks"]) for pulse in replicas()})


class Load:
    """Short recordings from four clients, one after the other, until the context ends."""

    def __init__(self, front: Served) -> None:
        self._front = front
        self._ended = threading.Event()
        self._clients = ThreadPoolExecutor(4)
        self.answers: list[Any] = []
        self.failures: list[BaseException] = []
        self.longest_s = 0.0

    def __enter__(self) -> "Load":
        for number in range(4):
            self._clients.submit(self._run, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._clients.shutdown()

    def _run(self, number: int) -> None:
        while not self._ended.is_set():
            started_s = time.monotonic()
            try:
                self.answers.append(self._front.ask(6, number))
            except grpc.RpcError as failure:
                self.failures.append(failure)
            self.longest_s = max(self.longest_s, time.monotonic() - started_s)

    def more(self, count: int) -> None:
        """Waits for that many more answers."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted or self.failures)


def test_one_long_recording_is_spread_evenly_over_the_nodes(front: Served) -> None:
    before = done()
    assert front.ask(120).success
    counts = done()
    counts.subtract(before)
    assert len(counts) == 2 and counts.total() >= 30  # a cut may fall up to 1 s past its 3 s
    assert min(counts.values()) >= 0.4 * counts.total(), counts


def test_chunks_come_back_in_order_and_whole(front: Served) -> None:
    response = front.ask(60)
    lengths = [int(segment.text.split()[1]) for segment in response.segments]
    assert lengths == [round((segment.end_s - segment.start_s) * 16_000) for segment in response.segments]


def test_every_figure_of_one_engine_has_the_same_name_here(front: Served) -> None:
    front.ask(3)
    wait_until(lambda: front.engine.gauges().get("engine_chunks", 0) > 0)
    with make_engine(FakeModel(), slots=4) as engine:
        local = set(engine.gauges())
    exposed = generate_latest(front.server.metrics.registry).decode()
    for name in ("queued_chunks", "queued_audio_seconds", "slots_occupied", "mean_batch", "engine_chunks"):
        assert name in local and f"\ntranscription_{name} " in exposed
    assert "\ntranscription_cluster_replicas 2.0" in exposed


def test_response_names_the_model_that_the_replicas_run(front: Served) -> None:
    response = front.ask(3)
    assert (response.model_name, response.model_revision) == ("sleeping", "1")


def test_chunk_over_which_the_model_fails_is_answered_in_band(front: Served) -> None:
    with pytest.raises(RecognitionError):
        front.engine.submit(chunk(first=FAIL), "a").result(PATIENCE_S)
    assert front.ask(3).success


def test_chunk_of_a_replica_that_stops_is_sent_to_another(front: Served) -> None:
    retries = front.engine.retries
    assert front.engine.submit(chunk(first=STOP), "a").result(PATIENCE_S)
    assert front.engine.retries > retries


def slow_recording() -> transcription_pb2.AudioRequest:
    """A recording of one chunk that takes a minute."""
    data = bytearray(wav(2))
    data[44:46] = round(SLOW * FULL_SCALE).to_bytes(2, "little")  # the first sample after the header
    return transcription_pb2.AudioRequest(audio_data=bytes(data), filename="a.wav")


@pytest.mark.parametrize("deadline_s", [None, 5.0], ids=["cancelled", "late"])
def test_calls_that_nobody_waits_for_leave_their_replicas(front: Served, deadline_s: float | None) -> None:
    def cancelled() -> float:
        return front.engine.gauges().get("engine_cancelled", 0)

    before, started_s = cancelled(), time.monotonic()
    call = front.stub.TranscribeAudio.future(slow_recording(), timeout=deadline_s)
    if deadline_s is None:
        wait_until(lambda: front.engine.gauges()["cluster_chunks"] == 1)
        call.cancel()
    else:
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: cancelled() == before + 1 and front.engine.gauges()["cluster_chunks"] == 0)
    assert time.monotonic() - started_s < LONGEST_S and front.engine.queued_audio_s == 0


def test_recordings_take_turns_in_the_front(front: Served) -> None:
    """A short recording that comes while a long one has a long line is not put behind that line."""
    long: list[Future[Completion]] = [front.engine.submit(chunk(), "long") for _ in range(48)]
    short = front.engine.submit(chunk(), "short")
    short.result(PATIENCE_S)
    assert sum(future.done() for future in long) < 48
    assert all(future.result(PATIENCE_S) for future in long)


def test_too_much_waiting_audio_is_refused_as_by_one_process(cluster: Any, front: Served) -> None:
    with serving(cluster, admission_max_queued_audio_s=1.0, ray_max_ongoing_requests=1) as other:
        waiting = [other.engine.submit(chunk(3, first=SLOW), "a") for _ in range(4)]
        with pytest.raises(grpc.RpcError) as refusal:
            other.ask(3)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(refusal.value.trailing_metadata())["x-error-code"] == "OVERLOADED"
        assert int(dict(refusal.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        for future in waiting:
            future.cancel()


def test_second_front_uses_the_replicas_that_are_there(cluster: Any, front: Served) -> None:
    before = {pulse.replica for pulse in replicas()}
    with serving(cluster) as second, ThreadPoolExecutor(2) as clients:
        both = [clients.submit(served.ask, 30) for served in (front, second)]
        assert all(answer.result().success for answer in both)
        assert {pulse.replica for pulse in replicas()} == before
    assert front.ask(3).success  # whoever leaves takes nothing along


def test_node_killed_under_load_loses_nothing_and_a_new_one_is_used(cluster: Any, front: Served) -> None:
    with Load(front) as load:
        load.more(20)
        victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
        cluster.remove_node(victim, allow_graceful=False)
        load.more(20)
        newcomer = cluster.add_node(**RAY_NODE)
        wait_until(lambda: any(newcomer.node_id[:12] in front.nodes(answer) for answer in load.answers[-8:]))
        load.more(8)
    assert not load.failures, load.failures[0]
    assert all(answer.success for answer in load.answers)
    print(f"{len(load.answers)} calls, {front.engine.retries} chunks sent again, longest {load.longest_s:.1f} s")


def test_controller_killed_under_load_loses_nothing(front: Served) -> None:
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    with Load(front) as load:
        load.more(4)
        ray.kill(controller, no_restart=False)
        load.more(20)
    assert not load.failures, load.failures[0]
    assert all(answer.success for answer in load.answers)
    wait_until(lambda: front.watch.ready == 2)


def test_model_is_replaced_under_load_without_a_lost_call(cluster: Any, front: Served) -> None:
    with Load(front) as load:
        load.more(10)
        on_cluster.deploy(recipe(version="2"), Scale(replicas=2, max_ongoing=8))
        wait_until(lambda: {pulse.version for pulse in replicas()} == {"0.1 2"})
        wait_until(lambda: front.watch.ready == 2)
        load.more(10)
    assert not load.failures, load.failures[0]
    assert all(answer.success for answer in load.answers)
    assert load.answers[0].model_revision == "1" and load.answers[-1].model_revision == "2"


def test_front_with_another_model_serves_once_a_replica_has_it(cluster: Any, front: Served) -> None:
    """Until then those of the old model would answer, and nobody would hear of a new one that does not load."""

    class OverNewcomers(OverSleepers):
        def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
            return recipe(version="3")

    newcomer = Served(OverNewcomers(), cluster)
    try:
        assert "0.1 3" in {pulse.version for pulse in replicas()}
    finally:
        newcomer.close()
    wait_until(lambda: {pulse.version for pulse in replicas()} == {"0.1 3"})


def test_health_follows_the_cluster_and_calls_under_way_wait_for_it(cluster: Any, front: Served) -> None:
    serving_state, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert front.health() == serving_state
    with ThreadPoolExecutor(1) as client:
        under_way = client.submit(front.ask, 120)
        wait_until(lambda: front.engine.gauges()["cluster_chunks"] > 0)
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
        print(f"NOT_SERVING after {wait_until(lambda: front.health() == not_serving):.1f} s")
        with pytest.raises(grpc.RpcError) as refusal:
            front.ask(3)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        for _ in range(2):
            cluster.add_node(**RAY_NODE)
        print(f"SERVING after {wait_until(lambda: front.health() == serving_state):.1f} s")
        assert under_way.result(PATIENCE_S).success
    wait_until(lambda: front.watch.ready == 2)


def test_chunk_that_kills_its_replicas_fails_alone(front: Served) -> None:
    with pytest.raises(RecognitionError):
        front.engine.submit(chunk(first=EXIT), "a").result(3 * PATIENCE_S)
    assert front.ask(3).success


def test_benchmark_compares_one_replica_with_two(tmp_path: Path, front: Served) -> None:
    """On the cluster that is here, to which it is connected already."""
    file, page = tmp_path / "run.json", tmp_path / "run.md"
    sizes, files = Sizes(cluster_calls=2, cluster_chunks=16), ["--json", str(file), "--markdown", str(page)]
    assert benchmark.main(["--device", "cpu", "--workloads", "cluster", *files], sizes) == 0
    assert page.read_text(encoding="utf-8").startswith("On: processor")
    lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert [(line["strategy"], line["workers"]) for line in lines] == [
        *(("engine", 1), ("ray", 1)), *(("engine", 1), ("ray", 1), ("ray", 2)),
    ]  # fmt: skip
    assert lines[1]["extra"]["ms_over_engine"] > 0 and lines[-1]["extra"]["times_one_replica"] > 1
