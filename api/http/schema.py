"""What /openapi.json says of a form that is read by hand, because it must not be stored."""

from typing import Any

from api.http.options import FORMATS, GRANULARITIES

_FIELDS: dict[str, dict[str, Any]] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "MP3, WAV, M4A, FLAC, OGG or AAC. Sent after the other fields, it is recognised while it comes.",
    },
    "model": {
        "type": "string",
        "description": "Any name: the service has one model, see /v1/models.",
        "example": "borealis",
    },
    "language": {
        "type": "string",
        "description": "Two-letter code, or auto. Left out: the service's default.",
        "example": "ru",
    },
    "prompt": {"type": "string", "description": "Names and terms to expect, at most 1,000 characters."},
    "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(GRANULARITIES)},
        "description": "With verbose_json: segments (the default), words, or both.",
    },
    "stream": {
        "type": "boolean",
        "default": False,
        "description": "Server-sent events transcript.text.delta and transcript.text.done; with json or text.",
    },
    "temperature": {"type": "number", "description": "Accepted and not used."},
    "format": {"type": "string", "description": "An extension: the format where the name does not tell, or pcm."},
    "sample_rate": {"type": "integer", "description": "An extension: samples a second of raw PCM."},
    "channel_mode": {
        "type": "string",
        "enum": ["mix", "separate"],
        "default": "mix",
        "description": "An extension: separate transcribes each channel by itself.",
    },
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_STATUSES = {
    400: "The form or the recording is at fault; `code` tells how.",
    401: "No token, or a wrong one.",
    408: "The upload is too slow.",
    413: "The recording is longer than STREAM_MAX_BYTES.",
    429: "Too much work; come again after Retry-After seconds.",
    503: "Not ready, stopping or full; come again after Retry-After seconds.",
}

TRANSCRIPTION_TEXT = """As OpenAI's audio API; its clients work with this address as their `base_url` (ending in `/v1`).

Fields that come before the file let it be recognised while it is uploaded. For live audio and for segments with their
times as they are ready there is the WebSocket `/v1/stream` (docs/http.md).
"""
TRANSCRIPTION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": _FIELDS},
                "encoding": {"timestamp_granularities[]": {"style": "form", "explode": True}},
            }
        },
    },
}
TRANSCRIPTION_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript in the format asked for.",
        "content": {"application/json": {}, "text/plain": {}, "text/vtt": {}, "text/event-stream": {}},
    },
    **{
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _STATUSES.items()
    },
}
