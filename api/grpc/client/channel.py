"""The client's channel: message limits, TLS, the token."""

from pathlib import Path

import grpc

MAX_MESSAGE_BYTES = 200 * 1024 * 1024  # the server's default, GRPC_MAX_RECEIVE_MESSAGE_LENGTH
_RECONNECT_MS = (500, 5_000)  # first and longest pause, as in RetryPolicy: an attempt finds a new connection


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.Channel:
    """A channel to HOST:PORT that connects on the first call; unencrypted without `credentials`."""
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS[1]),
    ]
    if credentials:
        return grpc.secure_channel(address, credentials, options)
    return grpc.insecure_channel(address, options)


def tls_credentials(
    tls: bool, ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None
) -> grpc.ChannelCredentials | None:
    """Credentials if `tls` is true or any of the files is given, else None.

    The server's certificate must be signed by `ca_file` (PEM), by default by one of gRPC's built-in authorities.
    `cert_file` and `key_file` (PEM) are the client's certificate and key for mutual TLS.

    Raises:
        OSError: a file cannot be read.
        ValueError: only one of `cert_file` and `key_file` is given, or a file is not PEM.
    """
    if (cert_file is None) != (key_file is None):
        raise ValueError("сертификат и ключ клиента задаются только вместе (--cert, --key)")
    if not (tls or ca_file or cert_file):
        return None
    ca, cert, key = (None if path is None else _read_pem(Path(path)) for path in (ca_file, cert_file, key_file))
    return grpc.ssl_channel_credentials(ca, key, cert)


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that carry `token`; to be sent with every call.

    Raises:
        ValueError: the token cannot be sent as metadata. The message does not repeat it.
    """
    if token is None:
        return ()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("токен должен состоять из печатных знаков ASCII без пробелов")
    return (("authorization", f"Bearer {token}"),)


def _read_pem(path: Path) -> bytes:
    data = path.read_bytes()
    if b"-----BEGIN " not in data:
        raise ValueError(f"это не файл PEM: {path}")
    return data
