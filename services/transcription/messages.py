"""Converts between the messages of the contract and the values of the layers below."""

from generated.v1 import transcription_pb2
from ml.transcript import Segment, Transcript, Word
from services.transcription.options import RequestOptions
from services.transcription.request import AudioInfo

CONFIDENCE_DIGITS = 3  # the digits behind them depend on the batch in which a chunk is decoded


def to_audio_info(message: transcription_pb2.AudioRequest | transcription_pb2.AudioChunk) -> AudioInfo:
    """The description of the audio in a request, or in the first message of a stream."""
    return AudioInfo(message.filename, message.format, message.sample_rate)


def to_options(message: transcription_pb2.AudioRequest | transcription_pb2.AudioChunk) -> RequestOptions:
    """The options of a request, or those in the first message of a stream, unchecked."""
    options = message.options
    return RequestOptions(
        options.channel_mode, options.word_times, options.language.strip().lower(), options.prompt.strip()
    )


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
        channel=segment.channel,
        confidence=_rounded(segment.confidence),
        words=[_to_word(word) for word in segment.words],
    )


def _to_word(word: Word) -> transcription_pb2.Word:
    return transcription_pb2.Word(
        text=word.text,
        start_s=word.start_s,
        end_s=word.end_s,
        confidence=_rounded(word.confidence),
        is_estimated=word.is_estimated,
    )


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, CONFIDENCE_DIGITS)
