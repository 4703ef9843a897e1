"""Measures the service from outside, by what any user has: its command line, the client's and /metrics."""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from ml.benchmarks.lines import Line, Run, to_line
from ml.benchmarks.load import Answers
from ml.benchmarks.meter import Usage
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
class Programs:
    """The command lines of the server, the client and the program that compares gRPC and HTTP, and their folder."""

    server: Sequence[str]
    client: Sequence[str]
    overhead: Sequence[str]
    folder: Path


@dataclass(frozen=True)
class Server:
    """A running server and the client's program to call it."""

    programs: Programs
    port: int
    metrics_port: int
    http_port: int
    answers: Path  # a folder for the client's JSON files

    @property
    def log(self) -> Path:
        """What the last client wrote to stderr."""
        return self.answers / "client.log"

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

    def send(self, paths: Sequence[Path], *flags: str) -> Process:
        """Start a client that sends `paths` one after the other; its answers are for `read`."""
        to = ["--address", f"127.0.0.1:{self.port}", "--format", "json", "--output", f"{self.answers}/", "--overwrite"]
        command = [*self.programs.client, *to, "--jobs", "1", *flags, *map(str, paths)]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=self.programs.folder, stderr=log)

    def read(self, client: Process, paths: Sequence[Path]) -> list[dict[str, float]]:
        """Wait for the client; return its answers, each with the time it was written as `written_s`.

        Raises ModelError if it fails.
        """
        if client.wait() != 0:
            raise ModelError(FAILED.format(self.log.read_text("utf-8").strip().splitlines()[-1]))
        files = [(self.answers / path.name).with_suffix(".json") for path in paths]
        return [{**json.loads(file.read_text("utf-8")), "written_s": file.stat().st_mtime} for file in files]


@contextmanager
def served(programs: Programs, model: Path, device: torch.device, settings: dict[str, str]) -> Iterator[Server]:
    """Run the server with the checkpoint folder `model` until the context ends; yield it once it is ready.

    Raises ModelError if it does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = Server(programs, _free_port(), _free_port(), _free_port(), Path(folder))
        flags = ["--model", str(model), "--device", str(device), "--host", "127.0.0.1", "--port", str(server.port)]
        settings = {"LOGGING_LEVEL": "WARNING", **settings, "METRICS_PORT": str(server.metrics_port)}
        settings["HTTP_PORT"] = str(server.http_port)
        environment = {**os.environ, **settings}
        process = subprocess.Popen([*programs.server, *flags], cwd=programs.folder, env=environment)
        try:
            server.wait_for("serving", process)
            yield server
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def measure_stream(server: Server, path: Path, repeats: int, on_answer: Callable[[], object]) -> list[Line]:
    """Send the 16 kHz WAV file, in turn as a unary call and streamed at SPEED. Needs named pipes: not for Windows.

    Latencies are the server's processing times, which count from a request's last byte.
    """
    found: dict[str, list[dict[str, float]]] = {"unary": [], "stream": []}
    for _ in range(repeats):
        found["unary"] += server.read(server.send([path]), [path])
        found["stream"] += server.read(_send_paced(server, path), [path])
        on_answer()
    name = f"{found['unary'][0]['audio_duration']:g} s at {SPEED} times real time"
    unary, stream = (_line(name, strategy, answers) for strategy, answers in found.items())
    return [unary, replace(stream, extra={"share_of_unary": stream.p50_s / unary.p50_s})]


def measure_http(
    server: Server, path: Path, audio_s: float, requests: int, at_once: int, on_answer: Callable[[], object]
) -> list[Line]:
    """Send the recording, `audio_s` long, by gRPC and by HTTP in turn: `requests` one at a time, then bursts.

    Raises ModelError if a request fails.
    """
    addresses = ["--grpc", f"127.0.0.1:{server.port}", "--http", f"127.0.0.1:{server.http_port}"]
    counts = ["--requests", str(requests), "--at-once", str(at_once)]
    command = [*server.programs.overhead, str(path), *addresses, *counts]
    done = subprocess.run(command, cwd=server.programs.folder, capture_output=True, check=False)
    if done.returncode:
        raise ModelError(FAILED.format(done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]))
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    on_answer()
    lines = {}
    for strategy, times in found.items():
        latencies_s = times["latencies_s"]
        run = Run(Answers(latencies_s, audio_s=audio_s * len(latencies_s)), Usage(sum(latencies_s)))
        lines[strategy] = to_line(f"{audio_s:g} s by gRPC and HTTP", strategy, 1, 1, [run])
    added_ms = 1000 * (lines["http"].p50_s - lines["grpc"].p50_s)
    pairs = zip(found["grpc"]["bursts_s"], found["http"]["bursts_s"], strict=True)
    extra = {"ms_over_grpc": added_ms, "throughput_of_grpc": median(grpc_s / http_s for grpc_s, http_s in pairs)}
    return [lines["grpc"], replace(lines["http"], extra=extra)]


def measure_beside(
    server: Server, clips: Sequence[Path], long: Path, long_s: float, on_answer: Callable[[], object]
) -> Line:
    """Send clips one by one, first to an idle server and then while it transcribes the file `long`, `long_s` long.

    The file's throughput beside the clips is compared with that of the file alone, by the time its client runs.
    Raises ModelError if the file ends before the first clip.
    """
    idle = server.read(server.send(clips), clips)
    alone_s, _ = _time_file(server, long, [])
    busy_s, beside = _time_file(server, long, clips)
    on_answer()
    if not beside:
        raise ModelError(FAILED.format("длинный файл распознан раньше первого клипа, для этой машины он короток"))
    line = _line(BESIDE.format(long_s), "server", beside)
    compared = times_idle(line.p50_s, [answer["processing_time"] for answer in idle])
    own_s = len(beside) * compared["idle_p50_s"]  # what the clips would take without the file
    throughput = {"file_throughput": alone_s / busy_s, "file_throughput_net": alone_s / (busy_s - own_s)}
    return replace(line, extra={**compared, **throughput})


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
    """A line of calls made one after the other."""
    latencies_s = [answer["processing_time"] for answer in answers]
    audio_s = sum(answer["audio_duration"] for answer in answers)
    run = Run(Answers(latencies_s, audio_s=audio_s, chunks=len(answers)), Usage(sum(latencies_s)))
    return to_line(workload, strategy, 1, 1, [run])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
