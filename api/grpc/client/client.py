"""The client library: sends a recording to the service and returns the response."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from api.grpc.client.channel import MAX_MESSAGE_BYTES, bearer, open_channel, tls_credentials
from api.grpc.client.responses import read_response, read_updates
from api.grpc.client.retry import RetryPolicy, with_retries
from api.grpc.client.upload import Source, Upload
from generated.v1 import transcription_pb2, transcription_pb2_grpc

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_CHUNK_BYTES = 64 * 1024

Options = transcription_pb2.TranscriptionOptions
Response = transcription_pb2.TranscriptionResponse
OnSent = Callable[[int], object]
OnSegment = Callable[[transcription_pb2.Segment], object]
OnProgress = Callable[[transcription_pb2.Progress], object]


class TranscriptionClient:
    """A connection to one server; a context manager, usable from several threads."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        timeout_s: float | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        retry: RetryPolicy | None = None,
        tls: bool = False,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        token: str | None = None,
    ) -> None:
        """Connects on the first call; `timeout_s` bounds each call, its retries included.

        `tls` encrypts the connection, and so does any of the PEM files: `ca_file` is the authority of the server's
        certificate (by default one of the well-known), `cert_file` and `key_file` are the client's for mutual TLS.
        `token` is sent with every call; without TLS it can be read on the network.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file or the token is invalid; see channel.py.
        """
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._metadata = bearer(token)
        self._closed = threading.Event()
        self._is_incremental = True  # until the server answers UNIMPLEMENTED
        self._channel = open_channel(address, tls_credentials(tls, ca_file, cert_file, key_file), max_message_bytes)
        build_stub: Callable[[grpc.Channel], Any] = transcription_pb2_grpc.TranscriptionServiceStub  # it has no types
        self._stub = build_stub(self._channel)

    def __enter__(self) -> "TranscriptionClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, cancel the calls on it and end the waits for another attempt."""
        self._closed.set()
        self._channel.close()

    def transcribe(
        self,
        path: Path | str,
        audio_format: str | None = None,
        sample_rate: int = 0,
        *,
        options: Options | None = None,
    ) -> Response:
        """Send the file as one message.

        `audio_format` defaults to the name's ending; `sample_rate` (Hz) is for raw PCM ("pcm") only. `options` are
        those of the contract: channel mode, word times, language, prompt.

        Raises:
            OSError: the file cannot be read.
            TranscriptionRefusedError: the content was rejected, and would be again.
            grpc.RpcError: the call failed.
        """
        path = Path(path)
        request = transcription_pb2.AudioRequest(
            audio_data=path.read_bytes(),
            filename=_name_of(path),
            format=_format_of(path, audio_format),
            sample_rate=sample_rate,
            options=options,
        )
        return self._call(lambda limits: read_response(self._stub.TranscribeAudio.future(request, **limits)))

    def transcribe_stream(
        self,
        path: Path | str,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        on_sent: OnSent = lambda sent_bytes: None,
        audio_format: str | None = None,
        sample_rate: int = 0,
        *,
        options: Options | None = None,
    ) -> Response:
        """Send the file in pieces of `chunk_bytes`, with only a few of them in memory.

        `on_sent` gets the size of each piece once it is sent, on another thread; when an upload is repeated, a
        negative size that cancels what was reported. The rest is as in `transcribe`.
        """
        description = _description(Path(path), audio_format, sample_rate, options)
        source = Source(Path(path), description, chunk_bytes, on_sent)
        return self._send(source)

    def transcribe_incremental(
        self,
        path: Path | str,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        on_sent: OnSent = lambda sent_bytes: None,
        audio_format: str | None = None,
        sample_rate: int = 0,
        *,
        options: Options | None = None,
        on_segment: OnSegment = lambda segment: None,
        on_progress: OnProgress = lambda progress: None,
    ) -> Response:
        """As `transcribe_stream`, with segments and progress passed to the callbacks as the server sends them.

        Each segment is passed on once, even if the call is repeated. A server without TranscribeAudioIncremental gets
        the file through TranscribeAudioStream.

        Raises:
            IncompleteAnswerError: the server broke the contract.
        """
        description = _description(Path(path), audio_format, sample_rate, options)
        source = Source(Path(path), description, chunk_bytes, on_sent)
        if self._is_incremental:
            try:
                return self._send_incremental(source, on_segment, on_progress)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
            self._is_incremental = False
        return self._send(source)

    def _send(self, source: Source) -> Response:
        def attempt(limits: dict[str, Any]) -> Response:
            with source.open() as upload:
                return _name_read_error(
                    upload, lambda: read_response(self._stub.TranscribeAudioStream.future(upload, **limits))
                )

        return self._call(attempt)

    def _send_incremental(self, source: Source, on_segment: OnSegment, on_progress: OnProgress) -> Response:
        # End of the last segment of each channel passed to on_segment, by whichever attempt: channels run in parallel.
        passed_on_s: dict[int, float] = {}

        def pass_on(segment: transcription_pb2.Segment) -> None:
            if segment.end_s > passed_on_s.get(segment.channel, 0.0):
                passed_on_s[segment.channel] = segment.end_s
                on_segment(segment)

        def attempt(limits: dict[str, Any]) -> Response:
            with source.open() as upload:
                call = self._stub.TranscribeAudioIncremental(upload, **limits)
                return _name_read_error(upload, lambda: read_updates(call, pass_on, on_progress))

        return self._call(attempt)

    def _call(self, attempt: Callable[[dict[str, Any]], Response]) -> Response:
        return with_retries(
            lambda timeout_s: attempt({"timeout": timeout_s, "metadata": self._metadata}),
            self._retry,
            self._timeout_s,
            self._closed,
        )


def _name_read_error(upload: Upload, answer: Callable[[], Response]) -> Response:
    """What `answer` returns. If the file could not be read, raise that error, which gRPC does not name."""
    try:
        return answer()
    except grpc.RpcError:
        if upload.failure:
            raise upload.failure from None
        raise


def _description(
    path: Path, audio_format: str | None, sample_rate: int, options: Options | None
) -> transcription_pb2.AudioChunk:
    return transcription_pb2.AudioChunk(
        filename=_name_of(path), format=_format_of(path, audio_format), sample_rate=sample_rate, options=options
    )


def _name_of(path: Path) -> str:
    return path.name.encode("utf-8", "replace").decode("utf-8")  # a name on disk need not be valid text


def _format_of(path: Path, audio_format: str | None) -> str:
    return path.suffix.lower().lstrip(".") if audio_format is None else audio_format
