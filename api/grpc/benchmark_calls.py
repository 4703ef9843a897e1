"""Times calls to a running server: `python -m api.grpc.benchmark_calls HOST:PORT`, a file a line on standard input.

Answers each line with one of JSON: seconds from the call to its answer, and what the server says of itself.
"""

import argparse
import json
import sys
import time

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
    flags = parser.parse_args(arguments)
    if not wait_until_serving(flags.address, flags.start_timeout):
        print(f"❌ {flags.address}: сервер не готов", file=sys.stderr)
        return 1
    print(READY, flush=True)
    with TranscriptionClient(flags.address) as client:
        for line in sys.stdin:
            print(json.dumps(time_call(client, line.rstrip("\n"))), flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
