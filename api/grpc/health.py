"""Health, reflection, channelz: beside the work, never behind it, and bounded whatever strangers make of them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from api.grpc.idle import IdleWatch

HEALTH_SERVICE = health.SERVICE_NAME
PATIENCE_S = 3.0  # for a message of some bytes to come, or to be taken; until then it holds a thread
HEALTH_WORKERS = 8
REFLECTION_WORKERS = 2
CHANNELZ_WORKERS = 2
MAX_WATCHERS = 1000  # each holds some kilobytes for as long as it likes
_Status = health_pb2.HealthCheckResponse


@dataclass(eq=False)
class _Watcher:
    """Somebody who is told of changes; of a service that is not here, that it is unknown."""

    knows: bool
    send: Callable[[Any], None]
    end: Callable[[], object]
    told: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Health:
    """grpc.health.v1 for the server as a whole and for its one service. Needs no token.

    The package's own servicer holds a lock while it sends, so that one watcher who takes nothing silences it for all,
    and remembers every name that anybody ever watched.
    """

    def __init__(self, service_name: str) -> None:
        self._names = ("", service_name)
        self._lock = threading.Lock()
        self._status = _Status.NOT_SERVING
        self._watchers: set[_Watcher] = set()
        self._pool = ThreadPoolExecutor(HEALTH_WORKERS, thread_name_prefix="health")
        self._patience = IdleWatch(PATIENCE_S)

    def add_to(self, server: grpc.Server) -> None:
        """Answers on `server`."""

        def check(requests: Iterator[Any], context: Any) -> Any:
            return self._check(self._first(requests, context), context)

        def watch(requests: Iterator[Any], context: Any, send: Callable[[Any], None]) -> None:
            self._watch(self._first(requests, context), context, send)

        check.experimental_thread_pool = watch.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # who watches holds no thread
        serializers = (health_pb2.HealthCheckRequest.FromString, _Status.SerializeToString)
        handlers = {
            # On the wire a unary call is a stream of one; as a stream its message can be waited for with a limit.
            "Check": grpc.stream_unary_rpc_method_handler(check, *serializers),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, *serializers),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers),))

    def is_serving(self, yes: bool) -> None:
        """Tells everybody who asks or watches, and waits for none of them."""
        with self._lock:
            self._status = _Status.SERVING if yes else _Status.NOT_SERVING
            watchers = list(self._watchers)
        for watcher in watchers:
            self._pool.submit(self._tell, watcher)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()
        self._patience.close()

    def _first(self, requests: Iterator[Any], context: Any) -> Any:
        """The one message of a call, which ends if it does not come."""
        return next(self._patience.guard_reads(requests, context.cancel), health_pb2.HealthCheckRequest())

    def _check(self, request: Any, context: Any) -> Any:
        if request.service not in self._names:
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of this name")
        return _Status(status=self._status)

    def _watch(self, request: Any, context: Any, send: Callable[[Any], None]) -> None:
        watcher = _Watcher(request.service in self._names, send, context.cancel)
        with self._lock:
            full = len(self._watchers) >= MAX_WATCHERS
            if not full and context.add_callback(lambda: self._forget(watcher)):
                self._watchers.add(watcher)
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch the health of this server")
        self._tell(watcher)

    def _forget(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _tell(self, watcher: _Watcher) -> None:
        """Waits until the watcher has taken the news, which ends if it takes too long."""
        with watcher.lock:
            status = self._status if watcher.knows else _Status.SERVICE_UNKNOWN
            if watcher.told != status:
                watcher.told = status
                with self._patience.timeout(watcher.end):
                    watcher.send(_Status(status=status))


class Reflection:
    """grpc.reflection: what the server offers. Needs no token."""

    def __init__(self, service_name: str) -> None:
        self._servicer: Any = reflection.ReflectionServicer((service_name, HEALTH_SERVICE, reflection.SERVICE_NAME))
        self._pool = ThreadPoolExecutor(REFLECTION_WORKERS, thread_name_prefix="reflection")
        self._patience = IdleWatch(PATIENCE_S)

    def add_to(self, server: grpc.Server) -> None:
        """Answers on `server`."""
        answer = self._servicer.ServerReflectionInfo

        def info(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            return self._patience.guard_writes(
                answer(self._patience.guard_reads(requests, context.cancel), context), context.cancel
            )

        info.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        self._servicer.ServerReflectionInfo = info
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self._servicer, server)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()
        self._patience.close()


class Channelz:
    """grpc.channelz: the server's connections, whose they are, and their figures. Needs no token.

    Shows something only on a server made with the option "grpc.enable_channelz".
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CHANNELZ_WORKERS, thread_name_prefix="channelz")

    def add_to(self, server: grpc.Server) -> None:
        """Answers on `server`."""
        servicer: Any = channelz.ChannelzServicer()
        for method in channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].methods:
            setattr(servicer, method.name, self._on_own_threads(getattr(servicer, method.name)))
        channelz_pb2_grpc.add_ChannelzServicer_to_server(servicer, server)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _on_own_threads(self, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(request: Any, context: Any) -> Any:
            return answer(request, context)

        call.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        return call
