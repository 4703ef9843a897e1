"""Certificate files of the TLS servers, read again when they change."""

import errno
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from resources.config import ConfigurationError, Settings

_log = logging.getLogger("TranscriptionServer")


@dataclass(frozen=True)
class Certificates:
    """The contents of the files (PEM), and a server context made from them."""

    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class CertificateFiles:
    """A certificate, its key and, for mutual TLS, the authority of the client certificates."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = (cert, key, *([client_ca] if client_ca else []))
        self._seen: tuple[int, ...] = ()
        self._rejected: tuple[int, ...] = ()  # logged once, not on every connection

    def read(self) -> Certificates:
        """The files as they are now. Raises OSError if they are unusable."""
        times = self._times()
        context = self._context()
        cert, key, *client_ca = (path.read_bytes() for path in self._paths)
        if self._times() != times:
            raise OSError(errno.EAGAIN, "файлы как раз меняются")  # what was checked may not be what was read
        self._seen = times
        return Certificates(cert, key, client_ca[0] if client_ca else None, context)

    def changed(self) -> Certificates | None:
        """The renewed files, or None to keep the current ones. Call on every new connection."""
        try:
            return self.read() if self._times() != self._seen else None
        except OSError as error:
            if (times := self._times_if_present()) != self._rejected:
                self._rejected = times
                _log.warning("Новый сертификат не годится, действует прежний: %s", error.strerror)
            return None

    def _context(self) -> ssl.SSLContext:
        """Raise OSError for unusable files; grpc itself names the cause only in its own log, and fails to bind."""
        cert, key, *client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key, password=b"")  # without it, an encrypted key prompts at the terminal
        for authority in client_ca:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _times(self) -> tuple[int, ...]:
        stats = [path.stat() for path in self._paths]
        return tuple(time_ns for stat in stats for time_ns in (stat.st_mtime_ns, stat.st_ctime_ns))

    def _times_if_present(self) -> tuple[int, ...]:
        try:
            return self._times()
        except OSError:
            return (0,)


def certificate_files(settings: Settings) -> tuple[CertificateFiles, Certificates] | None:
    """The files of TLS_CERT_FILE, TLS_KEY_FILE and TLS_CLIENT_CA_FILE and their first contents; None if none is set.

    Raises:
        ConfigurationError: only one of the first two is set, or a file is unusable.
    """
    if not (settings.tls_cert_file or settings.tls_key_file or settings.tls_client_ca_file):
        return None
    if not (settings.tls_cert_file and settings.tls_key_file):
        raise ConfigurationError("TLS_CERT_FILE и TLS_KEY_FILE задаются только вместе, TLS_CLIENT_CA_FILE - с ними")
    files = CertificateFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    try:
        return files, files.read()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            "Не годится файл из TLS_CERT_FILE, TLS_KEY_FILE или TLS_CLIENT_CA_FILE, "
            f"нужны PEM, ключ без пароля и подходящий к сертификату: {error.strerror}"
        ) from error
