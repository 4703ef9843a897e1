"""Runs a soak against a server process around a fake recogniser, and keeps the books."""

import hashlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from generated.v1 import transcription_pb2_grpc
from tests.load.requests import LONGEST_S, MESSAGE_LIMIT_BYTES, STREAM_LIMIT_BYTES, TOKEN, Kind, kinds
from tests.support import process_stats as belongings
from tests.support.server_process import Served, served

SAMPLES = 40  # of the server's holdings, over the whole run
SETTLING_S = 15
WARM_UP_SHARE = 0.25


@dataclass(frozen=True)
class Holdings:
    """What the server process holds at one moment."""

    requests: int  # made so far
    memory_bytes: int
    descriptors: int
    threads: int
    children: int

    @classmethod
    def of(cls, pid: int, requests: int) -> "Holdings":
        """As the system accounts for it."""
        open_files = sum(belongings.descriptors(pid).values())
        children = len(belongings.children(pid))
        return cls(requests, belongings.memory_bytes(pid), open_files, belongings.thread_count(pid), children)


@dataclass
class Result:
    """All that came of a soak."""

    latencies_s: list[float] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # of (kind, outcome)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)  # those that were not promised
    samples: list[Holdings] = field(default_factory=list)
    at_rest_before: Holdings | None = None  # after the warm-up, with no request under way
    at_rest_after: Holdings | None = None
    temporary_files: list[str] = field(default_factory=list)  # left behind
    exit_code: int | None = None
    duration_s: float = 0.0


class Books:
    """Hands out requests to the clients and takes down how they ended."""

    def __init__(self, requests: int, seconds: float, result: Result) -> None:
        self._kinds = kinds()
        self._left = requests
        self._ends_s = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self.result = result
        self.done = 0

    def next(self) -> Kind | None:
        """What to send next; None at the end."""
        with self._lock:
            if self._left == 0 or time.monotonic() > self._ends_s:
                return None
            self._left -= 1
            return self._random.choices(self._kinds, [kind.share for kind in self._kinds])[0]

    def note(self, kind: Kind, outcome: str, duration_s: float) -> None:
        """How one ended."""
        with self._lock:
            self.done += 1
            self.result.latencies_s.append(duration_s)
            self.result.outcomes[kind.name, outcome] += 1
            if outcome not in kind.promised:
                self.result.lost[kind.name, outcome] += 1


def soak(requests: int, seconds: float, clients: int, say: Callable[[str], object]) -> Result:
    """Makes up to `requests` requests within `seconds` from so many threads."""
    result = Result()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "AUTH_TOKEN_HASHES": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "GRPC_MAX_RECEIVE_MESSAGE_LENGTH": str(MESSAGE_LIMIT_BYTES),
            "STREAM_MAX_BYTES": str(STREAM_LIMIT_BYTES),
            "AUDIO_MAX_DURATION_S": str(LONGEST_S),
            "TMPDIR": folder,
        }
        with served("reciter", **settings) as server:
            _run_all(server, Books(int(requests * WARM_UP_SHARE), seconds * WARM_UP_SHARE, result), clients, say)
            result.at_rest_before = _at_rest(server, len(result.latencies_s), None)
            rest = requests - len(result.latencies_s)
            result.duration_s += _run_all(server, Books(rest, seconds - result.duration_s, result), clients, say)
            result.at_rest_after = _at_rest(server, len(result.latencies_s), result.at_rest_before)
            result.temporary_files = [path.name for path in Path(folder).iterdir()]
            server.process.terminate()
            result.exit_code, _ = server.wait(SETTLING_S)
    return result


def _run_all(server: Served, books: Books, clients: int, say: Callable[[str], object]) -> float:
    started_s = time.monotonic()
    threads = [threading.Thread(target=_run_client, args=(server.port, books)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    before, step = len(books.result.latencies_s), 0
    total = books._left + before
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        if server.process.poll() is not None:
            books.result.exit_code = server.process.returncode
        elif (books.done * SAMPLES) // max(1, total) > step:
            step = (books.done * SAMPLES) // max(1, total)
            sample = Holdings.of(server.process.pid, before + books.done)
            books.result.samples.append(sample)
            say(line_of(sample))
    for thread in threads:
        thread.join()
    return time.monotonic() - started_s


def _run_client(port: int, books: Books) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        while kind := books.next():
            started_s = time.perf_counter()
            try:
                outcome = kind.make(stub, channel)
            except Exception as error:  # a client that breaks must show, not end the soak
                outcome = type(error).__name__
            books.note(kind, outcome, time.perf_counter() - started_s)


def _at_rest(server: Served, requests: int, wanted: Holdings | None) -> Holdings:
    """What the server holds with nothing to do, once it has let go of what it will let go of."""
    deadline_s = time.monotonic() + SETTLING_S
    while True:
        time.sleep(0.5)
        found = Holdings.of(server.process.pid, requests)
        settled = not found.children and (not wanted or found.descriptors <= wanted.descriptors)
        if settled or time.monotonic() > deadline_s:
            return found


def line_of(sample: Holdings) -> str:
    """A sample for a person to read."""
    return (
        f"{sample.requests:>7} requests   RSS {sample.memory_bytes / 1024**2:7.1f} MiB   descriptors "
        f"{sample.descriptors:>3}   threads {sample.threads:>3}   children {sample.children:>2}"
    )
