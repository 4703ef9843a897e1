"""The log lines of a request, what must stay out of them, and the request id in them and on the wire."""

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO

import grpc
import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import Settings
from resources.logs import configure_logging
from tests.conftest import Serve, Stub
from tests.support.audio import voice_wav
from tests.support.certificates import TOKEN, hash_of
from tests.support.fault_services import NumberingService
from tests.support.messages import stream_messages
from tests.support.waiting import HANG_LIMIT_S

SECRET_TEXT = "тайные слова записи"
LINE_FORMAT: str = Settings.model_fields["logging_format"].default

Configure = Callable[..., StringIO]


class LoggingService(NumberingService):
    """Logs a line of its own for each chunk, on the thread that recognises it."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for _ in chunks:
            self._log.info("распознаю")
            yield Completion(SECRET_TEXT)


@pytest.fixture
def log_to() -> Iterator[Configure]:
    """Configure logging as the server does; the result collects what is logged from then on."""
    handlers, level = list(logging.root.handlers), logging.root.level

    def configure(level: str = "INFO", as_json: bool = False) -> StringIO:
        lines, sys.stderr, stderr = StringIO(), StringIO(), sys.stderr
        logging.root.handlers, sys.stderr = [], lines  # basicConfig does nothing where there are handlers
        try:
            configure_logging(level, LINE_FORMAT, as_json)
        finally:
            sys.stderr = stderr
        return lines

    yield configure
    logging.root.handlers = handlers
    logging.root.setLevel(level)


def call_each_way(stub: Stub, name: str, **options: object) -> list[grpc.Call]:
    """Transcribe a short recording by each of the three methods; the calls."""
    data = voice_wav(0.5)
    _, unary = stub.TranscribeAudio.with_call(
        transcription_pb2.AudioRequest(audio_data=data, filename=name), timeout=HANG_LIMIT_S, **options
    )
    messages = partial(stream_messages, data, filename=name)
    _, streamed = stub.TranscribeAudioStream.with_call(messages(), timeout=HANG_LIMIT_S, **options)
    incremental = stub.TranscribeAudioIncremental(messages(), timeout=HANG_LIMIT_S, **options)
    assert [update.WhichOneof("update") for update in incremental][-1] == "response"
    return [unary, streamed, incremental]


def lines_of_requests(log: StringIO) -> list[str]:
    return [line for line in log.getvalue().splitlines() if " - LoggingService - " in line]


# --- The request id ---


@pytest.mark.parametrize("given", ["a", "order-17.retry:2_b", "x" * 64])
def test_request_id_of_the_caller_is_returned_by_every_method(serve: Serve, given: str) -> None:
    calls = call_each_way(serve(LoggingService()), "a.wav", metadata=[("x-request-id", given)])
    assert [dict(call.trailing_metadata())["x-request-id"] for call in calls] == [given] * 3


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 65, 'quote"', "a/b"])
def test_missing_or_invalid_request_id_is_replaced_by_a_new_one(serve: Serve, given: str | None) -> None:
    metadata = None if given is None else [("x-request-id", given)]
    identities = [
        dict(call.trailing_metadata())["x-request-id"]
        for call in call_each_way(serve(LoggingService()), "a.wav", metadata=metadata)
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", identity) for identity in identities)
    assert len(set(identities)) == 3


def test_every_log_line_of_a_request_ends_with_its_id(serve: Serve, log_to: Configure) -> None:
    """On all threads that work on it, and for requests that run at the same time."""
    log = log_to()
    stub = serve(LoggingService())
    names = [f"request-{number}" for number in range(4)]
    threads = [
        threading.Thread(
            target=call_each_way, args=(stub, f"{name}.wav"), kwargs={"metadata": [("x-request-id", name)]}
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of_requests(log)
    per_request = 3 * (5 + 1 + 4)  # received, one chunk, finished, by each of three methods
    assert len(lines) == len(names) * per_request
    for name in names:
        own = [line for line in lines if line.endswith(f" [{name}]")]
        assert len(own) == per_request
        assert sum(f"файла: {name}.wav" in line for line in own) == 3


def test_rejected_content_is_logged_under_the_id_of_the_request(serve: Serve, log_to: Configure) -> None:
    log = log_to()
    request = transcription_pb2.AudioRequest(audio_data=b"", filename="a.wav")
    assert not serve(LoggingService()).TranscribeAudio(request, metadata=[("x-request-id", "mine")]).success
    (line,) = [line for line in lines_of_requests(log) if "WARNING" in line]
    assert "[EMPTY_AUDIO]" in line and line.endswith(" [mine]")


def test_line_outside_requests_carries_no_id(serve: Serve, log_to: Configure) -> None:
    log = log_to()
    serve(LoggingService())
    (line,) = log.getvalue().splitlines()
    assert "gRPC сервер запущен" in line and not line.endswith("]")


# --- JSON ---


def test_json_log_is_one_readable_object_a_line(serve: Serve, log_to: Configure) -> None:
    log = log_to(as_json=True)
    name = 'отчёт "май"\n.wav'
    call_each_way(serve(LoggingService()), name, metadata=[("x-request-id", "mine")])
    records = [json.loads(line) for line in log.getvalue().splitlines()]
    of_requests = [record for record in records if record["logger"] == "LoggingService"]
    assert len(of_requests) == 3 * (5 + 1 + 4)
    assert {(record["level"], record["request_id"]) for record in of_requests} == {("INFO", "mine")}
    assert all({"time", "level", "logger", "message", "request_id"} <= set(record) for record in records)
    assert "Получен запрос на транскрипцию файла: отчёт" in log.getvalue()  # readable, not \\u0416
    assert any(record["message"].endswith('отчёт "май".wav') for record in of_requests)  # nothing breaks the line


def test_json_log_keeps_a_traceback_within_its_line(log_to: Configure) -> None:
    log = log_to(as_json=True)
    try:
        raise ValueError("беда")
    except ValueError:
        logging.getLogger("LoggingService").exception("Необработанная ошибка")
    (line,) = log.getvalue().splitlines()
    assert "Traceback" in json.loads(line)["exc_info"] and "беда" in line


# --- What stays out of the logs ---


def test_transcript_and_token_stay_out_of_the_logs(serve: Serve, log_to: Configure) -> None:
    log = log_to()
    stub = serve(LoggingService(), auth_token_hashes=hash_of(TOKEN))
    call_each_way(stub, "a.wav", metadata=[("authorization", f"Bearer {TOKEN}")])
    with pytest.raises(grpc.RpcError):
        stub.TranscribeAudio(transcription_pb2.AudioRequest(), metadata=[("authorization", "Bearer wrong-horse")])
    assert len(lines_of_requests(log)) == 3 * (5 + 1 + 4)
    for secret in (SECRET_TEXT, SECRET_TEXT.split()[0], TOKEN, "wrong-horse", "authorization"):
        assert secret not in log.getvalue()


def test_file_name_is_logged_by_default(serve: Serve, log_to: Configure) -> None:
    log = log_to()
    call_each_way(serve(LoggingService()), "интервью.wav")
    assert log.getvalue().count("интервью.wav") == 3


@pytest.mark.parametrize("name", ["интервью.wav", "о.интервью", "интервью"])
def test_file_name_is_hidden_when_asked_for_in_answers_to_good_and_bad_requests(
    serve: Serve, log_to: Configure, name: str
) -> None:
    log = log_to()
    stub = serve(LoggingService(), logging_filenames=False)
    good = voice_wav(0.5)
    for data, audio_format in ((good, "wav"), (good, ""), (b"", "wav"), (b"no audio at all", "wav")):
        request = transcription_pb2.AudioRequest(audio_data=data, filename=name, format=audio_format)
        stub.TranscribeAudio(request, timeout=HANG_LIMIT_S)
    assert len(lines_of_requests(log)) > 10
    assert "интервью" not in log.getvalue()


def test_file_name_forges_no_log_line(serve: Serve, log_to: Configure) -> None:
    log = log_to()
    forged = "a\r\n2024-01-15 10:30:45 - LoggingService - INFO - forged\x1b[2J\u2028.wav"
    call_each_way(serve(LoggingService()), forged)
    assert len(lines_of_requests(log)) == 3 * (5 + 1 + 4)
    assert not {"\r", "\x1b", "\u2028"} & set(log.getvalue())
