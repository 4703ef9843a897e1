"""Speech to judge the tiny model by: sentences and voices kept out of training, laid out like recordings."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model import vocabulary
from ml.tiny_model.corpus import punctuated, resampled, trained_variants
from ml.tiny_model.speech import HELD_OUT_VARIANTS, Espeak, Manner


@dataclass(frozen=True)
class Clip:
    """A recording at 16 kHz, what is said in it, and when: (word, start_s, end_s)."""

    waveform: Waveform
    words: tuple[str, ...]
    spans: tuple[tuple[str, float, float], ...]


def utterance(espeak: Espeak, random: Random, variant: str, said: list[str] | None = None) -> Clip:
    """One sentence at an everyday speed and pitch."""
    words = said or vocabulary.sentence(random, vocabulary.words())
    manner = Manner(variant, random.randint(120, 220), random.randint(30, 70), random.randint(35, 65))
    speech = espeak.speak(punctuated(random, words), manner)
    spans = tuple((word.name, word.start_s, word.end_s) for word in speech.words)
    return Clip(resampled(speech.waveform, speech.sample_rate), tuple(words), spans)


def joined(clips: list[Clip], pauses_s: list[float]) -> Clip:
    """One recording of several, each after its pause, with the last pause at the end."""
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
    return joined(clips, [random.uniform(0.2, 1.5) for _ in range(len(clips) + 1)])


def short_clips(count: int, seed: int, held_out: bool) -> list[Clip]:
    """Unseen sentences, one a clip, in trained voices or in the voices held out."""
    random, espeak = Random(seed), Espeak()
    voices = list(HELD_OUT_VARIANTS) if held_out else trained_variants(espeak)
    random.shuffle(voices)
    return [utterance(espeak, random, voices[index % len(voices)]) for index in range(count)]
