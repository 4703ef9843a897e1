"""Transcribes one file without a server: `python ml/transcribe.py FILE [-o transcript.txt]`."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python ml/transcribe.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ml.engine.engine import Engine
from ml.errors import SpeechError
from ml.pipeline.pipeline import Pipeline
from ml.transcript import Segment, Transcript

DEFAULT_MODELS = {  # by implementation
    "borealis": "Vikhrmodels/Borealis",
    "whisper": "Systran/faster-whisper-small",
    "onnx": "gigaam-v3-e2e-ctc",
}
DEFAULT_IMPLEMENTATION = "borealis"
DEFAULT_DEVICE = "cuda"
DEFAULT_DTYPE = "auto"
DEFAULT_CHUNK_DURATION_S = 30.0
DEFAULT_BATCH_SIZE = 32
CACHE_DIR = Path(__file__).resolve().parent.parent / ".cache" / "models"  # shared with the service
MAX_DURATION_S = 24 * 3600  # a local file needs no tighter limit

EXIT_FAILED = 1
EXIT_UNREADABLE = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Transcribe a file; return 0, 1 (no model, bad audio), 2 (a file cannot be read or written) or 130 (Ctrl+C)."""
    protect_console()
    flags = _parser().parse_args(arguments)
    try:
        with flags.file.open("rb"):  # fail on a wrong name before the model is loaded
            pass
        with open_pipeline(flags.model, flags.device, flags.implementation, dtype=flags.dtype) as pipeline:
            started_s = time.perf_counter()
            transcript = transcribe(flags.file, pipeline)
            elapsed_s = time.perf_counter() - started_s
        _write_text(transcript, flags.output)
    except KeyboardInterrupt:
        return say("⏹ Прервано", EXIT_INTERRUPTED)
    except SpeechError as error:
        return say(f"❌ {error}", EXIT_FAILED)
    except OSError as error:
        return say(f"❌ Не удалось открыть файл {error.filename}: {error.strerror}", EXIT_UNREADABLE)
    _print_figures(transcript, elapsed_s)
    return 0


@contextmanager
def open_pipeline(
    model: str | None,
    device: str,
    implementation: str = DEFAULT_IMPLEMENTATION,
    *,
    dtype: str = DEFAULT_DTYPE,
    batch_size: int = DEFAULT_BATCH_SIZE,
    chunk_duration_s: float = DEFAULT_CHUNK_DURATION_S,
) -> Iterator[Pipeline]:
    """Load `model` (a folder or a hub name; None for the default) on `device`; yield a pipeline for any threads.

    Raises:
        SpeechError: there is no such model, or no decoder.
    """
    # Here, because torch and transformers take seconds to import and `--help` needs neither.
    from ml.audio.decoder import AudioDecoder
    from ml.audio.ffmpeg import find_ffmpeg
    from ml.pipeline.recogniser import recognise_with

    decoder = AudioDecoder(find_ffmpeg(None), MAX_DURATION_S, timeout_s=MAX_DURATION_S)
    name = model or DEFAULT_MODELS[implementation]
    say(f"⏳ Загрузка модели {name}")
    with _load_engine(implementation, name, device, dtype, batch_size) as engine:
        longest_s = min(chunk_duration_s, engine.max_chunk_s)
        yield Pipeline(decoder, longest_s, recognise_with(engine, window=2 * batch_size))


def _load_engine(implementation: str, name: str, device: str, dtype: str, batch_size: int) -> Engine:
    if implementation == "whisper":
        from ml.whisper import load as whisper

        return whisper.load_engine(whisper.WhisperOptions(name, device, dtype, batch_size=batch_size))
    if implementation == "onnx":
        from ml.onnx import load as onnx

        return onnx.load_engine(onnx.OnnxOptions(name, device, dtype, batch_size=batch_size))
    from ml.borealis.load import ModelOptions, load_engine

    return load_engine(ModelOptions(name, CACHE_DIR, device, dtype, batch_size=batch_size))


def transcribe(path: Path, pipeline: Pipeline) -> Transcript:
    """Transcribe `path`; on a terminal, show the seconds of audio recognised so far."""
    layout = "{desc}: {n:.0f} с аудио за {elapsed}"  # the duration is known only at the end
    with (
        tqdm(desc="Распознано", bar_format=layout, disable=None, file=sys.stderr) as bar,
        path.open("rb") as file,
    ):

        def show(segment: Segment) -> None:
            bar.update(segment.end_s - bar.n)

        return pipeline.transcribe(file, on_segment=show)


def protect_console() -> None:
    """Make a console escape characters that it cannot show instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(line: str, exit_code: int = 0) -> int:
    """Print a line to stderr and return the exit code."""
    print(line, file=sys.stderr)
    return exit_code


def _write_text(transcript: Transcript, output: Path | None) -> None:
    if output is None:
        print(transcript.text)
    else:
        output.write_text(transcript.text + "\n", encoding="utf-8")


def _print_figures(transcript: Transcript, elapsed_s: float) -> None:
    for warning in transcript.warnings:
        say(f"⚠️ {warning}")
    say(f"Время обработки: {elapsed_s:.2f} сек")
    say(f"Длительность аудио: {transcript.audio_duration_s:.2f} сек")
    say(f"Скорость: {transcript.audio_duration_s / elapsed_s:.1f}x от реального времени")
    say(f"Слов: {len(transcript.text.split())}, Символов: {len(transcript.text)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ml/transcribe.py", description="Распознаёт аудио файл без сервера")
    parser.add_argument("file", metavar="FILE", type=Path, help="запись: MP3, WAV, M4A, OGG, MP4, WebM и другие")
    parser.add_argument("-o", "--output", metavar="TXT", type=Path, help="куда записать текст; без него на экран")
    add_model_flags(parser)
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add --implementation, --model, --device and --dtype."""
    parser.add_argument(
        "--implementation", choices=DEFAULT_MODELS, default=DEFAULT_IMPLEMENTATION, help="по умолчанию %(default)s"
    )
    defaults = ", ".join(DEFAULT_MODELS.values())
    parser.add_argument("--model", metavar="M", help=f"папка или имя модели на хабе; по умолчанию {defaults}")
    parser.add_argument(
        "--device", default=DEFAULT_DEVICE, metavar="D", help="cuda, cuda:N или cpu; по умолчанию %(default)s"
    )
    parser.add_argument(
        "--dtype", default=DEFAULT_DTYPE, metavar="D", help="формат чисел, как MODEL_DTYPE; по умолчанию %(default)s"
    )


if __name__ == "__main__":
    sys.exit(main())
