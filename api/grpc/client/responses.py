"""Reads what the server answers: a response, a refusal, or updates that end in either."""

from collections.abc import Callable
from typing import Any

from generated.v1.transcription_pb2 import Progress, Segment, TranscriptionResponse

ERROR_CODE_TRAILER = "x-error-code"
NO_ERROR_CODE = "UNKNOWN"


class TranscriptionRefusedError(Exception):
    """The server took the call but not its content: `success` is false.

    `code` is the stable x-error-code, such as UNSUPPORTED_FORMAT; `response` is the whole answer.
    """

    def __init__(self, code: str, response: TranscriptionResponse) -> None:
        super().__init__(response.error_message)
        self.code = code
        self.response = response


class IncompleteAnswerError(Exception):
    """The server ended an incremental call well but without the response that its last message must be."""


def error_code(call: Any) -> str:
    """The x-error-code among the trailers of a finished call, NO_ERROR_CODE where there is none."""
    return str(dict(call.trailing_metadata() or ()).get(ERROR_CODE_TRAILER, NO_ERROR_CODE))


def read_response(call: Any) -> TranscriptionResponse:
    """Waits for the one response of a call.

    Raises:
        TranscriptionRefusedError: the content was refused.
        grpc.RpcError: the call failed.
    """
    try:
        response: TranscriptionResponse = call.result()
    except BaseException:  # Ctrl+C too: the server must not go on working for nobody
        call.cancel()
        raise
    return _checked(response, call)


def read_updates(
    call: Any, on_segment: Callable[[Segment], object], on_progress: Callable[[Progress], object]
) -> TranscriptionResponse:
    """Hands on what comes until the response does. Raises as `read_response`, and IncompleteAnswerError."""
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


def _checked(response: TranscriptionResponse, call: Any) -> TranscriptionResponse:
    if not response.success:
        raise TranscriptionRefusedError(error_code(call), response)
    return response
