"""Measures the times of words against known ones, and what they cost.

    python ml/benchmarks/word_times.py resources/samples/word_times.wav --device cpu --rounds 15 \\
        --model ml/checkpoints/borealis-tiny-ru

Beside each FILE lies a JSON with its words and their times, as ml/tiny_model/samples.py and ml/benchmarks/festival.py
write them.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import json
import time
from collections.abc import Sequence
from difflib import SequenceMatcher
from statistics import median
from typing import NamedTuple

import numpy as np

from ml.errors import SpeechError
from ml.interfaces import RecognitionOptions
from ml.manifest import normalise
from ml.pipeline.pipeline import Pipeline
from ml.transcribe import EXIT_FAILED, EXIT_UNREADABLE, add_model_flags, open_pipeline, protect_console, say
from ml.transcript import Word

PLAIN, TIMED = RecognitionOptions(), RecognitionOptions(word_times=True)


class Offsets(NamedTuple):
    """How far recognised words lie off the known ones, in seconds; only words that both have, in the same order."""

    starts_s: list[float]
    ends_s: list[float]


def compare(found: Sequence[Word], known: Sequence[Word]) -> Offsets:
    """The offsets of the words `found` from the `known` ones that they match."""
    said, expected = ([normalise(word.text) for word in words] for words in (found, known))
    blocks = SequenceMatcher(None, said, expected, autojunk=False).get_matching_blocks()
    pairs = [(found[at + i], known[to + i]) for at, to, size in blocks for i in range(size)]
    return Offsets(
        [word.start_s - reference.start_s for word, reference in pairs],
        [word.end_s - reference.end_s for word, reference in pairs],
    )


def read_words(path: Path) -> list[Word]:
    """The words of a JSON file, with their times."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Word(row.get("word") or row["name"], row["start_s"], row["end_s"]) for row in rows]


def recognise(pipeline: Pipeline, path: Path, options: RecognitionOptions) -> tuple[list[Word], float]:
    """The words of a file and the processor time that they took."""
    started_s = time.process_time()
    with path.open("rb") as file:
        transcript = pipeline.transcribe(file, options=options)
    elapsed_s = time.process_time() - started_s
    return [word for segment in transcript.segments for word in segment.words], elapsed_s


def main(arguments: list[str] | None = None) -> int:
    """Print the offsets and the cost; return 0, 1 (no model, bad audio) or 2 (a file cannot be read)."""
    protect_console()
    flags = _parser().parse_args(arguments)
    offsets, known_words, estimated = Offsets([], []), 0, 0
    seconds: dict[RecognitionOptions, list[float]] = {PLAIN: [], TIMED: []}
    try:
        known = {path: read_words(path.with_suffix(".json")) for path in flags.files}
        with open_pipeline(flags.model, flags.device, flags.implementation) as pipeline:
            for path, words in known.items():
                found, _ = recognise(pipeline, path, TIMED)
                starts_s, ends_s = compare(found, words)
                offsets = Offsets(offsets.starts_s + starts_s, offsets.ends_s + ends_s)
                known_words, estimated = known_words + len(words), estimated + sum(word.is_estimated for word in found)
            for _ in range(flags.rounds):
                for options, times_s in seconds.items():
                    times_s.append(sum(recognise(pipeline, path, options)[1] for path in known))
    except SpeechError as error:
        return say(f"❌ {error}", EXIT_FAILED)
    except OSError as error:
        return say(f"❌ Не удалось открыть файл {error.filename}: {error.strerror}", EXIT_UNREADABLE)
    print(f"Слов: {known_words}, совпало: {len(offsets.starts_s)}, с оценкой вместо времени: {estimated}")
    print(f"Начало: {_describe(offsets.starts_s)}")
    print(f"Конец:  {_describe(offsets.ends_s)}")
    if flags.rounds:
        plain_s, timed_s = median(seconds[PLAIN]), median(seconds[TIMED])
        print(f"Процессор: {plain_s:.3f} сек, с временами слов {timed_s:.3f} сек ({timed_s / plain_s - 1:+.1%})")
    return 0


def _describe(offsets_s: Sequence[float]) -> str:
    if not offsets_s:
        return "нет совпавших слов"
    off_s = np.abs(offsets_s)
    middle_s, late_s = np.percentile(off_s, [50, 90])
    return f"медиана {middle_s:.3f} сек, 90 % {late_s:.3f} сек, наибольшее {off_s.max():.3f} сек"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ml/benchmarks/word_times.py", description="Измеряет времена слов")
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="аудио; рядом JSON со словами и временами")
    add_model_flags(parser)
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="измерить и затраты: столько раз без времён и с ними"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
