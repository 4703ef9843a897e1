"""POST /v1/audio/transcriptions against a real service: order of fields, formats, limits, and clients that leave."""

import hashlib
import json
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from api.http import transcriptions
from tests.support.audio import SAMPLE_RATE, voice, wav
from tests.support.client_server import ChecksumService
from tests.support.http_gateway import (
    TRANSCRIPTIONS,
    RunningGateway,
    form,
    gateway,
    read_all,
    request_head,
)
from tests.support.waiting import HANG_LIMIT_S, wait_until_equal

TOKEN = "correct-horse"
AUDIO = wav(voice(0.5))


@pytest.fixture(scope="module")
def running() -> Iterator[RunningGateway]:
    with gateway() as both:
        yield both


def send_form(running: RunningGateway, body: bytes, content_type: str) -> httpx.Response:
    return running.client.post(TRANSCRIPTIONS, content=body, headers={"content-type": content_type})


def events_of(response: httpx.Response) -> list[dict[str, object]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def test_every_byte_of_the_file_arrives(running: RunningGateway) -> None:
    text = running.text_of(AUDIO)
    assert text.startswith("8000:")
    assert running.text_of(wav(voice(0.5, seed=1))) != text


def test_fields_may_come_before_or_after_the_file(running: RunningGateway) -> None:
    expected = running.text_of(AUDIO)
    for parts in (
        [("model", "m"), ("response_format", "text"), ("file", AUDIO)],
        [("file", AUDIO), ("model", "m"), ("response_format", "text")],
        [("model", "m"), ("file", AUDIO), ("response_format", "text")],
    ):
        assert send_form(running, *form(*parts)).text == expected + "\n"


def test_call_fields_after_a_short_file_are_heeded(running: RunningGateway) -> None:
    body, content_type = form(("file", AUDIO), ("model", "m"), ("language", "ru"), ("prompt", "Казань"))
    assert send_form(running, body, content_type).status_code == 200


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("file", b"\0" * (transcriptions.HELD_BYTES + 1)), ("language", "ru")], "language"),
        ([("model", "m"), ("file", AUDIO), ("prompt", "Казань")], "prompt"),
        (
            [("response_format", "verbose_json"), ("file", AUDIO), ("timestamp_granularities[]", "word")],
            "timestamp_granularities[]",
        ),
    ],
    ids=["long file first", "fields around the file", "words after the file"],
)
def test_call_field_that_comes_too_late_is_refused_by_name(
    running: RunningGateway, parts: list[tuple[str, bytes | str]], param: str
) -> None:
    response = send_form(running, *form(*parts))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "FIELD_AFTER_FILE", param)
    assert "перед файлом" in error["message"]


def test_words_may_be_asked_for_after_a_long_file_that_comes_first(running: RunningGateway) -> None:
    long = wav(voice(60))
    assert len(long) > transcriptions.HELD_BYTES
    parts = [("file", long), ("timestamp_granularities[]", "word"), ("response_format", "verbose_json")]
    response = send_form(running, *form(*parts))
    assert response.status_code == 200 and "words" in response.json()


def test_options_may_come_in_the_address(running: RunningGateway) -> None:
    address = f"{TRANSCRIPTIONS}?response_format=text&language=ru"
    response = running.client.post(address, files={"file": ("a.wav", AUDIO)})
    assert response.text == running.text_of(AUDIO) + "\n"


def test_verbose_json_has_the_segments_in_which_something_is_said(running: RunningGateway) -> None:
    body = running.post(wav(voice(40)), response_format="verbose_json").json()
    assert body["duration"] == pytest.approx(40) and len(body["segments"]) == 2
    assert body["segments"][0]["start"] == 0 and body["segments"][1]["end"] == pytest.approx(40)
    assert " ".join(segment["text"] for segment in body["segments"]) == body["text"]


def test_stream_ends_with_the_text_that_its_deltas_add_up_to(running: RunningGateway) -> None:
    audio_bytes = wav(voice(70))
    events = events_of(running.post(audio_bytes, stream="true"))
    *deltas, done = events
    assert len(deltas) == 3 and {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert done == {"type": "transcript.text.done", "text": running.text_of(audio_bytes)}
    assert "".join(str(event["delta"]) for event in deltas) == done["text"]


def test_stream_asked_for_after_the_file_is_one_delta(running: RunningGateway) -> None:
    delta, done = events_of(send_form(running, *form(("model", "m"), ("file", AUDIO), ("stream", "true"))))
    assert delta["delta"] == done["text"] == running.text_of(AUDIO)


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    ("name", "audio_bytes", "code"),
    [
        ("a.exe", AUDIO, "UNSUPPORTED_FORMAT"),
        ("a.wav", b"not a sound" * 100, "UNDECODABLE_AUDIO"),
        ("a.wav", b"", "EMPTY_AUDIO"),
    ],
)
def test_refused_content_is_a_400_with_the_services_code(
    running: RunningGateway, name: str, audio_bytes: bytes, code: str, stream: str
) -> None:
    response = running.post(audio_bytes, name, stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (400, "invalid_request_error", code)


def test_form_without_a_file_is_refused(running: RunningGateway) -> None:
    body, content_type = form(("model", "m"))
    error = send_form(running, body, content_type).json()["error"]
    assert (error["code"], error["param"]) == ("MISSING_FILE", "file")


def test_request_id_goes_through_and_comes_back(running: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    response = running.client.post(TRANSCRIPTIONS, files={"file": ("a.wav", AUDIO)}, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    forged = running.client.post(TRANSCRIPTIONS, files={"file": ("a.wav", AUDIO)}, headers={"x-request-id": "a b"})
    assert len(forged.headers["x-request-id"]) == 32


def test_token_is_asked_for_and_passed_on() -> None:
    with gateway(auth_token_hashes=(hashlib.sha256(TOKEN.encode()).hexdigest(),)) as running:
        refused = running.post(AUDIO)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["code"] == "invalid_api_key"
        running.client.headers["authorization"] = "Bearer wrong"
        assert running.post(AUDIO).status_code == 401
        assert running.client.get("/v1/models").status_code == 401
        running.client.headers["authorization"] = f"Bearer {TOKEN}"
        assert running.post(AUDIO).status_code == 200


def test_caller_without_a_token_is_answered_before_the_upload_ends() -> None:
    with gateway(auth_token_hashes=("0" * 64,)) as running, running.connect() as connection:
        body, content_type = form(("model", "m"), ("file", AUDIO))
        connection.sendall(request_head(content_type, f"Content-Length: {10**8}") + body[:-20])
        assert b"401 Unauthorized" in connection.recv(65536)


@pytest.mark.parametrize("header", ["Content-Length: 999999999", "Transfer-Encoding: chunked"])
def test_body_over_the_limit_is_a_413(header: str) -> None:
    with gateway(max_upload_bytes=1024) as running, running.connect() as connection:
        body, content_type = form(("model", "m"), ("file", b"x" * 2_000_000))
        connection.sendall(request_head(content_type, header))
        if "chunked" in header:
            connection.sendall(b"%x\r\n%b\r\n" % (len(body), body))
        answer = read_all(connection)
        assert b" 413 " in answer and b"STREAM_MAX_BYTES" in answer and b"connection: close" in answer


def test_announced_length_is_refused_before_a_byte_is_asked_for() -> None:
    with gateway(max_upload_bytes=1024) as running, running.connect() as connection:
        head = request_head("multipart/form-data; boundary=x", "Content-Length: 999999999", "Expect: 100-continue")
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_limit_of_the_service_on_a_stream_is_a_413_too() -> None:
    with gateway(stream_max_bytes=10_000) as running:
        response = running.post(wav(voice(10)))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "UPLOAD_TOO_LARGE")


def test_upload_that_stops_is_ended_and_its_call_with_it() -> None:
    service = ChecksumService()
    with gateway(service, idle_timeout_s=0.5) as running, running.connect() as connection:
        body, content_type = form(("model", "m"), ("file", AUDIO))
        connection.sendall(request_head(content_type, f"Content-Length: {len(body)}") + body[:-100])
        answer = read_all(connection)
        assert b" 408 " in answer and b"SLOW_UPLOAD" in answer
        wait_until_equal(lambda: running.grpc_calls_in_flight, 0)
        assert running.text_of(AUDIO)


def test_client_that_leaves_while_it_is_waited_for_cancels_the_call() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        with running.connect() as connection:
            body, content_type = form(("model", "m"), ("file", AUDIO))
            connection.sendall(request_head(content_type, f"Content-Length: {len(body)}") + body)
            assert service.asked.wait(HANG_LIMIT_S)
        assert service.saw_cancellation.wait(HANG_LIMIT_S)
        wait_until_equal(
            lambda: running.count("transcription_http_requests_total", route=TRANSCRIPTIONS, status="499"), 1.0
        )


def test_client_that_leaves_in_the_middle_of_its_upload_cancels_the_call() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        with running.connect() as connection:
            body, content_type = form(("model", "m"), ("file", wav(voice(60))))
            connection.sendall(request_head(content_type, f"Content-Length: {len(body)}") + body[:-100])
            assert service.asked.wait(HANG_LIMIT_S)
        assert service.saw_cancellation.wait(HANG_LIMIT_S)


def test_service_that_is_not_there_is_a_503_that_names_no_address() -> None:
    with gateway() as running:
        running.grpc.stop()
        response = running.post(AUDIO)
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert "127.0.0.1" not in response.text and "недоступен" in response.json()["error"]["message"]
        assert running.client.get("/health").status_code == 503


def test_overload_says_when_to_come_again() -> None:
    with gateway(admission_max_bytes=1024) as running:
        response = running.post(AUDIO)
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert response.json()["error"]["type"] == "rate_limit_error"


def test_requests_over_the_gateways_limit_come_back_later() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service, max_requests=1) as running:
        first = threading.Thread(target=running.post, args=(AUDIO,))
        first.start()
        assert service.asked.wait(HANG_LIMIT_S)
        response = running.client.get("/v1/models")
        assert response.status_code == 503 and "retry-after" in response.headers
        service.may_answer.set()
        first.join()
        wait_until_equal(lambda: running.client.get("/v1/models").status_code, 200)


def test_stopping_lets_a_request_finish_and_refuses_others() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        answers: list[httpx.Response] = []
        first = threading.Thread(target=lambda: answers.append(running.post(AUDIO)))
        first.start()
        assert service.asked.wait(HANG_LIMIT_S)
        stopping = threading.Thread(target=running.http.stop, args=(HANG_LIMIT_S,))
        stopping.start()
        wait_until_equal(lambda: httpx.get(running.url + "/health").status_code, 503)
        service.may_answer.set()
        first.join()
        stopping.join()
        assert answers[0].status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(running.url + "/health")


def test_stopping_waits_no_longer_than_its_grace() -> None:
    service = ChecksumService()
    service.may_answer.clear()
    with gateway(service) as running:
        with pytest.raises(httpx.HTTPError):
            stop = threading.Timer(0, lambda: service.asked.wait(HANG_LIMIT_S) and running.http.stop(0.2))
            stop.start()
            running.post(AUDIO).raise_for_status()
        stop.join()
        assert not running.http.is_alive


def test_error_after_the_first_segment_ends_the_stream_with_an_error_event() -> None:
    service = ChecksumService()
    with gateway(service, audio_max_duration_s=100) as running:
        events = events_of(running.post(wav(voice(130)), stream="true"))
        assert events[0]["type"] == "transcript.text.delta"
        assert events[-1]["error"]["code"] == "AUDIO_TOO_LONG"  # type: ignore[index]


def test_segments_come_as_they_are_ready_once_the_upload_is_complete() -> None:
    release = threading.Event()
    two_parts = np.concatenate([voice(20), np.zeros(2 * SAMPLE_RATE, np.float32), voice(20)])

    class OneByOne(ChecksumService):
        def recognise(self, chunks, cancelled, options):  # type: ignore[no-untyped-def]
            for number, completion in enumerate(super().recognise(chunks, cancelled, options)):
                if number:
                    release.wait(HANG_LIMIT_S)
                yield completion

    with (
        gateway(OneByOne()) as running,
        running.client.stream(
            "POST", TRANSCRIPTIONS, data={"stream": "true"}, files={"file": ("a.wav", wav(two_parts))}
        ) as response,
    ):
        lines = response.iter_lines()
        assert "transcript.text.delta" in next(lines)
        release.set()
        assert "transcript.text.done" in "".join(lines)


def test_health_and_metrics_say_what_there_is(running: RunningGateway) -> None:
    assert running.client.get("/health").json() == {"status": "SERVING"}
    before = running.count("transcription_http_requests_total", route=TRANSCRIPTIONS, status="200")
    received = running.count("transcription_http_received_bytes_total")
    running.text_of(AUDIO)
    assert running.count("transcription_http_requests_total", route=TRANSCRIPTIONS, status="200") == before + 1
    assert running.count("transcription_http_received_bytes_total") >= received + len(AUDIO)
    assert running.count("transcription_http_in_flight") == 0


def test_unknown_paths_do_not_become_labels(running: RunningGateway) -> None:
    for number in range(3):
        assert running.client.get(f"/nowhere/{number}").status_code == 404
    assert running.count("transcription_http_requests_total", route="other", status="404") >= 3
