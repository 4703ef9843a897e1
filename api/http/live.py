"""WebSocket /v1/stream: audio in binary messages, segments and progress out as they are ready, the response last."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from google.protobuf import json_format

from api.grpc.client.formats import WRITERS
from api.http.answers import dump
from api.http.body import Pace, too_large
from api.http.context import Gateway, metadata_of
from api.http.errors import ApiError, ClientGoneError, invalid
from api.http.exchange import exchange
from api.http.options import call_options, choice
from api.http.upstream import AudioChunk, TranscriptionUpdate

T = TypeVar("T")

PATH = "/v1/stream"
MAX_MESSAGE_BYTES = 1024 * 1024
WINDOW_BYTES = 1024 * 1024  # that a client may send ahead of what the service has taken
_DOCUMENTS = ("text", "srt", "vtt")
_CLOSE_CODES = {400: 1008, 401: 1008, 403: 1008, 408: 1008, 413: 1009, 429: 1013, 503: 1013}  # else 1011: internal


@dataclass(frozen=True)
class Start:
    """A client's first message."""

    audio: AudioChunk
    token: str | None
    documents: tuple[str, ...]  # renderings of the response that the client wants with it


async def stream(socket: WebSocket) -> None:
    """Serves one connection; a client that leaves ends its call."""
    gateway: Gateway = socket.app.state.gateway
    await socket.accept()
    try:
        await _converse(gateway, socket)
        await socket.close(1000)
    except ApiError as error:
        await _fail(socket, error)
    except (ClientGoneError, WebSocketDisconnect):
        pass


async def _converse(gateway: Gateway, socket: WebSocket) -> None:
    incoming = _Incoming(gateway, socket)
    start = await incoming.start()
    call = gateway.upstream.transcribe(start.audio, metadata_of(socket, start.token), in_parts=True)
    async with aclosing(exchange(call, incoming.pieces(), incoming.read, watch_at_once=True)) as updates:
        async for update in updates:
            await socket.send_text(dump(_message(update, start.documents)))


async def _fail(socket: WebSocket, error: ApiError) -> None:
    body = error.body["error"] | {"status": error.status, "retry_after_s": error.retry_after_s}
    try:
        await socket.send_text(dump({"type": "error", "error": body}))
        await socket.close(_CLOSE_CODES.get(error.status, 1011))
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client has left meanwhile


class _Incoming:
    """A client's messages, within the limits of an upload.

    They are read ahead of the service, up to WINDOW_BYTES, so that the disconnect of a client that keeps within this
    window is noticed at any time: its close frame does not queue behind its audio.
    """

    def __init__(self, gateway: Gateway, socket: WebSocket) -> None:
        self._gateway = gateway
        self._socket = socket
        self._pace = Pace(gateway.limits.idle_timeout_s)
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()  # None at the end
        self._has_room = asyncio.Event()
        self._received_bytes = 0
        self._taken_bytes = 0  # by the service

    async def start(self) -> Start:
        """The first message.

        Raises:
            ApiError: 400 (it is something else) or 408 (it does not come).
            ClientGoneError: the client left.
        """
        return read_start((await self._in_time(self._next())).get("text") or "")

    async def read(self) -> None:
        """Read what comes for `pieces`, until the client leaves.

        Raises:
            ApiError: 413 (longer than allowed) or 400 (another message than audio and its end).
            ClientGoneError: the client left.
        """
        while (piece := (message := await self._next()).get("bytes")) is not None:
            self._received_bytes += len(piece)
            if self._received_bytes > self._gateway.limits.max_upload_bytes:
                raise too_large(self._gateway.limits.max_upload_bytes)
            self._pieces.put_nowait(piece)
            while self._received_bytes - self._taken_bytes > WINDOW_BYTES:
                self._has_room.clear()
                await self._has_room.wait()
        if _fields(message["text"]).get("type") != "end":
            raise invalid("INVALID_MESSAGE", 'После начала ожидается звук или {"type":"end"}')
        self._pieces.put_nowait(None)
        while True:
            await self._next()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The audio that `read` reads; each piece is acknowledged once the service has taken it.

        Raises:
            ApiError: 408, the client is too slow.
        """
        while (piece := await self._in_time(self._pieces.get())) is not None:
            self._pace.received(len(piece))
            yield piece
            self._taken_bytes += len(piece)
            self._has_room.set()
            await self._socket.send_text(dump({"type": "received", "bytes": self._taken_bytes}))

    async def _in_time(self, waiting: Awaitable[T]) -> T:
        try:
            async with self._pace.wait():
                return await waiting
        except TimeoutError:
            raise ApiError(408, "SLOW_UPLOAD", "Звук приходит слишком медленно, отправьте его ещё раз") from None

    async def _next(self) -> dict[str, Any]:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGoneError
        self._gateway.metrics.received(len(message.get("bytes") or message.get("text") or ""))
        return dict(message)


def read_start(message: str) -> Start:
    """A first message: the fields of AudioChunk and its options in one JSON object, a token, documents.

    Raises:
        ApiError: 400 that names the field and what is allowed.
    """
    fields = _fields(message)
    if fields.get("type") != "start":
        raise invalid("INVALID_MESSAGE", 'Первым сообщением ожидается {"type":"start","filename":…}')
    sample_rate = fields.get("sample_rate", 0)
    if type(sample_rate) is not int or not 0 <= sample_rate < 2**31:
        raise invalid("INVALID_FIELD", "sample_rate: допустимо целое число герц", "sample_rate")
    documents = fields.get("documents", [])
    if not isinstance(documents, list):
        raise invalid("INVALID_FIELD", f"documents: допустим список из {', '.join(_DOCUMENTS)}", "documents")
    channel_mode = choice("channel_mode", _string(fields, "channel_mode") or "mix", ("mix", "separate"))
    word_times = fields.get("word_times", False) is True
    options = call_options(_string(fields, "language"), _string(fields, "prompt"), channel_mode, word_times)
    return Start(
        AudioChunk(
            filename=_string(fields, "filename") or "stream",
            format=_string(fields, "format"),
            sample_rate=sample_rate,
            options=options,
        ),
        _string(fields, "token") or None,
        tuple(choice("documents", str(name), _DOCUMENTS) for name in documents),
    )


def _message(update: TranscriptionUpdate, documents: tuple[str, ...]) -> dict[str, Any]:
    kind = update.WhichOneof("update")
    value = json_format.MessageToDict(
        getattr(update, kind), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    message = {"type": kind, kind: value}
    if kind == "response" and documents:
        message["documents"] = {name: WRITERS[name](update.response) for name in documents}
    return message


def _fields(message: str) -> dict[str, Any]:
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _string(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise invalid("INVALID_FIELD", f"{name}: допустима строка", name)
    return value.encode("utf-8", "replace").decode("utf-8")  # JSON may hold halves of characters
