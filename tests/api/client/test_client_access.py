"""TLS, mutual TLS and tokens between the client and a real server, with certificates made for the test."""

from pathlib import Path
from typing import ClassVar

import grpc
import pytest

from api.grpc.client import RetryPolicy, TranscriptionClient
from api.grpc.client.cli import main
from tests.support.certificates import TOKEN, Certificates, hash_of
from tests.support.client_server import expected_text, serving

HOST = "127.0.0.1"
HASHES = hash_of(TOKEN)


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    """The certificate of the server."""
    return issued(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Certificates:
    """A certificate of another authority."""
    return issued(tmp_path / "theirs")


def issued(folder: Path, host: str = HOST) -> Certificates:
    certificates = Certificates(folder)
    certificates.issue(host)
    return certificates


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--tls"]])
def test_command_speaks_tls_with_a_server_of_a_known_authority(
    ours: Certificates, recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(**ours.settings) as port:
        assert main([str(recording), "--address", f"{HOST}:{port}", "--ca", str(ours.ca_file), *flags]) == 0
    assert capsys.readouterr().out == expected_text(recording) + "\n"


def test_server_of_an_unknown_authority_is_not_trusted(
    ours: Certificates, theirs: Certificates, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(**theirs.settings) as port:
        for flags in (["--ca", str(ours.ca_file)], ["--tls"]):
            assert main([str(recording), "--address", f"{HOST}:{port}", *flags]) == 2
            assert "сертификат сервера не принят" in one_line(capsys)


class CountingPolicy(RetryPolicy):
    """The usual policy; keeps what it decides."""

    pauses_s: ClassVar[list[float | None]] = []

    def pause_s(self, attempts_made: int, error: grpc.RpcError) -> float | None:
        self.pauses_s.append(super().pause_s(attempts_made, error))
        return self.pauses_s[-1]


def test_call_that_fails_in_the_tls_handshake_is_not_repeated(
    ours: Certificates, theirs: Certificates, recording: Path
) -> None:
    with (
        serving(**theirs.settings) as port,
        TranscriptionClient(f"{HOST}:{port}", ca_file=ours.ca_file, retry=CountingPolicy()) as client,
        pytest.raises(grpc.RpcError),
    ):
        client.transcribe(recording)
    assert CountingPolicy.pauses_s == [None]


def test_server_with_a_certificate_for_another_name_is_not_trusted(
    tmp_path: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    misnamed = issued(tmp_path / "misnamed", "elsewhere.example")
    with serving(**misnamed.settings) as port:
        assert main([str(recording), "--address", f"{HOST}:{port}", "--ca", str(misnamed.ca_file)]) == 2
    assert "выдан на другое имя" in one_line(capsys)


def test_side_without_tls_is_named_when_only_the_other_has_it(
    ours: Certificates, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as port:
        assert main([str(recording), "--address", f"{HOST}:{port}", "--ca", str(ours.ca_file)]) == 2
        assert "сервер говорит без TLS" in one_line(capsys)
    with serving(**ours.settings) as port:
        assert main([str(recording), "--address", f"{HOST}:{port}", "--attempts", "1"]) == 2
        assert "--tls" in one_line(capsys)


def test_mutual_tls_admits_only_certificates_of_the_right_authority(
    ours: Certificates, theirs: Certificates, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(**ours.settings, tls_client_ca_file=theirs.ca_file) as port:
        command = [str(recording), "--address", f"{HOST}:{port}", "--ca", str(ours.ca_file), "--attempts", "1"]
        assert main([*command, *theirs.client_flags]) == 0
        assert capsys.readouterr().out == expected_text(recording) + "\n"
        for flags in ([], ours.client_flags):  # no certificate, and one of another authority
            assert main([*command, *flags]) == 2
            assert "--cert" in one_line(capsys)


def test_renewed_certificate_is_served_without_a_restart(ours: Certificates, recording: Path) -> None:
    with serving(**ours.settings) as port:
        old_ca = ours.ca_file.read_bytes()
        with TranscriptionClient(f"{HOST}:{port}", ca_file=ours.ca_file) as earlier:
            assert earlier.transcribe(recording).success
            ours.issue()
            with TranscriptionClient(f"{HOST}:{port}", ca_file=ours.ca_file) as later:
                assert later.transcribe(recording).success
            ours.ca_file.write_bytes(old_ca)
            with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
                TranscriptionClient(f"{HOST}:{port}", ca_file=ours.ca_file).transcribe(recording)
            assert earlier.transcribe(recording).success  # over its connection from before


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--ca", "nowhere.pem"], "Не удалось прочитать файл nowhere.pem"),
        (["--ca", "RECORDING"], "не файл PEM"),
        (["--cert", "RECORDING"], "только вместе"),
        (["--key", "RECORDING"], "только вместе"),
        (["--token", "два слова"], "ASCII"),
    ],
)
def test_invalid_files_and_tokens_are_named_before_any_call(
    recording: Path, flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(recording) if flag == "RECORDING" else flag for flag in flags]
    assert main([str(recording), "--address", f"{HOST}:1", *flags]) == 2
    assert complaint in one_line(capsys)


def test_damaged_certificate_is_named_as_the_cause(
    ours: Certificates, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(**ours.settings) as port:
        ours.ca_file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        assert main([str(recording), "--address", f"{HOST}:{port}", "--ca", str(ours.ca_file)]) == 2
    assert "испорчен" in one_line(capsys)


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_token_from_a_flag_or_the_environment_is_accepted(
    recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(auth_token_hashes=HASHES) as port:
        command = [str(recording), "--address", f"{HOST}:{port}", *flags]
        assert main([*command, "--token", TOKEN]) == 0
        monkeypatch.setenv("TRANSCRIPTION_TOKEN", TOKEN + "\n")
        assert main(command) == 0
        assert main([*command, "--token", "another"]) == 2  # a flag beats the environment
    assert capsys.readouterr().out == 2 * (expected_text(recording) + "\n")


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--token", "wrong"]])
def test_call_without_a_valid_token_ends_with_one_line_that_says_so(
    recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(auth_token_hashes=HASHES) as port:
        assert main([str(recording), "--address", f"{HOST}:{port}", *flags]) == 2
    line = one_line(capsys)
    assert "[UNAUTHENTICATED]" in line and "TRANSCRIPTION_TOKEN" in line and "wrong" not in line


def test_token_sent_unencrypted_is_warned_about(
    ours: Certificates, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = [str(recording), "--address", "0.0.0.0:1", "--attempts", "1", "--token", TOKEN]
    assert main(elsewhere) == 2
    assert "открытым текстом" in capsys.readouterr().err
    assert main([*elsewhere, "--ca", str(ours.ca_file)]) == 2
    assert "открытым текстом" not in capsys.readouterr().err
