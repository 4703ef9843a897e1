"""What can be wrong with a request, and the one table from an error to its outcome.

ml.errors.SpeechError
├── ml.errors.AudioError             the content: answered in-band
│   └── RequestError                 what is said about the content
│       ├── MissingFilenameError
│       └── UnsupportedFormatError
└── UploadError                      the call: a gRPC status
    ├── UploadTooLargeError
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

IN_BAND = None
"""The outcome of a content error: status OK, success = false and the error's code in the trailers."""


class RequestError(AudioError):
    """The request does not say what it must about its content."""

    code = "INVALID_REQUEST"


class MissingFilenameError(RequestError):
    """The request carries no file name."""

    code = "MISSING_FILENAME"


class UnsupportedFormatError(RequestError):
    """Neither the file name nor the format field names a supported format."""

    code = "UNSUPPORTED_FORMAT"


class UploadError(SpeechError):
    """The upload cannot be taken in."""

    code = "UPLOAD_FAILED"


class UploadTooLargeError(UploadError):
    """A stream's total passed STREAM_MAX_BYTES."""

    code = "UPLOAD_TOO_LARGE"


class OverloadedError(UploadError):
    """There is more work than the admission limits allow."""

    code = "OVERLOADED"


class NoSpaceError(UploadError):
    """The disk has no room for the upload."""

    code = "NO_SPACE"


_OUTCOMES: tuple[tuple[type[SpeechError], grpc.StatusCode | None], ...] = (
    (UploadTooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NoSpaceError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OverloadedError, grpc.StatusCode.UNAVAILABLE),
    (UploadError, grpc.StatusCode.INTERNAL),
    (DecodingCancelledError, grpc.StatusCode.CANCELLED),
    (DecoderUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (ModelError, grpc.StatusCode.UNAVAILABLE),
    (EngineStoppedError, grpc.StatusCode.UNAVAILABLE),
    (SpeechError, IN_BAND),
)


def outcome_of(error: SpeechError) -> grpc.StatusCode | None:
    """The gRPC status that answers `error`, or IN_BAND. The first row that matches counts."""
    return next(status for kind, status in _OUTCOMES if isinstance(error, kind))
