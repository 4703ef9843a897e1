"""The HTTP server around the gateway: its thread, its address, its end."""

import asyncio
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from prometheus_client import CollectorRegistry

from api.errors import PortTakenError
from api.http.app import build
from api.http.context import Limits
from api.http.live import MAX_MESSAGE_BYTES
from api.http.metrics import GatewayMetrics
from api.http.protocols import http_protocol, websocket_protocol
from api.http.upstream import Upstream

_log = logging.getLogger("HttpGateway")

KEEP_ALIVE_S = 30
PING_S = 20.0
BACKLOG = 2048
CANCEL_S = 1  # for what is left of connections when their requests are done or given up
_POLL_S = 0.05
# A client that has vanished is noticed though nothing is sent, and one that takes nothing though something is.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


@dataclass(frozen=True)
class HttpConfig:
    """Where and how the gateway listens."""

    host: str
    port: int  # 0 lets the system choose
    limits: Limits
    allowed_origins: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None


class HttpServer:
    """Listens from the first moment on; answers on a thread of its own between `start` and `stop`."""

    def __init__(self, config: HttpConfig, connect: Callable[[], Upstream], registry: CollectorRegistry) -> None:
        """`connect` makes the gRPC client, on the server's thread; the metrics go into `registry`.

        Raises:
            PortTakenError: the address is in use or is not this machine's.
        """
        self._app, self._guard = build(connect, config.limits, GatewayMetrics(registry), config.allowed_origins)
        self._socket = _listen(config)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if config.tls else 'http'}://{_in_address(config.host)}:{self.port}"
        self._server = uvicorn.Server(self._uvicorn_config(config))
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self, grace_s: float) -> None:
        """Refuse new requests, let those under way finish within `grace_s`, end the rest."""
        self._guard.drain()
        if self._thread.is_alive():
            deadline_s = time.monotonic() + grace_s
            while self._guard.in_flight and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except Exception:
            _log.critical("HTTP-шлюз остановился", exc_info=True)

    def _uvicorn_config(self, config: HttpConfig) -> uvicorn.Config:
        idle_timeout_s, tls = config.limits.idle_timeout_s, config.tls
        return uvicorn.Config(
            self._app,
            http=http_protocol(idle_timeout_s),
            ws=websocket_protocol(idle_timeout_s),
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_S,
            ws_ping_timeout=None,  # a client that is held back cannot answer: TCP notices one that is gone
            ws_per_message_deflate=False,  # sound does not shrink, and a bomb must not grow
            log_config=None,
            log_level="critical",  # the guard logs what goes wrong, and what clients do wrong is for the metrics
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CANCEL_S,
            ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        )


def _in_address(host: str) -> str:
    bare = host.strip("[]")
    return f"[{bare}]" if ":" in bare else bare


def _listen(config: HttpConfig) -> socket.socket:
    host = config.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            _set_options(listener, config.limits.idle_timeout_s)
            listener.bind((host, config.port))
            listener.listen(BACKLOG)  # uvicorn would only once it runs: until then clients would be refused
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise PortTakenError(
            f"Не удалось занять адрес {config.host}:{config.port}: порт занят или адрес чужой. "
            "Задайте другой HTTP_PORT (--http-port)"
        ) from error


def _set_options(listener: socket.socket, idle_timeout_s: float) -> None:
    """Connections take these over from the socket that accepts them."""
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # [::] is every interface, IPv4 included
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = _KEEPALIVE | {"TCP_USER_TIMEOUT": round(idle_timeout_s * 1000)}
    for name, value in options.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
