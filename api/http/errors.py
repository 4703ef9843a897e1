"""What an HTTP caller is answered when a request fails: OpenAI's shape, and one table from the gRPC outcome.

What is wrong with the content is a 400 with the server's x-error-code; what is wrong with the call or the server is
the status that HTTP has for it. Nothing that gRPC itself says is passed on: it names addresses.
"""

import math
from typing import Any

import grpc

from api.grpc.client.responses import ERROR_CODE_TRAILER, NO_ERROR_CODE, error_code
from api.grpc.client.retry import RETRY_PUSHBACK_TRAILER
from generated.v1.transcription_pb2 import TranscriptionResponse

CLIENT_GONE = 499  # as nginx counts a client that left before its answer
DEFAULT_RETRY_AFTER_S = 2
_Status = grpc.StatusCode

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_STATUSES = {
    _Status.UNAUTHENTICATED: 401,
    _Status.PERMISSION_DENIED: 403,
    _Status.RESOURCE_EXHAUSTED: 429,
    _Status.UNIMPLEMENTED: 501,
    _Status.UNAVAILABLE: 503,
    _Status.CANCELLED: 503,
    _Status.DEADLINE_EXCEEDED: 504,
}
_STATUSES_BY_CODE = {"UPLOAD_TOO_LARGE": 413, "OVERLOADED": 429, "NO_SPACE": 503}
_MESSAGES = {  # where the server itself has said nothing
    401: "Нет верного токена: передайте заголовок Authorization: Bearer …",
    403: "Доступ запрещён",
    429: "Сервер перегружен, повторите позже",
    500: "Внутренняя ошибка сервера, номер запроса - в заголовке x-request-id",
    501: "Эта реализация не отвечает по частям: уберите stream",
    503: "Сервер распознавания недоступен или ещё не готов, повторите позже",
    504: "Сервер распознавания не ответил вовремя, повторите позже",
}
_RETRIED = (429, 503)  # answered with Retry-After


class ApiError(Exception):
    """A request that ends with an error. The message is one line for a person; `code` is stable, for programs."""

    def __init__(
        self, status: int, code: str, message: str = "", *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message or _MESSAGES[status])
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s or (DEFAULT_RETRY_AFTER_S if status in _RETRIED else None)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body, as OpenAI's clients read it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say when to come again, or what to bring."""
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s else {}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


class ClientGoneError(Exception):
    """The client has disconnected: no answer can be delivered."""


def invalid(code: str, message: str, param: str | None = None) -> ApiError:
    """An error of the request itself."""
    return ApiError(400, code, message, param=param)


def from_rpc(error: grpc.RpcError) -> ApiError:
    """The answer to a request whose call failed."""
    call: Any = error
    trailers = dict(call.trailing_metadata() or ())
    pushback_ms = str(trailers.get(RETRY_PUSHBACK_TRAILER, ""))
    code = error_code(call)
    status = _STATUSES_BY_CODE.get(code) or _STATUSES.get(call.code(), 500)
    is_ours = ERROR_CODE_TRAILER in trailers or pushback_ms.isdecimal()
    retry_after_s = max(1, math.ceil(int(pushback_ms) / 1000)) if pushback_ms.isdecimal() else None
    if code == NO_ERROR_CODE:
        code = "invalid_api_key" if status == 401 else call.code().name
    return ApiError(status, code, str(call.details() or "") if is_ours else "", retry_after_s=retry_after_s)


def from_refusal(code: str, response: TranscriptionResponse) -> ApiError:
    """The answer to a request whose content was refused in-band."""
    return invalid(code, response.error_message, "file")
