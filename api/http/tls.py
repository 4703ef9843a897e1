"""The HTTP server's TLS, from certificate files that may change."""

import ssl

from api.certificates import CertificateFiles, Certificates


def server_context(files: CertificateFiles, initial: Certificates) -> ssl.SSLContext:
    """A context that looks at the files on each new connection, as the gRPC server does."""
    current = initial.context

    def renew(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current
        if fresh := files.changed():
            current = fresh.context
        connection.context = current

    context = initial.context
    context.sni_callback = renew  # called for clients that name no server too
    return context
