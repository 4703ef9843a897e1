"""Access: tokens, TLS with and without client certificates, and the warning about an open address."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc import auth, tls
from api.grpc.auth import TokenCheck
from api.grpc.server import SERVICE_NAME, TranscriptionServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import ConfigurationError
from tests.conftest import FakeService, Serve, settings_for_tests
from tests.support.audio import voice_wav as wav

TOKEN, OTHER_TOKEN = "correct-horse", "battery-staple"
LOCAL = [("grpc.use_local_subchannel_pool", 1)]  # every channel of these tests makes a connection of its own
PATIENCE_S = 10

Metadata = list[tuple[str, str]]


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(token: str) -> Metadata:
    return [("authorization", f"Bearer {token}")]


@contextmanager
def running(**values: object) -> Iterator[TranscriptionServer]:
    """A server around a fake recogniser."""
    server = TranscriptionServer(FakeService(), settings_for_tests(**values))
    try:
        server.start()
        yield server
    finally:
        server.stop()


def request() -> transcription_pb2.AudioRequest:
    return transcription_pb2.AudioRequest(audio_data=wav(0.3), filename="a.wav")


def status_of(call: grpc.UnaryUnaryMultiCallable, metadata: Metadata) -> grpc.StatusCode:
    """How a call with `metadata` ends."""
    try:
        assert call(request(), metadata=metadata, timeout=PATIENCE_S).success
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# --- Tokens ---


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([], grpc.StatusCode.UNAUTHENTICATED),
        (bearer("wrong"), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(""), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(hash_of(TOKEN)), grpc.StatusCode.UNAUTHENTICATED),  # knowing the settings is not knowing the token
        ([("authorization", TOKEN)], grpc.StatusCode.UNAUTHENTICATED),
        ([("authorization", f"Basic {TOKEN}")], grpc.StatusCode.UNAUTHENTICATED),
        ([("x-authorization", f"Bearer {TOKEN}")], grpc.StatusCode.UNAUTHENTICATED),
        (bearer(TOKEN), grpc.StatusCode.OK),
        (bearer(OTHER_TOKEN), grpc.StatusCode.OK),
        ([("authorization", f"bearer {TOKEN}")], grpc.StatusCode.OK),  # the scheme's case does not matter: RFC 7235
    ],
    ids=lambda value: value.name if isinstance(value, grpc.StatusCode) else None,
)
def test_call_is_let_in_only_with_a_known_token(serve: Serve, metadata: Metadata, expected: grpc.StatusCode) -> None:
    service = FakeService()
    stub = serve(service, auth_token_hashes=f"{hash_of(TOKEN)}, {hash_of(OTHER_TOKEN).upper()}")
    assert status_of(stub.TranscribeAudio, metadata) is expected
    assert bool(service.recognised) is (expected is grpc.StatusCode.OK)


def test_every_call_of_the_contract_asks_for_the_token(serve: Serve) -> None:
    stub = serve(FakeService(), auth_token_hashes=hash_of(TOKEN))
    for name in transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].methods_by_name:
        call = getattr(stub, name)
        with pytest.raises(grpc.RpcError) as refusal:
            answer = call(request() if name == "TranscribeAudio" else iter(()), timeout=PATIENCE_S)
            list(answer)  # a call that answers with a stream fails only once it is read
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


def test_message_of_a_caller_without_a_token_is_not_even_parsed() -> None:
    """What is no protobuf at all is UNAUTHENTICATED without the token, and grpc's own complaint with it."""
    with (
        running(auth_token_hashes=hash_of(TOKEN)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}", options=LOCAL) as channel,
    ):
        call = channel.unary_unary(f"/{SERVICE_NAME}/TranscribeAudio")
        for metadata, expected in ((None, "UNAUTHENTICATED"), (bearer(TOKEN), "INTERNAL")):
            with pytest.raises(grpc.RpcError) as refusal:
                call(b"\xff" * 100, metadata=metadata, timeout=PATIENCE_S)
            assert refusal.value.code().name == expected


def test_upload_of_a_caller_without_a_token_is_not_taken_in(serve: Serve) -> None:
    sent = 0

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        nonlocal sent
        for _ in range(1600):  # 100 MiB
            sent += 65_536
            yield transcription_pb2.AudioChunk(chunk_data=bytes(65_536), filename="a.raw", format="pcm")

    stub = serve(FakeService(), auth_token_hashes=hash_of(TOKEN))
    with pytest.raises(grpc.RpcError) as refusal:
        stub.TranscribeAudioStream(upload(), timeout=PATIENCE_S)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert sent < 50_000_000  # what was on its way when the refusal came


def test_health_check_needs_no_token() -> None:
    with (
        running(auth_token_hashes=hash_of(TOKEN)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}", options=LOCAL) as channel,
    ):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("token", [TOKEN, OTHER_TOKEN, "wrong", ""])
def test_comparison_takes_the_same_steps_for_every_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """Every known hash is compared, by hmac.compare_digest, whichever matches; `==` and early ends would show."""
    compared = []

    def compare(given: str, known: str) -> bool:
        compared.append(known)
        return len(given) == len(known) == 64 and given == known

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    hashes = [hash_of(name) for name in (TOKEN, "second", OTHER_TOKEN, "fourth")]
    assert TokenCheck(hashes).allows(bearer(token)) is (token in (TOKEN, OTHER_TOKEN))
    assert compared == hashes


@pytest.mark.parametrize("value", ["secret", "0" * 63, hash_of(TOKEN) + ",token"])
def test_setting_that_is_no_list_of_hashes_stops_the_start(value: str) -> None:
    """A token itself, put into the settings by mistake, is not silently a hash that nothing matches."""
    with pytest.raises(ValueError, match="SHA-256"):
        settings_for_tests(auth_token_hashes=value)


# --- TLS ---


class Certificates:
    """PEM files of one authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert_file, self.key_file, self.ca_file = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))

    def issue(self, *names: str) -> trustme.CA:
        """Writes a certificate of a new authority; the authority."""
        authority = trustme.CA()
        issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        self.cert_file.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.key_file.write_bytes(issued.private_key_pem.bytes())
        self.ca_file.write_bytes(authority.cert_pem.bytes())
        return authority

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert_file": self.cert_file, "tls_key_file": self.key_file}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def secure_status(port: int, trusted: trustme.CA, client: trustme.LeafCert | None = None) -> grpc.StatusCode:
    """How a call over a new TLS connection ends, for a client that trusts `trusted`."""
    key = client.private_key_pem.bytes() if client else None
    chain = client.cert_chain_pems[0].bytes() if client else None
    credentials = grpc.ssl_channel_credentials(trusted.cert_pem.bytes(), key, chain)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=LOCAL) as channel:
        return status_of(transcription_pb2_grpc.TranscriptionServiceStub(channel).TranscribeAudio, [])


def test_server_with_a_certificate_answers_over_tls_and_only_to_who_trusts_it(certificates: Certificates) -> None:
    authority = certificates.issue()
    with running(**certificates.settings) as server:
        assert secure_status(server.port, authority) is grpc.StatusCode.OK
        assert secure_status(server.port, trustme.CA()) is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=LOCAL) as channel:
            stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
            assert status_of(stub.TranscribeAudio, []) is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_lets_in_only_clients_of_the_named_authority(certificates: Certificates) -> None:
    authority = certificates.issue()
    with running(**certificates.settings, tls_client_ca_file=certificates.ca_file) as server:
        assert secure_status(server.port, authority, authority.issue_cert("client")) is grpc.StatusCode.OK
        assert secure_status(server.port, authority) is grpc.StatusCode.UNAVAILABLE
        stranger = trustme.CA().issue_cert("client")
        assert secure_status(server.port, authority, stranger) is grpc.StatusCode.UNAVAILABLE


def test_tokens_are_asked_for_over_tls_too(certificates: Certificates) -> None:
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
        grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options=LOCAL) as channel,
    ):
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        assert status_of(stub.TranscribeAudio, []) is grpc.StatusCode.OK
        certificates.issue()
        assert status_of(stub.TranscribeAudio, []) is grpc.StatusCode.OK


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
    (tmp_path / "next").mkdir()
    renewed = Certificates(tmp_path / "next")
    renewed.issue()
    files = tls._CertificateFiles(certificates.cert_file, certificates.key_file, None)
    check = files._check

    def check_and_be_overtaken() -> None:
        check()
        certificates.cert_file.write_bytes(renewed.cert_file.read_bytes())

    monkeypatch.setattr(files, "_check", check_and_be_overtaken)
    assert files.changed() is None


def test_renewal_half_written_leaves_the_old_certificate_in_force(certificates: Certificates, tmp_path: Path) -> None:
    """The new certificate is there, its key is not yet: the two do not fit together."""
    old = certificates.issue()
    (tmp_path / "next").mkdir()
    renewed = Certificates(tmp_path / "next")
    new = renewed.issue()
    with running(**certificates.settings) as server:
        certificates.cert_file.write_bytes(renewed.cert_file.read_bytes())
        assert secure_status(server.port, old) is grpc.StatusCode.OK
        certificates.key_file.write_bytes(renewed.key_file.read_bytes())
        assert secure_status(server.port, new) is grpc.StatusCode.OK


@pytest.mark.parametrize("given", [{"tls_cert_file"}, {"tls_key_file"}, {"tls_client_ca_file"}])
def test_half_of_the_tls_settings_stops_the_start(certificates: Certificates, given: set[str]) -> None:
    """Above all an authority without a certificate: the address would be open though somebody meant to close it."""
    certificates.issue()
    files = {**certificates.settings, "tls_client_ca_file": certificates.ca_file}
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE"):
        TranscriptionServer(FakeService(), settings_for_tests(**{name: files[name] for name in given}))


@pytest.mark.parametrize("content", [None, "not a PEM"], ids=["missing", "unusable"])
@pytest.mark.parametrize("spoiled", ["cert_file", "key_file", "ca_file"])
def test_tls_file_that_cannot_be_used_stops_the_start(
    certificates: Certificates, spoiled: str, content: str | None
) -> None:
    certificates.issue()
    path: Path = getattr(certificates, spoiled)
    path.write_text(content) if content else path.unlink()
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE") as refusal:
        TranscriptionServer(
            FakeService(), settings_for_tests(**certificates.settings, tls_client_ca_file=certificates.ca_file)
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
