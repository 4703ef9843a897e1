"""The gateway's one gRPC client: asynchronous calls to the transcription service and its health."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.client.responses import NO_ERROR_CODE, error_code
from api.http.errors import ApiError, from_refusal, from_rpc
from generated.v1 import transcription_pb2, transcription_pb2_grpc

T = TypeVar("T")
SERVICE_NAME = transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].full_name
AudioChunk = transcription_pb2.AudioChunk
TranscriptionUpdate = transcription_pb2.TranscriptionUpdate

HEALTH_TIMEOUT_S = 5.0
RENEWAL_S = 300.0  # far below the server's CONNECTION_MAX_AGE_S: a call that begins late in a connection's life is cut
STATUS_TIMEOUT_S = 5.0  # of a call that has ended
_WRITE_FAILED = "Internal error from Core"  # details of the status that grpc.aio sets
_NO_LIMIT = -1  # responses are bounded where they are made, requests where they are received
_RECONNECT_MS = (500, 5_000)
_OPTIONS = (
    ("grpc.max_send_message_length", _NO_LIMIT),
    ("grpc.max_receive_message_length", _NO_LIMIT),
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS[0]),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS[1]),
    ("grpc.use_local_subchannel_pool", 1),  # or a new channel would share the old one's connection
    # A name that stands for several servers: calls are shared out among them.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)
_SILENCE = bytes(3200)  # 0.1 s of PCM at 16 kHz


class Upstream:
    """Calls to the service over a connection that is renewed now and then; made within the loop that uses it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        """`address` is HOST:PORT or a target as gRPC names them; not encrypted without `credentials`."""
        self._address = address
        self._credentials = credentials
        self._connection = _Connection(address, credentials)

    async def close(self) -> None:
        """End the connection and the calls still on it."""
        await self._connection.channel.close(None)

    async def is_serving(self) -> bool:
        """Whether the service takes calls; False as well where it cannot be asked."""
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        try:
            answer = await self._connection.health.Check(request, timeout=HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def model(self, metadata: "Metadata") -> tuple[str, str]:
        """Name and revision of the model that answers, from its response to a moment of silence.

        Raises:
            ApiError: the service does not answer this caller, or not now.
        """
        request = transcription_pb2.AudioRequest(audio_data=_SILENCE, filename="silence.pcm", format="pcm")
        call, ending = self._current().begin("TranscribeAudio", request, metadata=metadata)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc(await ending.error(error)) from None
        if not response.success:
            raise from_refusal(await ending.error_code(), response)
        return response.model_name, response.model_revision

    def transcribe(self, first: AudioChunk, metadata: "Metadata", in_parts: bool) -> "Call":
        """Begin a call that `first` describes; `in_parts` has segments sent as they become ready."""
        method = "TranscribeAudioIncremental" if in_parts else "TranscribeAudioStream"
        return Call(*self._current().begin(method, metadata=metadata), first, in_parts)

    def _current(self) -> "_Connection":
        if time.monotonic() - self._connection.opened_s > RENEWAL_S:
            self._connection.retire()
            self._connection = _Connection(self._address, self._credentials)
        return self._connection


class _Connection:
    """One channel, closed once it is retired and its last call has ended."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials:
            self.channel = grpc.aio.secure_channel(address, credentials, _OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(address, _OPTIONS)
        build_stub: Any = transcription_pb2_grpc.TranscriptionServiceStub  # they have no types
        build_health: Any = health_pb2_grpc.HealthStub
        self._stub = build_stub(self.channel)
        self.health = build_health(self.channel)
        self.opened_s = time.monotonic()
        self._calls = 0
        self._is_retired = False
        self._closing: asyncio.Task[None] | None = None

    def begin(self, method: str, *arguments: Any, metadata: "Metadata") -> "tuple[Any, Ending]":
        """A call of the service's `method`, and how it will end."""
        call = getattr(self._stub, method)(*arguments, metadata=metadata)
        self._calls += 1
        return call, Ending(call, self._ended)

    def retire(self) -> None:
        """Begin no more calls here."""
        self._is_retired = True
        self._close_if_idle()

    def _ended(self) -> None:
        self._calls -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._is_retired and not self._calls and not self._closing:
            self._closing = asyncio.get_running_loop().create_task(self.channel.close(None))


Metadata = tuple[tuple[str, str], ...]


class Ending:
    """The status that the server ended a call with.

    Where a write fails because the call has ended, grpc.aio sets a status of its own, before the server's arrives or
    in place of it, and calls callbacks for both (https://github.com/grpc/grpc/issues/36066).
    """

    def __init__(self, call: Any, on_end: Callable[[], None]) -> None:
        """`on_end` is called once."""
        self._on_end = on_end
        self._is_over = False
        self._status: grpc.aio.AioRpcError | None = None  # of success as well
        self._arrived = asyncio.Event()
        call.add_done_callback(self._keep)

    async def error(self, seen: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The error that the server ended the call with, where grpc.aio raised `seen`."""
        if seen.details() != _WRITE_FAILED:
            return seen
        await self._wait()
        return self._status if self._status and self._status.code() is not grpc.StatusCode.OK else seen

    async def error_code(self) -> str:
        """The x-error-code in the trailers, once the server has answered."""
        await self._wait()
        return error_code(self._status) if self._status else NO_ERROR_CODE

    async def _wait(self) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), STATUS_TIMEOUT_S)

    def _keep(self, call: Any) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end()
        details = _at_once(call.details())
        if details != _WRITE_FAILED:
            code, trailers = _at_once(call.code()), _at_once(call.trailing_metadata())
            self._status = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details)
            self._arrived.set()


class Call:
    """One transcription under way. `send` and `finish` by one task, `updates` by another."""

    def __init__(self, call: Any, ending: Ending, first: AudioChunk, in_parts: bool) -> None:
        self._call = call
        self._ending = ending
        self._first: AudioChunk | None = first
        self._in_parts = in_parts

    async def send(self, audio_bytes: bytes) -> None:
        """Send the next bytes, once the server has room for them; into the void where the call has ended."""
        message, self._first = self._first or AudioChunk(), None
        message.chunk_data = audio_bytes
        await _unless_ended(self._call.write(message))

    async def finish(self) -> None:
        """Say that the audio is complete."""
        if self._first is not None:
            await self.send(b"")  # the description, of an empty file too
        await _unless_ended(self._call.done_writing())

    def cancel(self) -> None:
        """End the call, if it has not ended."""
        self._call.cancel()

    async def updates(self) -> AsyncIterator[TranscriptionUpdate]:
        """What the server answers; the last update is a response of success.

        Raises:
            ApiError: the call failed, or the content was refused.
            asyncio.CancelledError: the call was cancelled on this side.
        """
        try:
            if not self._in_parts:
                yield await self._checked(TranscriptionUpdate(response=await self._call))
                return
            async for update in self._call:
                yield await self._checked(update)
                if update.HasField("response"):
                    return
        except grpc.aio.AioRpcError as error:
            raise from_rpc(await self._ending.error(error)) from None
        raise ApiError(500, "INCOMPLETE_ANSWER")

    async def _checked(self, update: TranscriptionUpdate) -> TranscriptionUpdate:
        if update.HasField("response") and not update.response.success:
            raise from_refusal(await self._ending.error_code(), update.response)
        return update


def _at_once(asked: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        asked.send(None)
    except StopIteration as returned:
        return cast(T, returned.value)
    raise RuntimeError("it waits")


async def _unless_ended(write: Awaitable[None]) -> None:
    with suppress(grpc.RpcError, asyncio.InvalidStateError):  # how the call ended is what `updates` says
        await write
