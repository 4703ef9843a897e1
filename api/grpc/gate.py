"""The gate every call passes: closed until the model is ready, and no exception's text gets out."""

import logging
import uuid
from collections.abc import Callable
from typing import Any

import grpc

_log = logging.getLogger("TranscriptionServer")

RETRY_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
NOT_READY_PUSHBACK_MS = 1000


class Gate(grpc.ServerInterceptor):
    """Answers UNAVAILABLE while closed; turns an unexpected exception into INTERNAL with a request id."""

    def __init__(self, service_name: str) -> None:
        self._prefix = f"/{service_name}/"
        self.is_open = False

    def intercept_service(self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.ServerInterceptor; runs under the server's lock, so it only wraps."""
        handler = continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._guard(handler.stream_unary), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guard(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _guard(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: Any) -> Any:
            if not self.is_open:
                context.set_trailing_metadata(((RETRY_PUSHBACK_TRAILER, str(NOT_READY_PUSHBACK_MS)),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "Сервер ещё не готов или останавливается, повторите позже")
            try:
                return behaviour(request, context)
            except Exception:
                if context.code() is not None or not context.is_active():
                    raise  # the call is already ended: by context.abort, or by the client
                request_id = uuid.uuid4().hex
                _log.exception("Необработанная ошибка, запрос %s", request_id)
                context.abort(grpc.StatusCode.INTERNAL, f"Внутренняя ошибка сервера, номер запроса {request_id}")

        return guarded
