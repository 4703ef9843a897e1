"""Reads a request's body as it comes, within limits on its size and on the time the client takes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from starlette.datastructures import Headers
from starlette.types import Receive

from api.http.errors import ApiError, ClientGoneError

MIN_BYTES_PER_S = 500  # what a client must send on average; a telephone's codec is above that


class Pace:
    """Ends the wait for a client that sends nothing, or next to nothing.

    A client has `idle_timeout_s` of credit. Waiting for it uses credit up, and what it sends gives credit back, one
    second for MIN_BYTES_PER_S. Time that the server takes costs nothing.
    """

    def __init__(self, idle_timeout_s: float) -> None:
        self._limit_s = self._credit_s = idle_timeout_s
        self._since_s = 0.0

    def wait(self) -> asyncio.Timeout:
        """A context for one wait; raises TimeoutError in it."""
        self._since_s = time.monotonic()
        return asyncio.timeout(self._credit_s)

    def received(self, size_bytes: int) -> None:
        """Count what the wait brought."""
        waited_s = time.monotonic() - self._since_s
        self._credit_s = min(self._limit_s, self._credit_s - waited_s + size_bytes / MIN_BYTES_PER_S)


class Unread:
    """A body, or the rest of one, that is of no use any more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False

    @classmethod
    def of(cls, headers: Headers, receive: Receive) -> "Unread | None":
        """The body that a request with `headers` has, None where it has none."""
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        return cls(receive) if has_body else None

    async def discard(self, seconds: float) -> None:
        """Read on for a while without a look at it.

        A connection that is closed while the client still sends is reset, and the client may then never see the answer.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self.is_complete and (message := await self._receive())["type"] == "http.request":
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            pass


class Body(Unread):
    """The body of one request: an iterator of its pieces, once."""

    def __init__(
        self,
        receive: Receive,
        content_length: str,
        max_bytes: int,
        idle_timeout_s: float,
        on_received: Callable[[int], object] = lambda size_bytes: None,
    ) -> None:
        """`content_length` is the header's value, empty where there is none; `on_received` gets each piece's size."""
        super().__init__(receive)
        self._declared_bytes = int(content_length) if content_length.isdecimal() else 0
        self._max_bytes = max_bytes
        self._pace = Pace(idle_timeout_s)
        self._on_received = on_received
        self._received_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces.

        Raises:
            ApiError: 413 (longer than allowed, before the first byte where that is announced) or 408 (too slow).
            ClientGoneError: the client left before the end.
        """
        if self._declared_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        while not self.is_complete:
            piece = await self._next()
            if piece:
                yield piece

    async def watch(self) -> None:
        """Wait until the client leaves, once the body is complete; raises ClientGoneError then."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise ClientGoneError

    async def _next(self) -> bytes:
        try:
            async with self._pace.wait():
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "SLOW_UPLOAD", "Файл приходит слишком медленно, отправьте его ещё раз") from None
        if message["type"] != "http.request":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        self.is_complete = not message.get("more_body", False)
        self._pace.received(len(piece))
        self._on_received(len(piece))
        self._received_bytes += len(piece)
        if self._received_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return piece


def too_large(max_bytes: int) -> ApiError:
    """The error of an upload that is longer than allowed."""
    return ApiError(413, "UPLOAD_TOO_LARGE", f"Файл больше допустимого: STREAM_MAX_BYTES={max_bytes}", param="file")
