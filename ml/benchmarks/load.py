"""Sends recordings to a pipeline as clients of a server would, and keeps every latency."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ml.pipeline.pipeline import Pipeline
from ml.transcript import Transcript


@dataclass
class Answers:
    """What the clients saw."""

    latencies_s: list[float] = field(default_factory=list)  # from sending to the text
    waited_s: list[float] = field(default_factory=list)  # of it, for a worker
    audio_s: float = 0.0
    chunks: int = 0


def transcribe(pipeline: Pipeline, path: Path, cancelled: threading.Event | None = None) -> Transcript:
    """Transcribe one file."""
    with path.open("rb") as file:
        return pipeline.transcribe(file, cancelled=cancelled)


def send(
    pipeline: Pipeline, paths: Sequence[Path], clients: int, workers: int, on_answer: Callable[[], object]
) -> Answers:
    """Let `clients` send `paths`, each waiting for its answer before it sends the next, to a server of `workers`.

    `on_answer` is called after each. Raises what a transcription raises.
    """
    answers, lock, waiting = Answers(), threading.Lock(), list(reversed(paths))

    def serve(path: Path, sent_s: float) -> tuple[Transcript, float]:
        waited_s = time.perf_counter() - sent_s
        return transcribe(pipeline, path), waited_s

    def run_client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                path = waiting.pop()
            sent_s = time.perf_counter()
            transcript, waited_s = server.submit(serve, path, sent_s).result()
            with lock:
                answers.latencies_s.append(time.perf_counter() - sent_s)
                answers.waited_s.append(waited_s)
                answers.audio_s += transcript.audio_duration_s
                answers.chunks += len(transcript.segments)
                on_answer()

    with ThreadPoolExecutor(workers) as server, ThreadPoolExecutor(clients) as pool:
        for client in [pool.submit(run_client) for _ in range(clients)]:
            client.result()
    return answers
