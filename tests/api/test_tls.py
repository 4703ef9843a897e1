"""TLS with and without client certificates, renewed certificates, and the warning about an open address."""

import logging
import ssl
from pathlib import Path

import grpc
import pytest
import trustme

from api.certificates import CertificateFiles
from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2_grpc
from resources.config import ConfigurationError
from tests.conftest import settings_for_tests
from tests.support.certificates import TOKEN, Certificates, hash_of
from tests.support.fault_services import NumberingService
from tests.support.running import OWN_CONNECTION, channel_to, running, status_of


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def secure_status(port: int, trusted: trustme.CA, client: trustme.LeafCert | None = None) -> grpc.StatusCode:
    """How a call over a new TLS connection ends, for a client that trusts `trusted`."""
    key = client.private_key_pem.bytes() if client else None
    chain = client.cert_chain_pems[0].bytes() if client else None
    credentials = grpc.ssl_channel_credentials(trusted.cert_pem.bytes(), key, chain)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=OWN_CONNECTION) as channel:
        return status_of(transcription_pb2_grpc.TranscriptionServiceStub(channel).TranscribeAudio)


def test_server_with_a_certificate_answers_only_clients_that_trust_it(
    certificates: Certificates,
) -> None:
    authority = certificates.issue()
    with running(**certificates.settings) as server:
        assert secure_status(server.port, authority) is grpc.StatusCode.OK
        assert secure_status(server.port, trustme.CA()) is grpc.StatusCode.UNAVAILABLE
        with channel_to(server.port) as channel:
            stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
            assert status_of(stub.TranscribeAudio) is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_admits_only_clients_of_the_named_authority(certificates: Certificates) -> None:
    authority = certificates.issue()
    with running(**certificates.settings, tls_client_ca_file=certificates.ca_file) as server:
        assert secure_status(server.port, authority, authority.issue_cert("client")) is grpc.StatusCode.OK
        assert secure_status(server.port, authority) is grpc.StatusCode.UNAVAILABLE
        other = trustme.CA().issue_cert("client")
        assert secure_status(server.port, authority, other) is grpc.StatusCode.UNAVAILABLE


def test_tokens_are_required_over_tls_too(certificates: Certificates) -> None:
    authority = certificates.issue()
    with running(**certificates.settings, auth_token_hashes=hash_of(TOKEN)) as server:
        assert secure_status(server.port, authority) is grpc.StatusCode.UNAUTHENTICATED


def test_renewed_certificate_is_used_without_a_restart(certificates: Certificates) -> None:
    old = certificates.issue()
    with running(**certificates.settings) as server:
        assert secure_status(server.port, old) is grpc.StatusCode.OK
        new = certificates.issue()
        assert secure_status(server.port, new) is grpc.StatusCode.OK
        assert secure_status(server.port, old) is grpc.StatusCode.UNAVAILABLE


def test_calls_go_on_over_connections_made_before_the_renewal(certificates: Certificates) -> None:
    credentials = grpc.ssl_channel_credentials(certificates.issue().cert_pem.bytes())
    with (
        running(**certificates.settings) as server,
        grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options=OWN_CONNECTION) as channel,
    ):
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        assert status_of(stub.TranscribeAudio) is grpc.StatusCode.OK
        certificates.issue()
        assert status_of(stub.TranscribeAudio) is grpc.StatusCode.OK


@pytest.mark.parametrize("spoiled", ["cert_file", "key_file"])
def test_renewal_that_cannot_be_used_leaves_the_old_certificate_in_force_until_it_can(
    certificates: Certificates, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = certificates.issue()
    with running(**certificates.settings) as server:
        assert secure_status(server.port, old) is grpc.StatusCode.OK
        getattr(certificates, spoiled).write_text("not a PEM")
        assert secure_status(server.port, old) is grpc.StatusCode.OK
        assert "действует прежний" in caplog.text
        new = certificates.issue()
        assert secure_status(server.port, new) is grpc.StatusCode.OK


def test_renewal_that_cannot_be_used_is_warned_about_once_and_not_on_every_connection(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    old = certificates.issue()
    with running(**certificates.settings) as server:
        certificates.key_file.write_text("not a PEM")
        for _ in range(3):
            assert secure_status(server.port, old) is grpc.StatusCode.OK
        assert caplog.text.count("действует прежний") == 1
        certificates.cert_file.unlink()
        for _ in range(3):
            assert secure_status(server.port, old) is grpc.StatusCode.OK
        assert caplog.text.count("действует прежний") == 2


def test_renewal_in_the_middle_of_its_check_leaves_the_old_certificate_in_force(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.issue()
    renewed = Certificates(tmp_path / "next")
    renewed.issue()
    files = CertificateFiles(certificates.cert_file, certificates.key_file, None)
    check = files._context

    def check_and_then_renew() -> ssl.SSLContext:
        context = check()
        certificates.cert_file.write_bytes(renewed.cert_file.read_bytes())
        return context

    monkeypatch.setattr(files, "_context", check_and_then_renew)
    assert files.changed() is None


def test_renewal_half_written_leaves_the_old_certificate_in_force(certificates: Certificates, tmp_path: Path) -> None:
    """The new certificate is there, its key is not yet: the two do not match."""
    old = certificates.issue()
    renewed = Certificates(tmp_path / "next")
    new = renewed.issue()
    with running(**certificates.settings) as server:
        certificates.cert_file.write_bytes(renewed.cert_file.read_bytes())
        assert secure_status(server.port, old) is grpc.StatusCode.OK
        certificates.key_file.write_bytes(renewed.key_file.read_bytes())
        assert secure_status(server.port, new) is grpc.StatusCode.OK


@pytest.mark.parametrize("given", [{"tls_cert_file"}, {"tls_key_file"}, {"tls_client_ca_file"}])
def test_half_of_the_tls_settings_stops_the_start(certificates: Certificates, given: set[str]) -> None:
    """A client authority without a certificate would leave the address open, against the intention."""
    certificates.issue()
    files = {**certificates.settings, "tls_client_ca_file": certificates.ca_file}
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE"):
        GrpcServer(NumberingService(), settings_for_tests(**{name: files[name] for name in given}))


@pytest.mark.parametrize("content", [None, "not a PEM"], ids=["missing", "unusable"])
@pytest.mark.parametrize("spoiled", ["cert_file", "key_file", "ca_file"])
def test_tls_file_that_cannot_be_used_stops_the_start(
    certificates: Certificates, spoiled: str, content: str | None
) -> None:
    certificates.issue()
    path: Path = getattr(certificates, spoiled)
    path.write_text(content) if content else path.unlink()
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE") as refusal:
        GrpcServer(
            NumberingService(), settings_for_tests(**certificates.settings, tls_client_ca_file=certificates.ca_file)
        )
    assert str(certificates.folder) not in str(refusal.value)


# --- An open address ---


def warnings_at_start(caplog: pytest.LogCaptureFixture, **values: object) -> list[str]:
    with running(**values):
        pass
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_open_address_without_tls_and_tokens_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_at_start(caplog, server_host="0.0.0.0")
    assert "0.0.0.0" in warning and "TLS_CERT_FILE" in warning and "AUTH_TOKEN_HASHES" in warning


def test_address_with_tokens_or_tls_or_on_loopback_is_not_warned_about(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    certificates.issue()
    assert warnings_at_start(caplog, server_host="0.0.0.0", auth_token_hashes=hash_of(TOKEN)) == []
    assert warnings_at_start(caplog, server_host="0.0.0.0", **certificates.settings) == []
    assert warnings_at_start(caplog, server_host="127.0.0.1") == []
