"""One request's way below the protobuf edge: admitted, spooled, and through the pipeline."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ml.pipeline.pipeline import OnSegment, Pipeline
from ml.pipeline.streaming import LiveTranscription
from ml.transcript import Transcript
from services.transcription.admission import Admission
from services.transcription.spool import AudioInfo, Spool, spool


@dataclass
class Call:
    """What is known of a call while it is being answered."""

    description: AudioInfo
    cancelled: threading.Event = field(default_factory=threading.Event)  # set when the call ends, by whomever
    on_segment: OnSegment = lambda segment: None
    received_s: float = field(default_factory=time.perf_counter)  # when the last byte was there
    decoded_s: float = 0.0  # seconds of audio

    @property
    def processing_s(self) -> float:
        """Seconds since the last byte was there."""
        return time.perf_counter() - self.received_s


@dataclass(frozen=True)
class Transcriber:
    """Transcribes what calls bring, within the limits."""

    pipeline: Pipeline
    admission: Admission
    stream_max_bytes: int
    on_received: Callable[[AudioInfo, int], None]  # hears the size in bytes once a request is there

    def whole(self, call: Call, pieces: Iterable[bytes]) -> Transcript:
        """Transcribes a recording that is here.

        Raises:
            SpeechError: see services/transcription/errors.py.
        """
        call.description.check()
        with self.admission.admitted(pieces) as counted, spool() as upload:
            for piece in counted:
                upload.take(piece)
            self._received(call, upload)
            return self.pipeline.transcribe(
                upload.file, pcm_sample_rate=call.description.pcm_sample_rate, cancelled=call.cancelled
            )

    def live(self, call: Call, pieces: Iterable[bytes]) -> Transcript:
        """Transcribes a recording while it arrives. Raises as `whole`, perhaps before all of it was read."""
        call.description.check()
        with (
            self.admission.admitted(pieces) as counted,
            spool(self.stream_max_bytes) as upload,
            LiveTranscription(
                self.pipeline, upload.file, call.description.pcm_sample_rate, call.cancelled, call.on_segment
            ) as transcription,
        ):
            for piece in counted:
                upload.take(piece)
                transcription.feed(piece)
                call.decoded_s = transcription.decoded_s
            self._received(call, upload)
            transcript = transcription.finish()
            call.decoded_s = transcript.audio_duration_s
            return transcript

    def _received(self, call: Call, upload: Spool) -> None:
        call.received_s = time.perf_counter()
        self.on_received(call.description, upload.size_bytes)
