"""From the tokens of an answer and their times to its words."""

from itertools import pairwise
from typing import Any

import numpy as np

from ml.transcript import Word

TOKEN_S = 0.08  # a word ends so long after the beginning of its last token, at the latest where the next word begins


def words_of(result: Any, duration_s: float) -> tuple[Word, ...]:
    """The words of onnx_asr's TimestampedResult of a chunk of `duration_s`; none where the model gives no times."""
    if not result.timestamps or not result.tokens:
        return ()
    words = _split(result.text, result.tokens)
    starts_s = [min(float(result.timestamps[indices[0]]), duration_s) for _, indices in words]
    found = []
    for (text, indices), (start_s, limit_s) in zip(words, pairwise([*starts_s, duration_s]), strict=True):
        end_s = max(start_s, min(limit_s, float(result.timestamps[indices[-1]]) + TOKEN_S))
        probabilities = np.exp([result.logprobs[index] for index in indices]) if result.logprobs else None
        found.append(Word(text, start_s, end_s, None if probabilities is None else float(np.mean(probabilities))))
    return tuple(found)


def _split(text: str, tokens: list[str]) -> list[tuple[str, list[int]]]:
    """The words of `text`, each with the tokens that it is made of.

    `text` is the tokens joined, less some spaces: at its ends and before punctuation.
    """
    places = [(character, index) for index, token in enumerate(tokens) for character in token]
    words: list[tuple[str, list[int]]] = []
    position = 0
    for word in text.split():
        indices: list[int] = []
        for character in word:
            while places[position][0] != character:
                position += 1
            if not indices or indices[-1] != places[position][1]:
                indices.append(places[position][1])
            position += 1
        words.append((word, indices))
    return words
