"""The thread-pool gRPC server around one implementation: its life, its health, its limits."""

import logging
import time
from collections.abc import Callable

import grpc

from api.grpc.auth import TokenCheck
from api.grpc.executor import CountingExecutor
from api.grpc.health import Channelz, Health, Reflection
from api.grpc.interceptor import CallInterceptor
from api.grpc.metrics import Metrics
from api.grpc.tls import server_credentials
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import Settings
from services.transcription.interface import ITranscriptionService

_log = logging.getLogger("TranscriptionServer")

SERVICE_NAME = transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].full_name
FAILURE_GRACE_S = 2.0  # for the answers of calls under way when the implementation has broken down
LAST_ANSWERS_S = 1.0  # for answers on their way out; whoever watches the health of a stopping server stays that long
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
RPC_HEADROOM = 1000  # calls beside transcriptions that may be waiting at once: health checks, refusals


class PortTakenError(Exception):
    """The address cannot be listened on. The message is one line for the operator."""


class TranscriptionServer:
    """Listens at once, but takes transcription calls only once the implementation is ready."""

    def __init__(self, service: ITranscriptionService, settings: Settings) -> None:
        """Binds the port and answers health checks with NOT_SERVING.

        Raises:
            PortTakenError: the address is in use or is not this machine's.
            ConfigurationError: the TLS files cannot be used.
        """
        self._service = service
        self._settings = settings
        self.metrics = Metrics(service.gauges)
        self._pool = CountingExecutor(settings.server_max_workers)
        tokens = TokenCheck(settings.auth_token_hashes)
        self._interceptor = CallInterceptor(
            SERVICE_NAME,
            self._pool,
            settings.server_max_waiting,
            tokens,
            self.metrics,
            settings.stream_idle_timeout_s,
        )
        self._server = grpc.server(
            self._pool,
            interceptors=[self._interceptor],
            options=_options(settings),
            maximum_concurrent_rpcs=settings.server_max_workers + settings.server_max_waiting + RPC_HEADROOM,
        )
        self.port = self._bind()
        transcription_pb2_grpc.add_TranscriptionServiceServicer_to_server(service, self._server)
        self._health = Health(SERVICE_NAME)
        self._health.add_to(self._server)
        self._on_request: list[Reflection | Channelz] = []
        if settings.server_reflection:
            self._on_request.append(Reflection(SERVICE_NAME))
        if settings.server_channelz:
            self._on_request.append(Channelz())
        for extra in self._on_request:
            extra.add_to(self._server)
        self._stop_metrics: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Starts the server, prepares the implementation, then reports SERVING.

        Raises:
            ml.errors.SpeechError: the implementation cannot serve.
            PortTakenError: METRICS_PORT is in use.
        """
        started_s = time.perf_counter()
        self._serve_metrics()
        self._server.start()
        self._service.start(self._settings)
        self._take_calls(True)
        _log.info(
            "🚀 gRPC сервер запущен на %s:%d (реализация: %s, запуск занял %.1f сек)",
            self._settings.server_host,
            self.port,
            self._service.get_version(),
            time.perf_counter() - started_s,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the implementation can still answer."""
        return self._service.is_alive()

    def follow(self) -> None:
        """Takes new calls while the implementation is ready for them, and says so in health; to be called often."""
        if self._service.is_ready() != self._interceptor.is_open:
            self._take_calls(not self._interceptor.is_open)

    def fail(self) -> None:
        """Ends at once, for an implementation that has broken down: calls under way are told to come back later."""
        self._take_calls(False)
        self._service.abort_all()
        self._server.stop(FAILURE_GRACE_S).wait()

    def stop(self) -> None:
        """Refuses new calls, lets those in flight finish within SHUTDOWN_GRACE_S, releases everything."""
        self._take_calls(False)
        # The port stays open meanwhile, and new calls are told to come back; once it closes, grpc cancels them instead.
        in_time = self._pool.wait_until_idle(self._settings.shutdown_grace_s)
        self._server.stop(LAST_ANSWERS_S if in_time else 0).wait()
        self._service.stop()
        self._interceptor.close()
        self._health.close()
        for extra in self._on_request:
            extra.close()
        self._stop_metrics()

    def _take_calls(self, is_open: bool) -> None:
        self._interceptor.is_open = is_open
        self._health.is_serving(is_open)
        self.metrics.serving.set(is_open)

    def _bind(self) -> int:
        settings = self._settings
        address = f"{settings.server_host}:{settings.server_port}"
        credentials = server_credentials(settings)
        if not credentials and not settings.auth_token_hashes and settings.server_host not in LOOPBACK:
            _log.warning(
                "⚠️ Адрес %s открыт для всех: нет ни TLS (TLS_CERT_FILE), ни токенов (AUTH_TOKEN_HASHES)", address
            )
        try:
            if credentials:
                return self._server.add_secure_port(address, credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTakenError(
                f"Не удалось занять адрес {address}: порт занят или адрес чужой. Задайте другой SERVER_PORT (--port)"
            ) from error

    def _serve_metrics(self) -> None:
        if not self._settings.metrics_port:
            return
        try:
            self._stop_metrics = self.metrics.serve(self._settings.metrics_host, self._settings.metrics_port)
        except OSError as error:
            raise PortTakenError(
                f"Не удалось занять порт {self._settings.metrics_port} для метрик. Задайте другой METRICS_PORT"
            ) from error


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", settings.grpc_max_send_message_length),
        ("grpc.max_receive_message_length", settings.grpc_max_receive_message_length),
        ("grpc.so_reuseport", 0),  # or a second server would silently share the port
        ("grpc.max_connection_age_ms", int(settings.connection_max_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.connection_grace_s * 1000)),
        ("grpc.enable_channelz", int(settings.server_channelz)),
    ]
