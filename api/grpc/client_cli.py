"""The client's command line: `python -m api.grpc.client FILE`; the transcript goes to stdout, all else to stderr."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's own lines would drown our one line about a missing server

import grpc
from tqdm import tqdm

from api.grpc.client import (
    DEFAULT_ADDRESS,
    DEFAULT_CHUNK_BYTES,
    NO_ERROR_CODE,
    TranscriptionClient,
    TranscriptionRefusedError,
    error_code,
)
from generated.v1.transcription_pb2 import TranscriptionResponse

EXIT_REFUSED = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130

_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "сервер недоступен или ещё не готов, проверьте, что он запущен (python start.py)",
    grpc.StatusCode.DEADLINE_EXCEEDED: "ответ не получен за отведённое время (--timeout)",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "файл слишком велик или сервер занят; большие файлы отправляйте с --stream",
    grpc.StatusCode.UNIMPLEMENTED: "по этому адресу отвечает другой сервис",
    grpc.StatusCode.CANCELLED: "вызов отменён",
}
_DEFAULT_HINT = "вызов не удался"


def main(arguments: list[str] | None = None) -> int:
    """Transcribes one file; returns 0, 1 (refused), 2 (call failed, file not readable) or 130 (Ctrl+C)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console that cannot show a sign must not lose the rest
    flags = _parser().parse_args(arguments)
    try:
        response = _transcribe(flags)
    except KeyboardInterrupt:
        return _say("⏹ Прервано", EXIT_INTERRUPTED)
    except TranscriptionRefusedError as error:
        return _say(f"❌ [{error.code}] {error}", EXIT_REFUSED)
    except grpc.RpcError as error:
        return _say(f"❌ {describe(error, flags.address)}", EXIT_FAILED)
    except FileNotFoundError:
        return _say(f"❌ Файл не найден: {flags.file}", EXIT_FAILED)
    except OSError as error:
        return _say(f"❌ Не удалось прочитать файл {flags.file}: {error.strerror}", EXIT_FAILED)
    print(response.transcript)
    _print_figures(response)
    return 0


def describe(error: grpc.RpcError, address: str) -> str:
    """One line about a failed call: its status, what to do, and the server's own words."""
    status, details = error.code(), " ".join(str(error.details() or "").split())
    code = error_code(error)
    named = status.name if code == NO_ERROR_CODE else f"{status.name}, {code}"
    return f"{address}: {_HINTS.get(status, _DEFAULT_HINT)} [{named}] {details}".rstrip()


def _transcribe(flags: argparse.Namespace) -> TranscriptionResponse:
    with TranscriptionClient(flags.address, flags.timeout) as client:
        if not flags.stream:
            return client.transcribe(flags.file, flags.format, flags.sample_rate)
        size_bytes = flags.file.stat().st_size
        # A single message has no progress to show: gRPC tells only that it has been answered.
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}Б из {total_fmt}Б, {elapsed}"
        bar_options = {"total": size_bytes, "bar_format": layout, "unit_scale": True, "disable": None}
        with tqdm(desc="Отправка", file=sys.stderr, **bar_options) as bar:

            def on_sent(sent_bytes: int) -> None:
                bar.update(sent_bytes)
                if bar.n >= size_bytes:
                    bar.set_description_str("Отправлено, идёт распознавание")

            return client.transcribe_stream(flags.file, flags.chunk_bytes, on_sent, flags.format, flags.sample_rate)


def _print_figures(response: TranscriptionResponse) -> None:
    stats = response.stats
    _say(f"Время обработки: {response.processing_time:.2f} сек")
    _say(f"Длительность аудио: {response.audio_duration:.2f} сек")
    _say(f"Скорость: {stats.speed_factor:.1f}x от реального времени")
    _say(f"Слов: {stats.word_count}, Символов: {stats.char_count}")


def _say(line: str, exit_code: int = 0) -> int:
    print(line, file=sys.stderr)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m api.grpc.client", description="Отправляет аудио файл на сервер транскрипции и печатает текст"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="MP3, WAV, M4A, FLAC, OGG или AAC")
    parser.add_argument("--stream", action="store_true", help="отправлять частями (TranscribeAudioStream)")
    parser.add_argument("--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="по умолчанию %(default)s")
    parser.add_argument(
        "--chunk-bytes",
        type=_positive_int,
        default=DEFAULT_CHUNK_BYTES,
        metavar="N",
        help="размер части с --stream, байт; по умолчанию %(default)s",
    )
    parser.add_argument("--timeout", type=_positive_float, metavar="S", help="предел ожидания ответа, секунд")
    parser.add_argument("--format", metavar="F", help="формат, если его не видно по имени файла; pcm - сырой s16le")
    parser.add_argument("--sample-rate", type=int, default=0, metavar="HZ", help="частота дискретизации для pcm")
    return parser


def _positive_int(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("нужно целое число больше нуля")
    return int(text)


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("нужно число больше нуля")
    return value


if __name__ == "__main__":
    sys.exit(main())
