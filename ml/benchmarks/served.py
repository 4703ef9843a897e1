"""Measures the service from outside, by what any user has: its command line, the client's and /metrics."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ml.benchmarks.lines import Line, one_by_one
from ml.benchmarks.recordings import Recordings, Sizes
from ml.benchmarks.weights import ROOT
from ml.benchmarks.workloads import BESIDE, times_idle
from ml.errors import ModelError
from ml.interfaces import SAMPLE_RATE

START_TIMEOUT_S, STOP_TIMEOUT_S, POLL_S = 600.0, 60.0, 0.05
SPEED = 20  # times real time, of a paced upload
BYTES_PER_S = SPEED * SAMPLE_RATE * 2  # of 16-bit samples
PIECE_BYTES = 16 * 1024
FAILED = "Измерение через сервер не удалось: {}."

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Server:
    """A running server, and the programs that call it."""

    port: int
    metrics_port: int
    http_port: int
    answers: Path  # a folder for the client's JSON files

    def wait_for(self, metric: str, process: Process) -> None:
        """Wait until transcription_`metric` is above 0. Raises ModelError if `process` ends before that."""
        url, deadline_s = f"http://127.0.0.1:{self.metrics_port}", time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline_s:
            with suppress(OSError), urllib.request.urlopen(url, timeout=60) as page:  # not listening yet
                values = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines())
                if float(values.get(f"transcription_{metric}", 0)) > 0:
                    return
            time.sleep(POLL_S)
        raise ModelError(FAILED.format(f"transcription_{metric} остаётся нулём"))

    def start(self, program: str, *arguments: str) -> Process:
        """Start `python -m program`; what it prints is for `finish`."""
        with (self.answers / "stderr.log").open("wb") as log:
            command = [sys.executable, "-m", program, *arguments]
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)

    def finish(self, process: Process) -> bytes:
        """Return what the program printed, once it has ended. Raises ModelError if it fails."""
        printed, _ = process.communicate()
        if process.returncode:
            log = (self.answers / "stderr.log").read_text("utf-8", "replace")  # of the last program started
            raise ModelError(FAILED.format(log.strip().splitlines()[-1]))
        return printed

    def send(self, paths: Sequence[Path], *flags: str) -> Process:
        """Start a client that sends `paths` one after the other; its answers are for `read`."""
        to = ["--address", f"127.0.0.1:{self.port}", "--format", "json", "--output", f"{self.answers}/", "--overwrite"]
        return self.start("api.grpc.client", *to, "--jobs", "1", *flags, *map(str, paths))

    def read(self, client: Process, paths: Sequence[Path]) -> list[dict[str, float]]:
        """Wait for the client; return its answers, each with the time it was written as `written_s`.

        Raises ModelError if it fails.
        """
        self.finish(client)
        files = [(self.answers / path.name).with_suffix(".json") for path in paths]
        return [{**json.loads(file.read_text("utf-8")), "written_s": file.stat().st_mtime} for file in files]


@contextmanager
def served(model: Path, device: torch.device, dtype: torch.dtype, slots: int, new_tokens: int) -> Iterator[Server]:
    """Run the server with the checkpoint folder `model` until the context ends; yield it once it is ready.

    The limit on tokens is passed to it, the benchmark's --ignore-eos is not. Raises ModelError if it does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = Server(_free_port(), _free_port(), _free_port(), Path(folder))
        settings = {
            "LOGGING_LEVEL": "WARNING",
            "METRICS_PORT": str(server.metrics_port),
            "HTTP_PORT": str(server.http_port),
            "MODEL_DTYPE": str(dtype).removeprefix("torch."),
            "MODEL_BATCH_SIZE": str(slots),
            "MODEL_MAX_NEW_TOKENS": str(new_tokens),
        }
        flags = ["--model", str(model), "--device", str(device), "--host", "127.0.0.1", "--port", str(server.port)]
        process = subprocess.Popen([sys.executable, "start.py", *flags], cwd=ROOT, env={**os.environ, **settings})
        try:
            server.wait_for("serving", process)
            yield server
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def measure_stream(server: Server, recordings: Recordings, sizes: Sizes) -> list[Line]:
    """Send a file, in turn as a unary call and streamed at SPEED. Needs named pipes: not for Windows.

    Latencies are the server's processing times, which count from a request's last byte.
    """
    path = recordings.wav(sizes.file_s)
    found: dict[str, list[dict[str, float]]] = {"unary": [], "stream": []}
    for _ in range(sizes.repeats):
        found["unary"] += server.read(server.send([path]), [path])
        found["stream"] += server.read(_send_paced(server, path), [path])
    name = f"{found['unary'][0]['audio_duration']:g} s at {SPEED} times real time"
    unary, stream = (_line(name, strategy, answers) for strategy, answers in found.items())
    return [unary, replace(stream, extra={"share_of_unary": stream.p50_s / unary.p50_s})]


def measure_http(server: Server, recordings: Recordings, sizes: Sizes) -> list[Line]:
    """Send a clip by gRPC and by HTTP in turn, one at a time, then in bursts. Raises ModelError if a request fails."""
    addresses = ["--grpc", f"127.0.0.1:{server.port}", "--http", f"127.0.0.1:{server.http_port}"]
    counts = ["--requests", str(sizes.http), "--at-once", str(sizes.clips)]
    program = server.start("api.http.overhead", str(recordings.wav(sizes.clip_s)), *addresses, *counts)
    found: dict[str, dict[str, list[float]]] = json.loads(server.finish(program))
    name, audio_s = f"{sizes.clip_s:g} s by gRPC and HTTP", sizes.http * sizes.clip_s
    grpc, http = (one_by_one(name, by, found[by]["latencies_s"], audio_s) for by in ("grpc", "http"))
    bursts = zip(found["grpc"]["bursts_s"], found["http"]["bursts_s"], strict=True)
    added_ms = 1000 * (http.p50_s - grpc.p50_s)
    extra = {"ms_over_grpc": added_ms, "throughput_of_grpc": median(grpc_s / http_s for grpc_s, http_s in bursts)}
    return [grpc, replace(http, extra=extra)]


def measure_beside(server: Server, recordings: Recordings, sizes: Sizes) -> list[Line]:
    """Send clips one by one, first to an idle server and then while it transcribes the long file.

    The file's throughput beside the clips is compared with that of the file alone, by the time its client runs.
    Raises ModelError if the file ends before the first clip.
    """
    clips, long = recordings.clips(sizes.clip_s, sizes.beside), recordings.wav(sizes.long_s)
    idle = server.read(server.send(clips), clips)
    alone_s, _ = _time_file(server, long, [])
    busy_s, beside = _time_file(server, long, clips)
    if not beside:
        raise ModelError(FAILED.format("длинный файл распознан раньше первого клипа, для этой машины он короток"))
    line = _line(BESIDE.format(sizes.long_s), "server", beside)
    compared = times_idle(line.p50_s, [answer["processing_time"] for answer in idle])
    own_s = len(beside) * compared["idle_p50_s"]  # what the clips would take without the file
    throughput = {"file_throughput": alone_s / busy_s, "file_throughput_net": alone_s / (busy_s - own_s)}
    return [replace(line, extra={**compared, **throughput})]


# Workloads that need a checkpoint folder, which the server can load.
SERVED = {"stream": measure_stream, "beside": measure_beside, "http": measure_http}


def _time_file(server: Server, path: Path, clips: Sequence[Path]) -> tuple[float, list[dict[str, float]]]:
    """Stream the file, and send clips once it is being recognised; the seconds it took, and the clips' answers."""
    started_s = time.perf_counter()
    client = server.send([path], "--stream")
    server.wait_for("slots_occupied", client)
    answers = server.read(server.send(clips), clips) if clips else []
    (file,) = server.read(client, [path])
    return time.perf_counter() - started_s, [answer for answer in answers if answer["written_s"] < file["written_s"]]


def _send_paced(server: Server, path: Path) -> Process:
    """Stream the file through a named pipe that is filled at BYTES_PER_S; return the client after the last byte."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder, path.name)
        os.mkfifo(pipe)
        client = server.send([pipe], "--stream")
        with path.open("rb") as file, pipe.open("wb", buffering=0) as upload:
            started_s = time.perf_counter()
            while piece := file.read(PIECE_BYTES):
                upload.write(piece)
                time.sleep(max(0.0, started_s + file.tell() / BYTES_PER_S - time.perf_counter()))
        return client


def _line(workload: str, strategy: str, answers: Sequence[dict[str, float]]) -> Line:
    latencies_s = [answer["processing_time"] for answer in answers]
    return one_by_one(workload, strategy, latencies_s, sum(answer["audio_duration"] for answer in answers))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
