"""Rehearse the start with weights of full size: `python -m tests.load.rehearsal`. Needs 10 GB of memory and disk.

Builds a folder in the published layout, starts the service on it in one number format after the other, transcribes a
chunk by each call, and prints the figures of each format and how they compare with what they have to reach.
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
CONVERSION = """
import os, sys
from pathlib import Path
from ml.borealis.checkpoint import prepare_checkpoint
from tests.support.process_stats import memory_bytes
prepare_checkpoint(sys.argv[1], Path(sys.argv[2]))
print(memory_bytes(os.getpid(), peak=True))
"""
GIGABYTE = 1e9
MEBIBYTE = 1024 * 1024
WEIGHTS = re.compile(r"веса (\d+) МБ, ключи и значения на \d+ фрагментов (\d+) МБ")
# What has to be reached. Memory in GB: after loading, resident and at the peak, by the weights.
RESIDENT_LIMIT, PEAK_LIMIT, BESIDE_GB = 1.1, 1.3, 0.5
INT8_SPEED, INT8_MEMORY = 1.7, 0.45  # over float32
# Stages of the start: name and the log line that ends each.
STAGES = {
    "started": "Загрузка",
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
    weights_gb: float = 0.0
    cache_gb: float = 0.0  # keys and values of all rows

    def follow_log(self) -> None:
        """Print the log and note when each stage ends; until the process ends."""
        assert self.process.stderr
        for line in self.process.stderr:
            print("   ", line.rstrip(), flush=True)
            if found := WEIGHTS.search(line):
                self.weights_gb, self.cache_gb = (int(size) * MEBIBYTE / GIGABYTE for size in found.groups())
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


@dataclass(frozen=True)
class Figures:
    """What was measured with one number format."""

    lines: dict[str, str]  # for the reader
    chunk_s: float  # a chunk with DENSE_TOKENS
    resident_gb: float  # after loading
    peak_gb: float  # while loading
    weights_gb: float


def main() -> int:
    """Print the figures of each number format asked for, and what they compare with."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.rehearsal", description="Start at full size")
    parser.add_argument("--folder", type=Path, help="where to keep the folder and its conversion; else a temporary one")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "int8"], metavar="D", help="values of MODEL_DTYPE (float32 int8)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="random-full", help="random-full is Borealis' own")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        source, chunk = folder / "borealis", make_chunk(folder)
        if not (source / "config.json").is_file():
            took_s = build(source, flags.shape)
            print(f"folder in the published layout: written in {took_s:.0f} s", flush=True)
        convert(source, folder / "cache")
        found: dict[str, Figures] = {}
        for dtype in flags.dtypes:
            found[dtype] = rehearse(source, folder / "cache", chunk, dtype, flags.device)
            print(f"\nMODEL_DTYPE={dtype}, MODEL_DEVICE={flags.device}")
            show({**found[dtype].lines, **check_memory(found[dtype])})
        if found.keys() >= {"float32", "int8"}:
            print("\nint8 against float32")
            show(compare(found["float32"], found["int8"]))
    return 0


def convert(source: Path, cache: Path) -> None:
    """Convert the checkpoint to safetensors, in a process of its own; print the time and the most memory it took."""
    command = [sys.executable, "-c", CONVERSION, str(source), str(cache)]
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True)
    peak = int(done.stdout) / GIGABYTE
    print(f"conversion, once: {time.monotonic() - started_s:.0f} s, peak {peak:.2f} GB", flush=True)


def show(lines: dict[str, str]) -> None:
    """Print a table."""
    print("\n".join(f"  {name:<44} {value}" for name, value in lines.items()), flush=True)


def check_memory(figures: Figures) -> dict[str, str]:
    """Compare the memory with its limits."""
    lines = {}
    for name, found, factor in (
        ("resident", figures.resident_gb, RESIDENT_LIMIT),
        ("peak", figures.peak_gb, PEAK_LIMIT),
    ):
        limit = factor * figures.weights_gb + BESIDE_GB
        lines[f"{name} after loading, GB"] = judge(f"{found:.2f}", found <= limit, f"at most {limit:.2f}")
    return lines


def compare(base: Figures, other: Figures) -> dict[str, str]:
    """Compare a number format with float32."""
    speed, memory = base.chunk_s / other.chunk_s, other.resident_gb / base.resident_gb
    return {
        f"speed, a chunk with {DENSE_TOKENS} tokens": judge(
            f"{speed:.2f}x", speed >= INT8_SPEED, f"at least {INT8_SPEED}x"
        ),
        "memory, resident after loading": judge(f"{memory:.0%}", memory <= INT8_MEMORY, f"at most {INT8_MEMORY:.0%}"),
    }


def judge(found: str, is_reached: bool, wanted: str) -> str:
    """Say whether a figure is what it has to be."""
    return f"{found} ({wanted}: {'reached' if is_reached else 'NOT REACHED'})"


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


def rehearse(source: Path, cache: Path, chunk: Path, dtype: str, device: str) -> Figures:
    """Start the service, make each call once and return the figures."""
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
    work = Work.of(done)
    lines = {
        **describe_start(service.reached_s),
        "weights; cache of all rows, GB": f"{service.weights_gb:.2f}; {service.cache_gb:.2f}",
        "resident after the calls, GB": f"{after:.2f}",
        **calls_s,
        **work.describe(),
    }
    return Figures(lines, work.chunk_s, resident, peak, service.weights_gb)


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
    """Seconds of each stage of the start."""
    before_s, found = 0.0, {}
    for name in (*STAGES, "serving"):
        if name in reached_s:
            found[f"{name} after, s"] = f"{reached_s[name]:.1f} (+{reached_s[name] - before_s:.1f})"
            before_s = reached_s[name]
    return found


@dataclass(frozen=True)
class Work:
    """Seconds of a chunk and of a decode step."""

    encode_s: float
    prefill_s: float
    step_s: float

    @classmethod
    def of(cls, done: dict[str, float]) -> "Work":
        """From what the engine's counters have grown by."""
        found = {name.removeprefix("transcription_engine_"): value for name, value in done.items()}
        return cls(
            found["encode_seconds_total"] / found["chunks_total"],
            found["prefill_seconds_total"] / found["chunks_total"],
            found["step_seconds_total"] / found["steps_total"],
        )

    @property
    def chunk_s(self) -> float:
        """Seconds of a chunk with as many tokens as dense speech has."""
        return self.encode_s + self.prefill_s + DENSE_TOKENS * self.step_s

    def describe(self) -> dict[str, str]:
        """For the table."""
        return {
            "a chunk: encoder, prefill, s": f"{self.encode_s:.2f}, {self.prefill_s:.2f}",
            "a decode step, s; tokens a second": f"{self.step_s:.3f}; {1 / self.step_s:.1f}",
            f"a chunk with {DENSE_TOKENS} tokens, s": f"{self.chunk_s:.1f} ({30 / self.chunk_s:.2f} times real time)",
        }


if __name__ == "__main__":
    sys.exit(main())
