"""The thread-pool gRPC server around one implementation: its life, its health, its limits."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from api.grpc.gate import Gate
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import Settings
from services.transcription.interface import ITranscriptionService

_log = logging.getLogger("TranscriptionServer")

SERVICE_NAME = transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].full_name
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING


class PortTakenError(Exception):
    """The address cannot be listened on. The message is one line for the operator."""


class TranscriptionServer:
    """Listens at once, but takes transcription calls only once the implementation is ready."""

    def __init__(self, service: ITranscriptionService, settings: Settings) -> None:
        """Binds the port and answers health checks with NOT_SERVING.

        Raises:
            PortTakenError: the address is in use or is not this machine's.
        """
        self._service = service
        self._settings = settings
        self._gate = Gate(SERVICE_NAME)
        self._health = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=_health_pool())
        self._set_health(_NOT_SERVING)
        self._server = grpc.server(
            ThreadPoolExecutor(settings.server_max_workers, thread_name_prefix="rpc"),
            interceptors=[self._gate],
            options=_options(settings),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        transcription_pb2_grpc.add_TranscriptionServiceServicer_to_server(service, self._server)
        self.port = self._bind()

    def start(self) -> None:
        """Starts the server, prepares the implementation, then reports SERVING.

        Raises:
            ml.errors.SpeechError: the implementation cannot serve.
        """
        self._server.start()
        started_s = time.perf_counter()
        self._service.start(self._settings)
        self._gate.is_open = True
        self._set_health(_SERVING)
        _log.info(
            "🚀 gRPC сервер запущен на %s:%d (реализация: %s, запуск занял %.1f сек)",
            self._settings.server_host,
            self.port,
            self._service.get_version(),
            time.perf_counter() - started_s,
        )

    def stop(self) -> None:
        """Refuses new calls, lets those in flight finish within SHUTDOWN_GRACE_S, releases everything."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._settings.shutdown_grace_s).wait()
        self._service.stop()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE_NAME):
            self._health.set(name, status)

    def _bind(self) -> int:
        address = f"{self._settings.server_host}:{self._settings.server_port}"
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTakenError(
                f"Не удалось занять адрес {address}: порт занят или адрес чужой. Задайте другой SERVER_PORT (--port)"
            ) from error
        return port


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", settings.grpc_max_send_message_length),
        ("grpc.max_receive_message_length", settings.grpc_max_receive_message_length),
        ("grpc.so_reuseport", 0),  # or a second server would silently share the port
    ]


def _health_pool() -> ThreadPoolExecutor:
    """A health check never queues behind transcriptions."""
    return ThreadPoolExecutor(1, thread_name_prefix="health")
