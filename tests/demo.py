"""Starts the server and transcribes: `python -m tests.demo` the samples, `python -m tests.demo FILE` a recording.

The samples: one for the bundled model of Borealis' architecture, one of free text for Whisper base, whose weights are
fetched once. FILE is transcribed by Whisper base, and subtitles are written beside it.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from api.grpc.client import TranscriptionClient, TranscriptionRefusedError
from api.grpc.client.console import call_bars, print_status, protect_console
from api.grpc.client.formats import WRITERS, write_complete
from api.grpc.client.responses import describe_error
from generated.v1.transcription_pb2 import TranscriptionResponse
from ml.manifest import normalise
from ml.whisper import weights
from tests.support.ports import free_port
from tests.support.processes import Health, wait_for

ROOT = Path(__file__).resolve().parent.parent
BOREALIS = ("borealis", ROOT / "ml" / "checkpoints" / "borealis-tiny-ru")
WHISPER = ("whisper", weights.DEFAULT_FOLDER)
SAMPLES = (
    (BOREALIS, ROOT / "resources" / "samples" / "demo.wav"),
    (WHISPER, ROOT / "resources" / "speech" / "free_text.mp3"),
)
STOP_LIMIT_S = 60


def main() -> int:
    """Print the transcripts; return 0 if all went well, 1 if not, 130 after Ctrl+C."""
    protect_console()
    parser = argparse.ArgumentParser(prog="make demo", description="Показывает сервис в работе")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="своя запись; без неё - образцы проекта")
    file = parser.parse_args().file
    try:
        if file is not None and not file.is_file():
            return print_status(f"❌ Файла {file} нет", 1)
        if weights.main([]) != 0:
            return 1
        return show_samples() if file is None else transcribe_file(file)
    except KeyboardInterrupt:
        return print_status("⏹ Прервано", 130)


def show_samples() -> int:
    """Transcribe each sample by both calls and compare with what is said."""
    reports, is_right = [], True
    for (implementation, model), recording in SAMPLES:
        expected = recording.with_suffix(".txt").read_text(encoding="utf-8").strip()
        reports.append(f"\nЗапись {recording.name} ({implementation}, {model.name}), сказано:\n   {expected}")
        with running_server(implementation, model) as address, TranscriptionClient(address) as client:
            for call, response in {
                "TranscribeAudio": client.transcribe(recording),
                "TranscribeAudioStream": client.transcribe_stream(recording),
            }.items():
                is_same = normalise(response.transcript) == normalise(expected)
                is_right = is_right and is_same
                reports.append(f"{'✅' if is_same else '❌'} {call}:\n   {response.transcript}")
    print("\n".join(reports))
    return 0 if is_right else 1


def transcribe_file(file: Path) -> int:
    """Transcribe `file` with Whisper base, showing the progress, and write its subtitles beside it."""
    with running_server(*WHISPER) as address, TranscriptionClient(address) as client:
        try:
            response = _transcribe_with_bars(client, file)
        except TranscriptionRefusedError as error:
            return print_status(f"❌ {error}", 1)
        except grpc.RpcError as error:
            return print_status(describe_error(error, address), 1)
    subtitles = file.with_suffix(".srt")
    print(f"\n{response.transcript}\n", flush=True)
    for warning in response.warnings:
        print_status(f"⚠️ {warning}")
    try:
        write_complete(subtitles, WRITERS["srt"](response))
    except OSError as error:
        return print_status(f"❌ Не удалось записать субтитры {subtitles}: {error.strerror}", 1)
    speed = response.stats.speed_factor
    return print_status(f"✅ {response.audio_duration:.0f} с записи, {speed:.1f}x от реального времени; {subtitles}")


def _transcribe_with_bars(client: TranscriptionClient, file: Path) -> TranscriptionResponse:
    with call_bars(file.stat().st_size, shown=True) as bars:
        return client.transcribe_incremental(file, on_sent=bars.on_sent, on_progress=bars.on_progress)


@contextmanager
def running_server(implementation: str, model: Path) -> Iterator[str]:
    """Run start.py on a free port; yield its address once it is SERVING."""
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--implementation", implementation]
    flags += ["--model", str(model), "--device", "cpu"]
    server = subprocess.Popen([sys.executable, str(ROOT / "start.py"), *flags], cwd=ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            wait_for(channel, Health.SERVING, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=STOP_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
