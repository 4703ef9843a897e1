"""The command line of the client: `python -m api.grpc.client FILE`; outputs go to stdout, everything else to stderr."""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from api.grpc.client.batch import Exit, Worker, run_all
from api.grpc.client.client import DEFAULT_ADDRESS, DEFAULT_CHUNK_BYTES, Response, TranscriptionClient
from api.grpc.client.console import Report, call_bars, files_bar, print_status, protect_console, skipped_line
from api.grpc.client.files import Job, UsageError, plan
from api.grpc.client.formats import ENDINGS, SUBTITLES, WRITERS
from api.grpc.client.retry import RetryPolicy
from generated.v1.transcription_pb2 import MIX, SEPARATE, TranscriptionOptions

TOKEN_VARIABLE = "TRANSCRIPTION_TOKEN"
DEFAULT_JOBS = 4
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def main(arguments: list[str] | None = None) -> int:
    """Transcribe files; return 0, 1 (some rejected), 2 (some failed, or bad arguments) or 130 (Ctrl+C)."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC starts: its own lines would hide ours
    protect_console()
    flags = parse(arguments)
    try:
        jobs = _plan(flags)
        with _connect(flags) as client:
            return _transcribe_all(jobs, client, flags)
    except KeyboardInterrupt:
        return print_status("⏹ Прервано", Exit.INTERRUPTED)
    except UsageError as error:
        return print_status(f"❌ {error}", Exit.FAILED)
    except BrokenPipeError:  # the reader of stdout has closed it; Python must not flush it again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return print_status("❌ Вывод больше никто не читает", Exit.FAILED)


def _plan(flags: argparse.Namespace) -> list[Job]:
    try:
        planned = plan(flags.files, flags.output, ENDINGS[flags.format])
    except OSError as error:
        raise UsageError(f"Не удалось прочитать папку {error.filename}: {error.strerror}") from error
    if len(planned.jobs) > 1 and flags.output is None and flags.format != "text":
        raise UsageError(f"Несколько файлов с --format {flags.format} в stdout не разделить: укажите папку (-o)")
    if planned.skipped:
        print_status(skipped_line(planned.skipped))
    return planned.jobs


def _connect(flags: argparse.Namespace) -> TranscriptionClient:
    if flags.token and not (flags.tls or flags.ca or flags.cert) and _host(flags.address) not in _LOOPBACK:
        print_status("⚠️ Токен уходит по сети открытым текстом: добавьте --tls")
    try:
        return TranscriptionClient(
            flags.address,
            flags.timeout,
            retry=RetryPolicy(max_attempts=flags.attempts),
            tls=flags.tls,
            ca_file=flags.ca,
            cert_file=flags.cert,
            key_file=flags.key,
            token=flags.token,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"Не удалось прочитать файл {error.filename}: {error.strerror}") from error


def _transcribe_all(jobs: list[Job], client: TranscriptionClient, flags: argparse.Namespace) -> int:
    is_single = len(flags.files) == 1 and not flags.files[0].is_dir()
    render = WRITERS[flags.format]

    def send(path: Path) -> Response:
        return _send(client, path, flags, is_single)

    report = Report(jobs, render, is_single)
    worker = Worker(send, render, flags.address, flags.overwrite)
    with closing(run_all(jobs, worker, flags.jobs, client.close)) as outcomes, files_bar(len(jobs)) as bar:
        for outcome in outcomes:
            report.add(outcome)
            bar.update()
    report.print_summary()
    return report.exit


def _send(client: TranscriptionClient, path: Path, flags: argparse.Namespace, with_bars: bool) -> Response:
    options = _options(flags)
    if not flags.stream:  # gRPC reports no progress of a single message
        return client.transcribe(path, flags.audio_format, flags.sample_rate, options=options)
    with call_bars(path.stat().st_size, with_bars) as bars:
        return client.transcribe_incremental(
            path,
            flags.chunk_bytes,
            bars.on_sent,
            flags.audio_format,
            flags.sample_rate,
            options=options,
            on_progress=bars.on_progress,
        )


def _options(flags: argparse.Namespace) -> TranscriptionOptions:
    # Subtitles begin and end at words, so that none stays over a silence and those of two channels take turns.
    is_subtitled = flags.format in SUBTITLES
    return TranscriptionOptions(
        channel_mode=SEPARATE if flags.channels else MIX,
        word_times=flags.words or is_subtitled,
        language=flags.language,
        prompt=flags.prompt,
    )


def _host(address: str) -> str:
    return address.rpartition(":")[0] or address


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, with the token from the environment if there is none; exits with 2 if a value is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m api.grpc.client", description="Отправляет аудио файлы на сервер транскрипции и печатает текст"
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="аудио или видео файл (MP3, WAV, M4A, OGG, MP4, WebM и другие) или папка с ними",
    )
    _add_call(parser.add_argument_group("вызов"))
    _add_options(parser.add_argument_group("распознавание"))
    _add_output(parser.add_argument_group("вывод"))
    _add_access(parser.add_argument_group("доступ"))
    flags = parser.parse_args(arguments)
    flags.token = flags.token or os.environ.get(TOKEN_VARIABLE, "").strip() or None
    return flags


def _add_call(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--stream", action="store_true", help="отправлять частями и показывать ход распознавания")
    group.add_argument("--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="по умолчанию %(default)s")
    group.add_argument(
        "--chunk-bytes",
        type=_positive_int,
        default=DEFAULT_CHUNK_BYTES,
        metavar="N",
        help="размер части с --stream, байт; по умолчанию %(default)s",
    )
    group.add_argument("--timeout", type=_positive_float, metavar="S", help="предел на файл вместе с повторами, секунд")
    group.add_argument(
        "--attempts",
        type=_positive_int,
        default=RetryPolicy.max_attempts,
        metavar="N",
        help="сколько раз обращаться к занятому или недоступному серверу; по умолчанию %(default)s",
    )
    group.add_argument(
        "--audio-format", metavar="F", help="формат записи, если его не видно по имени файла; pcm - сырой s16le"
    )
    group.add_argument("--sample-rate", type=int, default=0, metavar="HZ", help="частота дискретизации для pcm")


def _add_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--words", action="store_true", help="время и уверенность каждого слова (в json и tsv)")
    group.add_argument(
        "--channels", action="store_true", help="распознать каждый канал отдельно; субтитры называют канал"
    )
    group.add_argument(
        "--language", default="", metavar="L", help="язык записи двумя буквами, например ru; auto - определить"
    )
    group.add_argument("--prompt", default="", metavar="TEXT", help="имена и термины, которые встретятся в записи")


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--format", choices=tuple(WRITERS), default="text", help="вид вывода; по умолчанию %(default)s")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE|FOLDER",
        help="куда писать вместо stdout; что там уже есть готового, второй раз не отправляется",
    )
    group.add_argument("--overwrite", action="store_true", help="отправлять и то, что уже готово")
    group.add_argument(
        "--jobs",
        type=_positive_int,
        default=DEFAULT_JOBS,
        metavar="N",
        help="сколько файлов отправлять одновременно; по умолчанию %(default)s",
    )


def _add_access(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--tls", action="store_true", help="шифровать соединение; подразумевается с --ca и --cert")
    group.add_argument("--ca", metavar="FILE", help="PEM: чьему сертификату сервера верить вместо общеизвестных")
    group.add_argument("--cert", metavar="FILE", help="PEM: сертификат клиента, вместе с --key")
    group.add_argument("--key", metavar="FILE", help="PEM: ключ клиента, вместе с --cert")
    group.add_argument(
        "--token",
        help=f"токен; лучше в переменной {TOKEN_VARIABLE}: командную строку видно в списке процессов",
    )


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
