"""The client's command line: `python -m api.grpc.client FILE`; the transcript goes to stdout, all else to stderr."""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc's own lines would drown our one line about a missing server

from api.grpc.client import Response, RetryPolicy, TranscriptionClient
from api.grpc.client_batch import Exit, Worker, run
from api.grpc.client_files import Job, UsageError, plan
from api.grpc.client_flags import parse
from api.grpc.client_messages import protect_console, say
from api.grpc.client_output import ENDINGS, WRITERS
from api.grpc.client_progress import call_bars, files_bar
from api.grpc.client_report import Report

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def main(arguments: list[str] | None = None) -> int:
    """Transcribes files; returns 0, 1 (some refused), 2 (some failed, or nothing could be tried) or 130 (Ctrl+C)."""
    protect_console()
    flags = parse(arguments)
    try:
        jobs = _plan(flags)
        with _connect(flags) as client:
            return _work_through(jobs, client, flags)
    except KeyboardInterrupt:
        return say("⏹ Прервано", Exit.INTERRUPTED)
    except UsageError as error:
        return say(f"❌ {error}", Exit.FAILED)
    except BrokenPipeError:  # whoever read our stdout has gone; Python shall not try to empty it at its own end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return say("❌ Вывод больше никто не читает", Exit.FAILED)


def _plan(flags: argparse.Namespace) -> list[Job]:
    try:
        jobs = plan(flags.files, flags.output, ENDINGS[flags.format])
    except OSError as error:
        raise UsageError(f"Не удалось прочитать папку {error.filename}: {error.strerror}") from error
    if len(jobs) > 1 and flags.output is None and flags.format != "text":
        raise UsageError(f"Несколько файлов с --format {flags.format} в stdout не разделить: укажите папку (-o)")
    return jobs


def _connect(flags: argparse.Namespace) -> TranscriptionClient:
    if flags.token and not (flags.tls or flags.ca or flags.cert) and _host(flags.address) not in _LOOPBACK:
        say("⚠️ Токен уходит по сети открытым текстом: добавьте --tls")
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


def _work_through(jobs: list[Job], client: TranscriptionClient, flags: argparse.Namespace) -> int:
    is_single = len(flags.files) == 1 and not flags.files[0].is_dir()
    render = WRITERS[flags.format]

    def send(path: Path) -> Response:
        return _send(client, path, flags, is_single)

    report = Report(jobs, render, is_single)
    worker = Worker(send, render, flags.address, flags.overwrite)
    with closing(run(jobs, worker, flags.jobs, client.close)) as outcomes, files_bar(len(jobs)) as bar:
        for outcome in outcomes:
            report.tell(outcome)
            bar.update()
    report.sum_up()
    return report.exit


def _send(client: TranscriptionClient, path: Path, flags: argparse.Namespace, with_bars: bool) -> Response:
    if not flags.stream:  # a single message has no progress to show: gRPC tells only that it has been answered
        return client.transcribe(path, flags.audio_format, flags.sample_rate)
    with call_bars(path.stat().st_size, with_bars) as bars:
        return client.transcribe_incremental(
            path,
            flags.chunk_bytes,
            bars.on_sent,
            flags.audio_format,
            flags.sample_rate,
            on_progress=bars.on_progress,
        )


def _host(address: str) -> str:
    return address.rpartition(":")[0] or address


if __name__ == "__main__":
    sys.exit(main())
