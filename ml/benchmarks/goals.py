"""What the benchmark of real speech has measured, what is to be reached, and both as tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from ml.manifest import normalise

LONG, SENTENCES, AT_ONCE = "long recording", "its sentences, one by one", "clips at once"
IDLE, BESIDE, FILE_BESIDE = "a clip, idle", "a clip beside the long recording", "long recording beside clips"
LOST_SHARE = 0.5  # of a sentence's letters: one with fewer of them in their place in the transcript is lost


@dataclass(frozen=True)
class Result:
    """Seconds of each round of one way to do one workload; word errors of the last, of long recordings of all."""

    workload: str
    way: str
    seconds: tuple[float, ...]
    errors: int = 0
    words: int = 0
    lost: int = 0  # sentences
    loops: bool = False  # whether the text repeats itself

    @property
    def median_s(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def wer(self) -> float:
        """Errors per word said."""
        return self.errors / self.words


@dataclass(frozen=True)
class Goal:
    """A figure and its limit: at least `limit`, or at most where `at_most`."""

    name: str
    figure: float
    limit: float
    at_most: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the figure is within its limit."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


def count_errors(said: Sequence[str], recognised: Sequence[str]) -> tuple[int, int]:
    """Wrong, missing and additional words, and the words said."""
    found = jiwer.process_words([normalise(text) for text in said], [normalise(text) for text in recognised])
    return found.substitutions + found.deletions + found.insertions, sum(len(normalise(text).split()) for text in said)


def lost_sentences(said: Sequence[str], recognised: str) -> int:
    """How many of the sentences `said` are missing in the text `recognised` of all.

    Letters are counted, since a sentence whose every word is misheard is not missing, and one in whose place others
    are repeated is.
    """
    sentences = [normalise(text) for text in said]
    aligned = jiwer.process_characters(" ".join(sentences), normalise(recognised)).alignments[0]
    found = {index for part in aligned if part.type == "equal" for index in range(part.ref_start_idx, part.ref_end_idx)}
    lost, start = 0, 0
    for sentence in sentences:
        end = start + len(sentence)
        lost += sum(index in found for index in range(start, end)) < LOST_SHARE * len(sentence)
        start = end + 1  # the space
    return lost


def goals(results: Sequence[Result]) -> list[Goal]:
    """What is to be reached on two cores, with the figures of `results`."""
    by_name = {(result.workload, result.way): result for result in results}
    long, plain, batched = (by_name[LONG, way] for way in ("service", "transcribe", "batched"))
    clips, clips_plain = [result for result in results if result.workload.endswith(AT_ONCE)]
    alone, idle, beside = (by_name[workload, "service"] for workload in (SENTENCES, IDLE, BESIDE))
    return [
        Goal("long recording, times as fast as transcribe", plain.median_s / long.median_s, 2.0),
        Goal("long recording, times as fast as batched", batched.median_s / long.median_s, 1.05),
        Goal(f"{clips.workload}, times as fast as transcribe", clips_plain.median_s / clips.median_s, 1.8),
        Goal("WER of the long recording against transcribe, %", 100 * long.wer, 100 * plain.wer, at_most=True),
        Goal("WER of the long recording against batched, %", 100 * long.wer, 100 * batched.wer, at_most=True),
        Goal("the same against its sentences + 1 point, %", 100 * long.wer, 100 * alone.wer + 1, at_most=True),
        Goal("lost sentences", long.lost, 0, at_most=True),
        Goal("loops in the text", long.loops, 0, at_most=True),
        Goal("a clip beside the recording, times idle", beside.median_s / idle.median_s, 2.5, at_most=True),
    ]


def result_table(results: Sequence[Result]) -> str:
    lines = ["workload                          way         median, s   rounds                    WER   lost  loop"]
    for result in results:
        rounds = " ".join(f"{seconds:.2f}" for seconds in result.seconds[:4])
        line = f"{result.workload:33} {result.way:10} {result.median_s:10.2f}   {rounds:24}"
        if result.words:
            line += f" {result.wer:7.1%}"
        if result.workload == LONG:
            line += f" {result.lost:4}  {'yes' if result.loops else 'no'}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def goal_table(found: Sequence[Goal]) -> str:
    lines = ["to reach                                          measured      limit"]
    for goal in found:
        sign = "<=" if goal.at_most else ">="
        verdict = "reached" if goal.is_reached else "NOT REACHED"
        lines.append(f"{goal.name:48} {goal.figure:9.2f}   {sign} {goal.limit:5.2f}   {verdict}")
    return "\n".join(lines)
