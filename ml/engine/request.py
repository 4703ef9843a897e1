"""One chunk on its way through an engine."""

import threading
import zlib
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import RecognitionOptions, Waveform
from ml.transcript import Completion

FAILED = "Модель не смогла распознать фрагмент аудио."
STOPPED = "Распознавание остановлено: повторите запрос позже."


@dataclass(frozen=True)
class Retry:
    """Names chunks of a recording that are recognised again: they take turns with its others and are not new."""

    recording_id: Hashable


@dataclass(eq=False)
class Request:
    """A chunk and the future of its completion. The future stays cancellable until the completion is there.

    `complete`, `cancel`, `fail` and `abort` may be called from any thread and any number of times: the first wins.
    """

    waveform: Waveform
    recording_id: Hashable
    submitted_s: float  # time.perf_counter()
    options: RecognitionOptions = RecognitionOptions()  # noqa: RUF009 (frozen)
    future: "Future[Completion]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self._outcome = threading.Lock()  # acquired once, by the call that settles the future

    @property
    def seed(self) -> int:
        """Seed for sampling, of the audio alone: the same in every batch and on every machine."""
        return zlib.crc32(self.waveform.tobytes())

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has cancelled the future."""
        return self.future.cancelled()

    def complete(self, completion: Completion) -> None:
        """Set the result, unless the future is settled or cancelled."""
        if self._claim():
            self.future.set_result(completion)

    def cancel(self) -> None:
        """Cancel the future and wake `concurrent.futures.wait`, as executors do."""
        self.future.cancel()
        self._claim()

    def fail(self, cause: BaseException) -> None:
        """Set RecognitionError with `cause`: the model fails over this chunk."""
        error = RecognitionError(FAILED)
        error.__cause__ = cause
        self._set_exception(error)

    def abort(self) -> None:
        """Set EngineStoppedError: there will be no completion, through no fault of the chunk."""
        self._set_exception(EngineStoppedError(STOPPED))

    def _set_exception(self, error: RecognitionError) -> None:
        if self._claim():
            self.future.set_exception(error)

    def _claim(self) -> bool:
        """Whether this call may settle the future: the first to ask, unless the caller has cancelled it."""
        return self._outcome.acquire(blocking=False) and self.future.set_running_or_notify_cancel()


def recording_of(recording_id: Hashable) -> Hashable:
    """The recording of chunks that are recognised again, else `recording_id` itself."""
    return recording_id.recording_id if isinstance(recording_id, Retry) else recording_id
