"""The outermost layer: admission, request ids, security headers, and the answer to an unexpected exception."""

import logging
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.body import Unread
from api.http.context import REQUEST_ID_HEADER, Gateway, identify
from api.http.errors import CLIENT_GONE, ApiError
from api.http.responses import ErrorResponse
from resources.logs import request_id

_log = logging.getLogger("HttpGateway")

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Only what a page needs to show itself; pages that need more set their own.
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


@dataclass
class _Ended:
    """How a request was answered."""

    status: int = CLIENT_GONE
    has_started: bool = False
    is_complete: bool = False


class Guard:
    """Admits requests, gives each an id, and turns an unexpected exception into a 500; its cause stays in the log."""

    def __init__(self, app: ASGIApp, gateway: Gateway, allowed_origins: tuple[str, ...]) -> None:
        self._app = app
        self._gateway = gateway
        self._allowed_origins = allowed_origins
        self.in_flight = 0

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._gateway.is_draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call_id = identify(headers.get(REQUEST_ID_HEADER, ""))
        request_id.set(call_id)
        scope.setdefault("state", {})["request_id"] = call_id
        ended, started_s = _Ended(), time.perf_counter()
        self.in_flight += 1
        self._gateway.metrics.began()
        try:
            await self._answer(scope, receive, self._completing(send, call_id, ended), headers, ended)
        finally:
            self.in_flight -= 1
            self._gateway.metrics.ended(_route(scope), ended.status, time.perf_counter() - started_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers, ended: _Ended) -> None:
        try:
            self._admit(scope, headers)
            await self._app(scope, receive, send)
        except ApiError as error:
            await _refuse(error, scope, receive, send)
        except Exception:
            _log.exception("Необработанная ошибка, запрос %s", scope["state"]["request_id"])
            if not ended.has_started:
                await _refuse(ApiError(500, "INTERNAL"), scope, receive, send)
            elif not ended.is_complete:
                raise  # closes the connection: a client must not take a part for the whole

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raises ApiError where the request is not to be looked at."""
        if self._gateway.is_draining:
            raise ApiError(503, "UNAVAILABLE")
        if self.in_flight > self._gateway.limits.max_requests:
            raise ApiError(503, "OVERLOADED", "Сервер перегружен, повторите позже")
        # A browser lets any page send forms and open WebSockets to any address, and says which page it was.
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if changes and not self._is_allowed(headers.get("origin"), headers.get("host", "")):
            raise ApiError(403, "FOREIGN_ORIGIN", "Страница с другого адреса: разрешите его в HTTP_ALLOWED_ORIGINS")

    def _is_allowed(self, origin: str | None, host: str) -> bool:
        return origin is None or origin in self._allowed_origins or urlsplit(origin).netloc.lower() == host.lower()

    def _completing(self, send: Send, call_id: str, ended: _Ended) -> Send:
        """`send` with the headers that every answer has; notes how it went."""

        async def complete(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                ended.has_started, ended.status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = call_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if self._gateway.is_draining:
                    headers["connection"] = "close"
            elif message["type"] == "http.response.body":
                ended.is_complete = not message.get("more_body", False)
            elif message["type"] == "websocket.accept":
                ended.has_started = True
            elif message["type"] == "websocket.close":
                ended.is_complete, ended.status = True, message.get("code", 1000)
            await send(message)

        return complete


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `error`; a WebSocket that is not open yet gets an HTTP response too."""
    body = Unread.of(Headers(scope=scope), receive) if scope["type"] == "http" else None
    await ErrorResponse(error, body)(scope, receive, send)


def _route(scope: Scope) -> str:
    """The path's pattern, never what the client made of it."""
    return str(getattr(scope.get("route"), "path", "") or "other")
