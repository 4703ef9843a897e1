"""Counts the texts that Whisper base gives to audio without speech, before and after what is done against them.

python -m tests.ml.whisper.hallucinations
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import log
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ml.audio.splitter import split_at_pauses
from ml.engine.engine import Engine
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.recogniser import recognise_with
from ml.pipeline.repetition import RepetitionGuard
from ml.pipeline.words import text_of
from ml.whisper import model as whisper_model
from ml.whisper.load import WhisperOptions, load_engine
from ml.whisper.no_speech import is_no_speech
from tests.support.backgrounds import BACKGROUNDS
from tests.support.whisper import whisper_base

DURATIONS_S = (3.0, 8.0, 20.0)
SEEDS = (0, 1)
MAX_NO_SPEECH, MIN_LOG_PROBABILITY = 0.6, -1.0  # faster-whisper's `transcribe` drops a segment beyond both


@dataclass
class Counts:
    """Chunks that still have a text after each stage; each stage takes what the one before has left."""

    chunks: int = 0
    model: int = 0
    library: int = 0  # by the rule of faster-whisper, in place of the following
    no_speech: int = 0
    guard: int = 0
    vad: int = 0


def count(engine: Engine, waveforms: Sequence[Waveform]) -> Counts:
    """The counts for recordings of a chunk each."""
    counts = Counts()
    guard = RepetitionGuard(recognise_with(engine, window=8), RecognitionOptions())
    for waveform in waveforms:
        (chunk,) = split_at_pauses(waveform, SAMPLE_RATE, len(waveform) / SAMPLE_RATE)
        with _raw_answers() as answers:
            completion = engine.submit(waveform).result()
        text, no_speech, probability = answers[0]
        verified = text_of(guard.verify(chunk, completion, threading.Event()).words)
        counts.chunks += 1
        counts.model += bool(text)
        counts.library += bool(text) and not (no_speech > MAX_NO_SPEECH and log(probability) < MIN_LOG_PROBABILITY)
        counts.no_speech += bool(completion.text)
        counts.guard += bool(verified)
        counts.vad += bool(verified) and chunk.has_speech
    return counts


@contextmanager
def _raw_answers() -> Iterator[list[tuple[str, float, float]]]:
    """The answers of the model meanwhile: (text, probability of no speech, mean probability of the tokens)."""
    answers: list[tuple[str, float, float]] = []

    def record(text: str, no_speech: float, probability: float, duration_s: float) -> bool:
        answers.append((text, no_speech, probability))
        return is_no_speech(text, no_speech, probability, duration_s)

    with patch.object(whisper_model, "is_no_speech", record):
        yield answers


def without_speech(name: str) -> list[Waveform]:
    """Chunks of the background `name`."""
    return [
        BACKGROUNDS[name](duration_s, np.random.default_rng(seed)).astype(np.float32)
        for duration_s in DURATIONS_S
        for seed in SEEDS
    ]


def main(folder: Path) -> None:
    """Print the table."""
    names = [field.name for field in fields(Counts)]
    print(f"{'background':16}" + "".join(f"{name:>11}" for name in names))
    total = Counts()
    with load_engine(WhisperOptions(name=str(folder), device="cpu", local_files_only=True)) as engine:
        for background in BACKGROUNDS:
            counts = count(engine, without_speech(background))
            print(f"{background:16}" + "".join(f"{getattr(counts, name):11}" for name in names), flush=True)
            for name in names:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
    print(f"{'all':16}" + "".join(f"{getattr(total, name):11}" for name in names))


if __name__ == "__main__":
    main(whisper_base())
