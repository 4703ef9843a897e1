"""Compares ways to tell silence and noise from speech: `python -m ml.benchmarks.silence`, see docs/performance.md.

Needs espeak-ng to speak; silero-vad is compared where it is installed (`pip install silero-vad onnxruntime`).
"""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import product

import numpy as np
import torch
import torchaudio

from ml.audio.vad import has_speech
from ml.benchmarks.backgrounds import BACKGROUNDS
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model.speech import Espeak, Manner

CHUNK_S = 30.0  # the service's default
VOICES = ("", "f2", "m3", "whisper")  # of espeak-ng
TEXTS = {
    "one word": ("да", "нет", "раз"),
    "a sentence": ("Здравствуйте, я хотел бы узнать, когда будет готов мой заказ.",),
}
SPEECH_DB = -25.0  # dBFS, the mean over what is said
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
SEEDS = 8  # chunks of each background without speech

MayHoldSpeech = Callable[[Waveform], bool]


@dataclass(frozen=True)
class Case:
    """A chunk and whether there is speech in it; `name` is a row of the table."""

    name: str
    waveform: Waveform
    speech: bool


def main() -> None:
    """Prints a table: of the chunks with speech, how many are lost; of those without, how many pass."""
    torch.set_num_threads(1)
    ways = {"gate": has_speech, **_silero()}
    found: dict[str, dict[str, list[bool]]] = {}
    spent_s = dict.fromkeys(ways, 0.0)
    audio_s = 0.0
    for case in cases():
        audio_s += len(case.waveform) / SAMPLE_RATE
        row = found.setdefault(("lost: " if case.speech else "passed: ") + case.name, {name: [] for name in ways})
        for name, way in ways.items():
            started_s = time.process_time()
            row[name].append(way(case.waveform) != case.speech)
            spent_s[name] += time.process_time() - started_s
    print("| " + " | ".join(["chunks", "of", *ways]) + " |\n" + "|---" * (len(ways) + 2) + "|")
    for title, row in found.items():
        counts = [str(sum(wrong)) for wrong in row.values()]
        print("| " + " | ".join([title, str(len(row["gate"])), *counts]) + " |")
    costs = [f"{1000 * spent_s[name] * CHUNK_S / audio_s:.1f} ms" for name in ways]
    print("| " + " | ".join(["processor time of a chunk", "", *costs]) + " |")


def cases() -> Iterator[Case]:
    """Chunks of every background alone, and with one utterance somewhere in it, loud or hardly above it."""
    for (name, background), seed in product(BACKGROUNDS.items(), range(SEEDS)):
        yield Case(name, background(CHUNK_S, np.random.default_rng(seed)), speech=False)
    espeak = Espeak()
    utterances = {kind: [_speak(espeak, *way) for way in product(texts, VOICES)] for kind, texts in TEXTS.items()}
    for (kind, spoken), (name, background) in product(utterances.items(), BACKGROUNDS.items()):
        for (seed, utterance), snr_db in product(enumerate(spoken), SNRS_DB):
            sound = background(CHUNK_S, np.random.default_rng(100 + seed))
            yield Case(f"{kind} in {name}", _mixed(utterance, sound, snr_db, seed), speech=True)


def _mixed(utterance: Waveform, background: Waveform, snr_db: float, seed: int) -> Waveform:
    """The utterance at a place of its own, `snr_db` above the background, or at a low level where that is silent."""
    start = int(np.random.default_rng(seed).integers(0, len(background) - len(utterance)))
    power = float(np.mean(np.square(background)))
    level_db = 10 * np.log10(power) + snr_db if power > 1e-8 else SPEECH_DB - 2 * (20 - snr_db)
    mixed = background.copy()
    mixed[start : start + len(utterance)] += utterance * np.float32(10 ** (level_db / 20))
    return np.clip(mixed, -1, 1)


def _speak(espeak: Espeak, text: str, variant: str) -> Waveform:
    """The text at 16 kHz with a mean power of 1, without the silence around it."""
    speech = espeak.speak(text, Manner(variant))
    start, end = (int(time_s * speech.sample_rate) for time_s in (speech.words[0].start_s, speech.words[-1].end_s))
    sound = torch.from_numpy(speech.waveform[start:end])
    resampled: Waveform = torchaudio.functional.resample(sound, speech.sample_rate, SAMPLE_RATE).numpy()
    return resampled / np.float32(np.sqrt(np.mean(np.square(resampled))))


def _silero() -> dict[str, MayHoldSpeech]:
    """silero-vad, saying yes where any of its windows is this likely to be speech; nothing where it is missing."""
    try:
        data = resources.files("silero_vad") / "data" / "silero_vad_16k_sequence.onnx"
        model = importlib.import_module("silero_vad.sequence_vad").SileroVADSequence(str(data))
    except ModuleNotFoundError:
        return {}

    def is_likely(waveform: Waveform, threshold: float) -> bool:
        return bool(model.audio_forward(waveform).max() >= threshold)

    return {f"silero {threshold:g}": partial(is_likely, threshold=threshold) for threshold in (0.5, 0.1)}


if __name__ == "__main__":
    main()
