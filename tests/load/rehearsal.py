"""Rehearse the start with weights of full size: `python -m tests.load.rehearsal`. Needs 10 GB of memory and disk.

Builds a folder in the published layout, starts the service on it, transcribes a chunk by each call, prints the figures.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from api.grpc.client import TranscriptionClient
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.recordings import Recordings, speech
from ml.benchmarks.weights import SHAPES
from resources.config import PROJECT_ROOT
from tests.load.published_folder import check_tokenizer, qwen_tokenizer, write_folder
from tests.support.ports import free_port
from tests.support.process_stats import memory_bytes

CHUNK_S = 28.0  # one chunk
NEW_TOKENS = 5  # with random weights a longer text is taken for a repetition, and the chunk is recognised again
DENSE_TOKENS = 120  # of 30 s of speech, for the estimate
START_LIMIT_S = 1800.0
GIGABYTE = 1e9
# Stages of the start: name and the log line that ends each.
STAGES = {
    "started": "Загрузка|Преобразование",
    "converted": "Модель преобразована",
    "loaded": "Память модели",
    "warmed up": "Модель готова",
}


@dataclass
class Service:
    """The service in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int
    metrics_port: int
    started_s: float = field(default_factory=time.monotonic)
    reached_s: dict[str, float] = field(default_factory=dict)  # seconds from the start to the end of each stage

    def follow_log(self) -> None:
        """Print the log and note when each stage ends; until the process ends."""
        assert self.process.stderr
        for line in self.process.stderr:
            print("   ", line.rstrip(), flush=True)
            for name, sign in STAGES.items():
                if re.search(sign, line):
                    self.reached_s.setdefault(name, time.monotonic() - self.started_s)

    def metrics(self) -> dict[str, float]:
        """The values of /metrics that have no labels; none while it does not listen."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}", timeout=60) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return {}
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def wait_until_serving(self) -> None:
        """Raise RuntimeError if the process ends before that."""
        while self.metrics().get("transcription_serving") != 1:
            if self.process.poll() is not None or time.monotonic() - self.started_s > START_LIMIT_S:
                raise RuntimeError("the service did not become ready")
            time.sleep(0.2)
        self.reached_s["serving"] = time.monotonic() - self.started_s


def main() -> int:
    """Print the figures of each number format asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.rehearsal", description="Start at full size")
    parser.add_argument("--folder", type=Path, help="where to keep the folder and its conversion; else a temporary one")
    parser.add_argument("--dtypes", nargs="+", default=["auto"], metavar="D", help="values of MODEL_DTYPE (auto)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="random-full", help="random-full is Borealis' own")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        source, chunk = folder / "borealis", make_chunk(folder)
        if not (source / "config.json").is_file():
            took_s = build(source, flags.shape)
            print(f"folder in the published layout: written in {took_s:.0f} s", flush=True)
        for dtype in flags.dtypes:
            figures = rehearse(source, folder / "cache", chunk, dtype, flags.device)
            print(f"\nMODEL_DTYPE={dtype}, MODEL_DEVICE={flags.device}")
            print("\n".join(f"  {name:<44} {value}" for name, value in figures.items()), flush=True)
    return 0


def build(folder: Path, shape: str) -> float:
    """Write the checkpoint; return the seconds it took."""
    started_s = time.monotonic()
    tokenizer = qwen_tokenizer()
    print(f"prompt tokens: {check_tokenizer(tokenizer)}, the same ids as the real tokenizer's", flush=True)
    write_folder(folder, SHAPES[shape], tokenizer)
    return time.monotonic() - started_s


def make_chunk(folder: Path) -> Path:
    """Write a recording of CHUNK_S seconds of the shipped speech."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = speech(AudioDecoder(find_ffmpeg(None), 3600.0, timeout_s=3600.0), PROJECT_ROOT / "resources" / "samples")
    return Recordings(folder, samples).wav(CHUNK_S)


def rehearse(source: Path, cache: Path, chunk: Path, dtype: str, device: str) -> dict[str, str]:
    """Start the service, make each call once and return the figures as text."""
    service = start(source, cache, dtype, device)
    log = threading.Thread(target=service.follow_log)
    log.start()
    try:
        service.wait_until_serving()
        resident, peak = (memory_bytes(service.process.pid, peak=peak) / GIGABYTE for peak in (False, True))
        before, calls_s = service.metrics(), call_each(service.port, chunk)
        done = {name: value - before.get(name, 0.0) for name, value in service.metrics().items()}
        after = memory_bytes(service.process.pid) / GIGABYTE
    finally:
        service.process.terminate()
        service.process.wait(60)
        log.join()
    memory = f"resident, peak{' (conversion included)' if 'converted' in service.reached_s else ''}, GB"
    return {**describe_start(service.reached_s), memory: f"{resident:.2f}, {peak:.2f}",
            "resident after the calls, GB": f"{after:.2f}", **calls_s, **describe_work(done)}  # fmt: skip


def start(source: Path, cache: Path, dtype: str, device: str) -> Service:
    """Start the service on the folder `source`."""
    port, metrics_port = free_port(), free_port()
    settings = {
        "MODEL_CACHE_DIR": str(cache),
        "MODEL_DTYPE": dtype,
        "MODEL_MAX_NEW_TOKENS": str(NEW_TOKENS),
        "METRICS_PORT": str(metrics_port),
        "PYTHONUNBUFFERED": "1",
    }
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(source), "--device", device]
    process = subprocess.Popen(
        [sys.executable, "start.py", *flags], cwd=PROJECT_ROOT, env={**os.environ, **settings},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    return Service(process, port, metrics_port)


def call_each(port: int, chunk: Path) -> dict[str, str]:
    """Transcribe the chunk by each call; return the server's processing times."""
    with TranscriptionClient(f"127.0.0.1:{port}") as client:
        calls: dict[str, Callable[[Path], object]] = {
            "TranscribeAudio": client.transcribe,
            "TranscribeAudioStream": client.transcribe_stream,
            "TranscribeAudioIncremental": client.transcribe_incremental,
        }
        return {f"{name}, s": f"{call(chunk).processing_time:.1f}" for name, call in calls.items()}


def describe_start(reached_s: dict[str, float]) -> dict[str, str]:
    """Seconds of each stage of the start; a conversion made before is not among them."""
    before_s, found = 0.0, {}
    for name in (*STAGES, "serving"):
        if name in reached_s:
            found[f"{name} after, s"] = f"{reached_s[name]:.1f} (+{reached_s[name] - before_s:.1f})"
            before_s = reached_s[name]
    return found


def describe_work(done: dict[str, float]) -> dict[str, str]:
    """What the engine's counters give for a chunk, a token, and a chunk with as many tokens as dense speech has."""
    found = {name.removeprefix("transcription_engine_"): value for name, value in done.items()}
    encode_s = found["encode_seconds_total"] / found["chunks_total"]
    prefill_s = found["prefill_seconds_total"] / found["chunks_total"]
    step_s = found["step_seconds_total"] / found["steps_total"]
    whole_s = encode_s + prefill_s + DENSE_TOKENS * step_s
    return {
        "a chunk: encoder, prefill, s": f"{encode_s:.2f}, {prefill_s:.2f}",
        "a decode step, s; tokens a second": f"{step_s:.3f}; {1 / step_s:.1f}",
        f"a chunk with {DENSE_TOKENS} tokens, s": f"{whole_s:.1f} ({30 / whole_s:.2f} times real time)",
    }


if __name__ == "__main__":
    sys.exit(main())
