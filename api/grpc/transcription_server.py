"""Composition root: reads flags and settings, serves the chosen implementation, sets the exit code."""

import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python api/grpc/transcription_server.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])
# Waiting OpenMP threads sleep rather than spin: decoders and requests need the processors as well.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # to be set before torch is imported
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's own lines would hide the one line about a taken port

import argparse
import logging
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

from api.errors import PortTakenError
from api.grpc.server import LAST_ANSWERS_S, GrpcServer
from api.http.compose import http_server
from api.http.server import HttpServer
from api.http.upstream import Upstream
from ml.errors import SpeechError
from ml.heap import tune_malloc
from resources.config import ConfigurationError, Settings, load_settings
from resources.logs import configure_logging
from services.transcription.implementations import *  # noqa: F403 - all names in __all__ are available below
from services.transcription.implementations.onnx_service import OnnxTranscriptionService
from services.transcription.implementations.ray_service import (
    BorealisRayTranscriptionService,
    OnnxRayTranscriptionService,
    WhisperRayTranscriptionService,
)
from services.transcription.implementations.whisper_service import WhisperTranscriptionService
from services.transcription.interface import ITranscriptionService

_log = logging.getLogger("TranscriptionServer")

AVAILABLE_IMPLEMENTATIONS: dict[str, type[ITranscriptionService]] = {
    "borealis": BorealisTranscriptionService,  # noqa: F405
    "borealis-ray": BorealisRayTranscriptionService,
    "whisper": WhisperTranscriptionService,
    "onnx": OnnxTranscriptionService,
    "whisper-ray": WhisperRayTranscriptionService,
    "onnx-ray": OnnxRayTranscriptionService,
}

EXIT_UNHEALTHY = 70  # exit code: a supervisor should restart the process
_STOP_POLL_S = 0.5  # Windows delivers Ctrl+C only between waits
SHUTDOWN_MARGIN_S = 10.0  # for the shutdown itself, after the time for calls in flight
_EXAMPLES = """Примеры:
  python start.py
  python start.py --port 50052
  python start.py --implementation borealis
  python start.py --port 50052 --implementation borealis
  python start.py --model ml/checkpoints/borealis-tiny-ru --device cpu
  python start.py --http-port 8080

Остальные настройки: resources/.env.example (переменные окружения или файл .env)."""


class StopRequested(BaseException):
    """Ctrl+C or SIGTERM."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}. Справка: python start.py --help")


def main(arguments: list[str] | None = None) -> int:
    """Run the server until Ctrl+C or SIGTERM; return the exit code."""
    tune_malloc()
    try:
        flags = _parse(arguments)
        implementation = str(flags.pop("implementation"))
        settings = load_settings(**flags)
        configure_logging(settings.logging_level, settings.logging_format, settings.logging_json)
        return serve(implementation, settings)
    except (ConfigurationError, PortTakenError, SpeechError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1


def serve(implementation: str, settings: Settings) -> int:
    """Serve `implementation` until Ctrl+C or SIGTERM.

    Raises:
        ConfigurationError: there is no such implementation.
        PortTakenError: the address cannot be bound.
        SpeechError: the implementation cannot start.
    """
    if implementation not in AVAILABLE_IMPLEMENTATIONS:
        names = ", ".join(AVAILABLE_IMPLEMENTATIONS)
        raise ConfigurationError(f"Неизвестная реализация {implementation!r} (--implementation). Доступны: {names}")
    server = GrpcServer(AVAILABLE_IMPLEMENTATIONS[implementation](), settings)
    gateway = _gateway_before(server, settings) if settings.http_port else None
    _on_stop_signals(_request_stop)
    try:
        if gateway:
            gateway.start()
            _log.info("🌐 HTTP шлюз запущен на %s", gateway.url)
        server.start()
        while server.is_alive and (gateway is None or gateway.is_alive):
            server.sync_readiness()
            time.sleep(_STOP_POLL_S)
        _log.critical("💥 Реализация больше не отвечает: процесс завершается, чтобы его перезапустили")
        _end_within(SHUTDOWN_MARGIN_S)
        server.abort()
        if gateway:
            gateway.stop(LAST_ANSWERS_S)
        _force_exit()
    except StopRequested:
        _log.info("🛑 Останавливаюсь: новые запросы не принимаются")
        return 0
    finally:
        _on_stop_signals(signal.SIG_DFL)  # a second Ctrl+C ends at once
        _end_within(settings.shutdown_grace_s + SHUTDOWN_MARGIN_S)
        _stop(server, gateway, settings.shutdown_grace_s)


def _gateway_before(server: GrpcServer, settings: Settings) -> HttpServer:
    address = server.bind_private()
    return http_server(settings, lambda: Upstream(address, None), server.metrics.registry)


def _stop(server: GrpcServer, gateway: HttpServer | None, grace_s: float) -> None:
    """HTTP first: its requests are calls of the server. Both have `grace_s` together."""
    deadline_s = time.monotonic() + grace_s
    if gateway:
        gateway.stop(grace_s)
    server.stop(max(deadline_s - time.monotonic(), 0.0))


def _end_within(seconds: float) -> None:
    """Exit with EXIT_UNHEALTHY after `seconds`, even if a thread hangs, unless the process has ended before."""

    def exit_late() -> None:
        _log.critical("💥 Остановка не завершилась вовремя: процесс прерывается")
        _force_exit()

    timer = threading.Timer(seconds, exit_late)
    timer.daemon = True
    timer.start()


def _force_exit() -> NoReturn:
    logging.shutdown()
    os._exit(EXIT_UNHEALTHY)  # a regular exit would wait for the hung thread


def _parse(arguments: list[str] | None) -> dict[str, str | int | None]:
    parser = _Parser(
        prog="start.py",
        description="gRPC сервис транскрипции аудио с моделью Borealis",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(AVAILABLE_IMPLEMENTATIONS)
    parser.add_argument("--port", dest="server_port", metavar="N", help="порт (SERVER_PORT, по умолчанию 50051)")
    parser.add_argument("--host", dest="server_host", metavar="H", help="адрес (SERVER_HOST, по умолчанию [::])")
    parser.add_argument("--http-port", metavar="N", help="порт HTTP и страницы (HTTP_PORT, по умолчанию выключен)")
    parser.add_argument("--implementation", metavar="NAME", default="borealis", help=f"реализация: {names}")
    parser.add_argument("--model", dest="model_name", metavar="M", help="папка или имя модели на хабе (MODEL_NAME)")
    parser.add_argument("--device", dest="model_device", metavar="D", help="cuda, cuda:N или cpu (MODEL_DEVICE)")
    return vars(parser.parse_args(arguments))


def _on_stop_signals(handler: object) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # SIGBREAK is Windows' Ctrl+Break
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)  # type: ignore[arg-type]


def _request_stop(_signal: int, _frame: FrameType | None) -> None:
    raise StopRequested


if __name__ == "__main__":
    sys.exit(main())
