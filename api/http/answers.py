"""Writes a response in the formats of OpenAI's audio API."""

import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from api.grpc.client.formats import WRITERS
from api.http.options import Options
from generated.v1.transcription_pb2 import Segment, SegmentStatus, TranscriptionResponse

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
VTT_TYPE = "text/vtt; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """The body of an HTTP response."""

    text: str
    media_type: str


def answer(response: TranscriptionResponse, options: Options) -> Answer:
    """`response` in the format that `options` name."""
    match options.response_format:
        case "text" | "srt":
            return Answer(WRITERS[options.response_format](response), TEXT_TYPE)
        case "vtt":
            return Answer(WRITERS["vtt"](response), VTT_TYPE)
        case "verbose_json":
            return Answer(dump(_verbose(response, options)), JSON_TYPE)
        case _:
            usage = {"type": "duration", "seconds": response.audio_duration}
            return Answer(dump({"text": response.transcript, "usage": usage}), JSON_TYPE)


def dump(value: Any) -> str:
    """JSON on one line, letters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def delta_writer() -> Callable[[Segment], str]:
    """Turns segments, in order, into the deltas whose sum is the transcript."""
    separator = ""

    def delta(segment: Segment) -> str:
        nonlocal separator
        if not segment.text:
            return ""
        text, separator = separator + segment.text, " "
        return text

    return delta


def _verbose(response: TranscriptionResponse, options: Options) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": options.language,
        "duration": response.audio_duration,
        "text": response.transcript,
    }
    if options.wants_segments:
        spoken = [segment for segment in response.segments if segment.text]
        body["segments"] = [_segment(number, segment) for number, segment in enumerate(spoken)]
    if options.wants_words:
        body["words"] = list(_words(response))
    return body | {
        "usage": {"type": "duration", "seconds": response.audio_duration},
        "model": response.model_name,
        "processing_time": response.processing_time,
        "warnings": list(response.warnings),
    }


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """A segment with all that OpenAI's have. What this service does not know has the value that says least."""
    encoded = segment.text.encode()
    has_confidence = segment.HasField("confidence")
    own = {"status": SegmentStatus.Name(segment.status), "channel": segment.channel}
    return {
        "id": number,
        "seek": round(segment.start_s * 100),  # frames of 10 ms, as Whisper counts
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": math.log(max(segment.confidence, 1e-6)) if has_confidence else 0.0,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        "no_speech_prob": 0.0,
    } | (own | {"confidence": segment.confidence} if has_confidence else own)


def _words(response: TranscriptionResponse) -> Iterator[dict[str, Any]]:
    for segment in response.segments:
        for word in segment.words:
            yield {"word": word.text, "start": word.start_s, "end": word.end_s}
