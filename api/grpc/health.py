"""grpc.health.v1: readiness for load balancers and supervisors, on threads that no transcription occupies."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from api.grpc.idle import IdleWatch

HEALTH_SERVICE = health.SERVICE_NAME
HEALTH_WORKERS = 8
MAX_WATCHERS = 1000  # each holds some kilobytes for as long as its client likes
_Status = health_pb2.HealthCheckResponse


@dataclass(eq=False)
class _Watcher:
    """A Watch call."""

    is_known: bool  # it watches a service of this server
    send: Callable[[Any], None]
    end: Callable[[], object]
    sent_status: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Health:
    """Answers Check and Watch for the empty name and for one service. Needs no token.

    The servicer of grpcio-health-checking holds a lock while it sends, so that one watcher that does not read blocks
    all others, and it keeps every service name that was ever watched.
    """

    def __init__(self, service_name: str, peer_timeout_s: float) -> None:
        """`peer_timeout_s` bounds the wait for a request to arrive and for an answer to be read."""
        self._names = ("", service_name)
        self._lock = threading.Lock()
        self._status = _Status.NOT_SERVING
        self._watchers: set[_Watcher] = set()
        self._pool = ThreadPoolExecutor(HEALTH_WORKERS, thread_name_prefix="health")
        self._idle = IdleWatch(peer_timeout_s)

    def add_to(self, server: grpc.Server) -> None:
        """Register the service on `server`."""

        def check(requests: Iterator[Any], context: Any) -> Any:
            return self._check(self._read_request(requests, context), context)

        def watch(requests: Iterator[Any], context: Any, send: Callable[[Any], None]) -> None:
            self._watch(self._read_request(requests, context), context, send)

        check.experimental_thread_pool = watch.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # an open Watch call holds no thread
        serializers = (health_pb2.HealthCheckRequest.FromString, _Status.SerializeToString)
        handlers = {
            # On the wire a unary call is a stream of one message; read as a stream, the wait for it has a limit.
            "Check": grpc.stream_unary_rpc_method_handler(check, *serializers),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, *serializers),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers),))

    def set_serving(self, is_serving: bool) -> None:
        """Change the status and send it to every watcher, without waiting for any of them."""
        with self._lock:
            self._status = _Status.SERVING if is_serving else _Status.NOT_SERVING
            watchers = list(self._watchers)
        for watcher in watchers:
            self._pool.submit(self._send_status, watcher)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self._idle.close()

    def _read_request(self, requests: Iterator[Any], context: Any) -> Any:
        """The call's one message; ends the call if it does not arrive in time."""
        return next(self._idle.guard_reads(requests, context.cancel), health_pb2.HealthCheckRequest())

    def _check(self, request: Any, context: Any) -> Any:
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of this name")
        return _Status(status=self._status)

    def _watch(self, request: Any, context: Any, send: Callable[[Any], None]) -> None:
        watcher = _Watcher(request.service in self._names, send, context.cancel)
        with self._lock:
            is_full = len(self._watchers) >= MAX_WATCHERS
            if not is_full and context.add_callback(lambda: self._remove(watcher)):
                self._watchers.add(watcher)
        if is_full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many Watch calls are open on this server")
        self._send_status(watcher)

    def _remove(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _send_status(self, watcher: _Watcher) -> None:
        """Send the status unless the watcher has it; ends the call if the client does not read it in time."""
        with watcher.lock:
            status = self._status if watcher.is_known else _Status.SERVICE_UNKNOWN
            if watcher.sent_status != status:
                watcher.sent_status = status
                with self._idle.timeout(watcher.end):
                    watcher.send(_Status(status=status))
