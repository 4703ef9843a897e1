"""Admits, spools and transcribes the audio of a request; the layer below the protobuf edge."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ml.pipeline.pipeline import Pipeline
from ml.pipeline.streaming import StreamTranscription
from ml.transcript import Transcript
from services.transcription.admission import Admission
from services.transcription.request import AudioInfo, Call
from services.transcription.spool import Spool, spool


@dataclass(frozen=True)
class Transcriber:
    """Transcribes the audio of calls within the limits."""

    pipeline: Pipeline
    admission: Admission
    stream_max_bytes: int
    on_received: Callable[[AudioInfo, int], None]  # called with the size in bytes once all of a request has arrived

    def transcribe_file(self, call: Call, pieces: Iterable[bytes]) -> Transcript:
        """Transcribe a recording that has arrived as a whole.

        Raises:
            SpeechError: see services/transcription/errors.py.
        """
        call.check()
        options, warnings = call.recognition_options()
        with self.admission.admitted(pieces) as counted, spool() as upload:
            for piece in counted:
                upload.write(piece)
            self._received(call, upload)
            transcript = self.pipeline.transcribe(
                upload.file,
                pcm_sample_rate=call.audio_info.pcm_sample_rate,
                cancelled=call.cancelled,
                options=options,
                separate_channels=call.options.separate_channels,
            )
        return replace(transcript, warnings=(*transcript.warnings, *warnings))

    def transcribe_stream(self, call: Call, pieces: Iterable[bytes]) -> Transcript:
        """Transcribe a recording while it arrives. Raises as `transcribe_file`, perhaps before the last piece."""
        call.check()
        options, warnings = call.recognition_options()
        with (
            self.admission.admitted(pieces) as counted,
            spool(self.stream_max_bytes) as upload,
            StreamTranscription(
                self.pipeline,
                upload.file,
                call.audio_info.pcm_sample_rate,
                call.cancelled,
                call.on_segment,
                options,
                call.options.separate_channels,
            ) as transcription,
        ):
            for piece in counted:
                upload.write(piece)
                transcription.feed(piece)
                call.decoded_s = transcription.decoded_s
            self._received(call, upload)
            transcript = transcription.finish()
            call.decoded_s = transcript.audio_duration_s
        return replace(transcript, warnings=(*transcript.warnings, *warnings))

    def _received(self, call: Call, upload: Spool) -> None:
        call.received_s = time.perf_counter()
        self.on_received(call.audio_info, upload.size_bytes)
