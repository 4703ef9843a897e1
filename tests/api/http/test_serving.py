"""Running the gateway as an operator does: beside the server and alone, over TLS, stopped and refused."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from prometheus_client import CollectorRegistry

from api.grpc.server import GrpcServer
from api.http.compose import config_of
from api.http.context import Limits
from api.http.server import HttpServer
from api.http.upstream import Upstream
from resources.config import PROJECT_ROOT
from tests.conftest import sample, settings_for_tests
from tests.support.audio import voice, wav
from tests.support.certificates import Certificates
from tests.support.client_server import ChecksumService
from tests.support.http_gateway import TRANSCRIPTIONS, gateway
from tests.support.ports import free_port
from tests.support.processes import run, started
from tests.support.speech import TINY_MODEL
from tests.support.waiting import HANG_LIMIT_S, wait_until_equal

LOCAL = {"SERVER_HOST": "127.0.0.1", "SERVER_PORT": "0", "MODEL_DEVICE": "cpu", "MODEL_NAME": str(TINY_MODEL)}
START_S = 240


@contextmanager
def serving(*arguments: str, **settings: str) -> Iterator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    """A program with its gateway on a free port, once the port answers."""
    port = str(free_port())
    with (
        started(PROJECT_ROOT, *arguments, **{"HTTP_PORT": port, "LOGGING_LEVEL": "WARNING"} | settings) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_LIMIT_S) as client,
    ):
        yield client, process


def health_of(client: httpx.Client, process: "subprocess.Popen[str]") -> int | None:
    assert process.poll() is None, process.communicate()
    try:
        return client.get("/health").status_code
    except httpx.TransportError:
        return None  # not listening yet


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without a signal")
def test_program_serves_both_and_ends_well_on_sigterm() -> None:
    with serving("start.py", **LOCAL) as (client, process):
        wait_until_equal(lambda: health_of(client, process), 503, START_S)  # while the model is loaded
        wait_until_equal(lambda: health_of(client, process), 200, START_S)
        with sample("demo.wav").open("rb") as file:
            text = client.post(TRANSCRIPTIONS, files={"file": file}).json()["text"]
        assert text == sample("demo.txt").read_text(encoding="utf-8").strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_LIMIT_S) == 0
        assert process.stderr and not process.stderr.read()


def test_gateway_alone_serves_a_server_elsewhere() -> None:
    with gateway() as running:
        alone = serving("-m", "api.http", "--grpc", f"127.0.0.1:{running.grpc.port}")
        with alone as (client, process):
            wait_until_equal(lambda: health_of(client, process), 200, START_S)
            files = {"file": ("a.wav", wav(voice(0.5)))}
            assert client.post(TRANSCRIPTIONS, files=files).json()["text"].startswith("8000:")


def test_taken_port_is_refused_in_one_line_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments in (("start.py", "--http-port", port), ("-m", "api.http", "--port", port)):
            result = run(PROJECT_ROOT, *arguments, **LOCAL)
            assert result.returncode == 1
            assert len(result.stderr.strip().splitlines()) == 1 and f"{port}" in result.stderr
            assert "HTTP_PORT" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("flags", [("--nope",), ("--grpc-ca", "/nowhere"), ("--grpc-cert", "a")])
def test_flag_that_makes_no_sense_is_refused_in_one_line(flags: tuple[str, ...]) -> None:
    result = run(PROJECT_ROOT, "-m", "api.http", *flags)
    assert result.returncode == 1 and len(result.stderr.strip().splitlines()) == 1


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def answers(port: int, context: ssl.SSLContext) -> bool:
    """Whether the server answers a client that trusts and shows what `context` says."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), HANG_LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return b"200 OK" in connection.recv(4096)
    except (ssl.SSLError, ConnectionError):
        return False


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def test_certificate_is_shown_and_renewed_without_a_restart(certificates: Certificates) -> None:
    first = certificates.issue()
    with gateway(**certificates.settings) as running:
        assert answers(running.http.port, trusting(first))
        renewed = certificates.issue()
        assert answers(running.http.port, trusting(renewed)) and not answers(running.http.port, trusting(first))
        certificates.key_file.write_text("not a key")
        assert answers(running.http.port, trusting(renewed))


def test_mutual_tls_asks_for_a_certificate_of_the_authority(certificates: Certificates) -> None:
    authority = certificates.issue()
    with gateway(**certificates.settings, tls_client_ca_file=certificates.ca_file) as running:
        context = trusting(authority)
        assert not answers(running.http.port, context)
        authority.issue_cert("client@example.com").configure_cert(context)
        assert answers(running.http.port, context)


def test_stopping_one_after_the_other_loses_no_request() -> None:
    """As the program does it: HTTP first, then the service that its requests are calls of."""
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(running.post(wav(voice(0.5))).status_code))
        asking.start()
        assert service.asked.wait(HANG_LIMIT_S)

        def stop() -> None:
            running.http.stop(HANG_LIMIT_S)
            running.grpc.stop(HANG_LIMIT_S)

        stopping = threading.Thread(target=stop)
        stopping.start()
        service.may_answer.set()
        stopping.join()
        asking.join()
        assert answers == [200]


def test_private_address_is_for_this_user_alone() -> None:
    server = GrpcServer(ChecksumService(), settings_for_tests())
    address = server.bind_private()
    try:
        if address.startswith("unix:"):
            folder = Path(address.removeprefix("unix:")).parent
            assert folder.stat().st_mode & 0o077 == 0
    finally:
        server.start()
        server.stop()
    assert not address.startswith("unix:") or not folder.exists()


def not_started(upstream: type[Upstream]) -> HttpServer:
    """A gateway before a server that is not there."""
    settings = settings_for_tests()
    config = config_of(settings, Limits(settings.stream_max_bytes, HANG_LIMIT_S, 100))
    return HttpServer(config, lambda: upstream("127.0.0.1:1", None), CollectorRegistry())


def test_client_that_comes_before_the_start_is_answered_after_it() -> None:
    server = not_started(Upstream)
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_LIMIT_S) as early:
        early.sendall(b"GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        server.start()
        try:
            assert early.recv(12) == b"HTTP/1.1 404"
        finally:
            server.stop(0)


def test_gateway_stopped_as_it_starts_leaves_nothing_behind() -> None:
    ends: list[None] = []

    class Watched(Upstream):
        async def close(self) -> None:
            await super().close()
            ends.append(None)

    server = not_started(Watched)
    server.start()
    server.stop(0)
    assert ends == [None] and not server.is_alive
