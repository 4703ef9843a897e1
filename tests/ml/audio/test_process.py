"""The decoder's process is watched, limited and always cleared away, whatever the program in it does."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from ml.audio.limits import ChildLimits
from ml.audio.process import DecoderChild, Ending
from ml.errors import DecoderUnavailableError
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)
pytestmark = pytest.mark.timeout(60)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits by prlimit")

# The last limit that `restrict` lowers is the number of open files.
WAIT_FOR_LIMITS = """
import os, sys, time
if sys.platform == "linux":
    import resource
    while resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 32:
        time.sleep(0.005)
"""


def child_running(program: str, timeout_s: float = 20, limits: ChildLimits | None = None) -> DecoderChild:
    """Start a Python program in place of the decoder. It begins once the limits are in force."""
    command = [sys.executable, "-S", "-c", WAIT_FOR_LIMITS + program]
    with tempfile.TemporaryFile() as file:
        return DecoderChild(command, file, timeout_s, limits or ChildLimits(), threading.Event())


def ending_of(child: DecoderChild) -> Ending:
    try:
        while child.read(1000):
            pass
        return child.finish()
    finally:
        child.close()


def test_log_of_any_length_is_drained() -> None:
    ending = ending_of(child_running("os.write(2, b'[warning] so what\\n' * 200_000); os.write(1, b'done')"))
    assert ending == Ending(exit_code=0, cancelled=False, timed_out=False, complaints=0, no_track=False)


def test_log_without_line_ends_is_drained_too() -> None:
    assert ending_of(child_running("os.write(2, b'x' * 3_000_000 + b'[error]')")).exit_code == 0


def test_error_among_many_warnings_is_reported() -> None:
    program = "os.write(2, b'[warning] x\\n' * 9 + b'[flac @ 0x1] [error] invalid\\n' + b'[warning] x\\n' * 9999)"
    assert ending_of(child_running(program)).complaints == 1


def test_child_that_ends_its_output_but_not_itself_is_killed_at_the_limit() -> None:
    assert ending_of(child_running("os.close(1); time.sleep(3600)", timeout_s=0.5)).timed_out


def test_child_may_be_closed_early_and_twice() -> None:
    child = child_running("time.sleep(3600)")
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_program_that_is_not_there_is_reported_without_its_path() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(DecoderUnavailableError) as caught:
        DecoderChild(["/nowhere/ffmpeg"], file, 1, ChildLimits(), threading.Event())
    assert "/nowhere" not in str(caught.value) and "FFMPEG_BINARY" in str(caught.value)


def test_secrets_of_the_environment_do_not_reach_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    child = child_running("os.write(1, repr(sorted(os.environ)).encode())")
    try:
        assert b"HF_TOKEN" not in child.read(100_000)
    finally:
        child.close()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_interrupt_from_the_terminal_does_not_reach_the_child() -> None:
    child = child_running("time.sleep(3600)")
    try:
        assert os.getpgid(child.pid) != os.getpgid(0)
    finally:
        child.close()


@linux_only
def test_child_cannot_take_more_memory_than_allowed() -> None:
    ending = ending_of(child_running("b'x' * 600_000_000", limits=ChildLimits(memory_bytes=512 * 1024 * 1024)))
    assert ending.exit_code == 1
    assert ending_of(child_running("b'x' * 300_000_000")).exit_code == 0


@linux_only
def test_child_cannot_take_more_processor_time_than_allowed() -> None:
    ending = ending_of(child_running("while True: pass", limits=ChildLimits(cpu_s=1)))
    assert ending.exit_code == -signal.SIGKILL and not ending.timed_out


@linux_only
def test_child_cannot_write_files(tmp_path: Path) -> None:
    target = tmp_path / "written"
    ending_of(child_running(f"open({str(target)!r}, 'w').write('x')"))
    assert target.read_text() == ""


@linux_only
def test_child_cannot_open_many_files() -> None:
    assert ending_of(child_running("held = [os.dup(0) for _ in range(20)]")).exit_code == 0
    assert ending_of(child_running("held = [os.dup(0) for _ in range(40)]")).exit_code == 1


@linux_only
def test_child_has_no_descriptors_but_its_own_three() -> None:
    with tempfile.TemporaryFile() as secret:
        os.set_inheritable(secret.fileno(), True)
        child = child_running("os.write(1, ' '.join(sorted(os.listdir('/proc/self/fd'))).encode())")
        try:
            assert child.read(1000).split() == [b"0", b"1", b"2", b"3"]  # 3: the folder being listed
        finally:
            child.close()


@linux_only
def test_thread_that_cannot_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        child_running("time.sleep(3600)")


@linux_only
def test_stricter_limits_of_the_system_are_kept() -> None:
    program = """
import resource, sys, threading, tempfile
from ml.audio.process import DecoderChild
from ml.audio.limits import ChildLimits
resource.setrlimit(resource.RLIMIT_NOFILE, (25, 25))
with tempfile.TemporaryFile() as file:
    child = DecoderChild(["/bin/sh", "-c", "ulimit -n"], file, 10, ChildLimits(), threading.Event())
    print(child.read(100).decode())
    child.close()
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert int(answer.stdout) == 25
