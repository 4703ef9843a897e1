"""A thousand HTTP requests, faults among them: each has the outcome that its kind must have, and nothing is left."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support import recordings
from tests.support.audio import voice, wav
from tests.support.http_gateway import TRANSCRIPTIONS, RunningGateway, form, gateway, request_head
from tests.support.waiting import HANG_LIMIT_S, wait_until_equal

REQUESTS, CLIENTS = 1000, 8
LIMIT_BYTES = 1_000_000
AUDIO = wav(voice(0.5))

Send = Callable[[RunningGateway], str]


def posted(audio_bytes: bytes, name: str = "a.wav", **fields: str) -> Send:
    def send(running: RunningGateway) -> str:
        response = running.post(audio_bytes, name, **fields)
        return "OK" if response.status_code == 200 else str(response.json()["error"]["code"])

    return send


def streamed(running: RunningGateway) -> str:
    response = running.post(AUDIO, stream="true")
    return "OK" if '"transcript.text.done"' in response.text else response.text


def spoken_live(running: RunningGateway) -> str:
    with connect(f"ws://127.0.0.1:{running.http.port}/v1/stream", open_timeout=HANG_LIMIT_S) as socket:
        socket.send('{"type":"start","filename":"a.wav"}')
        for start in range(0, len(AUDIO), 4096):
            socket.send(AUDIO[start : start + 4096])
        socket.send('{"type":"end"}')
        last: dict[str, str] = {}
        try:
            while True:
                last = json.loads(socket.recv(timeout=HANG_LIMIT_S))
        except ConnectionClosed:
            return "OK" if last.get("type") == "response" else str(last)


def without_a_form(running: RunningGateway) -> str:
    return str(running.client.post(TRANSCRIPTIONS, content=b"no form").json()["error"]["code"])


def cut_short(running: RunningGateway) -> str:
    body, content_type = form(("model", "m"), ("file", AUDIO))
    answer = running.client.post(TRANSCRIPTIONS, content=body[:-10], headers={"content-type": content_type})
    return str(answer.json()["error"]["code"])


def leaving(running: RunningGateway) -> str:
    body, content_type = form(("model", "m"), ("file", AUDIO))
    with running.connect() as connection:
        connection.sendall(request_head(content_type, f"Content-Length: {len(body)}") + body[: len(body) // 2])
    return "left"


KINDS: dict[str, tuple[Send, str]] = {
    "form": (posted(AUDIO), "OK"),
    "mp3": (posted(recordings.recording("mp3", 2), "a.mp3"), "OK"),
    "subtitles": (posted(AUDIO, response_format="srt"), "OK"),
    "stream": (streamed, "OK"),
    "websocket": (spoken_live, "OK"),
    "not audio": (posted(recordings.text()), "UNDECODABLE_AUDIO"),
    "empty": (posted(b""), "EMPTY_AUDIO"),
    "wrong format": (posted(AUDIO, "a.exe"), "UNSUPPORTED_FORMAT"),
    "wrong field": (posted(AUDIO, response_format="pdf"), "INVALID_FIELD"),
    "too large": (posted(bytes(LIMIT_BYTES + 1)), "UPLOAD_TOO_LARGE"),
    "no form": (without_a_form, "INVALID_FORM"),
    "cut short": (cut_short, "INVALID_FORM"),
    "leaving": (leaving, "left"),
}


@pytest.fixture
def running() -> Iterator[RunningGateway]:
    with gateway(stream_max_bytes=LIMIT_BYTES, server_max_waiting=1000) as both:
        yield both


@pytest.mark.slow
def test_a_thousand_requests_with_faults_among_them_lose_none(running: RunningGateway) -> None:
    kinds = random.Random(1).choices(list(KINDS), k=REQUESTS)
    lost: Counter[str] = Counter()
    lock = threading.Lock()

    def ask(kind: str) -> None:
        send, expected = KINDS[kind]
        outcome = send(running)
        if outcome != expected:
            with lock:
                lost[f"{kind}: {outcome}"] += 1

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, kinds))
    assert lost == Counter()
    wait_until_equal(lambda: running.count("transcription_http_in_flight"), 0.0)
    wait_until_equal(lambda: running.grpc_calls_in_flight, 0)
    assert running.text_of(AUDIO)
