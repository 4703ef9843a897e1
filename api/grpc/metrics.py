"""Prometheus metrics: the calls, the state of the implementation and the process."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from services.transcription.errors import ERROR_CODE_TRAILER

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OK_CODES = (None, grpc.StatusCode.OK)

# Keys are those of `gauges()` of an engine; a metric "x" is served as transcription_x. Names that end with _total are
# counters: on CUDA, the seconds of encoding, prefill and decode steps are those of queueing the work.
ENGINE_METRICS: dict[str, tuple[str, str]] = {
    "queued_chunks": ("queued_chunks", "Chunks in the queue of the engine"),
    "queued_audio_seconds": ("queued_audio_seconds", "Seconds of audio in the queue of the engine"),
    "slots_occupied": ("slots_occupied", "Sequences in decoding"),
    "mean_batch": ("mean_batch", "Sequences in a decode step, mean since the start"),
    "engine_chunks": ("engine_chunks_total", "Chunks recognised"),
    "engine_groups": ("engine_encoder_batches_total", "Batches encoded"),
    "engine_steps": ("engine_steps_total", "Decode steps"),
    "engine_stepped_rows": ("engine_stepped_rows_total", "Sequences in a decode step, summed over steps"),
    "engine_waited_s": ("engine_waited_seconds_total", "Seconds in the queue, summed over chunks"),
    "engine_encode_s": ("engine_encode_seconds_total", "Seconds spent on features and encoder"),
    "engine_prefill_s": ("engine_prefill_seconds_total", "Seconds spent on prefill"),
    "engine_step_s": ("engine_step_seconds_total", "Seconds spent on decode steps"),
    "engine_fast_path_failed": ("engine_fast_path_failed", "1 where the GPU's fast path failed its self-check"),
    "cluster_replicas": ("cluster_replicas", "Replicas that are ready"),
    "cluster_chunks": ("cluster_chunks", "Chunks of this front on the replicas"),
    "cluster_retries": ("cluster_retries_total", "Chunks sent again because their replica died or stopped"),
}


class _ImplementationCollector(Collector):
    """Reads the state of the implementation at each scrape."""

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """See prometheus_client."""
        for key, value in self._gauges().items():
            name, description = ENGINE_METRICS.get(key, (key, f"{key} of the implementation"))
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(f"transcription_{name}", description, value=value)


class Metrics:
    """Counts calls by method and outcome; an outcome is OK, an x-error-code or the name of a gRPC status."""

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """`gauges` returns the state of the implementation by name; see ITranscriptionService.gauges."""
        self.registry = CollectorRegistry()
        labels = ("method", "outcome")
        self._requests = Counter(
            "transcription_requests", "Calls ended, rejected ones included", labels, registry=self.registry
        )
        self._latency = Histogram(
            "transcription_request_seconds",
            "Seconds from the start of an admitted call to its end, the upload included",
            labels,
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._audio = Counter("transcription_audio_seconds", "Seconds of audio transcribed", registry=self.registry)
        self._processing = Histogram(
            "transcription_processing_seconds",
            "Seconds from the last byte of a successful call to its response",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stages = Histogram(
            "transcription_stage_seconds",
            "Seconds a recording spent on each stage; stages overlap",
            ("stage",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.serving = Gauge("transcription_serving", "1 while calls are admitted", registry=self.registry)
        self.registry.register(_ImplementationCollector(gauges))
        ProcessCollector(registry=self.registry)  # memory, descriptors, CPU time; on Linux

    def record(self, method: str, context: Any, response: Any, duration_s: float) -> None:
        """Count an admitted call that has ended."""
        outcome = _outcome(context, response)
        self._requests.labels(method, outcome).inc()
        self._latency.labels(method, outcome).observe(duration_s)
        if response is not None and response.success:
            self._audio.inc(response.audio_duration)
            self._processing.observe(response.processing_time)
            for field, stage_s in response.stage_times.ListFields():
                self._stages.labels(field.name.removesuffix("_s")).observe(stage_s)

    def record_rejection(self, method: str, status: grpc.StatusCode) -> None:
        """Count a call that was not admitted."""
        self._requests.labels(method.rsplit("/", 1)[-1], status.name).inc()

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serve /metrics; call the result to stop.

        Raises:
            OSError: the port is in use.
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
