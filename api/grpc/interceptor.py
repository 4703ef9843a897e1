"""What every transcription call passes: authentication, readiness, load shedding, request id, idle timeout, errors."""

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
from api.grpc.idle import IdleWatch
from resources.logs import request_id
from services.transcription.errors import PUSHBACK_MS, RETRY_PUSHBACK_TRAILER

_log = logging.getLogger("TranscriptionServer")

REQUEST_ID_KEY = "x-request-id"
_UNREADABLE = object()  # in place of a message that could not be deserialised
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Rejection:
    """The status and message of a call that is not admitted."""

    status: grpc.StatusCode
    message: str


class Recorder(Protocol):
    """Counts calls."""

    def record(self, method: str, context: Any, response: Any, duration_s: float) -> None:
        """Count an admitted call once it has ended."""

    def record_rejection(self, method: str, status: grpc.StatusCode) -> None:
        """Count a call that was not admitted."""


class CallInterceptor(grpc.ServerInterceptor):
    """Rejects calls without a token, while closed, and while too many wait, before their messages are read.

    Ends an admitted call if its client neither sends nor reads for `idle_timeout_s`, whatever the implementation does.
    An unexpected exception becomes INTERNAL with the request id; its text stays in the log.
    """

    def __init__(
        self,
        service_name: str,
        pool: CountingExecutor,
        max_waiting: int,
        tokens: TokenCheck,
        recorder: Recorder,
        idle_timeout_s: float,
    ) -> None:
        self._prefix = f"/{service_name}/"
        self._pool = pool
        self._max_waiting = max_waiting
        self._tokens = tokens
        self._recorder = recorder
        self._idle = IdleWatch(idle_timeout_s)
        self._rejections = ThreadPoolExecutor(1, thread_name_prefix="rejection")  # never queues behind transcriptions
        self.is_open = False

    def close(self) -> None:
        """End the interceptor's own threads."""
        self._rejections.shutdown()
        self._idle.close()

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.ServerInterceptor. Runs under the server's lock: it only checks and wraps."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        if rejection := self._rejection(metadata):
            self._recorder.record_rejection(method, rejection.status)
            return self._reject(rejection)
        return self._guard(handler, method.removeprefix(self._prefix), _request_id(metadata))

    def _rejection(self, metadata: Any) -> Rejection | None:
        if not self._tokens.allows(metadata):
            return Rejection(grpc.StatusCode.UNAUTHENTICATED, "Нет верного токена: передайте authorization: Bearer …")
        if not self.is_open:
            return Rejection(grpc.StatusCode.UNAVAILABLE, "Сервер ещё не готов или останавливается, повторите позже")
        if self._pool.waiting >= self._max_waiting:
            return Rejection(grpc.StatusCode.UNAVAILABLE, "Сервер перегружен, повторите позже")
        return None

    def _reject(self, rejection: Rejection) -> Any:
        """A handler that ends the call without reading a message: on the wire a unary call is a stream of one."""

        def reject(_requests: Any, context: grpc.ServicerContext) -> None:
            if rejection.status is grpc.StatusCode.UNAVAILABLE:
                context.set_trailing_metadata(((RETRY_PUSHBACK_TRAILER, str(PUSHBACK_MS)),))
            context.abort(rejection.status, rejection.message)

        reject.experimental_thread_pool = self._rejections  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(reject)

    def _guard(self, handler: Any, method: str, call_id: str) -> Any:
        """A handler of the same kind around `handler`."""
        serializers = (_marking(handler.request_deserializer), handler.response_serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guard_stream(handler.stream_stream, method, call_id), *serializers
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._guard_unary(handler.stream_unary, method, call_id), *serializers
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guard_unary(handler.unary_unary, method, call_id), *serializers
        )

    def _guard_unary(self, behaviour: Callable[..., Any], method: str, call_id: str) -> Callable[..., Any]:
        def guarded(received: Any, context: Any) -> Any:
            with self._recorded(method, call_id, context) as ended:
                ended.response = behaviour(self._readable(received, context), context)
                return ended.response

        return guarded

    def _guard_stream(self, behaviour: Callable[..., Any], method: str, call_id: str) -> Callable[..., Any]:
        def guarded(received: Any, context: Any) -> Iterator[Any]:
            with self._recorded(method, call_id, context) as ended:
                updates = behaviour(self._readable(received, context), context)
                for update in self._idle.guard_writes(updates, context.cancel):
                    yield update
                    if update.HasField("response"):  # and the transport has accepted it
                        ended.response = update.response

        return guarded

    def _readable(self, received: Any, context: Any) -> Any:
        """The call's message, or its messages with a limit on the wait for each; ends the call at an unreadable one."""
        if isinstance(received, Iterator):
            messages = self._idle.guard_reads(received, context.cancel)
            return (_check_readable(message, context) for message in messages)
        return _check_readable(received, context)

    @contextmanager
    def _recorded(self, method: str, call_id: str, context: Any) -> Iterator["_Ended"]:
        """Runs a call under its id; records how it ended and keeps an unexpected exception's text from the client."""
        request_id.set(call_id)
        # In the trailers: initial metadata would commit the call, and gRPC's own retries would no longer repeat it.
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


@dataclass
class _Ended:
    """How a call ended."""

    response: Any = None


def _marking(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns _UNREADABLE for what is no message: grpc never frees a call if its deserialiser raises (16 KB each)."""

    def attempt(data: bytes) -> Any:
        try:
            return deserialise(data)
        except Exception:
            return _UNREADABLE

    return attempt


def _check_readable(message: Any, context: Any) -> Any:
    if message is _UNREADABLE:
        context.abort(grpc.StatusCode.INTERNAL, "Сообщение не разобрать: это не protobuf этого сервиса")
    return message


def _request_id(metadata: Any) -> str:
    """The client's request id where it is valid, else a new one."""
    given = next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
