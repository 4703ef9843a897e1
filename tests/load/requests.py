"""The kinds of requests of a soak: what is sent, and the outcomes each may have."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from tests.support import audio as media
from tests.support import recordings
from tests.support.messages import stream_messages

UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
TIMEOUT_S = 60
TOKEN = "a token of the soak"
MESSAGE_LIMIT_BYTES = 2 * 1024**2
STREAM_LIMIT_BYTES = 1024**2
LONGEST_S = 30
SHORT_S = 2
PADDING_S = 0.2  # some formats consist of whole packets

Stub = transcription_pb2_grpc.TranscriptionServiceStub
_METADATA = (("authorization", f"Bearer {TOKEN}"),)


Send = Callable[[Stub, grpc.Channel], str]


@dataclass(frozen=True)
class Kind:
    """`send` makes one request and returns its outcome; `promised` is the outcomes it may have."""

    name: str
    share: int  # frequency, relative to the others
    send: Send
    promised: frozenset[str]


def kinds() -> list[Kind]:
    """Return all kinds; the recordings are made here, so that sending requests costs nothing."""
    good = {name: media.encoded(media.segment(media.voice(SHORT_S)), name) for name in media.FORMATS}
    return [
        *[_content(f"{name}, unary", 4, _unary(audio), "OK") for name, audio in good.items()],
        *[_content(f"{name}, streamed", 4, _streamed(audio, 4096), "OK") for name, audio in good.items()],
        _content("many small pieces", 1, _streamed(good["mp3"], 100), "OK"),
        _content("silence", 2, _unary(recordings.silence(1)), "OK"),
        _content("truncated", 2, _streamed(good["flac"][: len(good["flac"]) // 2], 4096), "OK"),
        _content("nothing", 2, _unary(b""), "EMPTY_AUDIO"),
        _content("junk", 3, _unary(recordings.random_bytes()), "UNDECODABLE_AUDIO"),
        _content("junk, streamed", 3, _streamed(recordings.random_bytes(), 1000), "UNDECODABLE_AUDIO"),
        _content("header only", 2, _streamed(media.wav_header(0), 10), "UNDECODABLE_AUDIO"),
        _content("playlist", 1, _unary(recordings.playlist("http://127.0.0.1:9/a.ts")), "UNDECODABLE_AUDIO"),
        _content("too long", 2, _unary(recordings.wav_claiming(sample_rate=1)), "AUDIO_TOO_LONG"),
        _content("too long, streamed", 2, _streamed(recordings.opus_bomb(), 65_536), "AUDIO_TOO_LONG", large=True),
        _content("no name", 2, _unary(good["wav"], filename=""), "MISSING_FILENAME"),
        _content("no format", 2, _streamed(good["wav"], 4096, filename="a.exe"), "UNSUPPORTED_FORMAT"),
        Kind("message too large", 1, _unary(bytes(MESSAGE_LIMIT_BYTES + 1000)), _only("RESOURCE_EXHAUSTED")),
        Kind("stream too large", 1, _streamed(good["wav"] * 40, 65_536), _only("RESOURCE_EXHAUSTED")),
        Kind(
            "wrong token", 3, _unary(good["wav"], metadata=(("authorization", "Bearer no"),)), _only("UNAUTHENTICATED")
        ),
        Kind("no token, streamed", 3, _streamed(good["wav"], 4096, metadata=()), _only("UNAUTHENTICATED")),
        Kind("not a message", 2, _not_a_message, _only("INTERNAL")),
        Kind("unknown method", 2, _unknown_method, _only("UNIMPLEMENTED")),
        Kind("cancelled", 4, _cancelled(good["mp3"]), _only("CANCELLED", "OK")),
        Kind("cancelled, streamed", 4, _cancelled_stream(good["wav"]), _only("CANCELLED")),
        Kind("deadline", 4, _late(good["ogg"]), _only("DEADLINE_EXCEEDED", "OK")),
    ]


def _only(*outcomes: str) -> frozenset[str]:
    return frozenset(outcomes)


def _content(name: str, share: int, send: Send, outcome: str, large: bool = False) -> Kind:
    """A request answered in-band, or if `large`, perhaps by the limit on streams."""
    return Kind(name, share, send, _only(outcome, "RESOURCE_EXHAUSTED") if large else _only(outcome))


def _unary(audio_bytes: bytes, filename: str = "a.wav", metadata: tuple[tuple[str, str], ...] = _METADATA) -> Send:
    request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename=filename)

    def send(stub: Stub, channel: grpc.Channel) -> str:
        return _outcome(stub.TranscribeAudio.future(request, timeout=TIMEOUT_S, metadata=metadata))

    return send


def _streamed(
    audio_bytes: bytes,
    piece_bytes: int,
    filename: str = "a.wav",
    metadata: tuple[tuple[str, str], ...] = _METADATA,
) -> Send:
    def send(stub: Stub, channel: grpc.Channel) -> str:
        messages = stream_messages(audio_bytes, piece_bytes, filename=filename)
        return _outcome(stub.TranscribeAudioStream.future(messages, timeout=TIMEOUT_S, metadata=metadata))

    return send


def _not_a_message(stub: Stub, channel: grpc.Channel) -> str:
    return _outcome(channel.unary_unary(UNARY).future(b"\xff" * 100, timeout=TIMEOUT_S, metadata=_METADATA))


def _unknown_method(stub: Stub, channel: grpc.Channel) -> str:
    method = f"/{SERVICE_NAME}/Nothing"
    return _outcome(channel.unary_unary(method).future(b"", timeout=TIMEOUT_S, metadata=_METADATA))


def _cancelled(audio_bytes: bytes) -> Send:
    request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename="a.wav")

    def send(stub: Stub, channel: grpc.Channel) -> str:
        call = stub.TranscribeAudio.future(request, timeout=TIMEOUT_S, metadata=_METADATA)
        time.sleep(random.uniform(0, 0.1))
        call.cancel()
        return _outcome(call)

    return send


def _cancelled_stream(audio_bytes: bytes) -> Send:
    def send(stub: Stub, channel: grpc.Channel) -> str:
        is_over = threading.Event()

        def never_ends() -> Iterator[transcription_pb2.AudioChunk]:
            yield from itertools.islice(stream_messages(audio_bytes, 1000, filename="a.wav"), 20)
            is_over.wait(TIMEOUT_S)

        call = stub.TranscribeAudioStream.future(never_ends(), timeout=TIMEOUT_S, metadata=_METADATA)
        time.sleep(random.uniform(0.01, 0.1))
        call.cancel()
        is_over.set()
        return _outcome(call)

    return send


def _late(audio_bytes: bytes) -> Send:
    request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename="a.wav")

    def send(stub: Stub, channel: grpc.Channel) -> str:
        deadline_s = random.uniform(0.001, 0.1)
        return _outcome(stub.TranscribeAudio.future(request, timeout=deadline_s, metadata=_METADATA))

    return send


def _outcome(call: Any) -> str:
    """Return OK for a right answer, WRONG for a wrong one, an x-error-code, or the name of a status."""
    try:
        response = call.result()
    except grpc.FutureCancelledError:
        return "CANCELLED"
    except grpc.RpcError:
        return str(call.code().name)
    if not response.success:
        code = dict(call.trailing_metadata() or ()).get("x-error-code", "WRONG")
        return str(code) if response.error_message and not response.transcript else "WRONG"
    is_right = 0 < response.audio_duration < SHORT_S + PADDING_S and response.transcript in ("", "часть 1")
    return "OK" if is_right else "WRONG"
