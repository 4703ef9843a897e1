"""METRICS_PORT over HTTP: calls by method and outcome, times, audio, readiness, and the implementation's metrics."""

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
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.grpc.metrics import ENGINE_METRICS, LATENCY_BUCKETS_S
from api.grpc.server import GrpcServer, PortTakenError
from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.borealis.runner import make_engine
from ml.cluster.messages import CLUSTER_GAUGES
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import Settings
from tests.conftest import Serve, settings_for_tests
from tests.support.audio import voice_wav
from tests.support.fake_models import FakeModel, chunk
from tests.support.fault_services import NumberingService, SlowToStart
from tests.support.messages import stream_messages
from tests.support.ports import free_port
from tests.support.waiting import HANG_LIMIT_S, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(port: int) -> str:
    """The body of /metrics; a proxy set for this machine is not used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=HANG_LIMIT_S) as answer:
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read(), "utf-8")


def families(port: int) -> dict[str, Metric]:
    """Every metric family by its name."""
    return {family.name: family for family in text_string_to_metric_families(fetch(port))}


def scrape(port: int) -> Samples:
    """Every sample by its name and labels."""
    return {(s.name, frozenset(s.labels.items())): s.value for f in families(port).values() for s in f.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def audio(data: bytes, name: str = "a.wav") -> transcription_pb2.AudioRequest:
    return transcription_pb2.AudioRequest(audio_data=data, filename=name)


# --- Calls ---


def test_calls_are_counted_by_method_and_outcome(serve: Serve) -> None:
    port = free_port()
    stub = serve(NumberingService(), metrics_port=port)
    stub.TranscribeAudio(audio(voice_wav(0.5)))
    stub.TranscribeAudio(audio(voice_wav(0.5)))
    stub.TranscribeAudio(audio(b""))
    stub.TranscribeAudio(audio(b"no audio at all"))
    stub.TranscribeAudioStream(stream_messages(voice_wav(0.5), filename="a.wav"))
    list(stub.TranscribeAudioIncremental(stream_messages(voice_wav(0.5), filename="a.wav")))
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
    class Broken(NumberingService):
        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            raise ZeroDivisionError

    port = free_port()
    stub = serve(Broken(), metrics_port=port, stream_max_bytes=10_000)
    with pytest.raises(grpc.RpcError):
        stub.TranscribeAudio(audio(voice_wav(0.5)))
    with pytest.raises(grpc.RpcError):  # before there is a chunk to fail on
        stub.TranscribeAudioStream(stream_messages(bytes(12_000), 12_000, filename="a.raw", format="pcm"))
    samples = scrape(port)
    assert value(samples, "transcription_requests_total", method="TranscribeAudio", outcome="INTERNAL") == 1
    too_large = {"method": "TranscribeAudioStream", "outcome": "RESOURCE_EXHAUSTED"}
    assert value(samples, "transcription_requests_total", **too_large) == 1


def test_rejected_call_is_counted_but_not_timed(serve: Serve) -> None:
    port = free_port()
    stub = serve(NumberingService(), metrics_port=port, auth_token_hashes=hashlib.sha256(b"token").hexdigest())
    with pytest.raises(grpc.RpcError):
        stub.TranscribeAudio(audio(voice_wav(0.5)))
    samples = scrape(port)
    rejected = {"method": "TranscribeAudio", "outcome": "UNAUTHENTICATED"}
    assert value(samples, "transcription_requests_total", **rejected) == 1
    assert value(samples, "transcription_request_seconds_count", **rejected) == 0


def test_call_that_its_client_cancels_is_counted_as_cancelled(serve: Serve) -> None:
    class Waiting(NumberingService):
        def __init__(self) -> None:
            super().__init__()
            self.begun = threading.Event()

        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            self.begun.set()
            assert cancelled.wait(HANG_LIMIT_S)
            yield from ()
            raise DecodingCancelledError("Запрос отменён")

    port, service = free_port(), Waiting()
    call = serve(service, metrics_port=port).TranscribeAudio.future(audio(voice_wav(0.5)))
    assert service.begun.wait(HANG_LIMIT_S)
    call.cancel()
    cancelled = {"method": "TranscribeAudio", "outcome": "CANCELLED"}
    wait_until(lambda: value(scrape(port), "transcription_requests_total", **cancelled))


def test_duration_of_a_call_falls_into_the_histogram(serve: Serve) -> None:
    class Slow(NumberingService):
        def recognise(
            self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            time.sleep(0.3)  # the duration to be measured
            yield from super().recognise(chunks, cancelled, options)

    port = free_port()
    started_s = time.perf_counter()
    serve(Slow(), metrics_port=port).TranscribeAudio(audio(voice_wav(0.5)))
    elapsed_s = time.perf_counter() - started_s
    samples = scrape(port)
    labels = {"method": "TranscribeAudio", "outcome": "OK"}
    assert value(samples, "transcription_request_seconds_count", **labels) == 1
    assert 0.3 <= value(samples, "transcription_request_seconds_sum", **labels) <= elapsed_s
    assert 0.3 <= value(samples, "transcription_processing_seconds_sum") <= elapsed_s
    # Cumulative: nothing in buckets below the duration, the call in every bucket above.
    buckets = [
        value(samples, "transcription_request_seconds_bucket", le=str(float(b)), **labels) for b in LATENCY_BUCKETS_S
    ]
    assert buckets == sorted(buckets) and buckets[LATENCY_BUCKETS_S.index(0.25)] == 0 and buckets[-1] == 1


def test_time_of_every_stage_falls_into_its_histogram(serve: Serve) -> None:
    port = free_port()
    stub = serve(NumberingService(), metrics_port=port)
    response = stub.TranscribeAudio(audio(voice_wav(1.5)))
    stub.TranscribeAudio(audio(b"no audio at all"))
    samples = scrape(port)
    for stage in ("decode", "split", "recognise"):
        assert value(samples, "transcription_stage_seconds_count", stage=stage) == 1
        spent_s = getattr(response.stage_times, f"{stage}_s")
        assert spent_s > 0
        assert value(samples, "transcription_stage_seconds_sum", stage=stage) == pytest.approx(spent_s)


def test_seconds_of_audio_are_summed_over_successful_calls(serve: Serve) -> None:
    port = free_port()
    stub = serve(NumberingService(), metrics_port=port)
    stub.TranscribeAudio(audio(voice_wav(1.5)))
    stub.TranscribeAudio(audio(b"no audio at all"))
    list(stub.TranscribeAudioIncremental(stream_messages(voice_wav(2), filename="a.wav")))
    assert value(scrape(port), "transcription_audio_seconds_total") == pytest.approx(3.5)
    assert value(scrape(port), "transcription_processing_seconds_count") == 2


def test_names_and_ids_that_callers_choose_make_no_metrics(serve: Serve) -> None:
    """Otherwise any client could fill the memory of server and Prometheus with labels."""
    port = free_port()
    stub = serve(NumberingService(), metrics_port=port)
    stub.TranscribeAudio(audio(voice_wav(0.3), "chosen-name.wav"), metadata=[("x-request-id", "chosen-id")])
    stub.TranscribeAudio(audio(voice_wav(0.3), "name.chosen"))
    assert "chosen" not in fetch(port)


# --- The process, the implementation ---


@pytest.mark.skipif(sys.platform != "linux", reason="prometheus-client reads the process only on Linux")
def test_memory_and_descriptors_of_the_process_are_shown(serve: Serve) -> None:
    port = free_port()
    serve(NumberingService(), metrics_port=port)
    samples = scrape(port)
    assert value(samples, "process_resident_memory_bytes") > 0
    assert value(samples, "process_open_fds") > 0


def test_serving_gauge_follows_the_readiness_of_the_server() -> None:
    port, service = free_port(), SlowToStart()
    server = GrpcServer(service, settings_for_tests(metrics_port=port))
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        wait_until(lambda: listens(port))
        assert value(scrape(port), "transcription_serving") == 0
        service.may_start.set()
        thread.join()
        assert value(scrape(port), "transcription_serving") == 1
        server.abort()
        assert value(scrape(port), "transcription_serving") == 0
    finally:
        service.may_start.set()
        thread.join()
        server.stop()
    assert not listens(port)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_implementation_is_asked_for_its_metrics_at_every_scrape(serve: Serve) -> None:
    class Counting(NumberingService):
        scrapes = 0

        def gauges(self) -> Mapping[str, float]:
            self.scrapes += 1
            return {"queue_depth": 7.0, "scrapes_total": float(self.scrapes)}

    port = free_port()
    serve(Counting(), metrics_port=port)
    first, second = families(port), families(port)
    counter, gauge = first["transcription_scrapes"], first["transcription_queue_depth"]
    assert (counter.type, gauge.type) == ("counter", "gauge")
    assert [family["transcription_scrapes"].samples[0].value for family in (first, second)] == [1, 2]
    assert gauge.samples[0].value == 7


def test_table_of_engine_metrics_names_exactly_what_engines_report() -> None:
    with make_engine(FakeModel(), slots=4) as engine:
        assert set(ENGINE_METRICS) == {*engine.gauges(), *CLUSTER_GAUGES}


def test_what_an_engine_accumulates_is_a_counter_in_base_units_with_a_help_line(serve: Serve) -> None:
    class OverEngine(NumberingService):
        def gauges(self) -> Mapping[str, float]:
            return engine.gauges()

    port = free_port()
    with make_engine(FakeModel(), slots=4) as engine:
        serve(OverEngine(), metrics_port=port)
        before = families(port)
        engine.submit(chunk(1)).result(HANG_LIMIT_S)
        after = families(port)
    engines = {name: family for name, family in after.items() if name.startswith("transcription_engine_")}
    assert engines.pop("transcription_engine_fast_path_failed").type == "gauge"  # a state, not a total
    assert len(engines) >= 8
    assert {family.type for family in engines.values()} == {"counter"}
    assert all(family.samples[0].value >= before[name].samples[0].value for name, family in engines.items())
    assert engines["transcription_engine_chunks"].samples[0].value == 1
    for name, family in after.items():
        assert family.documentation and not re.search(r"_(s|ms|mib)$", name), name
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample.name


# --- The port ---


def test_metrics_are_off_by_default(serve: Serve) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    serve(NumberingService())
    assert Settings.model_fields["metrics_port"].default == 0
    assert not [
        thread for thread in threading.enumerate() if "serve_forever" in thread.name and thread.name not in threads
    ]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one loopback address")
def test_metrics_listen_on_the_named_address_only(serve: Serve) -> None:
    port = free_port()
    serve(NumberingService(), metrics_port=port, metrics_host="127.0.0.2")
    connection = HTTPConnection("127.0.0.2", port, timeout=HANG_LIMIT_S)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()
    assert not listens(port)


def test_metrics_port_in_use_stops_the_start_and_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = GrpcServer(NumberingService(), settings_for_tests(metrics_port=port))
        with pytest.raises(PortTakenError, match=f"{port}.*METRICS_PORT"):
            server.start()
        server.stop()
