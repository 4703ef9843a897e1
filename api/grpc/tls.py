"""Server credentials from certificate files, read again when they change."""

import errno
import logging
import ssl
from pathlib import Path

import grpc

from resources.config import ConfigurationError, Settings

_log = logging.getLogger("TranscriptionServer")


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS where TLS_CERT_FILE and TLS_KEY_FILE are set, mutual with TLS_CLIENT_CA_FILE; None where they are not.

    The files are looked at on each new connection, so that a renewed certificate needs no restart. One that cannot be
    used leaves the old in force.

    Raises:
        ConfigurationError: only one of the two is set, or a file cannot be used.
    """
    if not (settings.tls_cert_file or settings.tls_key_file or settings.tls_client_ca_file):
        return None
    if not (settings.tls_cert_file and settings.tls_key_file):
        raise ConfigurationError("TLS_CERT_FILE и TLS_KEY_FILE задаются только вместе, TLS_CLIENT_CA_FILE - с ними")
    source = _CertificateFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    try:
        initial = source.read()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            "Не годится файл из TLS_CERT_FILE, TLS_KEY_FILE или TLS_CLIENT_CA_FILE, "
            f"нужны PEM, ключ без пароля и подходящий к сертификату: {error.strerror}"
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
        self._refused: tuple[int, ...] = ()  # warned about once, not on every connection

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The configuration of the files as they are. Raises OSError where they cannot be used."""
        times = self._times()
        self._check()
        cert, key, *client_ca = (path.read_bytes() for path in self._paths)
        if self._times() != times:
            raise OSError(errno.EAGAIN, "файлы как раз меняются")  # what was checked is not what was read
        self._seen = times
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca[0] if client_ca else None)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """A new configuration, or None to keep the present one. grpc asks on every connection."""
        try:
            return self.read() if self._times() != self._seen else None
        except OSError as error:
            if (times := self._times_if_there()) != self._refused:
                self._refused = times
                _log.warning("Новый сертификат не годится, действует прежний: %s", error.strerror)
            return None

    def _check(self) -> None:
        """What grpc would say only in its own log, and of a bad file only that the port cannot be bound."""
        cert, key, *client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key, password=b"")  # a key under a password must not be asked for at a terminal
        for authority in client_ca:
            context.load_verify_locations(authority)

    def _times(self) -> tuple[int, ...]:
        stats = [path.stat() for path in self._paths]
        return tuple(time_ns for stat in stats for time_ns in (stat.st_mtime_ns, stat.st_ctime_ns))

    def _times_if_there(self) -> tuple[int, ...]:
        try:
            return self._times()
        except OSError:
            return (0,)
