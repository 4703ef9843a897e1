"""Renders a response as text, subtitles, table or JSON, and writes it to a file that is complete or absent."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from google.protobuf import json_format

from api.grpc.client.subtitles import Cue, cues
from generated.v1.transcription_pb2 import SegmentStatus, TranscriptionResponse, Word


def _text(response: TranscriptionResponse) -> str:
    return response.transcript + "\n"


def _srt(response: TranscriptionResponse) -> str:
    return "".join(
        f"{number}\n{_timing(cue, ',')}\n{cue.text.replace('-->', '→')}\n\n"
        for number, cue in enumerate(cues(response), start=1)
    )


def _vtt(response: TranscriptionResponse) -> str:
    blocks = (f"\n{_timing(cue, '.')}\n{_escaped(cue.text)}\n" for cue in cues(response))
    return "WEBVTT\n" + "".join(blocks)


def _tsv(response: TranscriptionResponse) -> str:
    """A row for each segment, silent ones included."""
    return "".join("\t".join(row) + "\n" for row in _rows(response))


def _json(response: TranscriptionResponse) -> str:
    text = json_format.MessageToJson(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
    return text + "\n"


WRITERS: dict[str, Callable[[TranscriptionResponse], str]] = {
    "text": _text,
    "srt": _srt,
    "vtt": _vtt,
    "json": _json,
    "tsv": _tsv,
}
SUBTITLES = ("srt", "vtt")
ENDINGS = {name: ".txt" if name == "text" else f".{name}" for name in WRITERS}


def write_complete(path: Path, text: str) -> None:
    """Write `text` (UTF-8, "\\n") to `path` atomically: a reader sees the old content or all of the new.

    A link is followed. What is not a regular file, such as /dev/null or a pipe, is written to and never replaced.

    Raises:
        OSError: the file cannot be written; the previous content is still there.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="\n")
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid4().hex}.part")  # not derived from the name, which may have the maximal length
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _rows(response: TranscriptionResponse) -> Iterator[tuple[str, ...]]:
    yield ("start_s", "end_s", "status", "text", "channel", "confidence", "words")
    for segment in response.segments:
        yield (
            f"{segment.start_s:.3f}",
            f"{segment.end_s:.3f}",
            SegmentStatus.Name(segment.status),
            " ".join(segment.text.split()),
            str(segment.channel),
            f"{segment.confidence:.3f}" if segment.HasField("confidence") else "",
            json.dumps([_word(word) for word in segment.words], ensure_ascii=False) if segment.words else "",
        )


def _word(word: Word) -> dict[str, str | float | bool]:
    confidence = {"confidence": round(word.confidence, 3)} if word.HasField("confidence") else {}
    times = {"start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
    return {"text": word.text, **times, **confidence, "is_estimated": word.is_estimated}


def _timing(cue: Cue, comma: str) -> str:
    return f"{_clock(cue.start_ms, comma)} --> {_clock(cue.end_ms, comma)}"


def _clock(time_ms: int, comma: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{comma}{milliseconds:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
