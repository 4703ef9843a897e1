"""What the gateway's connections bear: headers, bodies and readers without end, pages of other addresses, bugs."""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from api.http import protocols
from api.http.upstream import Upstream
from generated.v1.transcription_pb2 import AudioChunk, Segment, TranscriptionUpdate
from tests.support.audio import voice, wav
from tests.support.client_server import ChecksumService
from tests.support.http_gateway import TRANSCRIPTIONS, RunningGateway, form, gateway, read_all, request_head
from tests.support.waiting import wait_until_equal

AUDIO = wav(voice(0.5))
ALLOWED, FOREIGN = "https://allowed.example", "https://foreign.example"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningGateway]:
    with gateway(http_allowed_origins=(ALLOWED,)) as both:
        yield both


def test_headers_that_do_not_end_are_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_TIMEOUT_S", 0.3)
    with gateway() as running:
        for sent in (b"", b"POST / HTTP/1.1\r\nX: y", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he"):
            with running.connect() as connection:
                connection.sendall(sent)
                with suppress(ConnectionResetError):
                    read_all(connection)


@pytest.mark.parametrize(
    "head",
    [b"GET /", b"GET / HTTP/1.1\r\nX: ", request_head("x/y", "Transfer-Encoding: chunked") + b"0\r\nX: "],
    ids=["line", "header", "trailer"],
)
def test_headers_over_the_limit_are_refused(running: RunningGateway, head: bytes) -> None:
    with running.connect() as connection:
        connection.sendall(head)
        answer = send_until_refused(connection)
        assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer)


def send_until_refused(connection: socket.socket) -> bytes:
    try:
        for _ in range(10_000):
            connection.sendall(b"x" * 10_000)
        raise AssertionError("100 MB of headers were taken")
    except (BrokenPipeError, ConnectionResetError):
        pass
    try:
        return read_all(connection)
    except ConnectionResetError:
        return b""


def test_body_of_a_request_that_is_answered_is_not_waited_for(running: RunningGateway) -> None:
    with running.connect() as connection:
        connection.sendall(request_head("text/plain", "Content-Length: 1000000000", path="/v1/models"))
        assert b" 405 " in read_all(connection)


class Talkative(ChecksumService):
    """Answers with more than all buffers on the way hold."""

    def TranscribeAudioIncremental(
        self, request_iterator: Iterator[AudioChunk], context: grpc.ServicerContext
    ) -> Iterator[TranscriptionUpdate]:
        for _ in request_iterator:
            pass
        for _ in range(500):
            yield TranscriptionUpdate(segment=Segment(text="x" * 100_000))


def test_reader_that_takes_nothing_is_ended() -> None:
    with gateway(Talkative(), idle_timeout_s=0.5) as running, running.connect() as connection:
        body, content_type = form(("stream", "true"), ("file", AUDIO))
        connection.sendall(request_head(content_type, f"Content-Length: {len(body)}") + body)
        labels = {"route": TRANSCRIPTIONS, "status": "200"}
        wait_until_equal(lambda: running.count("transcription_http_requests_total", **labels), 1.0)
        assert running.text_of(AUDIO)


def test_every_answer_says_what_a_browser_may_do_with_it(running: RunningGateway) -> None:
    for path in ("/", "/health", "/nowhere", "/docs", "/static/docs.js", "/openapi.json"):
        headers = running.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "http:" not in policy and "https:" not in policy and "*" not in policy and "unsafe-eval" not in policy


def test_page_allows_itself_no_script_or_style_inside(running: RunningGateway) -> None:
    response = running.client.get("/")
    assert "unsafe-inline" not in response.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", response.text)


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_pages_name_no_foreign_address(running: RunningGateway, page: str) -> None:
    html = running.client.get(page).text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert addresses or page == "/"
    for address in addresses:
        assert not re.match(r"(https?:)?//", address)
        if not address.startswith(("#", "data:")):
            assert running.client.get(address).status_code == 200


def test_form_from_a_page_of_another_address_is_refused(running: RunningGateway) -> None:
    own = f"http://127.0.0.1:{running.http.port}"
    for origin, status in ((FOREIGN, 403), ("null", 403), (own, 200), (ALLOWED, 200)):
        files = {"file": ("a.wav", AUDIO)}
        response = running.client.post(TRANSCRIPTIONS, files=files, headers={"origin": origin})
        assert response.status_code == status, origin
    assert running.text_of(AUDIO)  # no browser, no origin


def test_only_allowed_origins_may_read_answers(running: RunningGateway) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = running.client.options(TRANSCRIPTIONS, headers={"origin": ALLOWED} | asked)
    assert allowed.headers["access-control-allow-origin"] == ALLOWED
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    foreign = running.client.options(TRANSCRIPTIONS, headers={"origin": FOREIGN} | asked)
    assert "access-control-allow-origin" not in foreign.headers
    assert running.client.get("/health", headers={"origin": ALLOWED}).headers["access-control-allow-origin"] == ALLOWED


def test_without_allowed_origins_there_is_no_cors() -> None:
    with gateway() as running:
        response = running.client.get("/health", headers={"origin": FOREIGN})
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_bug_is_a_500_that_names_the_request_and_says_nothing_of_itself(
    running: RunningGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_arguments: Any) -> bool:
        raise RuntimeError("secret of /etc")

    monkeypatch.setattr(Upstream, "is_serving", broken)
    response = running.client.get("/health", headers={"x-request-id": "r-1"})
    assert response.status_code == 500 and response.headers["x-request-id"] == "r-1"
    assert "secret" not in response.text and response.json()["error"]["type"] == "server_error"
    wait_until_equal(lambda: "secret of /etc" in caplog.text and "r-1" in caplog.text, True)
    monkeypatch.setattr(Upstream, "transcribe", broken)
    assert running.post(AUDIO).status_code == 500


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "//etc/passwd"])
def test_no_path_leads_out_of_the_static_files(running: RunningGateway, path: str) -> None:
    with running.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in read_all(connection).splitlines()[0]


def test_file_name_is_neither_a_path_nor_part_of_an_answer(running: RunningGateway) -> None:
    for name in ("../../../../etc/passwd", "<img src=x onerror=alert(1)>.wav", "a\0b.wav", "x" * 3000 + ".wav"):
        response = running.post(AUDIO, name)
        assert response.status_code in (200, 400), name
        assert "passwd" not in response.text and "<img" not in response.text


def test_interface_is_described(running: RunningGateway) -> None:
    described = running.client.get("/openapi.json").json()
    operation = described["paths"][TRANSCRIPTIONS]["post"]
    fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"file", "model", "language", "prompt", "response_format", "stream"} <= set(fields)
    assert {"200", "400", "401", "413", "429", "503"} <= set(operation["responses"])
