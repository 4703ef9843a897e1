"""The gate every call passes: who may come in now, under which request id, and what gets out when it fails."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from api.grpc.auth import TokenCheck
from api.grpc.executor import CountingExecutor
from resources.logs import request_id
from services.transcription.errors import PUSHBACK_MS, RETRY_PUSHBACK_TRAILER

_log = logging.getLogger("TranscriptionServer")

REQUEST_ID_KEY = "x-request-id"
_UNREADABLE = object()  # in place of a message that could not be deserialised
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Rejection:
    """Why a call is not let in."""

    status: grpc.StatusCode
    message: str


class Recorder(Protocol):
    """Whoever counts calls."""

    def record(self, method: str, context: Any, response: Any, duration_s: float) -> None:
        """Hears of every call that was let in, once it has ended."""

    def refused(self, method: str, status: grpc.StatusCode) -> None:
        """Hears of every call that was not."""


class CallInterceptor(grpc.ServerInterceptor):
    """Refuses calls without a token, while closed, and while too many wait, before their messages are read.

    An exception that nobody expected becomes INTERNAL with the request id; its text stays in the log.
    """

    def __init__(
        self, service_name: str, pool: CountingExecutor, max_waiting: int, tokens: TokenCheck, recorder: Recorder
    ) -> None:
        self._prefix = f"/{service_name}/"
        self._pool = pool
        self._max_waiting = max_waiting
        self._tokens = tokens
        self._recorder = recorder
        self._refusals = ThreadPoolExecutor(1, thread_name_prefix="refusal")  # refusing never queues behind work
        self.is_open = False

    def close(self) -> None:
        """Ends the gate's own thread."""
        self._refusals.shutdown()

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.ServerInterceptor; runs under the server's lock, so it only looks and wraps."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        if refusal := self._refusal(metadata):
            self._recorder.refused(method, refusal.status)
            return self._refuse(refusal)
        return self._guarded(handler, method.removeprefix(self._prefix), _identify(metadata))

    def _refusal(self, metadata: Any) -> Rejection | None:
        if not self._tokens.allows(metadata):
            return Rejection(grpc.StatusCode.UNAUTHENTICATED, "Нет верного токена: передайте authorization: Bearer …")
        if not self.is_open:
            return Rejection(grpc.StatusCode.UNAVAILABLE, "Сервер ещё не готов или останавливается, повторите позже")
        if self._pool.waiting >= self._max_waiting:
            return Rejection(grpc.StatusCode.UNAVAILABLE, "Сервер перегружен, повторите позже")
        return None

    def _refuse(self, refusal: Rejection) -> Any:
        """A handler that ends the call without reading a message: on the wire a unary call is a stream of one."""

        def refuse(_requests: Any, context: grpc.ServicerContext) -> None:
            if refusal.status is grpc.StatusCode.UNAVAILABLE:
                context.set_trailing_metadata(((RETRY_PUSHBACK_TRAILER, str(PUSHBACK_MS)),))
            context.abort(refusal.status, refusal.message)

        refuse.experimental_thread_pool = self._refusals  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _guarded(self, handler: Any, method: str, call_id: str) -> Any:
        serializers = (_marking(handler.request_deserializer), handler.response_serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guard_stream(handler.stream_stream, method, call_id), *serializers
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._guard(handler.stream_unary, method, call_id), *serializers
            )
        return grpc.unary_unary_rpc_method_handler(self._guard(handler.unary_unary, method, call_id), *serializers)

    def _guard(self, behaviour: Callable[..., Any], method: str, call_id: str) -> Callable[..., Any]:
        def guarded(request: Any, context: Any) -> Any:
            with self._watch(method, call_id, context) as ended:
                ended.response = behaviour(_readable(request, context), context)
                return ended.response

        return guarded

    def _guard_stream(self, behaviour: Callable[..., Any], method: str, call_id: str) -> Callable[..., Any]:
        def guarded(requests: Any, context: Any) -> Iterator[Any]:
            with self._watch(method, call_id, context) as ended:
                for update in behaviour(_readable(requests, context), context):
                    if update.HasField("response"):
                        ended.response = update.response
                    yield update

        return guarded

    @contextmanager
    def _watch(self, method: str, call_id: str, context: Any) -> Iterator["_Ended"]:
        """Runs a call under its id; records how it ended and keeps an unexpected exception's text from the caller."""
        request_id.set(call_id)
        # In the trailers: initial metadata would commit the call, and no client could retry it by itself.
        context.set_trailing_metadata(((REQUEST_ID_KEY, call_id),))
        started_s, ended = time.perf_counter(), _Ended()
        try:
            yield ended
        except Exception:
            if context.code() is not None or not context.is_active():
                raise  # the call is already ended: by context.abort, or by the client
            _log.exception("Необработанная ошибка, запрос %s", call_id)
            context.abort(grpc.StatusCode.INTERNAL, f"Внутренняя ошибка сервера, номер запроса {call_id}")
        finally:
            self._recorder.record(method, context, ended.response, time.perf_counter() - started_s)


def _marking(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Turns what is no message into _UNREADABLE: grpc never lets go of a call whose message raises (16 KB each)."""

    def attempt(data: bytes) -> Any:
        try:
            return deserialise(data)
        except Exception:
            return _UNREADABLE

    return attempt


def _readable(received: Any, context: Any) -> Any:
    """The message or the messages of a call, which ends here at one that is none."""
    if isinstance(received, Iterator):
        return (_readable(message, context) for message in received)
    if received is _UNREADABLE:
        context.abort(grpc.StatusCode.INTERNAL, "Сообщение не разобрать: это не protobuf этого сервиса")
    return received


@dataclass
class _Ended:
    """How a call ended."""

    response: Any = None


def _identify(metadata: Any) -> str:
    """The caller's request id where it is a sensible one, else a new one."""
    given = next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
