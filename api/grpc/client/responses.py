"""Reads what the server answers: a response, a rejection, updates that end in either, or an error, in one line."""

from collections.abc import Callable
from typing import Any

import grpc

from api.grpc.client.retry import is_tls_failure
from generated.v1.transcription_pb2 import Progress, Segment, TranscriptionResponse

ERROR_CODE_TRAILER = "x-error-code"
NO_ERROR_CODE = "UNKNOWN"

_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "сервер недоступен или ещё не готов, проверьте, что он запущен (python start.py)",
    grpc.StatusCode.DEADLINE_EXCEEDED: "ответ не получен за отведённое время (--timeout)",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "файл слишком велик или сервер занят; большие файлы отправляйте с --stream",
    grpc.StatusCode.UNIMPLEMENTED: "по этому адресу отвечает другой сервис",
    grpc.StatusCode.UNAUTHENTICATED: "сервер не пускает без верного токена (TRANSCRIPTION_TOKEN или --token)",
    grpc.StatusCode.CANCELLED: "вызов отменён",
}
_DEFAULT_HINT = "вызов не удался"
_TLS_HINTS = (  # the first whose text is in gRPC's message counts
    ("CERTIFICATE_VERIFY_FAILED", "сертификат сервера не принят, проверьте --ca"),
    ("Hostname Verification Check", "сертификат сервера выдан на другое имя, проверьте --address"),
    ("WRONG_VERSION_NUMBER", "сервер говорит без TLS, уберите --tls, --ca и --cert"),
    ("security handshaker", "файл из --ca, --cert или --key испорчен, либо ключ не от этого сертификата"),
    ("", "соединение TLS не установлено, проверьте --ca, --cert и --key"),
)
_CLOSED_HINT = "сервер закрыл соединение: возможно, ему нужен TLS (--tls, --ca) или сертификат клиента (--cert, --key)"


class TranscriptionRefusedError(Exception):
    """The server handled the call but rejected its content: `success` is false.

    `code` is the stable x-error-code, such as UNSUPPORTED_FORMAT; `response` is the complete response.
    """

    def __init__(self, code: str, response: TranscriptionResponse) -> None:
        super().__init__(response.error_message)
        self.code = code
        self.response = response


class IncompleteAnswerError(Exception):
    """An incremental call ended with status OK but without the response that its last message must be."""


def error_code(call: Any) -> str:
    """The x-error-code in the trailers of a finished call, NO_ERROR_CODE if there is none."""
    return str(dict(call.trailing_metadata() or ()).get(ERROR_CODE_TRAILER, NO_ERROR_CODE))


def read_response(call: Any) -> TranscriptionResponse:
    """Wait for the response of a call.

    Raises:
        TranscriptionRefusedError: the content was rejected.
        grpc.RpcError: the call failed.
    """
    try:
        response: TranscriptionResponse = call.result()
    except BaseException:  # Ctrl+C too: the server must not go on working on the call
        call.cancel()
        raise
    return _checked(response, call)


def read_updates(
    call: Any, on_segment: Callable[[Segment], object], on_progress: Callable[[Progress], object]
) -> TranscriptionResponse:
    """Pass updates on until the response arrives. Raises as `read_response` does, and IncompleteAnswerError."""
    response: TranscriptionResponse | None = None
    try:
        for update in call:
            kind = update.WhichOneof("update")
            if kind == "segment":
                on_segment(update.segment)
            elif kind == "progress":
                on_progress(update.progress)
            elif kind == "response":
                response = update.response
    except BaseException:
        call.cancel()
        raise
    if response is None:
        raise IncompleteAnswerError("сервер закончил ответ, не прислав итога")
    return _checked(response, call)


def describe_error(error: grpc.RpcError, address: str) -> str:
    """One line about a failed call: its status, what to do, and the message of the server."""
    status, details = error.code(), " ".join(str(error.details() or "").split())
    code = error_code(error)
    named = status.name if code == NO_ERROR_CODE else f"{status.name}, {code}"
    return f"{address}: {_hint(error, details)} [{named}] {details}".rstrip()


def _checked(response: TranscriptionResponse, call: Any) -> TranscriptionResponse:
    if not response.success:
        raise TranscriptionRefusedError(error_code(call), response)
    return response


def _hint(error: grpc.RpcError, details: str) -> str:
    if is_tls_failure(error):
        return next(hint for sign, hint in _TLS_HINTS if sign in details)
    if error.code() is grpc.StatusCode.UNAVAILABLE and "Socket closed" in details:
        return _CLOSED_HINT
    return _HINTS.get(error.code(), _DEFAULT_HINT)
