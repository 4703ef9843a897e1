"""The flags of the client's command line."""

import argparse
import os
from pathlib import Path

from api.grpc.client import DEFAULT_ADDRESS, DEFAULT_CHUNK_BYTES
from api.grpc.client_output import WRITERS
from api.grpc.client_retry import RetryPolicy

TOKEN_VARIABLE = "TRANSCRIPTION_TOKEN"
DEFAULT_JOBS = 4


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, the token filled in from the environment; ends the program over those that make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m api.grpc.client", description="Отправляет аудио файлы на сервер транскрипции и печатает текст"
    )
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="MP3, WAV, M4A, FLAC, OGG, AAC или папка с ними"
    )
    _add_call(parser.add_argument_group("вызов"))
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
