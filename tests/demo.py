"""Starts the real server with the bundled model and transcribes a shipped recording through both calls."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "ml" / "checkpoints" / "borealis-tiny-ru"
RECORDING = ROOT / "resources" / "samples" / "demo.wav"
START_LIMIT_S = 180


def main() -> int:
    """Prints the transcripts; returns 0 where both are right."""
    expected = RECORDING.with_suffix(".txt").read_text(encoding="utf-8").strip()
    with running_server() as address:
        transcripts = {
            "TranscribeAudio": transcribe(address),
            "TranscribeAudioStream": transcribe(address, "--stream"),
        }
    print(f"\nЗапись {RECORDING.name}, сказано: {expected}")
    for call, transcript in transcripts.items():
        print(f"{'✅' if transcript == expected else '❌'} {call}: {transcript}")
    return 0 if set(transcripts.values()) == {expected} else 1


@contextmanager
def running_server() -> Iterator[str]:
    """Runs start.py with the bundled model on a free port; yields its address once it is SERVING."""
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(MODEL), "--device", "cpu"]
    server = subprocess.Popen([sys.executable, str(ROOT / "start.py"), *flags], cwd=ROOT)
    try:
        wait_until_serving(f"127.0.0.1:{port}", server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_until_serving(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Asks grpc.health.v1 until it says SERVING."""
    deadline_s = time.monotonic() + START_LIMIT_S
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s:
            if server.poll() is not None:
                raise SystemExit(f"The server ended with code {server.returncode} before it served")
            try:
                if (
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
                    == health_pb2.HealthCheckResponse.SERVING
                ):
                    return
            except grpc.RpcError:
                pass  # not listening yet
            time.sleep(0.2)
    raise SystemExit(f"The server was not ready within {START_LIMIT_S} s")


def transcribe(address: str, *flags: str) -> str:
    """Runs the command line client on the recording and returns its standard output."""
    command = [sys.executable, "-m", "api.grpc.client", str(RECORDING), "--address", address, *flags]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=environment, check=False)
    return result.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
