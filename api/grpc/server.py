"""The gRPC server around one implementation: bind, start, readiness, drain, stop."""

import logging
import sys
import tempfile
import time
from collections.abc import Callable

import grpc

from api.errors import PortTakenError
from api.grpc.auth import TokenCheck
from api.grpc.executor import CountingExecutor
from api.grpc.health import Health
from api.grpc.interceptor import CallInterceptor
from api.grpc.metrics import Metrics
from api.grpc.reflection import Introspection
from api.grpc.tls import server_credentials
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import Settings
from services.transcription.interface import ITranscriptionService

_log = logging.getLogger("TranscriptionServer")

SERVICE_NAME = transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].full_name
FAILURE_GRACE_S = 2.0  # for the answers of calls in flight after the implementation failed
LAST_ANSWERS_S = 1.0  # for answers already being sent; open health Watch calls keep a stopping server that long
PEER_TIMEOUT_S = 3.0  # for a health check or reflection request to arrive, or its answer to be read
MIN_PING_INTERVAL_S = 5.0  # clients may send keepalive pings every 10 s: half of that, because networks delay some
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
RPC_HEADROOM = 1000  # concurrent calls other than transcriptions: health checks, rejections


class GrpcServer:
    """Binds the port at once, but admits transcription calls only while the implementation is ready."""

    def __init__(self, service: ITranscriptionService, settings: Settings) -> None:
        """Bind the port. Health is NOT_SERVING until `start` returns.

        Raises:
            PortTakenError: the address is in use or not an address of this machine.
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
        self._health = Health(SERVICE_NAME, PEER_TIMEOUT_S)
        self._health.add_to(self._server)
        self._introspection = Introspection(PEER_TIMEOUT_S)
        if settings.server_reflection:
            self._introspection.add_reflection(self._server, SERVICE_NAME)
        if settings.server_channelz:
            self._introspection.add_channelz(self._server)
        self._stop_metrics: Callable[[], None] = lambda: None
        self._private_folder: tempfile.TemporaryDirectory[str] | None = None

    def bind_private(self) -> str:
        """Bind a second address for this process: a socket in a private folder, on Windows a loopback port.

        Tokens are checked there too, client certificates are not. Call before `start`.

        Raises:
            PortTakenError: the socket cannot be made.
        """
        if sys.platform == "win32":
            return f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._private_folder = tempfile.TemporaryDirectory(prefix="transcription-")
        address = f"unix:{self._private_folder.name}/grpc.sock"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTakenError("Не удалось создать сокет во временной папке: задайте другую (TMPDIR)") from error
        return address

    def start(self) -> None:
        """Start listening, prepare the implementation, then admit calls and report SERVING.

        Raises:
            ml.errors.SpeechError: the implementation cannot serve.
            PortTakenError: METRICS_PORT is in use.
        """
        started_s = time.perf_counter()
        self._serve_metrics()
        self._server.start()
        self._service.start(self._settings)
        self._set_open(True)
        _log.info(
            "🚀 gRPC сервер запущен на %s:%d (реализация: %s, запуск занял %.1f сек)",
            self._settings.server_host,
            self.port,
            self._service.get_version(),
            time.perf_counter() - started_s,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the implementation can still answer; if not, the process should end."""
        return self._service.is_alive()

    def sync_readiness(self) -> None:
        """Admit calls, and report SERVING, exactly while the implementation is ready. To be called periodically."""
        if self._service.is_ready() != self._interceptor.is_open:
            self._set_open(not self._interceptor.is_open)

    def abort(self) -> None:
        """End at once, after the implementation failed: calls in flight get UNAVAILABLE."""
        self._set_open(False)
        self._service.abort_all()
        self._server.stop(FAILURE_GRACE_S).wait()

    def stop(self, grace_s: float | None = None) -> None:
        """Reject new calls, give those in flight `grace_s` (SHUTDOWN_GRACE_S) to finish, release everything."""
        grace_s = self._settings.shutdown_grace_s if grace_s is None else grace_s
        self._set_open(False)
        # The port stays open meanwhile: new calls get UNAVAILABLE with a pushback. A closed port would cancel them.
        in_time = self._pool.wait_until_idle(grace_s)
        self._server.stop(LAST_ANSWERS_S if in_time else 0).wait()
        self._service.stop()
        self._interceptor.close()
        self._health.close()
        self._introspection.close()
        self._stop_metrics()
        if self._private_folder:
            self._private_folder.cleanup()

    def _set_open(self, is_open: bool) -> None:
        self._interceptor.is_open = is_open
        self._health.set_serving(is_open)
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
        ("grpc.so_reuseport", 0),  # with 1, a second server would silently share the port
        ("grpc.max_connection_age_ms", int(settings.connection_max_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.connection_grace_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(MIN_PING_INTERVAL_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),  # pings between calls, too
        ("grpc.enable_channelz", int(settings.server_channelz)),
    ]
