"""What operators can see: Prometheus metrics of the calls and of the implementation's own figures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.transcription.errors import ERROR_CODE_TRAILER

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OK_CODES = (None, grpc.StatusCode.OK)


class _Figures(Collector):
    """Asks the implementation for its figures each time somebody looks."""

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client."""
        for name, value in self._figures().items():
            yield GaugeMetricFamily(f"transcription_{name}", f"The implementation's {name}", value=value)


class Metrics:
    """Counts calls by method and outcome; an outcome is OK, an x-error-code or the name of a gRPC status."""

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        """`figures` gives the implementation's own gauges, such as the queue's depth."""
        self.registry = CollectorRegistry()
        labels = ("method", "outcome")
        self._requests = Counter("transcription_requests", "Calls ended", labels, registry=self.registry)
        self._latency = Histogram(
            "transcription_request_seconds",
            "Duration of calls",
            labels,
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._audio = Counter("transcription_audio_seconds", "Audio transcribed", registry=self.registry)
        self._processing = Histogram(
            "transcription_processing_seconds",
            "From the last byte to the answer",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stages = Histogram(
            "transcription_stage_seconds",
            "Time a recording spent on each stage; stages overlap",
            ("stage",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.serving = Gauge("transcription_serving", "1 while calls are taken", registry=self.registry)
        self.registry.register(_Figures(figures))
        ProcessCollector(registry=self.registry)  # memory, descriptors, processor time; on Linux

    def record(self, method: str, context: Any, response: Any, duration_s: float) -> None:
        """Count an admitted call that has ended."""
        outcome = _outcome(context, response)
        self._requests.labels(method, outcome).inc()
        self._latency.labels(method, outcome).observe(duration_s)
        if response is not None and response.success:
            self._audio.inc(response.audio_duration)
            self._processing.observe(response.processing_time)
            for field, duration_s in response.stage_times.ListFields():
                self._stages.labels(field.name.removesuffix("_s")).observe(duration_s)

    def record_rejection(self, method: str, status: grpc.StatusCode) -> None:
        """Count a call that was not admitted."""
        self._requests.labels(method.rsplit("/", 1)[-1], status.name).inc()

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serves /metrics; call the result to stop.

        Raises:
            OSError: the port is taken.
        """
        server, thread = start_http_server(port, addr=host, registry=self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop


def _outcome(context: Any, response: Any) -> str:
    if response is None:
        code = context.code()
        return "CANCELLED" if code in OK_CODES else str(code.name)
    if response.success:
        return "OK"
    trailers = dict(context.trailing_metadata() or ())
    return str(trailers.get(ERROR_CODE_TRAILER, "FAILED"))
