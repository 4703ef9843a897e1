"""All three calls, implemented once over one pipeline; an implementation fills the hook `recognise`."""

import contextvars
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain
from queue import SimpleQueue

import grpc

from generated.v1 import transcription_pb2
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk
from ml.errors import SpeechError
from ml.interfaces import Capabilities, RecognitionOptions
from ml.pipeline.pipeline import Pipeline
from ml.transcript import Completion, Segment, Transcript
from resources.config import CHUNK_DURATION_S, Settings
from services.transcription.admission import Admission
from services.transcription.errors import (
    ERROR_CODE_TRAILER,
    IN_BAND,
    PUSHBACK_MS,
    RETRY_PUSHBACK_TRAILER,
    UnsupportedFormatError,
    outcome_of,
)
from services.transcription.interface import ITranscriptionService
from services.transcription.messages import to_audio_info, to_options, to_response, to_segment
from services.transcription.request import AudioInfo, Call
from services.transcription.request_log import HIDDEN, log_failed, log_finished, log_received
from services.transcription.transcriber import Transcriber


class TranscriptionServiceBase(ITranscriptionService):
    """Spool → decode → split at pauses → recognise → assemble, in the same way for every call.

    An implementation either fills `recognise` and `get_version`, or overrides the calls.
    """

    capabilities = Capabilities()
    max_chunk_s = float(CHUNK_DURATION_S)  # longest chunk that `recognise` takes, whatever MODEL_CHUNK_DURATION says
    _transcriber: Transcriber
    _with_filenames = True

    def __init__(self) -> None:
        self._log = logging.getLogger(type(self).__name__)

    def start(self, settings: Settings) -> None:
        """Find the decoder and set the limits; an implementation that needs more extends it."""
        decoder = AudioDecoder(
            find_ffmpeg(settings.ffmpeg_binary), settings.audio_max_duration_s, settings.audio_decode_timeout_s
        )
        pipeline = Pipeline(decoder, min(settings.model_chunk_duration, self.max_chunk_s), self.recognise)
        admission = Admission(settings.admission_max_bytes, settings.admission_max_queued_audio_s, self.queued_audio_s)
        self._transcriber = Transcriber(pipeline, admission, settings.stream_max_bytes, self._log_received)
        self._with_filenames = settings.logging_filenames

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        """Turn chunks (≤ 30 s, in order) into completions, one each, in the same order.

        May read ahead without a limit, and should end soon once `cancelled` is set.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither recognise nor the calls")

    def queued_audio_s(self) -> float:
        """Seconds of audio in the queue; new requests are rejected while they exceed the limit."""
        return 0.0

    def model_identity(self) -> tuple[str, str]:
        """Name and revision of the model, for the response."""
        return "", ""

    def TranscribeAudio(
        self, request: transcription_pb2.AudioRequest, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribe a whole audio file."""
        call = self._new_call(request, context)
        return self._answer(call, lambda: self._transcriber.transcribe_file(call, [request.audio_data]), context)

    def TranscribeAudioStream(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribe an audio file that arrives in pieces, while it arrives."""
        call, pieces = self._open_stream(request_iterator, context)
        return self._answer(call, lambda: self._transcriber.transcribe_stream(call, pieces), context)

    def TranscribeAudioIncremental(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> Iterator[transcription_pb2.TranscriptionUpdate]:
        """Transcribe an audio file that arrives in pieces and answer segment by segment."""
        if type(self).recognise is TranscriptionServiceBase.recognise:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Эта реализация не отвечает по частям")
        call, pieces = self._open_stream(request_iterator, context)
        yield from self._updates(call, pieces, context)

    def _updates(
        self, call: Call, pieces: Iterable[bytes], context: grpc.ServicerContext
    ) -> Iterator[transcription_pb2.TranscriptionUpdate]:
        segments: SimpleQueue[Segment | None] = SimpleQueue()
        done_s: dict[int, float] = {}  # by channel
        call.on_segment, call.incremental = segments.put, True
        transcript = _in_background(
            lambda: self._transcriber.transcribe_stream(call, pieces), lambda: segments.put(None)
        )
        for segment in iter(segments.get, None):
            yield transcription_pb2.TranscriptionUpdate(segment=to_segment(segment))
            done_s[segment.channel] = segment.end_s
            progress = transcription_pb2.Progress(
                decoded_s=max(call.decoded_s, segment.end_s), done_s=min(done_s.values())
            )
            yield transcription_pb2.TranscriptionUpdate(progress=progress)
        yield transcription_pb2.TranscriptionUpdate(response=self._answer(call, transcript.result, context))

    def _open_stream(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> tuple[Call, Iterable[bytes]]:
        """The call that the first message of a stream describes, and the bytes of all messages."""
        first = next(request_iterator, transcription_pb2.AudioChunk())
        call = self._new_call(first, context)
        return call, (piece.chunk_data for piece in chain([first], request_iterator))

    def _new_call(
        self, first: transcription_pb2.AudioRequest | transcription_pb2.AudioChunk, context: grpc.ServicerContext
    ) -> Call:
        """The call that this message describes; it is cancelled when the RPC ends."""
        call = Call(to_audio_info(first), to_options(first), self.capabilities)
        if not context.add_callback(call.cancelled.set):
            call.cancelled.set()  # the RPC has ended already
        return call

    def _answer(
        self, call: Call, transcribe: Callable[[], Transcript], context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        try:
            response = to_response(transcribe(), call.processing_s, *self.model_identity())
        except SpeechError as error:
            error.__traceback__ = None  # its frames hold the recording and, in a cycle, the error
            return self._reject(error, call.processing_s, context)
        stats = response.stats
        log_finished(self._log, response.processing_time, stats.speed_factor, stats.word_count, stats.char_count)
        return response

    def _reject(
        self, error: SpeechError, processing_s: float, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        quotes_filename = isinstance(error, UnsupportedFormatError)  # its extension
        log_failed(self._log, error.code, HIDDEN if quotes_filename and not self._with_filenames else str(error))
        status = outcome_of(error)
        pushback = [(RETRY_PUSHBACK_TRAILER, str(PUSHBACK_MS))] if status is grpc.StatusCode.UNAVAILABLE else []
        earlier = context.trailing_metadata() or ()  # the request's id
        context.set_trailing_metadata((*earlier, (ERROR_CODE_TRAILER, error.code), *pushback))
        if status is not IN_BAND:
            context.abort(status, str(error))
        return transcription_pb2.TranscriptionResponse(
            success=False, error_message=str(error), processing_time=processing_s
        )

    def _log_received(self, audio_info: AudioInfo, size_bytes: int) -> None:
        log_received(self._log, audio_info, size_bytes, self._with_filenames)


def _in_background(work: Callable[[], Transcript], at_end: Callable[[], None]) -> "Future[Transcript]":
    """Run `work` on its own thread within the request's logging context, and then `at_end`."""
    result: Future[Transcript] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
        finally:
            at_end()

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="incremental").start()
    return result
