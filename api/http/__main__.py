"""`python -m api.http --grpc HOST:PORT`: a gateway alone, before a server elsewhere; as many of them as are needed."""

import os
import sys

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's own lines would drown ours

import argparse
import logging
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

import grpc
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from api.errors import PortTakenError
from api.grpc.client.channel import tls_credentials
from api.http.compose import http_server
from api.http.upstream import Upstream
from resources.config import ConfigurationError, Settings, load_settings
from resources.logs import configure_logging

_log = logging.getLogger("HttpGateway")

DEFAULT_GRPC = "localhost:50051"
DEFAULT_PORT = 8080
EXIT_UNHEALTHY = 70  # as the server's
_POLL_S = 0.5  # Windows notices Ctrl+C only between waits


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}. Справка: python -m api.http --help")


def main(arguments: list[str] | None = None) -> int:
    """Runs the gateway until Ctrl+C or SIGTERM; returns the exit code."""
    try:
        flags = _parse(arguments)
        settings = load_settings(http_host=flags.host, http_port=flags.port)
        if not settings.http_port:
            settings = settings.model_copy(update={"http_port": DEFAULT_PORT})
        configure_logging(settings.logging_level, settings.logging_format, settings.logging_json)
        return _serve(settings, flags.grpc, _credentials(flags))
    except (ConfigurationError, PortTakenError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings, address: str, credentials: grpc.ChannelCredentials | None) -> int:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    server = http_server(settings, lambda: Upstream(address, credentials), registry)
    stop_metrics = _serve_metrics(settings, registry)
    stopping = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda _signal, _frame: stopping.set())
    server.start()
    _log.info("🌐 HTTP шлюз запущен на %s, gRPC сервер: %s", server.url, address)
    while server.is_alive and not stopping.wait(_POLL_S):
        pass
    if stopping.is_set():
        _log.info("🛑 Останавливаюсь: новые запросы не принимаются")
    server.stop(settings.shutdown_grace_s)
    stop_metrics()
    return 0 if stopping.is_set() else EXIT_UNHEALTHY


def _serve_metrics(settings: Settings, registry: CollectorRegistry) -> Callable[[], None]:
    if not settings.metrics_port:
        return lambda: None
    try:
        server, thread = start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=registry)
    except OSError as error:
        raise PortTakenError(
            f"Не удалось занять порт {settings.metrics_port} для метрик. Задайте другой METRICS_PORT"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _credentials(flags: argparse.Namespace) -> grpc.ChannelCredentials | None:
    try:
        return tls_credentials(flags.grpc_tls, flags.grpc_ca, flags.grpc_cert, flags.grpc_key)
    except OSError as error:
        raise ConfigurationError(f"Не удалось прочитать файл {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m api.http", description="HTTP шлюз перед gRPC сервером транскрипции")
    parser.add_argument(
        "--grpc", default=DEFAULT_GRPC, metavar="HOST:PORT", help="gRPC сервер; по умолчанию %(default)s"
    )
    parser.add_argument("--port", metavar="N", help=f"порт (HTTP_PORT, по умолчанию {DEFAULT_PORT})")
    parser.add_argument("--host", metavar="H", help="адрес (HTTP_HOST, по умолчанию 127.0.0.1)")
    access = parser.add_argument_group("соединение с gRPC сервером")
    access.add_argument("--grpc-tls", action="store_true", help="шифровать; подразумевается с остальными")
    access.add_argument("--grpc-ca", metavar="FILE", help="PEM: чьему сертификату сервера верить вместо общеизвестных")
    access.add_argument("--grpc-cert", metavar="FILE", help="PEM: сертификат шлюза, вместе с --grpc-key")
    access.add_argument("--grpc-key", metavar="FILE", help="PEM: ключ шлюза, вместе с --grpc-cert")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
