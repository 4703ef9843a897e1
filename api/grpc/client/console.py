"""Prints outputs to stdout in the order of the recordings, and everything else, progress bars too, to stderr."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from api.grpc.client.batch import Exit, Outcome
from api.grpc.client.files import Job
from generated.v1.transcription_pb2 import Progress, TranscriptionResponse

_MAX_NAMED = 10  # more names make no readable line
_SKIPPED = "пропущено"
_LABELS = {Exit.DONE: "готово", Exit.REFUSED: "отказано", Exit.FAILED: "не удалось"}


class Report:
    """Prints every outcome once; `is_single` means one file, reported in detail."""

    def __init__(self, jobs: list[Job], render: Callable[[TranscriptionResponse], str], is_single: bool) -> None:
        self._jobs = jobs
        self._render = render
        self._is_single = is_single
        self._unprinted: dict[Job, str] = {}  # outputs for stdout that wait for an earlier job
        self._in_order = iter(jobs)
        self._next = next(self._in_order, None)
        self._counts: Counter[str] = Counter()
        self.exit = Exit.DONE

    def add(self, outcome: Outcome) -> None:
        """Print the outcome of a job, and its output once those of all earlier jobs are printed."""
        self.exit = max(self.exit, outcome.exit)
        is_skipped = outcome.exit is Exit.DONE and outcome.response is None
        self._counts[_SKIPPED if is_skipped else _LABELS[outcome.exit]] += 1
        to_stdout = outcome.response is not None and outcome.job.output is None
        self._print_in_order(outcome.job, self._render(outcome.response) if to_stdout and outcome.response else "")
        for line in self._lines(outcome):
            _print_above_bars(line)

    def print_summary(self) -> None:
        """Print the outputs that still wait for a job that never ended, and the counts of several files."""
        for job in self._jobs:
            sys.stdout.write(self._unprinted.pop(job, ""))
        sys.stdout.flush()
        if self._is_single:
            return
        counts = {label: self._counts[label] for label in (*_LABELS.values(), _SKIPPED)}
        counts["не отправлено"] = len(self._jobs) - self._counts.total()
        _print_above_bars("Файлов: " + ", ".join(f"{label} {number}" for label, number in counts.items() if number))

    def _print_in_order(self, job: Job, text: str) -> None:
        self._unprinted[job] = text
        while self._next in self._unprinted:
            assert self._next
            sys.stdout.write(self._unprinted.pop(self._next))
            self._next = next(self._in_order, None)
        sys.stdout.flush()

    def _lines(self, outcome: Outcome) -> list[str]:
        name, response = outcome.job.recording, outcome.response
        if outcome.problem:
            return [f"❌ {name}: {outcome.problem}"]
        if response is None:
            return [f"⏭ {name}: уже есть {outcome.job.output} (--overwrite - заново)"]
        warnings = [f"⚠️ {name}: {warning}" for warning in response.warnings]
        if self._is_single:
            return [*_statistics(response), *warnings]
        where = f" → {outcome.job.output}" if outcome.job.output else ""
        spent = f"{response.audio_duration:.1f} сек аудио за {response.processing_time:.1f} сек"
        return [f"✅ {name}{where}: {spent}", *warnings]


def _statistics(response: TranscriptionResponse) -> list[str]:
    stats = response.stats
    return [
        f"Время обработки: {response.processing_time:.2f} сек",
        f"Длительность аудио: {response.audio_duration:.2f} сек",
        f"Скорость: {stats.speed_factor:.1f}x от реального времени",
        f"Слов: {stats.word_count}, Символов: {stats.char_count}",
    ]


_BYTES = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}Б из {total_fmt}Б, {elapsed}"
_SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} из {total:.0f} сек, {elapsed}"
_FILES = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} из {total_fmt}, {elapsed}"


@dataclass(frozen=True)
class CallBars:
    """One bar for the bytes sent, one for the seconds of audio recognised of those decoded so far."""

    upload: Any
    done: Any

    def on_sent(self, sent_bytes: int) -> None:
        """Advance the bar of the upload; see TranscriptionClient.transcribe_stream."""
        self.upload.update(sent_bytes)
        is_sent = self.upload.n >= self.upload.total
        self.upload.set_description_str("Отправлено, идёт распознавание" if is_sent else "Отправка")

    def on_progress(self, progress: Progress) -> None:
        """Advance the bar of the recognition."""
        self.done.total = max(progress.decoded_s, progress.done_s)
        self.done.n = progress.done_s
        self.done.refresh()


@contextmanager
def call_bars(size_bytes: int, shown: bool) -> Iterator[CallBars]:
    """Bars for one streamed call; hidden if stderr is not a terminal."""
    options: dict[str, Any] = {"file": sys.stderr, "disable": None if shown else True}
    with (  # the upper bar is closed first and so keeps its place
        tqdm(desc="Распознано", bar_format=_SECONDS, position=1, total=0, **options) as done,
        tqdm(desc="Отправка", bar_format=_BYTES, position=0, total=size_bytes, unit_scale=True, **options) as upload,
    ):
        yield CallBars(upload, done)


@contextmanager
def files_bar(count: int) -> Iterator[Any]:
    """A bar for `count` files; hidden for a single one and if stderr is not a terminal."""
    with tqdm(
        desc="Файлы", total=count, file=sys.stderr, bar_format=_FILES, disable=True if count < 2 else None
    ) as bar:
        yield bar


def skipped_line(paths: list[Path]) -> str:
    """One line about files that are not sent, by name up to _MAX_NAMED of them."""
    names = ", ".join(str(path) for path in paths[:_MAX_NAMED])
    more = f" и ещё {len(paths) - _MAX_NAMED}" if len(paths) > _MAX_NAMED else ""
    return f"⏭ Не отправляются (окончание имени не аудио и не видео): {names}{more}"


def print_status(line: str, exit_code: int = 0) -> int:
    """Print to stderr, which carries everything but outputs; return `exit_code`."""
    print(line, file=sys.stderr)
    return exit_code


def protect_console() -> None:
    """Escape characters that the console cannot show, rather than fail on the line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _print_above_bars(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
