"""The protobuf messages of a streamed recording."""

from collections.abc import Iterator
from typing import Any

from generated.v1 import transcription_pb2


def stream_messages(
    audio_bytes: bytes, piece_bytes: int = 4096, **first: Any
) -> Iterator[transcription_pb2.AudioChunk]:
    """Yield a recording in messages of `piece_bytes`, at least one; the first has the fields of `first` as well."""
    for start in range(0, max(1, len(audio_bytes)), piece_bytes):
        described = first if start == 0 else {}
        yield transcription_pb2.AudioChunk(chunk_data=audio_bytes[start : start + piece_bytes], **described)


def transcribe_file(
    stub: Any, audio_bytes: bytes, **fields: Any
) -> tuple[transcription_pb2.TranscriptionResponse, dict[str, str]]:
    """Call TranscribeAudio and return the response and the trailers."""
    response, call = stub.TranscribeAudio.with_call(transcription_pb2.AudioRequest(audio_data=audio_bytes, **fields))
    return response, dict(call.trailing_metadata() or ())


def transcribe_every_way(
    stub: Any, audio_bytes: bytes, **fields: Any
) -> list[tuple[transcription_pb2.TranscriptionResponse, dict[str, str]]]:
    """Call each of the three methods and return their responses and trailers."""
    streamed, call = stub.TranscribeAudioStream.with_call(stream_messages(audio_bytes, **fields))
    updates = stub.TranscribeAudioIncremental(stream_messages(audio_bytes, **fields))
    *_, last = updates
    return [
        transcribe_file(stub, audio_bytes, **fields),
        (streamed, dict(call.trailing_metadata() or ())),
        (last.response, dict(updates.trailing_metadata() or ())),
    ]
