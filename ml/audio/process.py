"""Run one decoder process: drain its log, and kill it when it is cancelled, late or closed."""

import logging
import re
import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from ml.audio.ffmpeg import child_environment, creation_flags
from ml.audio.limits import ChildLimits, restrict
from ml.errors import DecoderUnavailableError

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.05
_LINE_BYTES = 4096  # a longer log line is read in pieces
_KEPT_LINES = 20
# With `-loglevel level+warning` each line names its level, after what it is about. Warnings never mean lost sound.
_ERROR = re.compile(rb"(?:\[[^]]* @ [^]]*\] )*\[(?:error|fatal|panic)\]")
# Covers and pictures are looked at to find out what a file holds; no sound is lost if they are broken.
_ABOUT_A_PICTURE = re.compile(rb"\[(?:mjpeg|png|bmp|gif|webp|tiff|h26[34]|hevc|mpeg[124]\w*|vp[89]|av1|\w*video\w*) @")
_NO_TRACK_MARKS = (b"matches no streams", b"does not contain any stream")
_OUT_OF_MEMORY_MARKS = (b"Cannot allocate memory", b"pthread_create() failed", b"Too many packets buffered")
_BAD_STREAM = re.compile(rb"\[aist#0:(\d+)/.*\[error\] .*(?:no decoder found|while opening decoder)")


@dataclass(frozen=True)
class Ending:
    """How the process ended.

    exit_code: as `subprocess` gives it, negative for a signal; cancelled, timed_out: the reason why it was killed;
    complaints: how many times it logged lost or damaged data; no_track: it found no audio track;
    bad_streams: the numbers of the audio streams for which there is no decoder; out_of_memory: its limit was reached
    """

    exit_code: int
    cancelled: bool
    timed_out: bool
    complaints: int
    no_track: bool
    bad_streams: frozenset[int] = frozenset()
    out_of_memory: bool = False


class DecoderChild:
    """One running decoder. Close it in every outcome: only that frees the process, its two threads and its pipes."""

    def __init__(
        self,
        command: list[str],
        source: IO[bytes] | None,
        timeout_s: float,
        limits: ChildLimits,
        cancelled: threading.Event,
    ) -> None:
        """Start `command` with `source` as its standard input; None opens a pipe for `feed`.

        `timeout_s` bounds the time spent waiting for it, all reads together, while it has input to work on.

        Raises: DecoderUnavailableError.
        """
        self._timeout_s = timeout_s
        self._cancelled = cancelled
        self._waiting = False  # a read is in progress
        self._has_input = source is not None  # the process has input to work on
        self._waited_s = 0.0
        self._over = threading.Event()
        self._was_cancelled = self._was_late = self._no_track = False
        self._complaints = 0
        self._bad_streams: set[int] = set()
        self._out_of_memory = False
        self._last_lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._threads = [
            threading.Thread(target=self._drain, name="decoder-log", daemon=True),
            threading.Thread(target=self._watch, name="decoder-watchdog", daemon=True),
        ]
        self._process = _start(command, source)
        try:
            self._limits_held = restrict(self._process.pid, limits)
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id, for logs and tests."""
        return self._process.pid

    @property
    def waited_s(self) -> float:
        """Time spent waiting for output so far, in seconds: what the time limit bounds."""
        return self._waited_s

    def read(self, n_bytes: int) -> bytes:
        """Return at most `n_bytes` of output, as soon as there are any; none when the process has ended its output."""
        assert self._process.stdout is not None
        self._waiting = True
        try:
            return bytes(self._process.stdout.read1(n_bytes))  # type: ignore[attr-defined]  # a BufferedReader
        finally:
            self._waiting = False

    def feed(self, data: bytes) -> bool:
        """Write `data` to its pipe, waiting while that is full; False once it reads no more."""
        assert self._process.stdin is not None
        self._has_input = True
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):  # a broken pipe (on Windows also EINVAL), or closed here
            return False
        finally:
            self._has_input = False
        return True

    def end_input(self) -> None:
        """Close the input pipe: no more data follows."""
        self._has_input = True  # what is left in the pipe
        self._close_input()

    def finish(self) -> Ending:
        """Wait for the process within the rest of its time limit, free everything, and return how it ended."""
        self._waiting = True
        exit_code = self._process.wait()
        self.close()
        if self._last_lines:
            logger.debug("decoder exit code %d, log: %s", exit_code, b" | ".join(self._last_lines))
        return Ending(
            exit_code,
            self._was_cancelled,
            self._was_late,
            self._complaints,
            self._no_track,
            frozenset(self._bad_streams),
            self._out_of_memory,
        )

    def close(self) -> None:
        """Kill the process if it still runs, and free everything. May be called again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._close_input()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._limits_held = None

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):  # unwritten data no longer matters
                self._process.stdin.close()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_INTERVAL_S):
            self._was_cancelled = self._cancelled.is_set()
            self._waited_s += WATCH_INTERVAL_S if self._waiting and self._has_input else 0.0
            self._was_late = self._waited_s > self._timeout_s
            if self._was_cancelled or self._was_late:
                self._process.kill()
                return

    def _drain(self) -> None:
        """Read the log as it comes: the process blocks once 64 KiB of it are unread."""
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_LINE_BYTES):
            self._last_lines.append(line.strip()[:300])
            if _ERROR.match(line) and not _ABOUT_A_PICTURE.match(line):
                self._complaints += 1
                self._no_track = self._no_track or any(mark in line for mark in _NO_TRACK_MARKS)
                self._out_of_memory = self._out_of_memory or any(mark in line for mark in _OUT_OF_MEMORY_MARKS)
            if found := _BAD_STREAM.match(line):
                self._bad_streams.add(int(found[1]))


def _start(command: list[str], source: IO[bytes] | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if source is None else source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            creationflags=creation_flags(),
            # Ctrl-C in a terminal reaches the whole process group: ffmpeg would end in the middle of a recording
            # whose request is still being completed.
            start_new_session=True,
        )
    except OSError as error:
        raise DecoderUnavailableError(
            "Не удалось запустить ffmpeg. Проверьте настройку FFMPEG_BINARY и то, что машине хватает памяти."
        ) from error
