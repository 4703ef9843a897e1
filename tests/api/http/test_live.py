"""WebSocket /v1/stream: audio up, updates down; bad messages, slow sides and clients that leave."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from api.http import live
from api.http.errors import ApiError
from generated.v1.transcription_pb2 import AudioChunk, Segment, TranscriptionUpdate
from tests.support.audio import SAMPLE_RATE, pcm, voice, wav
from tests.support.client_server import ChecksumService
from tests.support.http_gateway import RunningGateway, gateway
from tests.support.waiting import HANG_LIMIT_S, wait_until_equal

AUDIO = wav(voice(0.5))
END = json.dumps({"type": "end"})
TOKEN = "correct-horse"
START_FIELDS = ["filename", "format", "sample_rate", "language", "prompt", "channel_mode", "documents", "token"]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningGateway]:
    with gateway() as both:
        yield both


@contextmanager
def opened(running: RunningGateway, start: dict[str, Any] | None = None, **options: Any) -> Iterator[ClientConnection]:
    """A connection that has sent its first message."""
    with connect(f"ws://127.0.0.1:{running.http.port}{live.PATH}", open_timeout=HANG_LIMIT_S, **options) as connection:
        connection.send(json.dumps({"type": "start", "filename": "a.wav"} | (start or {})))
        yield connection


def send(connection: ClientConnection, audio_bytes: bytes, piece_bytes: int = 64 * 1024) -> None:
    for start in range(0, len(audio_bytes), piece_bytes):
        connection.send(audio_bytes[start : start + piece_bytes])
    connection.send(END)


def rest(connection: ClientConnection) -> list[dict[str, Any]]:
    """The messages until the server closes, but for those that acknowledge audio."""
    messages = []
    while True:
        try:
            message = json.loads(connection.recv(timeout=HANG_LIMIT_S))
        except ConnectionClosed:
            return messages
        if message["type"] != "received":
            messages.append(message)


def error_of(connection: ClientConnection) -> dict[str, Any]:
    message = rest(connection)[-1]
    assert message["type"] == "error"
    return dict(message["error"])


def test_segments_and_progress_come_before_the_response(running: RunningGateway) -> None:
    with opened(running, {"documents": ["srt", "text"]}) as connection:
        send(connection, wav(voice(70)))
        *updates, response = rest(connection)
        assert connection.close_code == 1000
    segments = [update["segment"] for update in updates if update["type"] == "segment"]
    assert len(segments) == 3 and updates[-1]["type"] == "progress"
    assert response["type"] == "response" and response["response"]["segments"] == segments
    assert response["documents"]["text"] == response["response"]["transcript"] + "\n"
    assert response["documents"]["srt"].startswith("1\n00:00:00,000 --> ")


def test_text_is_the_one_that_a_form_gets(running: RunningGateway) -> None:
    with opened(running) as connection:
        send(connection, AUDIO, piece_bytes=7)
        assert rest(connection)[-1]["response"]["transcript"] == running.text_of(AUDIO)


def test_pcm_is_taken_at_its_sample_rate(running: RunningGateway) -> None:
    with opened(running, {"filename": "", "format": "pcm", "sample_rate": 8000}) as connection:
        send(connection, pcm(voice(1, sample_rate=8000)))
        assert rest(connection)[-1]["response"]["audio_duration"] == pytest.approx(1)


def test_segments_come_while_audio_is_still_sent() -> None:
    with gateway() as running, opened(running) as connection:
        audio_bytes = wav(np.concatenate([voice(20), np.zeros(2 * SAMPLE_RATE, np.float32), voice(20)]))
        for start in range(0, len(audio_bytes) - 1000, 64 * 1024):
            connection.send(audio_bytes[start : min(start + 64 * 1024, len(audio_bytes) - 1000)])
        while (kind := json.loads(connection.recv(timeout=HANG_LIMIT_S))["type"]) == "received":
            pass
        assert kind == "segment"
        connection.send(audio_bytes[-1000:])
        connection.send(END)
        assert rest(connection)[-1]["type"] == "response"


def test_refused_content_is_an_error_with_the_services_code(running: RunningGateway) -> None:
    with opened(running) as connection:
        send(connection, b"not a sound" * 100)
        error = error_of(connection)
        assert (error["status"], error["code"], connection.close_code) == (400, "UNDECODABLE_AUDIO", 1008)


@pytest.mark.parametrize(
    "message",
    ["", "{", "[]", '{"type":"begin"}', '{"type":"start","sample_rate":"x"}', '{"type":"start","documents":["pdf"]}'],
)
def test_first_message_that_is_no_start_is_refused(running: RunningGateway, message: str) -> None:
    with connect(f"ws://127.0.0.1:{running.http.port}{live.PATH}") as connection:
        connection.send(message)
        assert error_of(connection)["status"] == 400


def test_audio_before_the_start_is_refused(running: RunningGateway) -> None:
    with connect(f"ws://127.0.0.1:{running.http.port}{live.PATH}") as connection:
        connection.send(AUDIO)
        assert error_of(connection)["code"] == "INVALID_MESSAGE"


def test_text_among_the_audio_is_refused(running: RunningGateway) -> None:
    with opened(running) as connection:
        connection.send(AUDIO[:100])
        connection.send("what?")
        assert error_of(connection)["code"] == "INVALID_MESSAGE"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner)).map(json.dumps))
def test_any_json_is_a_start_or_refused(message: str) -> None:
    with pytest.raises(ApiError):
        live.read_start(message)


@given(
    st.dictionaries(
        st.sampled_from(
            ["filename", "format", "sample_rate", "language", "prompt", "channel_mode", "documents", "token"]
        ),
        st.text() | st.integers() | st.none() | st.booleans() | st.lists(st.text()),
    )
)
def test_any_fields_of_a_start_are_taken_or_refused(fields: dict[str, Any]) -> None:
    try:
        assert live.read_start(json.dumps(fields | {"type": "start"})).audio.filename
    except ApiError as error:
        assert error.status == 400


def test_token_comes_as_a_header_or_in_the_first_message() -> None:
    with gateway(auth_token_hashes=(hashlib.sha256(TOKEN.encode()).hexdigest(),)) as running:
        with opened(running, {"token": "wrong"}) as connection:
            error = error_of(connection)
            assert (error["status"], error["code"]) == (401, "invalid_api_key")
        for start, headers in (({"token": TOKEN}, {}), ({}, {"Authorization": f"Bearer {TOKEN}"})):
            with opened(running, start, additional_headers=headers) as connection:
                send(connection, AUDIO)
                assert rest(connection)[-1]["type"] == "response"


def test_page_of_another_address_cannot_open_one(running: RunningGateway) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(running, origin="http://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    with opened(running, origin=f"http://127.0.0.1:{running.http.port}") as connection:
        send(connection, AUDIO)
        assert rest(connection)[-1]["type"] == "response"


def test_audio_over_the_limit_is_refused() -> None:
    with gateway(max_upload_bytes=1000) as running, opened(running) as connection:
        connection.send(AUDIO)
        assert error_of(connection)["status"] == 413 and connection.close_code == 1009


def test_message_over_the_limit_ends_the_connection(running: RunningGateway) -> None:
    with opened(running) as connection:
        connection.send(b"x" * (live.MAX_MESSAGE_BYTES + 1))
        rest(connection)
        assert connection.close_code == 1009


def test_client_that_falls_silent_is_ended_and_its_call_with_it() -> None:
    with gateway(idle_timeout_s=0.5) as running, opened(running) as connection:
        connection.send(AUDIO[:1000])
        assert error_of(connection)["code"] == "SLOW_UPLOAD"
        wait_until_equal(lambda: running.grpc_calls_in_flight, 0)


def test_client_that_leaves_cancels_its_call() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        with opened(running) as connection:
            send(connection, AUDIO)
            assert service.asked.wait(HANG_LIMIT_S)
        assert service.saw_cancellation.wait(HANG_LIMIT_S)


class Talkative(ChecksumService):
    """Answers with more than all buffers on the way hold."""

    def TranscribeAudioIncremental(
        self, request_iterator: Iterator[AudioChunk], context: grpc.ServicerContext
    ) -> Iterator[TranscriptionUpdate]:
        for _ in request_iterator:
            pass
        self.asked.set()
        for _ in range(500):
            yield TranscriptionUpdate(segment=Segment(text="x" * 100_000))


def test_client_that_keeps_within_the_window_is_seen_to_leave_while_it_is_held_back() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    audio_bytes = wav(np.tile(voice(60), 20))
    with gateway(service) as running:
        with opened(running) as connection:
            sent = taken = 0
            while sent < len(audio_bytes):
                while sent - taken > live.WINDOW_BYTES - 64 * 1024:
                    try:
                        taken = json.loads(connection.recv(timeout=1))["bytes"]
                    except TimeoutError:
                        break  # held back: the service waits for its recogniser
                else:
                    connection.send(audio_bytes[sent : sent + 64 * 1024])
                    sent += 64 * 1024
                    continue
                break
            assert taken < sent < len(audio_bytes)
        assert service.saw_cancellation.wait(HANG_LIMIT_S)


def test_acknowledgements_add_up_to_the_audio(running: RunningGateway) -> None:
    with opened(running) as connection:
        send(connection, AUDIO, piece_bytes=1000)
        acknowledged = []
        while (message := json.loads(connection.recv(timeout=HANG_LIMIT_S)))["type"] == "received":
            acknowledged.append(message["bytes"])
        assert acknowledged == sorted(acknowledged) and acknowledged[-1] == len(AUDIO)


def test_client_that_takes_nothing_is_ended() -> None:
    service = Talkative()
    with gateway(service, idle_timeout_s=0.5) as running, opened(running, max_queue=1, close_timeout=1) as connection:
        send(connection, AUDIO)
        assert service.asked.wait(HANG_LIMIT_S)
        wait_until_equal(lambda: running.count("transcription_http_in_flight"), 0.0)
        wait_until_equal(lambda: running.grpc_calls_in_flight, 0)


def test_client_that_is_held_back_for_long_is_not_taken_for_gone() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    audio_bytes = wav(np.tile(voice(60), 20))
    with gateway(service, idle_timeout_s=1.0) as running, opened(running) as connection:
        sender = threading.Thread(target=send, args=(connection, audio_bytes))
        sender.start()
        assert service.asked.wait(HANG_LIMIT_S)
        sender.join(3)  # three times the timeout
        assert sender.is_alive()
        service.may_answer.set()
        sender.join()
        assert rest(connection)[-1]["type"] == "response"


def test_stopping_server_answers_what_is_under_way() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running, opened(running) as connection:
        send(connection, AUDIO)
        assert service.asked.wait(HANG_LIMIT_S)
        stopping = threading.Thread(target=running.http.stop, args=(HANG_LIMIT_S,))
        stopping.start()
        service.may_answer.set()
        assert rest(connection)[-1]["type"] == "response"
        stopping.join()
