"""Speak the recordings in resources/samples, the same at every run: `python -m ml.tiny_model.samples`."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np

from ml.interfaces import SAMPLE_RATE
from ml.tiny_model.corpus import encode_audio, encode_wav
from ml.tiny_model.evaluate import Clip, join, recording, utterance
from ml.tiny_model.speech import Espeak

FOLDER = Path(__file__).parents[2] / "resources" / "samples"
SEED = 20
DEMO_VARIANT = "f2"
DEMO = (
    "здравствуйте сегодня хороший день",
    "можно купить хлеб молоко сыр",
    "нужно открыть окно закрыть дверь",
    "мой номер двести сорок пять",
)


def demo(espeak: Espeak, random: Random) -> Clip:
    """A few plain sentences, about a quarter of a minute."""
    clips = [utterance(espeak, random, DEMO_VARIANT, sentence.split()) for sentence in DEMO]
    return join(clips, [0.4, 0.7, 0.6, 0.8, 0.7, 0.5])


def no_speech(seed: int) -> bytes:
    """Three seconds of quiet hiss as a WAV file."""
    hiss = np.random.default_rng(seed).normal(0, 0.003, 3 * SAMPLE_RATE).astype(np.float32)
    return encode_wav(hiss)


def text(clip: Clip) -> bytes:
    """The reference: words and single spaces."""
    return (" ".join(clip.words) + "\n").encode()


def times(clip: Clip) -> bytes:
    """The words with their times as JSON."""
    rows = [{"word": word, "start_s": round(start, 3), "end_s": round(end, 3)} for word, start, end in clip.spans]
    return (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()


def main() -> None:
    """Write every sample."""
    espeak, random = Espeak(), Random(SEED)
    dialogue = demo(espeak, random)
    long = recording(espeak, random, "m3", 178)
    timed = recording(espeak, random, "Annie", 60)
    files = {
        "demo.wav": encode_wav(dialogue.waveform),
        "demo.mp3": encode_audio(dialogue.waveform, 48),
        "demo.txt": text(dialogue),
        "recording-3min.mp3": encode_audio(long.waveform, 24),
        "recording-3min.txt": text(long),
        "word_times.wav": encode_wav(timed.waveform),
        "word_times.json": times(timed),
        "no_speech.wav": no_speech(SEED),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
