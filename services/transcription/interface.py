"""The contract of a transcription implementation, at the protobuf edge."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import grpc

from generated.v1 import transcription_pb2
from resources.config import Settings


class ITranscriptionService(ABC):
    """The server's view of an implementation: three calls, the third optional, a version and a life cycle.

    The server builds an implementation without arguments, calls `start` before it serves and `stop` afterwards.
    """

    @abstractmethod
    def TranscribeAudio(
        self, request: transcription_pb2.AudioRequest, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribe a whole audio file."""

    @abstractmethod
    def TranscribeAudioStream(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribe an audio file that arrives in pieces."""

    def TranscribeAudioIncremental(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> Iterator[transcription_pb2.TranscriptionUpdate]:
        """Transcribe an audio file that arrives in pieces and answer segment by segment; UNIMPLEMENTED by default."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Эта реализация не отвечает по частям")
        raise AssertionError("abort raises")

    @abstractmethod
    def get_version(self) -> str:
        """Name the implementation and its version, for the logs."""

    def start(self, settings: Settings) -> None:  # noqa: B027 - nothing to prepare is a fine default
        """Prepare for requests: find tools, load and warm up the model. Called once, before the first request.

        Raises:
            ml.errors.SpeechError: it cannot serve; the message is one line for the operator.
        """

    def stop(self) -> None:  # noqa: B027
        """Release what `start` acquired. Called once, after the last request."""

    def is_alive(self) -> bool:
        """Whether it can still answer; polled twice a second. False ends the process, to be restarted."""
        return True

    def is_ready(self) -> bool:
        """Whether it can accept calls now; polled twice a second. While False, new calls are asked to retry."""
        return True

    def abort_all(self) -> None:  # noqa: B027
        """Fail every request under way at once; called when `is_alive` returned False, before the process ends."""

    def gauges(self) -> Mapping[str, float]:
        """The state for the metrics, such as the depth of a queue; names that end with `_total` become counters."""
        return {}
