"""What needs no cluster: figures added up, and the messages without Ray."""

import re
import sys

import pytest

from api.grpc.transcription_server import AVAILABLE_IMPLEMENTATIONS
from ml import benchmark
from ml.cluster.messages import MetricsAggregator, ReplicaStatus
from ml.errors import ClusterUnavailableError
from ml.interfaces import Capabilities
from tests.conftest import settings_for_tests


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray cannot be imported, whether it is installed or not."""
    for name in [name for name in sys.modules if re.match(r"(ray|ml.cluster|ml.benchmarks.cluster)\b", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)


def status(replica: str, **figures: float) -> ReplicaStatus:
    gauges = {f"engine_{name}": value for name, value in figures.items()}
    return ReplicaStatus(replica, "node", ("model", ""), "1", 30.0, Capabilities(), gauges)


def test_figures_of_replicas_add_up_and_means_are_means_over_all() -> None:
    metrics = MetricsAggregator()
    metrics.update([status("a", steps=10, stepped_rows=20), status("b", steps=30, stepped_rows=180)])
    assert metrics.total() == {"engine_steps": 40, "engine_stepped_rows": 200, "mean_batch": 5}


def test_what_only_grows_does_not_shrink_when_a_replica_goes() -> None:
    metrics = MetricsAggregator()
    gauges = {"engine_chunks": 5.0, "slots_occupied": 3.0}
    gone = ReplicaStatus("a", "node", ("model", ""), "1", 30.0, Capabilities(), gauges)
    metrics.update([gone, status("b", chunks=1)])
    metrics.update([status("b", chunks=2)])
    assert metrics.total() == {"engine_chunks": 7, "mean_batch": 0}


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("name", ["borealis-ray", "whisper-ray", "onnx-ray"])
def test_without_ray_the_implementation_is_listed_and_says_what_to_install(name: str) -> None:
    service = AVAILABLE_IMPLEMENTATIONS[name]()
    with pytest.raises(ClusterUnavailableError, match=rf"{name} .* pip install -r requirements-ray\.txt") as refusal:
        service.start(settings_for_tests())
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("no_ray")
def test_without_ray_the_benchmark_says_in_one_line_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--device", "cpu", "--workloads", "cluster"]) == 1
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and "requirements-ray.txt" in complaint


def test_benchmark_measures_a_cluster_by_itself() -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cpu", "--workloads", "cluster", "clips"])
