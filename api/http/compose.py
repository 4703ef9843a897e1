"""Puts a gateway together from the settings, for both programs that run one."""

import logging
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from api.certificates import certificate_files
from api.http.context import Limits
from api.http.server import HttpConfig, HttpServer
from api.http.tls import server_context
from api.http.upstream import Upstream
from resources.config import Settings

_log = logging.getLogger("HttpGateway")

HEADROOM = 100  # requests beside the calls that the service takes: of the page, of health, of clients that are refused
_LOOPBACK = ("127.0.0.1", "::1", "[::1]", "localhost")


def http_server(settings: Settings, connect: Callable[[], Upstream], registry: CollectorRegistry) -> HttpServer:
    """A gateway that listens as `settings` say.

    Raises:
        PortTakenError: the address cannot be listened on.
        ConfigurationError: the TLS files cannot be used.
    """
    limits = Limits(
        max_upload_bytes=settings.stream_max_bytes,
        idle_timeout_s=settings.stream_idle_timeout_s,
        max_requests=settings.server_max_workers + settings.server_max_waiting + HEADROOM,
    )
    config = config_of(settings, limits)
    server = HttpServer(config, connect, registry)
    if not config.tls and not settings.auth_token_hashes and settings.http_host not in _LOOPBACK:
        _log.warning(
            "⚠️ Адрес %s открыт для всех: нет ни TLS (TLS_CERT_FILE), ни токенов (AUTH_TOKEN_HASHES)", server.url
        )
    return server


def config_of(settings: Settings, limits: Limits) -> HttpConfig:
    """Where the gateway listens, and as what. Raises ConfigurationError where the TLS files cannot be used."""
    found = certificate_files(settings)
    return HttpConfig(
        settings.http_host,
        settings.http_port,
        limits,
        settings.http_allowed_origins,
        server_context(*found) if found else None,
    )
