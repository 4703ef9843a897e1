"""uvicorn's protocols with the limits it lacks: on headers that never end and on clients that take nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_HEAD_BYTES = 64 * 1024  # of a request line with its headers, of a chunk's extension, of trailers
HEAD_TIMEOUT_S = 10.0


class _WriteWatch:
    """Aborts a connection whose client has taken nothing of a full buffer for too long."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def paused(self, transport: asyncio.Transport) -> None:
        """The buffer is full."""
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, transport.abort)

    def resumed(self) -> None:
        """The buffer has room, or the connection is gone."""
        if self._timer:
            self._timer.cancel()
            self._timer = None


def http_protocol(idle_timeout_s: float) -> type[asyncio.Protocol]:
    """HTTP/1.1 within the limits."""

    class LimitedHttpProtocol(HttpToolsProtocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._head_bytes = 0  # since what was parsed last
            self._head_timer: asyncio.TimerHandle | None = None
            self._watch = _WriteWatch(idle_timeout_s)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            self._watch.resumed()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._head_bytes += len(data)
            super().data_received(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("Headers too long.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._expect_head()

        def on_headers_complete(self) -> None:
            self._head_bytes = 0
            self._stop_head_timer()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._head_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._head_bytes = 0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.more_body:  # what still comes of a request that has been answered is not waited for
                self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch.paused(self.transport)

        def resume_writing(self) -> None:
            self._watch.resumed()
            super().resume_writing()

        def _expect_head(self) -> None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

        def _stop_head_timer(self) -> None:
            if self._head_timer:
                self._head_timer.cancel()
                self._head_timer = None

    return LimitedHttpProtocol


def websocket_protocol(idle_timeout_s: float) -> type[asyncio.Protocol]:
    """WebSocket within the limits."""

    class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._watch = _WriteWatch(idle_timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.resumed()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch.paused(self.transport)

        def resume_writing(self) -> None:
            self._watch.resumed()
            super().resume_writing()

    return LimitedWebSocketProtocol
