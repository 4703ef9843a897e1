"""Starting and stopping the server as an operator does: flags, errors at start, signals, health."""

import signal
import socket
import sys
from pathlib import Path

import grpc
import pytest

from resources.config import PROJECT_ROOT
from tests.support.ports import free_port
from tests.support.processes import Health, run, started, wait_for
from tests.support.speech import TINY_MODEL
from tests.support.waiting import HANG_LIMIT_S

LOCAL = {"SERVER_HOST": "127.0.0.1", "MODEL_DEVICE": "cpu", "MODEL_NAME": str(TINY_MODEL)}


def assert_one_line(error: str, *mentions: str) -> None:
    assert len(error.strip().splitlines()) == 1, error
    assert "Traceback" not in error
    for mention in mentions:
        assert mention in error


def test_unknown_implementation_is_refused_in_one_line_that_lists_the_known_ones() -> None:
    result = run(PROJECT_ROOT, "start.py", "--implementation", "unknown")
    assert result.returncode != 0
    assert_one_line(result.stderr, "unknown", "--implementation", "borealis")


def test_bad_setting_is_refused_in_one_line() -> None:
    result = run(PROJECT_ROOT, "start.py", MODEL_BATCH_SIZE="0")
    assert result.returncode != 0
    assert_one_line(result.stderr, "MODEL_BATCH_SIZE", "'0'", "от 1 до 512")


def test_unknown_flag_is_refused_in_one_line() -> None:
    result = run(PROJECT_ROOT, "start.py", "--prot", "1")
    assert result.returncode != 0
    assert_one_line(result.stderr, "--prot", "--help")


def test_taken_port_is_refused_in_one_line_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run(PROJECT_ROOT, "start.py", "--port", port, **LOCAL)
    assert result.returncode != 0
    assert_one_line(result.stderr, port, "SERVER_PORT")


def test_missing_model_is_refused_in_one_line_that_names_the_bundled_one(tmp_path: Path) -> None:
    settings = LOCAL | {"MODEL_NAME": str(tmp_path / "nothing"), "LOGGING_LEVEL": "ERROR"}
    result = run(PROJECT_ROOT, "start.py", "--port", "0", **settings)
    assert result.returncode != 0
    assert_one_line(result.stderr, "MODEL_NAME", "borealis-tiny-ru")


def test_metrics_port_in_use_is_refused_in_one_line_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run(PROJECT_ROOT, "start.py", "--port", "0", METRICS_PORT=port, **LOCAL)
    assert result.returncode != 0
    assert_one_line(result.stderr, port, "METRICS_PORT")


def test_missing_decoder_is_refused_in_one_line_that_says_how_to_get_one(tmp_path: Path) -> None:
    settings = LOCAL | {"FFMPEG_BINARY": str(tmp_path / "ffmpeg"), "LOGGING_LEVEL": "ERROR"}
    result = run(PROJECT_ROOT, "start.py", "--port", "0", **settings)
    assert result.returncode != 0
    assert_one_line(result.stderr, "FFMPEG_BINARY")


def test_help_shows_the_documented_examples() -> None:
    text = run(PROJECT_ROOT, "start.py", "--help").stdout
    for example in ("python start.py --port 50052 --implementation borealis", "--model", "--device", "--host"):
        assert example in text


@pytest.mark.parametrize(
    ("entry_point", "stop_signal"),
    [("start.py", signal.SIGINT), ("api/grpc/transcription_server.py", signal.SIGTERM)],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_server_becomes_ready_and_stops_on_a_signal_with_exit_code_0(
    entry_point: str, stop_signal: signal.Signals
) -> None:
    port = free_port()
    # The flag beats the environment.
    with started(PROJECT_ROOT, entry_point, "--port", str(port), SERVER_PORT="1", **LOCAL) as process:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_for(channel, Health.SERVING, process)
        process.send_signal(stop_signal)
        _, log = process.communicate(timeout=HANG_LIMIT_S)
    assert process.returncode == 0
    assert "Traceback" not in log
