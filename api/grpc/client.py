"""The client library: sends a recording to the service and returns its answer. Command line: client_cli.py."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from api.grpc.client_upload import Upload
from generated.v1 import transcription_pb2, transcription_pb2_grpc

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_CHUNK_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 200 * 1024 * 1024  # the server's default, GRPC_MAX_RECEIVE_MESSAGE_LENGTH
ERROR_CODE_TRAILER = "x-error-code"
NO_ERROR_CODE = "UNKNOWN"

_SERVICE = transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].full_name


class TranscriptionRefusedError(Exception):
    """The server took the call but not its content: `success` is false.

    `code` is the stable x-error-code, such as UNSUPPORTED_FORMAT; `response` is the whole answer.
    """

    def __init__(self, code: str, response: transcription_pb2.TranscriptionResponse) -> None:
        super().__init__(response.error_message)
        self.code = code
        self.response = response


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a call that met UNAVAILABLE is made again; transcribing twice does no harm."""

    max_attempts: int = 4  # the first one included; gRPC makes at most 5, and 1 turns retrying off
    initial_backoff_s: float = 0.5
    max_backoff_s: float = 5.0
    backoff_multiplier: float = 2.0


class TranscriptionClient:
    """A connection to one server; a context manager, usable from several threads."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        timeout_s: float | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Connects on the first call; `timeout_s` bounds each call, its retries included."""
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, channel_options(max_message_bytes, retry or RetryPolicy()))
        build_stub: Callable[[grpc.Channel], Any] = transcription_pb2_grpc.TranscriptionServiceStub  # it has no types
        self._stub = build_stub(self._channel)

    def __enter__(self) -> "TranscriptionClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and cancels the calls still on it."""
        self._channel.close()

    def transcribe(
        self, path: Path | str, audio_format: str | None = None, sample_rate: int = 0
    ) -> transcription_pb2.TranscriptionResponse:
        """Sends the file as one message.

        `audio_format` defaults to the name's ending; `sample_rate` (Hz) is for raw PCM ("pcm") only.

        Raises:
            OSError: the file cannot be read.
            TranscriptionRefusedError: the content was refused; the same file will be refused again.
            grpc.RpcError: the call failed.
        """
        path = Path(path)
        request = transcription_pb2.AudioRequest(
            audio_data=path.read_bytes(),
            filename=path.name,
            format=_format_of(path, audio_format),
            sample_rate=sample_rate,
        )
        return _wait(self._stub.TranscribeAudio.future(request, timeout=self._timeout_s))

    def transcribe_stream(
        self,
        path: Path | str,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        on_sent: Callable[[int], object] = lambda sent_bytes: None,
        audio_format: str | None = None,
        sample_rate: int = 0,
    ) -> transcription_pb2.TranscriptionResponse:
        """Sends the file in pieces of `chunk_bytes`, never holding more of it than gRPC keeps for a retry.

        `on_sent` hears the size of each piece once it has left, on another thread. The rest is as in `transcribe`.
        """
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
        path = Path(path)
        first = transcription_pb2.AudioChunk(
            filename=path.name, format=_format_of(path, audio_format), sample_rate=sample_rate
        )
        with Upload(path, first, chunk_bytes, on_sent) as upload:
            try:
                return _wait(self._stub.TranscribeAudioStream.future(upload, timeout=self._timeout_s))
            except grpc.RpcError:
                if upload.failure:  # gRPC says only that something went wrong over the messages
                    raise upload.failure from None
                raise


def channel_options(max_message_bytes: int, retry: RetryPolicy) -> list[tuple[str, int | str]]:
    """The channel's limits and its retries, as a gRPC service config."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]
    if retry.max_attempts < 2:
        return [*options, ("grpc.enable_retries", 0)]
    policy = {
        "maxAttempts": retry.max_attempts,
        "initialBackoff": f"{retry.initial_backoff_s}s",
        "maxBackoff": f"{retry.max_backoff_s}s",
        "backoffMultiplier": retry.backoff_multiplier,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{"service": _SERVICE}], "retryPolicy": policy}]}
    return [
        *options,
        ("grpc.service_config", json.dumps(config)),
        # What does not fit in here is not sent again; gRPC's own 256 KiB would silently leave out most recordings.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
    ]


def error_code(call: Any) -> str:
    """The x-error-code among the trailers of a finished call, NO_ERROR_CODE where there is none."""
    return str(dict(call.trailing_metadata() or ()).get(ERROR_CODE_TRAILER, NO_ERROR_CODE))


def _wait(call: Any) -> transcription_pb2.TranscriptionResponse:
    try:
        response: transcription_pb2.TranscriptionResponse = call.result()
    except BaseException:  # Ctrl+C too: the server must not go on working for nobody
        call.cancel()
        raise
    if not response.success:
        raise TranscriptionRefusedError(error_code(call), response)
    return response


def _format_of(path: Path, audio_format: str | None) -> str:
    return path.suffix.lower().lstrip(".") if audio_format is None else audio_format


if __name__ == "__main__":
    from api.grpc.client_cli import main

    sys.exit(main())
