"""Times of words from the decoder's attention: which heads follow the audio, and what they say of a text."""

import json
import logging
import math
import wave
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ml.borealis.alignment import (
    POSITION_S,
    POSITION_SAMPLES,
    Floats,
    Head,
    align,
    combine,
    snap_to_voice,
    words_of,
)
from ml.borealis.device_path import Decoder
from ml.interfaces import Waveform
from ml.transcript import Word

SPEECH = Path(__file__).parent / "speech" / "speech.wav"  # beside it as JSON: its words with their times
FULL_SCALE = 32768  # of 16-bit samples
LAGS = (0, 1)
MAX_HEADS = 4
MAX_ERROR_S = 0.25  # of the best head; beyond, the shares of the voiced time are as good
SPREAD = 2.0  # a head is used if its error is within so many times the best one's, or within a position

_CHOSEN = "Времена слов: головы внимания %s, ошибка на образце %.2f сек"
_NONE = "Времена слов оцениваются: внимание модели не идёт за речью (ошибка на образце %.2f сек)"

logger = logging.getLogger("BorealisModel")


class Spoken(NamedTuple):
    """A recording of known words."""

    waveform: Waveform
    words: list[str]
    starts_s: list[float]


class Model(Protocol):
    """What word times need of a model."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token, spaces included."""

    def attend(self, waveform: Waveform, text: str) -> tuple[list[str], torch.Tensor]:
        """The pieces of `text`, and every head's attention (layers, heads, n + 1, 375) over its n tokens."""


class Decoded(NamedTuple):
    """A finished sequence, still in its row."""

    row: int
    waveform: Waveform
    tokens: list[int]
    probabilities: list[float]  # of the tokens, that of the end may follow


class WordTimer:
    """Gives the words of finished sequences their times.

    The heads are chosen at the first request for word times: a service without such requests spends nothing on them.
    """

    def __init__(self, model: Model, decoder: Decoder) -> None:
        self._model = model
        self._decoder = decoder
        self._heads: list[Head] | None = None

    def words(self, sequences: Sequence[Decoded]) -> list[tuple[Word, ...]]:
        """The words of each of `sequences`, with times from the chunk's beginning; none where no head follows."""
        if self._heads is None:
            self._heads = choose_heads(self._model, read_speech())
        if not self._heads:
            return [()] * len(sequences)
        heads = [(head.layer, head.number) for head in self._heads]
        rows, tokens = [sequence.row for sequence in sequences], [sequence.tokens for sequence in sequences]
        attention = self._decoder.audio_attention(rows, tokens, heads).cpu().numpy()
        return [self._words(sequence, each) for sequence, each in zip(sequences, attention, strict=True)]

    def _words(self, sequence: Decoded, attention: Floats) -> tuple[Word, ...]:
        lags = [head.lag for head in self._heads or ()]
        steps = attention[:, : len(sequence.tokens) + 1]
        bounds = align(combine(steps, lags, math.ceil(len(sequence.waveform) / POSITION_SAMPLES)))
        words = words_of(self._model.pieces(sequence.tokens), sequence.probabilities, bounds)
        return snap_to_voice(words, sequence.waveform)


def choose_heads(model: Model, spoken: Spoken) -> list[Head]:
    """The heads that place the words of `spoken` best, as many as MAX_HEADS; none where no head places them well."""
    errors_s = _errors(model, spoken)
    best_s = min(errors_s.values(), default=math.inf)
    if not best_s <= MAX_ERROR_S:
        logger.warning(_NONE, best_s)
        return []
    good = [head for head, error_s in errors_s.items() if error_s <= max(SPREAD * best_s, POSITION_S)]
    chosen = sorted(good, key=lambda head: errors_s[head])[:MAX_HEADS]
    logger.info(_CHOSEN, ", ".join(f"{head.layer}.{head.number}" for head in chosen), best_s)
    return chosen


def _errors(model: Model, spoken: Spoken) -> dict[Head, float]:
    """How far each head by itself puts the words off, in seconds: the median of their starts.

    The sum along the path does not tell heads apart: it is as high for one that attends to the word before. Empty where
    the tokens of the text do not begin with its spaces.
    """
    pieces, attention = model.attend(spoken.waveform, " ".join(spoken.words))
    firsts = [index for index, piece in enumerate(pieces) if index == 0 or piece[:1].isspace()]
    if len(firsts) != len(spoken.words):
        return {}
    positions = math.ceil(len(spoken.waveform) / POSITION_SAMPLES)
    layers, heads = attention.shape[:2]
    errors_s = {}
    for head in map(Head._make, product(range(layers), range(heads), LAGS)):
        steps = attention[head.layer, head.number][None].cpu().numpy()
        starts_s = align(combine(steps, [head.lag], positions))[firsts] * POSITION_S
        errors_s[head] = float(np.median(np.abs(starts_s - spoken.starts_s)))
    return errors_s


def read_speech(path: Path = SPEECH) -> Spoken:
    """The recording that heads are chosen by."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    starts_s = [row["start_s"] for row in rows]
    return Spoken(samples.astype(np.float32) / np.float32(FULL_SCALE), [row["name"].lower() for row in rows], starts_s)
