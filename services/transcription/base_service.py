"""Both calls, implemented once over one pipeline; an implementation fills the hook `recognise`."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import grpc

from generated.v1 import transcription_pb2
from ml.audio.decoding import AudioDecoder, find_ffmpeg
from ml.audio.splitting import Chunk
from ml.errors import SpeechError
from ml.live import LiveTranscription
from ml.pipeline import Pipeline
from ml.transcript import Transcript
from resources.config import Settings
from services.transcription.admission import Admission
from services.transcription.errors import IN_BAND, outcome_of
from services.transcription.idle import IdleWatch
from services.transcription.interface import ITranscriptionService
from services.transcription.request_log import log_failed, log_finished, log_received
from services.transcription.upload import Description, Spool, spool

ERROR_CODE_TRAILER = "x-error-code"
RETRY_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
PUSHBACK_MS = 1000


@dataclass
class _Call:
    """What is known of a call while it is being answered."""

    description: Description
    cancelled: threading.Event  # set when the call ends, by whomever
    started_s: float = field(default_factory=time.perf_counter)  # when the last byte was there

    @property
    def processing_s(self) -> float:
        return time.perf_counter() - self.started_s


_Transcribe = Callable[[Iterable[bytes], _Call], Transcript]


class TranscriptionServiceBase(ITranscriptionService):
    """Spool → decode → split at pauses → recognise → assemble, for the unary and the streamed call alike.

    An implementation either fills `recognise` and `get_version`, or overrides the two calls.
    """

    _pipeline: Pipeline
    _admission: Admission
    _settings: Settings

    def __init__(self) -> None:
        self._log = logging.getLogger(type(self).__name__)
        self._idle_watch: IdleWatch | None = None

    def start(self, settings: Settings) -> None:
        """Finds the decoder and sets the limits; an implementation that needs more extends it."""
        decoder = AudioDecoder(
            find_ffmpeg(settings.ffmpeg_binary), settings.audio_max_duration_s, settings.audio_decode_timeout_s
        )
        self._pipeline = Pipeline(decoder, settings.model_chunk_duration, self.recognise)
        self._admission = Admission(
            settings.admission_max_bytes, settings.admission_max_queued_audio_s, self.queued_audio_s
        )
        self._idle_watch = IdleWatch(settings.stream_idle_timeout_s)
        self._settings = settings

    def stop(self) -> None:
        """Ends the watch over idle streams; an implementation that started more extends it."""
        if self._idle_watch:
            self._idle_watch.close()

    def queued_audio_s(self) -> float:
        """Seconds of audio that wait to be recognised; new requests are refused while they are too many."""
        return 0.0

    def recognise(self, chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        """Turns chunks (≤ 30 s, in order) into their texts, one each, in the same order.

        May read ahead as far as it likes, and should end soon once `cancelled` is set.
        """
        raise NotImplementedError(f"{type(self).__name__} fills neither recognise nor the two calls")

    def TranscribeAudio(
        self, request: transcription_pb2.AudioRequest, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribes a whole audio file."""
        description = Description(request.filename, request.format, request.sample_rate)
        return self._answer(description, [request.audio_data], self._transcribe_whole, context)

    def TranscribeAudioStream(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        """Transcribes an audio file that arrives in pieces, while it arrives."""
        assert self._idle_watch, "start() comes first"
        requests = self._idle_watch.watched(request_iterator, context.cancel)
        first = next(requests, transcription_pb2.AudioChunk())
        description = Description(first.filename, first.format, first.sample_rate)
        pieces = (piece.chunk_data for piece in chain([first], requests))
        return self._answer(description, pieces, self._transcribe_live, context)

    def _answer(
        self, description: Description, pieces: Iterable[bytes], transcribe: _Transcribe, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        call = _Call(description, threading.Event())
        context.add_callback(call.cancelled.set)
        try:
            description.check()
            with self._admission.admitted(pieces) as counted:
                transcript = transcribe(counted, call)
        except SpeechError as error:
            return self._refuse(error, call.processing_s, context)
        return self._assemble(transcript, call.processing_s)

    def _transcribe_whole(self, pieces: Iterable[bytes], call: _Call) -> Transcript:
        with spool() as upload:
            for piece in pieces:
                upload.take(piece)
            self._received(upload, call)
            return self._pipeline.transcribe(
                upload.file, pcm_sample_rate=call.description.pcm_sample_rate, cancelled=call.cancelled
            )

    def _transcribe_live(self, pieces: Iterable[bytes], call: _Call) -> Transcript:
        with (
            spool(self._settings.stream_max_bytes) as upload,
            LiveTranscription(
                self._pipeline, upload.file, call.description.pcm_sample_rate, call.cancelled
            ) as transcription,
        ):
            for piece in pieces:
                upload.take(piece)
                transcription.feed(piece)
            self._received(upload, call)
            return transcription.finish()

    def _received(self, upload: Spool, call: _Call) -> None:
        call.started_s = time.perf_counter()
        log_received(self._log, call.description, upload.size_bytes, self._settings.logging_filenames)

    def _assemble(self, transcript: Transcript, processing_s: float) -> transcription_pb2.TranscriptionResponse:
        stats = transcription_pb2.TranscriptionStats(
            word_count=len(transcript.text.split()),
            char_count=len(transcript.text),
            speed_factor=transcript.audio_duration_s / processing_s,
        )
        log_finished(self._log, processing_s, stats.speed_factor, stats.word_count, stats.char_count)
        return transcription_pb2.TranscriptionResponse(
            transcript=transcript.text,
            success=True,
            processing_time=processing_s,
            audio_duration=transcript.audio_duration_s,
            stats=stats,
        )

    def _refuse(
        self, error: SpeechError, processing_s: float, context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        log_failed(self._log, error.code, str(error))
        status = outcome_of(error)
        pushback = [(RETRY_PUSHBACK_TRAILER, str(PUSHBACK_MS))] if status is grpc.StatusCode.UNAVAILABLE else []
        context.set_trailing_metadata(((ERROR_CODE_TRAILER, error.code), *pushback))
        if status is not IN_BAND:
            context.abort(status, str(error))
        return transcription_pb2.TranscriptionResponse(
            success=False, error_message=str(error), processing_time=processing_s
        )
