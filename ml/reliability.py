"""Compares the confidence of recognised words with the share of them that is right."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jiwer

from ml.manifest import normalise
from ml.transcript import Word

EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the bins; most words are in the upper ones


@dataclass(frozen=True)
class JudgedWord:
    """A recognised word with a confidence, and whether the reference has it at its place."""

    confidence: float
    is_right: bool


@dataclass(frozen=True)
class Bin:
    """The words with a confidence in [low, high); the last bin includes 1."""

    low: float
    high: float
    words: int
    mean_confidence: float
    share_right: float


def judge(words: Sequence[Word], reference: str, merge_yo: bool) -> tuple[JudgedWord, ...]:
    """Judge the words that have a confidence, after aligning all of them with the reference.

    A word that is several once normalised («что-то») counts as several of the same confidence.
    """
    found = [(part, word.confidence) for word in words for part in normalise(word.text, merge_yo).split()]
    compared = jiwer.process_words(normalise(reference, merge_yo), " ".join(part for part, _ in found))
    right = {
        index
        for chunk in compared.alignments[0]
        if chunk.type == "equal"
        for index in range(chunk.hyp_start_idx, chunk.hyp_end_idx)
    }
    judged = [(confidence, index in right) for index, (_, confidence) in enumerate(found)]
    return tuple(JudgedWord(confidence, is_right) for confidence, is_right in judged if confidence is not None)


def bins(words: Sequence[JudgedWord]) -> list[Bin]:
    """Return the bins that have words, from the least confidence to the most."""
    members: list[list[JudgedWord]] = [[] for _ in EDGES[1:]]
    for word in words:
        members[min(bisect_right(EDGES, word.confidence), len(members)) - 1].append(word)
    return [
        Bin(low, high, len(inside), _mean([w.confidence for w in inside]), _mean([w.is_right for w in inside]))
        for (low, high), inside in zip(pairwise(EDGES), members, strict=True)
        if inside
    ]


def calibration_error(words: Sequence[JudgedWord]) -> float:
    """Return the mean distance of confidence and share of right words over the bins, weighted by their words (ECE)."""
    return sum(one.words * abs(one.mean_confidence - one.share_right) for one in bins(words)) / len(words)


def to_text(words: Sequence[JudgedWord]) -> str:
    """Return the table."""
    if not words:
        return "Модель не даёт уверенности слов"
    lines = [
        f"Уверенность: слов {len(words)}, верных {_mean([word.is_right for word in words]):.1%}, "
        f"средняя ошибка {calibration_error(words):.1%}",
        "  уверенность   слов  в среднем   верных",
    ]
    lines += [
        f"  {one.low:.2f} - {one.high:.2f} {one.words:6d} {one.mean_confidence:10.2f} {one.share_right:8.1%}"
        for one in bins(words)
    ]
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
