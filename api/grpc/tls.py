"""TLS credentials of the gRPC server, renewed when the certificate files change."""

import grpc

from api.certificates import Certificates, certificate_files
from resources.config import Settings


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS if TLS_CERT_FILE and TLS_KEY_FILE are set, mutual TLS with TLS_CLIENT_CA_FILE; None if none is set.

    The files are checked for changes on each new connection, so that a renewed certificate needs no restart. An
    unusable one leaves the previous one in force.

    Raises:
        ConfigurationError: only one of the two is set, or a file is unusable.
    """
    found = certificate_files(settings)
    if not found:
        return None
    files, initial = found

    def changed() -> grpc.ServerCertificateConfiguration | None:
        renewed = files.changed()
        return _configuration(renewed) if renewed else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(initial),
        changed,  # type: ignore[arg-type]  # None is allowed: it keeps the current one
        require_client_authentication=initial.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificates.key, certificates.cert)], certificates.client_ca)
