"""Times calls to a running server: `python -m api.grpc.benchmark_calls HOST:PORT`, a file a line on standard input.

Answers each line with one of JSON: seconds from the call to its answer, and what the server says of itself. With
`--bytes-per-s` the files are streamed at that pace, and the seconds count from when the last byte has left.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.client import TranscriptionClient

READY = "ready"
POLL_S = 0.1


def main(arguments: list[str] | None = None) -> int:
    """Says READY once the server is, then calls it until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m api.grpc.benchmark_calls", description="Измеряет время вызовов")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--start-timeout", type=float, default=180.0, metavar="S", help="сколько ждать готовности")
    parser.add_argument("--bytes-per-s", type=float, metavar="N", help="отправлять частями, столько байт в секунду")
    flags = parser.parse_args(arguments)
    if not wait_until_serving(flags.address, flags.start_timeout):
        print(f"❌ {flags.address}: сервер не готов", file=sys.stderr)
        return 1
    print(READY, flush=True)
    with TranscriptionClient(flags.address) as client:
        for line in sys.stdin:
            path = line.rstrip("\n")
            figures = time_stream(client, path, flags.bytes_per_s) if flags.bytes_per_s else time_call(client, path)
            print(json.dumps(figures), flush=True)
    return 0


def wait_until_serving(address: str, timeout_s: float) -> bool:
    """Asks the server's health until it serves; False if it does not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return True
            except grpc.RpcError:
                pass  # not listening yet
            time.sleep(POLL_S)
    return False


def time_call(client: TranscriptionClient, path: str) -> dict[str, float]:
    """One call's figures, in seconds. Raises what the client raises."""
    started_s = time.perf_counter()
    response = client.transcribe(path)
    elapsed_s = time.perf_counter() - started_s
    return {"latency_s": elapsed_s, "processing_s": response.processing_time, "audio_s": response.audio_duration}


def time_stream(client: TranscriptionClient, path: str, bytes_per_s: float) -> dict[str, float]:
    """A streamed call's figures, in seconds; `upload_s` is until the last byte left. Raises what the client raises."""
    sent_s: list[float] = []
    started_s = time.perf_counter()
    response = client.transcribe_stream(path, on_sent=_pace(Path(path).stat().st_size, bytes_per_s, sent_s))
    ended_s = time.perf_counter()
    return {
        "latency_s": ended_s - sent_s[-1],
        "upload_s": sent_s[-1] - started_s,
        "processing_s": response.processing_time,
        "audio_s": response.audio_duration,
    }


def _pace(size_bytes: int, bytes_per_s: float, sent_s: list[float]) -> Callable[[int], None]:
    """Holds the upload back between its pieces; notes in `sent_s` when each has left, and does not delay the end."""
    started_s, sent_bytes = time.perf_counter(), 0

    def on_sent(piece_bytes: int) -> None:
        nonlocal sent_bytes
        sent_bytes += piece_bytes
        sent_s.append(time.perf_counter())
        if sent_bytes < size_bytes:
            time.sleep(max(0.0, started_s + sent_bytes / bytes_per_s - sent_s[-1]))

    return on_sent


if __name__ == "__main__":
    sys.exit(main())
