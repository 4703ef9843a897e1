"""What gRPC and scheduling cost: calls to a server of its own process, against the bare model call in this one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ml.audio.decoder import AudioDecoder
from ml.benchmarks.figures import Line, Run, to_line
from ml.benchmarks.floor import Cost
from ml.benchmarks.load import Answers
from ml.benchmarks.machine import Meter
from ml.benchmarks.ports import free_port
from ml.benchmarks.reference import transcribe_batch
from ml.benchmarks.weights import ROOT
from ml.borealis.model import BorealisModel
from ml.borealis.runner import make_engine
from ml.interfaces import SAMPLE_RATE

STOP_TIMEOUT_S = 60.0
READY = "ready"


def measure_calls(
    model: BorealisModel, checkpoint: Path, slots: int, path: Path, decoder: AudioDecoder, count: int,
    on_answer: Callable[[], None],
) -> list[Line]:  # fmt: skip
    """Transcribes `path`, one chunk long, `count` times by each of: the bare call, the engine, the server.

    They take turns, so that whatever else the machine does meets all three. `checkpoint` is the folder `model` is of.
    Raises RuntimeError if the server does not start.
    """
    with path.open("rb") as file:
        waveform = decoder.decode_all(file)
    with served(checkpoint, model, slots) as address, caller(address) as call, make_engine(model, slots) as engine:
        ways: dict[str, Callable[[], object]] = {
            "bare": lambda: transcribe_batch(model, [waveform]),
            "engine": lambda: engine.submit(waveform).result(),
            "gRPC": lambda: call(path),
        }
        return _take_turns(ways, count, len(waveform) / SAMPLE_RATE, model, on_answer)


def _take_turns(
    ways: dict[str, Callable[[], object]], count: int, audio_s: float, model: BorealisModel,
    on_answer: Callable[[], None],
) -> list[Line]:  # fmt: skip
    answers = {name: Answers() for name in ways}
    meter = Meter(model.device)
    for turn in range(count + 1):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way()
            if turn:  # the first warms up
                answers[name].latencies_s.append(time.perf_counter() - started_s)
        on_answer()
    usage = meter.read()
    lines = []
    for name, own in answers.items():
        own.waited_s, own.audio_s, own.chunks = [0.0], audio_s * count, count
        run = Run(own, replace(usage, elapsed_s=sum(own.latencies_s)), {}, Cost(), Cost())
        lines.append(to_line("one call", name, 1, 1, [run]))
    return [replace(line, over_bare_s=line.p50_s - lines[0].p50_s) for line in lines]


@contextmanager
def served(checkpoint: Path, model: BorealisModel, slots: int) -> Iterator[str]:
    """Runs start.py with the model on a free port; yields its address at once."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    flags = ["--host", host, "--port", port, "--model", str(checkpoint), "--device", str(model.device)]
    settings = {
        "MODEL_MAX_NEW_TOKENS": str(model.max_new_tokens),
        "MODEL_BATCH_SIZE": str(slots),
        "MODEL_DTYPE": str(model.dtype).removeprefix("torch."),
        "LOGGING_LEVEL": "WARNING",
    }
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "start.py"), *flags], cwd=ROOT, env={**os.environ, **settings}
    )
    try:
        yield address
    finally:
        server.terminate()
        server.wait(STOP_TIMEOUT_S)


@contextmanager
def caller(address: str, *flags: str) -> Iterator[Callable[[Path], dict[str, float]]]:
    """Runs a client in a process of its own; yields what makes it call. Raises RuntimeError if no server is there.

    `flags` are those of api/grpc/benchmark_calls.py.
    """
    command = [sys.executable, "-m", "api.grpc.benchmark_calls", address, *flags]
    client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    assert client.stdin is not None and client.stdout is not None
    requests, answers = client.stdin, client.stdout

    def call(path: Path) -> dict[str, float]:
        print(path, file=requests, flush=True)
        figures: dict[str, float] = json.loads(answers.readline())
        return figures

    try:
        if answers.readline().strip() != READY:
            raise RuntimeError("the server did not become ready")
        yield call
    finally:
        requests.close()
        client.wait(STOP_TIMEOUT_S)
        answers.close()
