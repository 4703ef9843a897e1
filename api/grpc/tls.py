"""Server credentials from certificate files, read again when they change."""

import logging
from pathlib import Path

import grpc

from resources.config import ConfigurationError, Settings

_log = logging.getLogger("TranscriptionServer")


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS where TLS_CERT_FILE and TLS_KEY_FILE are set, mutual with TLS_CLIENT_CA_FILE; None where they are not.

    The files are looked at on each new connection, so that a renewed certificate needs no restart. One that cannot be
    read leaves the old in force.

    Raises:
        ConfigurationError: only one of the two is set, or a file cannot be read.
    """
    if not settings.tls_cert_file and not settings.tls_key_file:
        return None
    if not (settings.tls_cert_file and settings.tls_key_file):
        raise ConfigurationError("TLS_CERT_FILE и TLS_KEY_FILE задаются только вместе")
    source = _CertificateFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    try:
        initial = source.read()
    except OSError as error:
        raise ConfigurationError(
            f"Не читается файл из TLS_CERT_FILE, TLS_KEY_FILE или TLS_CLIENT_CA_FILE: {error.strerror}"
        ) from error
    return grpc.dynamic_ssl_server_credentials(
        initial,
        source.changed,  # type: ignore[arg-type]  # None is allowed: it keeps the present one
        require_client_authentication=settings.tls_client_ca_file is not None,
    )


class _CertificateFiles:
    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = (cert, key, *([client_ca] if client_ca else []))
        self._seen: tuple[int, ...] = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        self._seen = self._times()
        cert, key, *client_ca = (path.read_bytes() for path in self._paths)
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca[0] if client_ca else None)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """A new configuration, or None to keep the present one. grpc asks on every connection."""
        try:
            return self.read() if self._times() != self._seen else None
        except OSError as error:
            _log.warning("Новый сертификат не читается, действует прежний: %s", error.strerror)
            return None

    def _times(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths)
