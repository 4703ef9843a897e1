"""Error responses that reach a client that is still sending."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.answers import JSON_TYPE, dump
from api.http.body import Unread
from api.http.errors import ApiError

LINGER_S = 2.0  # for what a client has sent, or still sends, before it looks for an answer


class ErrorResponse(Response):
    """OpenAI's error shape. Where the body has not been read to its end, the connection is closed, but not at once."""

    media_type = JSON_TYPE

    def __init__(self, error: ApiError, body: Unread | None = None) -> None:
        super().__init__(dump(error.body), error.status, error.headers)
        self._unread = body if body and not body.is_complete else None
        if self._unread:
            self.headers["connection"] = "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See starlette's Response."""
        kind = "websocket.http" if scope["type"] == "websocket" else "http"
        await send({"type": f"{kind}.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": f"{kind}.response.body", "body": self.body, "more_body": self._unread is not None})
        if self._unread:
            await self._unread.discard(LINGER_S)
            await send({"type": "http.response.body", "body": b""})
