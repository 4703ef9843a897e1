"""grpc.reflection and grpc.channelz: the server's services, and the figures of its connections."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from api.grpc.health import HEALTH_SERVICE
from api.grpc.idle import IdleWatch

REFLECTION_WORKERS = 2
_CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]


class Introspection:
    """Both services share two threads, which no transcription occupies. Need no token."""

    def __init__(self, peer_timeout_s: float) -> None:
        """`peer_timeout_s` bounds the wait for a request to arrive and for an answer to be read."""
        self._pool = ThreadPoolExecutor(REFLECTION_WORKERS, thread_name_prefix="reflection")
        self._idle = IdleWatch(peer_timeout_s)

    def add_reflection(self, server: grpc.Server, service_name: str) -> None:
        """Register grpc.reflection.v1alpha on `server`."""
        names = (service_name, HEALTH_SERVICE, reflection.SERVICE_NAME)
        servicer: Any = reflection.ReflectionServicer(names)
        answer = servicer.ServerReflectionInfo

        def info(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            answers = answer(self._idle.guard_reads(requests, context.cancel), context)
            return self._idle.guard_writes(answers, context.cancel)

        info.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        servicer.ServerReflectionInfo = info
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)

    def add_channelz(self, server: grpc.Server) -> None:
        """Register grpc.channelz.v1 on `server`, which must be made with the option "grpc.enable_channelz"."""
        servicer = channelz.ChannelzServicer()
        handlers = {method.name: self._handler(getattr(servicer, method.name), method) for method in _CHANNELZ.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_CHANNELZ.full_name, handlers),))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self._idle.close()

    def _handler(self, answer: Callable[[Any, Any], Any], method: Any) -> Any:
        """A unary method read as a stream of one message, so that the wait for it has a limit."""
        request_type = GetMessageClass(method.input_type)

        def call(requests: Iterator[Any], context: Any) -> Any:
            return answer(next(self._idle.guard_reads(requests, context.cancel), request_type()), context)

        call.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        serialise = GetMessageClass(method.output_type).SerializeToString
        return grpc.stream_unary_rpc_method_handler(call, request_type.FromString, serialise)
