"""Errors of a request, the outcome of each, and the trailers that carry it.

ml.errors.SpeechError
├── ml.errors.AudioError             the content: answered in-band
│   └── RequestError                 the description of the content
│       ├── MissingFilenameError
│       ├── InvalidOptionsError
│       └── UnsupportedFormatError
├── UploadTooLargeError              the call: a gRPC status
├── OverloadedError
└── NoSpaceError
"""

import grpc

from ml.errors import (
    AudioError,
    DecoderUnavailableError,
    DecodingCancelledError,
    EngineStoppedError,
    ModelError,
    SpeechError,
)

ERROR_CODE_TRAILER = "x-error-code"
RETRY_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
PUSHBACK_MS = 1000

IN_BAND = None
"""The outcome of a content error: status OK, success = false and the error's code in the trailers."""


class RequestError(AudioError):
    """The request lacks something that it must state about its content."""

    code = "INVALID_REQUEST"


class MissingFilenameError(RequestError):
    """The request has no file name."""

    code = "MISSING_FILENAME"
    default_message = "Не указано имя файла: заполните поле filename"


class UnsupportedFormatError(RequestError):
    """Neither the file name nor the format field names a supported format."""

    code = "UNSUPPORTED_FORMAT"


class InvalidOptionsError(RequestError):
    """An option has a value that the contract does not know."""

    code = "INVALID_OPTIONS"


class UploadTooLargeError(SpeechError):
    """A stream's total passed STREAM_MAX_BYTES."""

    code = "UPLOAD_TOO_LARGE"


class OverloadedError(SpeechError):
    """There is more work than the admission limits allow."""

    code = "OVERLOADED"


class NoSpaceError(SpeechError):
    """The disk has no room for the upload."""

    code = "NO_SPACE"
    default_message = "На сервере не хватает места для файла, повторите позже"


_OUTCOMES: tuple[tuple[type[SpeechError], grpc.StatusCode | None], ...] = (
    (UploadTooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NoSpaceError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OverloadedError, grpc.StatusCode.UNAVAILABLE),
    (DecodingCancelledError, grpc.StatusCode.CANCELLED),
    (DecoderUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (ModelError, grpc.StatusCode.UNAVAILABLE),
    (EngineStoppedError, grpc.StatusCode.UNAVAILABLE),
    (SpeechError, IN_BAND),
)


def outcome_of(error: SpeechError) -> grpc.StatusCode | None:
    """The gRPC status that answers `error`, or IN_BAND. The first row that matches counts."""
    return next(status for kind, status in _OUTCOMES if isinstance(error, kind))
