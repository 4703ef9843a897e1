"""Evaluation speech, kept out of training: `python -m ml.tiny_model.evaluate FOLDER` writes it, with manifests."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model import vocabulary
from ml.tiny_model.corpus import encode_audio, encode_wav, punctuate, resample, trained_variants
from ml.tiny_model.speech import HELD_OUT_VARIANTS, Espeak, Style

SEED = 4242  # no pool and no test during training uses it


@dataclass(frozen=True)
class Clip:
    """A recording at 16 kHz, its words, and their times: (word, start_s, end_s)."""

    waveform: Waveform
    words: tuple[str, ...]
    spans: tuple[tuple[str, float, float], ...]


def utterance(espeak: Espeak, random: Random, variant: str, words: list[str] | None = None) -> Clip:
    """One sentence at a normal speed and pitch."""
    words = words or vocabulary.sentence(random, vocabulary.words())
    style = Style(variant, random.randint(120, 220), random.randint(30, 70), random.randint(35, 65))
    speech = espeak.speak(punctuate(random, words), style)
    spans = tuple((word.name, word.start_s, word.end_s) for word in speech.words)
    return Clip(resample(speech.waveform, speech.sample_rate), tuple(words), spans)


def join(clips: list[Clip], pauses_s: list[float]) -> Clip:
    """Join clips to one recording, each after its pause, with the last pause at the end."""
    pieces: list[Waveform] = []
    words: list[str] = []
    spans: list[tuple[str, float, float]] = []
    for clip, pause_s in zip(clips, pauses_s, strict=False):
        pieces.append(np.zeros(round(pause_s * SAMPLE_RATE), np.float32))
        begin_s = sum(map(len, pieces)) / SAMPLE_RATE
        pieces.append(clip.waveform)
        words += clip.words
        spans += [(word, begin_s + start, begin_s + end) for word, start, end in clip.spans]
    pieces.append(np.zeros(round(pauses_s[len(clips)] * SAMPLE_RATE), np.float32))
    return Clip(np.concatenate(pieces), tuple(words), tuple(spans))


def recording(espeak: Espeak, random: Random, variant: str, length_s: float) -> Clip:
    """Utterances of one voice with pauses of 0.2-1.5 s, of about the length asked for."""
    clips = [utterance(espeak, random, variant)]
    while sum(len(clip.waveform) for clip in clips) + len(clips) * 0.85 * SAMPLE_RATE < length_s * SAMPLE_RATE:
        clips.append(utterance(espeak, random, variant))
    return join(clips, [random.uniform(0.2, 1.5) for _ in range(len(clips) + 1)])


def short_clips(count: int, seed: int, held_out: bool) -> list[Clip]:
    """Unseen sentences, one a clip, in trained voices or in the voices held out."""
    random, espeak = Random(seed), Espeak()
    voices = list(HELD_OUT_VARIANTS) if held_out else trained_variants(espeak)
    random.shuffle(voices)
    return [utterance(espeak, random, voices[index % len(voices)]) for index in range(count)]


def write_set(folder: Path, name: str, clips: list[Clip], container: str = "wav") -> None:
    """Write recordings and their manifest `name`.tsv."""
    rows = []
    for number, clip in enumerate(clips):
        file = f"{name}-{number:03}.{container}"
        content = encode_wav(clip.waveform) if container == "wav" else encode_audio(clip.waveform, 32, container)
        (folder / file).write_bytes(content)
        rows.append(f"{file}\t{' '.join(clip.words)}\n")
    (folder / f"{name}.tsv").write_text("".join(rows))


def recordings(count: int, seed: int, held_out: bool, length_s: float) -> list[Clip]:
    """Recordings of one voice each."""
    random, espeak = Random(seed), Espeak()
    voices = list(HELD_OUT_VARIANTS) if held_out else trained_variants(espeak)
    return [recording(espeak, random, random.choice(voices), length_s) for _ in range(count)]


def without_speech(seed: int) -> list[Clip]:
    """Silence, hiss at several levels, hum."""
    random = np.random.default_rng(seed)
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    waveforms: list[Waveform] = [np.zeros(len(time_s), np.float32)]
    waveforms += [random.normal(0, level, len(time_s)).astype(np.float32) for level in (0.0005, 0.003, 0.02, 0.1)]
    waveforms += [(level * np.sin(6.2832 * 50 * time_s)).astype(np.float32) for level in (0.003, 0.1)]
    return [Clip(waveform, (), ()) for waveform in waveforms]


def main() -> None:
    """Write every set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=1, help="how many times as many recordings in each set (1)")
    flags = parser.parse_args()
    folder, times = flags.folder, flags.times
    folder.mkdir(parents=True, exist_ok=True)
    write_set(folder, "trained", short_clips(98 * times, SEED, held_out=False))
    write_set(folder, "trained-mp3", short_clips(40 * times, SEED + 1, held_out=False), "mp3")
    write_set(folder, "held-out", short_clips(60 * times, SEED + 2, held_out=True))
    write_set(folder, "recordings", recordings(2 * times, SEED + 3, False, 180))
    write_set(folder, "recordings-held-out", recordings(4 * times, SEED + 4, True, 30))
    write_set(folder, "no-speech", without_speech(SEED))


if __name__ == "__main__":
    main()
