"""Runs a soak against a server process around a fake recogniser, and records how every request ended."""

import hashlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from generated.v1 import transcription_pb2_grpc
from tests.load.requests import LONGEST_S, MESSAGE_LIMIT_BYTES, STREAM_LIMIT_BYTES, TOKEN, Kind, kinds
from tests.support import process_stats
from tests.support.processes import CHANNEL_OPTIONS
from tests.support.server_process import Served, served
from tests.support.waiting import wait_until, wait_until_steady

SAMPLES = 40  # of the server's holdings, over the whole run
WARM_UP_SHARE = 0.25
LEDGER_POLL_S = 0.2


@dataclass(frozen=True)
class Holdings:
    """Memory, open files, threads and children of the server process at one moment."""

    requests: int  # made so far
    memory_bytes: int
    descriptors: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int, requests: int) -> "Holdings":
        """Read them from /proc."""
        open_files = process_stats.descriptor_count(pid)
        children = len(process_stats.children(pid))
        return cls(requests, process_stats.memory_bytes(pid), open_files, process_stats.thread_count(pid), children)


@dataclass
class Result:
    """Everything a soak recorded."""

    latencies_s: list[float] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # of (kind, outcome)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)  # those that were not promised
    samples: list[Holdings] = field(default_factory=list)
    at_rest_before: Holdings | None = None  # after the warm-up, with no request under way
    at_rest_after: Holdings | None = None
    temporary_files: list[str] = field(default_factory=list)  # left behind
    exit_code: int | None = None
    duration_s: float = 0.0


class Ledger:
    """Chooses the clients' requests and records how they ended."""

    def __init__(self, requests: int, seconds: float, result: Result) -> None:
        self._kinds = kinds()
        self.left = requests
        self._ends_s = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self.result = result
        self.done = 0

    def next(self) -> Kind | None:
        """Return what to send next; None at the end."""
        with self._lock:
            if self.left == 0 or time.monotonic() > self._ends_s:
                return None
            self.left -= 1
            return self._random.choices(self._kinds, [kind.share for kind in self._kinds])[0]

    def note(self, kind: Kind, outcome: str, duration_s: float) -> None:
        """Record how a request ended."""
        with self._lock:
            self.done += 1
            self.result.latencies_s.append(duration_s)
            self.result.outcomes[kind.name, outcome] += 1
            if outcome not in kind.promised:
                self.result.lost[kind.name, outcome] += 1


def soak(requests: int, seconds: float, clients: int, log: Callable[[str], object]) -> Result:
    """Send up to `requests` requests within `seconds` from `clients` threads; `log` gets a line for each sample."""
    result = Result()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "AUTH_TOKEN_HASHES": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "GRPC_MAX_RECEIVE_MESSAGE_LENGTH": str(MESSAGE_LIMIT_BYTES),
            "STREAM_MAX_BYTES": str(STREAM_LIMIT_BYTES),
            "AUDIO_MAX_DURATION_S": str(LONGEST_S),
            "TMPDIR": folder,
        }
        with served("numbering", **settings) as server:
            _run_all(server, Ledger(int(requests * WARM_UP_SHARE), seconds * WARM_UP_SHARE, result), clients, log)
            result.at_rest_before = _at_rest(server, len(result.latencies_s), None)
            rest = requests - len(result.latencies_s)
            result.duration_s += _run_all(server, Ledger(rest, seconds - result.duration_s, result), clients, log)
            result.at_rest_after = _at_rest(server, len(result.latencies_s), result.at_rest_before)
            result.temporary_files = [path.name for path in Path(folder).iterdir()]
            server.process.terminate()
            result.exit_code = server.exit_code()
    return result


def _run_all(server: Served, ledger: Ledger, clients: int, log: Callable[[str], object]) -> float:
    started_s = time.monotonic()
    threads = [threading.Thread(target=_run_client, args=(server.port, ledger)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    before, step = len(ledger.result.latencies_s), 0
    total = ledger.left + before
    while any(thread.is_alive() for thread in threads):
        time.sleep(LEDGER_POLL_S)
        if server.process.poll() is not None:
            ledger.result.exit_code = server.process.returncode
        elif (ledger.done * SAMPLES) // max(1, total) > step:
            step = (ledger.done * SAMPLES) // max(1, total)
            sample = Holdings.of(server.process.pid, before + ledger.done)
            ledger.result.samples.append(sample)
            log(line_of(sample))
    for thread in threads:
        thread.join()
    return time.monotonic() - started_s


def _run_client(port: int, ledger: Ledger) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL_OPTIONS) as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        while kind := ledger.next():
            started_s = time.perf_counter()
            try:
                outcome = kind.send(stub, channel)
            except Exception as error:  # a client that breaks must show, not end the soak
                outcome = type(error).__name__
            ledger.note(kind, outcome, time.perf_counter() - started_s)


def _at_rest(server: Served, requests: int, wanted: Holdings | None) -> Holdings:
    """Wait until the server holds no children and no more open files than `wanted`; return what it holds then."""
    pid = server.process.pid

    def settled() -> bool:
        found = Holdings.of(pid, requests)
        return not found.children and (not wanted or found.descriptors <= wanted.descriptors)

    with suppress(AssertionError):  # the report says what is left
        wait_until(settled)
        wait_until_steady(lambda: process_stats.descriptor_count(pid))
    return Holdings.of(pid, requests)


def line_of(sample: Holdings) -> str:
    """Format a sample."""
    return (
        f"{sample.requests:>7} requests   RSS {sample.memory_bytes / 1024**2:7.1f} MiB   descriptors "
        f"{sample.descriptors:>3}   threads {sample.threads:>3}   children {sample.children:>2}"
    )
