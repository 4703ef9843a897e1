"""Starts the real server with the bundled model and transcribes a shipped recording through both calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.support.ports import free_port
from tests.support.processes import Health, wait_for

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "ml" / "checkpoints" / "borealis-tiny-ru"
RECORDING = ROOT / "resources" / "samples" / "demo.wav"
STOP_LIMIT_S = 60


def main() -> int:
    """Print the transcripts; return 0 if both are right."""
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
    """Run start.py with the bundled model on a free port; yield its address once it is SERVING."""
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(MODEL), "--device", "cpu"]
    server = subprocess.Popen([sys.executable, str(ROOT / "start.py"), *flags], cwd=ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_for(channel, Health.SERVING, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=STOP_LIMIT_S)


def transcribe(address: str, *flags: str) -> str:
    """Run the command line client on the recording and return its standard output."""
    command = [sys.executable, "-m", "api.grpc.client", str(RECORDING), "--address", address, *flags]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=environment, check=False)
    return result.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
