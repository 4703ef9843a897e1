"""What operators see on METRICS_PORT, over HTTP: calls by method and outcome, times, audio, readiness, figures."""

import hashlib
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.grpc.metrics import LATENCY_BUCKETS_S
from api.grpc.server import PortTakenError, TranscriptionServer
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import PROJECT_ROOT, Settings
from tests.conftest import FakeService, Serve, settings_for_tests
from tests.support.audio import voice_wav as wav
from tests.support.messages import stream_messages as pieces
from tests.support.ports import free_port
from tests.support.processes import run

PATIENCE_S = 20

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int) -> str:
    """The body of /metrics; no proxy of this machine's stands between."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read(), "utf-8")


def scrape(port: int) -> Samples:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(fetch(port))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def audio(data: bytes, name: str = "a.wav") -> transcription_pb2.AudioRequest:
    return transcription_pb2.AudioRequest(audio_data=data, filename=name)


def test_calls_are_counted_by_method_and_outcome(serve: Serve) -> None:
    port = free_port()
    stub = serve(FakeService(), metrics_port=port)
    stub.TranscribeAudio(audio(wav(0.5)))
    stub.TranscribeAudio(audio(wav(0.5)))
    stub.TranscribeAudio(audio(b""))
    stub.TranscribeAudio(audio(b"no audio at all"))
    stub.TranscribeAudioStream(pieces(wav(0.5), 4096, filename="a.wav"))
    list(stub.TranscribeAudioIncremental(pieces(wav(0.5), 4096, filename="a.wav")))
    requests = {key[1]: number for key, number in scrape(port).items() if key[0] == "transcription_requests_total"}
    assert requests == {
        frozenset({("method", method), ("outcome", outcome)}): number
        for method, outcome, number in (
            ("TranscribeAudio", "OK", 2),
            ("TranscribeAudio", "EMPTY_AUDIO", 1),
            ("TranscribeAudio", "UNDECODABLE_AUDIO", 1),
            ("TranscribeAudioStream", "OK", 1),
            ("TranscribeAudioIncremental", "OK", 1),
        )
    }


def test_call_that_fails_is_counted_by_its_status(serve: Serve) -> None:
    class Broken(FakeService):
        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            raise ZeroDivisionError

    port = free_port()
    stub = serve(Broken(), metrics_port=port, stream_max_bytes=10_000)
    with pytest.raises(grpc.RpcError):
        stub.TranscribeAudio(audio(wav(0.5)))
    with pytest.raises(grpc.RpcError):  # before there is a chunk to break down over
        stub.TranscribeAudioStream(pieces(bytes(12_000), 12_000, filename="a.raw", format="pcm"))
    samples = scrape(port)
    assert value(samples, "transcription_requests_total", method="TranscribeAudio", outcome="INTERNAL") == 1
    too_large = {"method": "TranscribeAudioStream", "outcome": "RESOURCE_EXHAUSTED"}
    assert value(samples, "transcription_requests_total", **too_large) == 1


def test_call_refused_at_the_gate_is_counted_but_not_timed(serve: Serve) -> None:
    port = free_port()
    stub = serve(FakeService(), metrics_port=port, auth_token_hashes=hashlib.sha256(b"token").hexdigest())
    with pytest.raises(grpc.RpcError):
        stub.TranscribeAudio(audio(wav(0.5)))
    samples = scrape(port)
    refused = {"method": "TranscribeAudio", "outcome": "UNAUTHENTICATED"}
    assert value(samples, "transcription_requests_total", **refused) == 1
    assert value(samples, "transcription_request_seconds_count", **refused) == 0


def test_call_that_its_client_gave_up_is_counted_as_cancelled(serve: Serve) -> None:
    class Waiting(FakeService):
        def __init__(self) -> None:
            super().__init__()
            self.begun = threading.Event()

        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            self.begun.set()
            assert cancelled.wait(PATIENCE_S)
            yield from ()
            raise DecodingCancelledError("Запрос отменён")

    port, service = free_port(), Waiting()
    call = serve(service, metrics_port=port).TranscribeAudio.future(audio(wav(0.5)))
    assert service.begun.wait(PATIENCE_S)
    call.cancel()
    given_up = {"method": "TranscribeAudio", "outcome": "CANCELLED"}
    deadline_s = time.monotonic() + PATIENCE_S
    while not value(scrape(port), "transcription_requests_total", **given_up):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_duration_of_a_call_falls_into_the_histogram(serve: Serve) -> None:
    class Slow(FakeService):
        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            time.sleep(0.3)
            yield from super().recognise(chunks, cancelled, options)

    port = free_port()
    started_s = time.perf_counter()
    serve(Slow(), metrics_port=port).TranscribeAudio(audio(wav(0.5)))
    elapsed_s = time.perf_counter() - started_s
    samples = scrape(port)
    labels = {"method": "TranscribeAudio", "outcome": "OK"}
    assert value(samples, "transcription_request_seconds_count", **labels) == 1
    assert 0.3 <= value(samples, "transcription_request_seconds_sum", **labels) <= elapsed_s
    assert 0.3 <= value(samples, "transcription_processing_seconds_sum") <= elapsed_s
    # Cumulative, with nothing below what the call took and the call in every bucket above.
    buckets = [
        value(samples, "transcription_request_seconds_bucket", le=str(float(b)), **labels) for b in LATENCY_BUCKETS_S
    ]
    assert buckets == sorted(buckets) and buckets[LATENCY_BUCKETS_S.index(0.25)] == 0 and buckets[-1] == 1


def test_time_of_every_stage_falls_into_its_histogram(serve: Serve) -> None:
    port = free_port()
    stub = serve(FakeService(), metrics_port=port)
    response = stub.TranscribeAudio(audio(wav(1.5)))
    stub.TranscribeAudio(audio(b"no audio at all"))
    samples = scrape(port)
    for stage in ("decode", "split", "recognise"):
        assert value(samples, "transcription_stage_seconds_count", stage=stage) == 1
        spent_s = getattr(response.stage_times, f"{stage}_s")
        assert spent_s > 0
        assert value(samples, "transcription_stage_seconds_sum", stage=stage) == pytest.approx(spent_s)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_and_descriptors_of_the_process_are_shown(serve: Serve) -> None:
    port = free_port()
    serve(FakeService(), metrics_port=port)
    samples = scrape(port)
    assert value(samples, "process_resident_memory_bytes") > 10_000_000
    assert value(samples, "process_open_fds") > 3


def test_seconds_of_audio_are_added_up_for_calls_that_went_well(serve: Serve) -> None:
    port = free_port()
    stub = serve(FakeService(), metrics_port=port)
    stub.TranscribeAudio(audio(wav(1.5)))
    stub.TranscribeAudio(audio(b"no audio at all"))
    list(stub.TranscribeAudioIncremental(pieces(wav(2), 4096, filename="a.wav")))
    assert value(scrape(port), "transcription_audio_seconds_total") == pytest.approx(3.5)
    assert value(scrape(port), "transcription_processing_seconds_count") == 2


def test_serving_gauge_follows_the_servers_life() -> None:
    class SlowToStart(FakeService):
        may_start = threading.Event()

        def start(self, settings: Settings) -> None:
            super().start(settings)
            assert self.may_start.wait(PATIENCE_S)

    port = free_port()
    server = TranscriptionServer(SlowToStart(), settings_for_tests(metrics_port=port))
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not listens(port):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        assert value(scrape(port), "transcription_serving") == 0
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.TranscribeAudio(audio(b""), wait_for_ready=True, timeout=PATIENCE_S)
        early = {"method": "TranscribeAudio", "outcome": "UNAVAILABLE"}
        assert value(scrape(port), "transcription_requests_total", **early) == 1
        SlowToStart.may_start.set()
        thread.join()
        assert value(scrape(port), "transcription_serving") == 1
        server.abort()
        assert value(scrape(port), "transcription_serving") == 0
    finally:
        SlowToStart.may_start.set()
        thread.join()
        server.stop()
    assert not listens(port)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_figures_of_the_implementation_are_asked_for_at_every_look(serve: Serve) -> None:
    class Counting(FakeService):
        looks = 0

        def gauges(self) -> Mapping[str, float]:
            self.looks += 1
            return {"queue_depth": float(self.looks), "slots_occupied": 7.0}

    port = free_port()
    serve(Counting(), metrics_port=port)
    first, second = scrape(port), scrape(port)
    assert (value(first, "transcription_queue_depth"), value(second, "transcription_queue_depth")) == (1, 2)
    assert value(first, "transcription_slots_occupied") == 7


def test_names_and_ids_that_callers_choose_make_no_metrics(serve: Serve) -> None:
    """Else anybody could fill the memory of server and Prometheus with labels."""
    port = free_port()
    stub = serve(FakeService(), metrics_port=port)
    stub.TranscribeAudio(audio(wav(0.3), "chosen-name.wav"), metadata=[("x-request-id", "chosen-id")])
    stub.TranscribeAudio(audio(wav(0.3), "name.chosen"))
    assert not re.search("chosen", fetch(port))


def test_metrics_are_off_by_default(serve: Serve) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    serve(FakeService())
    assert Settings.model_fields["metrics_port"].default == 0
    assert not [
        thread for thread in threading.enumerate() if "serve_forever" in thread.name and thread.name not in threads
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one loopback address")
def test_metrics_listen_on_the_named_address_only(serve: Serve) -> None:
    port = free_port()
    serve(FakeService(), metrics_port=port, metrics_host="127.0.0.2")
    connection = HTTPConnection("127.0.0.2", port, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()
    assert not listens(port)


def test_taken_metrics_port_is_refused_and_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = TranscriptionServer(FakeService(), settings_for_tests(metrics_port=port))
        with pytest.raises(PortTakenError, match=f"{port}.*METRICS_PORT"):
            server.start()
        server.stop()


def test_taken_metrics_port_ends_the_start_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run(PROJECT_ROOT, "start.py", "--port", "0", "--host", "127.0.0.1", METRICS_PORT=port)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert port in result.stderr and "METRICS_PORT" in result.stderr
