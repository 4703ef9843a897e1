"""Tells how jobs end: outputs to stdout in the order of the recordings, all else to stderr as it happens."""

import sys
from collections import Counter
from collections.abc import Callable

from api.grpc.client_batch import Exit, Outcome
from api.grpc.client_files import Job
from api.grpc.client_messages import figures
from api.grpc.client_progress import say_above
from generated.v1.transcription_pb2 import TranscriptionResponse

_SKIPPED = "пропущено"
_LABELS = {Exit.DONE: "готово", Exit.REFUSED: "отказано", Exit.FAILED: "не удалось"}


class Report:
    """Hears every outcome once; `is_single` means one file, told in detail."""

    def __init__(self, jobs: list[Job], render: Callable[[TranscriptionResponse], str], is_single: bool) -> None:
        self._jobs = jobs
        self._render = render
        self._is_single = is_single
        self._ended: dict[Job, str] = {}  # with what stdout is still to get
        self._in_order = iter(jobs)
        self._next = next(self._in_order, None)
        self._counts: Counter[str] = Counter()
        self.exit = Exit.DONE

    def tell(self, outcome: Outcome) -> None:
        """Prints what is to be said about a job that has ended."""
        self.exit = max(self.exit, outcome.exit)
        is_skipped = outcome.exit is Exit.DONE and outcome.response is None
        self._counts[_SKIPPED if is_skipped else _LABELS[outcome.exit]] += 1
        to_stdout = outcome.response is not None and outcome.job.output is None
        self._print_in_order(outcome.job, self._render(outcome.response) if to_stdout and outcome.response else "")
        for line in self._lines(outcome):
            say_above(line)

    def sum_up(self) -> None:
        """Prints what still waited for a job that has not ended, and the last line about several files."""
        for job in self._jobs:
            sys.stdout.write(self._ended.pop(job, ""))
        sys.stdout.flush()
        if self._is_single:
            return
        counts = {label: self._counts[label] for label in (*_LABELS.values(), _SKIPPED)}
        counts["не отправлено"] = len(self._jobs) - self._counts.total()
        say_above("Файлов: " + ", ".join(f"{label} {number}" for label, number in counts.items() if number))

    def _print_in_order(self, job: Job, text: str) -> None:
        self._ended[job] = text
        while self._next in self._ended:
            assert self._next
            sys.stdout.write(self._ended.pop(self._next))
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
            return [*figures(response), *warnings]
        where = f" → {outcome.job.output}" if outcome.job.output else ""
        spent = f"{response.audio_duration:.1f} сек аудио за {response.processing_time:.1f} сек"
        return [f"✅ {name}{where}: {spent}", *warnings]
