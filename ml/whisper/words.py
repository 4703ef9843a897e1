"""From the aligned pieces of a text to its words with their times."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from ml.transcript import Word

PUNCTUATION = string.punctuation + "«»„“”…–—"


def words_of(pieces: Sequence[dict[str, Any]]) -> tuple[Word, ...]:
    """The words of `pieces`, as faster-whisper's `find_alignment` gives them, joined where no space is between them.

    Punctuation takes no part in a word's times: the alignment gives it the pause that follows.
    """
    words: list[list[dict[str, Any]]] = []
    for piece in pieces:
        if piece["word"].startswith(" ") or not words:
            words.append([])
        words[-1].append(piece)
    return tuple(_word(word) for word in words if "".join(piece["word"] for piece in word).strip())


def _word(pieces: list[dict[str, Any]]) -> Word:
    spoken = [piece for piece in pieces if piece["word"].strip(PUNCTUATION + " ")] or pieces
    return Word(
        text="".join(piece["word"] for piece in pieces).strip(),
        start_s=float(spoken[0]["start"]),
        end_s=float(spoken[-1]["end"]),
        confidence=float(np.average([p["probability"] for p in pieces], weights=[len(p["tokens"]) for p in pieces])),
    )
