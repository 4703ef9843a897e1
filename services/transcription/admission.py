"""Limits on the work under way: bytes of uploads and seconds of audio in the queue."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from services.transcription.errors import OverloadedError


class Admission:
    """Counts the uploads under way and rejects those over the limits."""

    def __init__(self, max_bytes: int, max_queued_audio_s: float, queued_audio_s: Callable[[], float]) -> None:
        """`queued_audio_s` returns the seconds of audio in the model's queue."""
        self._max_bytes = max_bytes
        self._max_queued_audio_s = max_queued_audio_s
        self._queued_audio_s = queued_audio_s
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of all uploads under way."""
        return self._bytes

    @contextmanager
    def admitted(self, pieces: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
        """Yield an iterable over `pieces` that counts their bytes until the context ends.

        Raises:
            OverloadedError: too much audio is queued, or the pieces would pass the limit on bytes.
        """
        if self._queued_audio_s() >= self._max_queued_audio_s:
            raise OverloadedError("Сервер перегружен: слишком много аудио в очереди, повторите позже")
        held = [0]
        try:
            yield self._counted(pieces, held)
        finally:
            self._add(-held[0])

    def _counted(self, pieces: Iterable[bytes], held: list[int]) -> Iterator[bytes]:
        for piece in pieces:
            self._add(len(piece))
            held[0] += len(piece)
            yield piece

    def _add(self, count: int) -> None:
        with self._lock:
            if count > 0 and self._bytes + count > self._max_bytes:
                raise OverloadedError("Сервер перегружен: слишком много загрузок одновременно, повторите позже")
            self._bytes += count
