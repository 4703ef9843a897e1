"""What of the cluster needs none: figures added up, the benchmark's sleeping engine, and what is said without Ray."""

import subprocess
import sys
import threading
import time

import numpy as np

from ml.audio.splitting import Chunk
from ml.benchmarks.sleeper import Sleeper
from ml.cluster.figures import Tally
from ml.cluster.pulse import Pulse
from ml.recognise import recognise_with
from resources.config import PROJECT_ROOT

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from {module} import main
sys.exit(main({arguments}))
"""


def pulse(replica: str, **figures: float) -> Pulse:
    return Pulse(replica, "node", ("model", ""), "1", {f"engine_{name}": value for name, value in figures.items()})


def test_figures_of_replicas_add_up_and_means_are_means_over_all() -> None:
    tally = Tally()
    tally.take([pulse("a", steps=10, stepped_rows=20), pulse("b", steps=30, stepped_rows=180)])
    assert tally.total() == {"engine_steps": 40, "engine_stepped_rows": 200, "mean_batch": 5}


def test_what_only_grows_does_not_shrink_when_a_replica_goes() -> None:
    tally = Tally()
    gone = Pulse("a", "node", ("model", ""), "1", {"engine_chunks": 5.0, "slots_occupied": 3.0})
    tally.take([gone, pulse("b", chunks=1)])
    tally.take([pulse("b", chunks=2)])
    assert tally.total() == {"engine_chunks": 7, "mean_batch": 0}


def test_sleeping_engine_takes_as_long_as_its_batches() -> None:
    sleeper = Sleeper(base_s=0.1, item_s=0.01, slots=4)
    started_s = time.perf_counter()
    texts = list(
        recognise_with(sleeper, window=8)(iter([Chunk(np.zeros(16_000, np.float32), 0)] * 8), threading.Event())
    )
    took_s = time.perf_counter() - started_s
    figures = sleeper.figures()
    sleeper.close()
    assert texts == [""] * 8 and figures["engine_stepped_rows"] == 8
    assert took_s >= figures["engine_steps"] * 0.1 + 8 * 0.01


def without_ray(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs a program of the project where Ray cannot be imported."""
    code = WITHOUT_RAY.format(module=module, arguments=list(arguments))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False)


def test_without_ray_the_implementation_is_listed_and_says_in_one_line_what_to_install() -> None:
    server = "api.grpc.transcription_server"
    assert "borealis-ray" in without_ray(server, "--help").stdout
    result = without_ray(server, "--implementation", "borealis-ray", "--port", "0", "--host", "127.0.0.1")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1 and "requirements-ray.txt" in result.stderr


def test_without_ray_the_benchmark_says_in_one_line_what_to_install() -> None:
    result = without_ray("ml.benchmark", "--device", "cpu", "--workloads", "cluster")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1 and "requirements-ray.txt" in result.stderr
