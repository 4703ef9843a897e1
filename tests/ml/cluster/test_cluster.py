"""Several nodes on this machine: spread, a node lost under load, rolling update, cancellation, health, metrics."""

import json
import threading
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

from api.grpc.metrics import ENGINE_METRICS
from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from ml import benchmark
from ml.benchmarks.recordings import Sizes
from ml.borealis.runner import make_engine
from ml.cluster.client import ClusterOptions
from ml.cluster.deployment import Application, Scale
from ml.cluster.messages import ReplicaStatus
from ml.cluster.replica import ReplicaSpec
from ml.errors import RecognitionError
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.implementations.ray_service import BorealisRayTranscriptionService
from tests.conftest import ON_RAY, RAY_NODE, settings_for_tests
from tests.support.audio import voice_wav as wav
from tests.support.fake_engines import (
    CAPABILITIES,
    EXIT,
    FAIL,
    MAX_CHUNK_S,
    SLOW,
    SLOW_RECORDING_S,
    STOP,
    chunk,
    make_spec,
)
from tests.support.fake_models import FakeModel
from tests.support.waiting import wait_until as wait_until_within

pytestmark = ON_RAY

HANG_LIMIT_S = 300.0  # replicas start in processes of their own, on a machine that may be busy
VALUES: dict[str, Any] = {"ray_replicas": 2, "ray_max_ongoing_requests": 8, "model_chunk_duration": 3}


def wait_until(condition: Callable[[], object]) -> None:
    wait_until_within(condition, HANG_LIMIT_S)


def restore_nodes(cluster: Any) -> None:
    """Replace the worker nodes that are gone, those that Ray has lost on a busy machine included."""
    for node in [node for node in cluster.worker_nodes if not node.remaining_processes_alive()]:
        cluster.remove_node(node, allow_graceful=False)
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(**RAY_NODE)


class OverSleepers(BorealisRayTranscriptionService):
    """The implementation over a cluster, with replicas that sleep."""

    def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
        return make_spec()


class Served:
    """A server over the cluster, with a client."""

    def __init__(self, service: OverSleepers, cluster: Any, **values: Any) -> None:
        self.service = service
        settings = settings_for_tests(**{**VALUES, "ray_address": cluster.address, **values})
        self.server = GrpcServer(service, settings)
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.stub = transcription_pb2_grpc.TranscriptionServiceStub(self.channel)
        assert service._cluster
        self.engine, self.monitor = service._cluster.engine, service._cluster.monitor

    def nodes(self, response: transcription_pb2.TranscriptionResponse) -> Counter[str]:
        """How many chunks of a response each node has answered."""
        assert response.success, response.error_message
        return Counter(segment.text.split()[0] for segment in response.segments)

    def ask(self, seconds: float, seed: int = 0) -> Any:
        return self.stub.TranscribeAudio(
            transcription_pb2.AudioRequest(audio_data=wav(seconds, seed), filename="a.wav"), timeout=HANG_LIMIT_S
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


def wait_for_both(cluster: Any, served: Served) -> None:
    """Wait until there is a replica on each of two worker nodes."""

    def are_ready() -> bool:
        restore_nodes(cluster)
        return served.monitor.ready == 2

    wait_until(are_ready)


@pytest.fixture(scope="module")
def front(cluster: Any) -> Iterator[Served]:
    """A front over two replicas, one on each worker."""
    with serving(cluster) as served:
        wait_for_both(cluster, served)
        # The sending side learns of a new replica later than the monitor.
        wait_until(lambda: served.ask(12).success and min(done().values(), default=0) > 0)
        yield served


def replicas() -> list[ReplicaStatus]:
    """The status of all replicas that answer."""
    return Application().statuses()


def versions() -> set[str]:
    """Of the specs that the replicas run."""
    return {status.version for status in replicas()}


def done() -> Counter[str]:
    """How many chunks, overlaps between chunks included, each node's replica has answered."""
    return Counter({status.node: int(status.gauges["engine_chunks"]) for status in replicas()})


class Load:
    """Short recordings from four clients, one after the other, until the context ends."""

    def __init__(self, front: Served) -> None:
        self._front = front
        self._ended = threading.Event()
        self._clients = ThreadPoolExecutor(4)
        self.answers: list[Any] = []
        self.failures: list[BaseException] = []

    def __enter__(self) -> "Load":
        for number in range(4):
            self._clients.submit(self._run, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._clients.shutdown()

    def _run(self, number: int) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(self._front.ask(6, number))
            except grpc.RpcError as failure:
                self.failures.append(failure)

    def more(self, count: int) -> None:
        """Wait for that many more answers."""
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
        assert name in local and f"\ntranscription_{ENGINE_METRICS[name][0]} " in exposed
    assert "\ntranscription_cluster_replicas 2.0" in exposed


def test_front_learns_of_the_replicas_what_their_model_can_do(front: Served) -> None:
    assert front.service.max_chunk_s == front.engine.max_chunk_s == MAX_CHUNK_S
    assert front.service.capabilities == front.engine.capabilities == CAPABILITIES


def test_response_names_the_model_that_the_replicas_run(front: Served) -> None:
    response = front.ask(3)
    assert (response.model_name, response.model_revision) == ("sleeping", "1")


def test_chunk_over_which_the_model_fails_is_answered_in_band(front: Served) -> None:
    with pytest.raises(RecognitionError):
        front.engine.submit(chunk(first=FAIL), "a").result(HANG_LIMIT_S)
    assert front.ask(3).success


def test_chunk_of_a_replica_that_stops_is_sent_to_another(front: Served) -> None:
    retries = front.engine.retries
    assert front.engine.submit(chunk(first=STOP), "a").result(HANG_LIMIT_S)
    assert front.engine.retries > retries


def slow_recording() -> transcription_pb2.AudioRequest:
    """A recording of one chunk that takes longer than any test, unless it is cancelled."""
    return transcription_pb2.AudioRequest(audio_data=wav(SLOW_RECORDING_S), filename="a.wav")


@pytest.mark.parametrize("deadline_s", [None, 10.0], ids=["cancelled", "late"])
def test_cancelled_and_late_calls_are_evicted_from_their_replicas(front: Served, deadline_s: float | None) -> None:
    def cancelled() -> float:
        return front.engine.gauges().get("engine_cancelled", 0)

    before = cancelled()
    call = front.stub.TranscribeAudio.future(slow_recording(), timeout=deadline_s)
    if deadline_s is None:
        wait_until(lambda: front.engine.gauges()["cluster_chunks"] == 1)
        call.cancel()
    else:
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: cancelled() == before + 1 and front.engine.gauges()["cluster_chunks"] == 0)
    assert front.engine.queued_audio_s == 0


def test_recordings_take_turns_in_the_front(front: Served) -> None:
    """A short recording that comes while a long one has many chunks queued does not wait for all of them."""
    order: list[str] = []

    def submit(recording: str) -> "Future[Completion]":
        future = front.engine.submit(chunk(), recording)
        future.add_done_callback(lambda _: order.append(recording))
        return future

    futures = [submit("long") for _ in range(48)] + [submit("short")]
    assert all(future.result(HANG_LIMIT_S) for future in futures)
    assert order.index("short") <= 32, "sixteen were in flight, and at most as many went with it"


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
    before = {status.replica for status in replicas()}
    with serving(cluster) as second, ThreadPoolExecutor(2) as clients:
        both = [clients.submit(served.ask, 30) for served in (front, second)]
        assert all(answer.result().success for answer in both)
        assert {status.replica for status in replicas()} == before
    assert front.ask(3).success  # the deployment outlives the front that has left


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
    print(f"{len(load.answers)} calls, {front.engine.retries} chunks sent again")


def test_controller_killed_under_load_loses_nothing(cluster: Any, front: Served) -> None:
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    with Load(front) as load:
        load.more(4)
        ray.kill(controller, no_restart=False)
        load.more(20)
    assert not load.failures, load.failures[0]
    assert all(answer.success for answer in load.answers)
    wait_for_both(cluster, front)


def test_model_is_replaced_under_load_without_a_lost_call(cluster: Any, front: Served) -> None:
    with Load(front) as load:
        load.more(10)
        Application().deploy(make_spec(version="2"), Scale(replicas=2, max_ongoing=8))
        wait_until(lambda: versions() == {"0.1 2"})
        wait_until(lambda: front.monitor.ready == 2)
        load.more(10)
    assert not load.failures, load.failures[0]
    assert all(answer.success for answer in load.answers)
    assert load.answers[0].model_revision == "1" and load.answers[-1].model_revision == "2"


def test_front_with_another_model_serves_once_a_replica_has_it(cluster: Any, front: Served) -> None:
    """Before that, replicas of the old model would answer, and a new model that does not load would go unnoticed."""

    class OverNewcomers(OverSleepers):
        def replica_spec(self, settings: Settings, options: ClusterOptions) -> ReplicaSpec:
            return make_spec(version="3")

    newcomer = Served(OverNewcomers(), cluster)
    try:
        assert "0.1 3" in versions()
    finally:
        newcomer.close()
    wait_until(lambda: versions() == {"0.1 3"})


def test_health_follows_the_cluster_and_calls_under_way_wait_for_it(cluster: Any, front: Served) -> None:
    serving_state, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert front.health() == serving_state
    with ThreadPoolExecutor(1) as client:
        under_way = client.submit(front.ask, 120)
        wait_until(lambda: front.engine.gauges()["cluster_chunks"] > 0)
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: front.health() == not_serving)
        with pytest.raises(grpc.RpcError) as refusal:
            front.ask(3)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        restore_nodes(cluster)
        wait_until(lambda: front.health() == serving_state)
        assert under_way.result(HANG_LIMIT_S).success
    wait_for_both(cluster, front)


def test_chunk_that_kills_its_replicas_fails_alone(front: Served) -> None:
    with pytest.raises(RecognitionError):
        front.engine.submit(chunk(first=EXIT), "a").result(3 * HANG_LIMIT_S)  # three replicas start anew
    assert front.ask(3).success


def test_benchmark_compares_one_replica_with_two(tmp_path: Path, front: Served) -> None:
    """On the test's cluster: the process is connected to it."""
    file, page = tmp_path / "run.json", tmp_path / "run.md"
    sizes, files = Sizes(cluster_calls=2, cluster_chunks=16), ["--json", str(file), "--markdown", str(page)]
    assert benchmark.main(["--device", "cpu", "--workloads", "cluster", *files], sizes) == 0
    assert page.read_text(encoding="utf-8").startswith("On: processor")
    lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert [(line["strategy"], line["workers"]) for line in lines] == [
        *(("engine", 1), ("ray", 1)), *(("engine", 1), ("ray", 1), ("ray", 2)),
    ]  # fmt: skip
    assert lines[1]["extra"]["ms_over_engine"] > 0 and lines[-1]["extra"]["times_one_replica"] > 1
