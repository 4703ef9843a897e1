"""The gateway's own Prometheus metrics: nothing in them that a client chooses."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class GatewayMetrics:
    """Counts requests by route and status; a WebSocket's status is its close code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("route", "status")
        self._requests = Counter("transcription_http_requests", "HTTP requests ended", labels, registry=registry)
        self._latency = Histogram(
            "transcription_http_request_seconds",
            "From a request's headers to the end of its answer, the upload included",
            ("route",),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._in_flight = Gauge("transcription_http_in_flight", "HTTP requests under way", registry=registry)
        self._received = Counter("transcription_http_received_bytes", "Audio and forms received", registry=registry)

    def began(self) -> None:
        """Count a request that has begun."""
        self._in_flight.inc()

    def received(self, size_bytes: int) -> None:
        """Count what a client has sent."""
        self._received.inc(size_bytes)

    def ended(self, route: str, status: int, duration_s: float) -> None:
        """Count a request that has ended."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(duration_s)
