"""Converts transcripts into the messages of the contract."""

from generated.v1 import transcription_pb2
from ml.transcript import Segment, Transcript


def to_response(
    transcript: Transcript, processing_s: float, model_name: str, model_revision: str
) -> transcription_pb2.TranscriptionResponse:
    """The response to a successful call; `processing_s` counts from the last byte of the request."""
    text, stages = transcript.text, transcript.stages
    return transcription_pb2.TranscriptionResponse(
        transcript=text,
        success=True,
        processing_time=processing_s,
        audio_duration=transcript.audio_duration_s,
        stats=transcription_pb2.TranscriptionStats(
            word_count=len(text.split()),
            char_count=len(text),
            speed_factor=transcript.audio_duration_s / processing_s,
        ),
        segments=[to_segment(segment) for segment in transcript.segments],
        stage_times=transcription_pb2.StageTimes(
            decode_s=stages.decode_s, split_s=stages.split_s, recognise_s=stages.recognise_s
        ),
        model_name=model_name,
        model_revision=model_revision,
        warnings=transcript.warnings,
    )


def to_segment(segment: Segment) -> transcription_pb2.Segment:
    """The message of one segment."""
    return transcription_pb2.Segment(
        start_s=segment.start_s,
        end_s=segment.end_s,
        text=segment.text,
        status=segment.status.value,
    )
