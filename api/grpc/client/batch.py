"""Runs jobs, several at a time, and reports the outcome of each."""

from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Event

import grpc

from api.grpc.client.files import Job
from api.grpc.client.formats import write_complete
from api.grpc.client.responses import IncompleteAnswerError, TranscriptionRefusedError, describe_error
from api.grpc.client.retry import is_tls_failure
from generated.v1.transcription_pb2 import TranscriptionResponse

_POLL_S = 0.2  # an unbounded wait blocks Ctrl+C on some systems
_FATAL = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


class Exit(IntEnum):
    """How a job ended, and the exit code for it; of several jobs the greatest counts."""

    DONE = 0
    REFUSED = 1
    FAILED = 2
    INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a response, or with `problem`, one line for the user."""

    job: Job
    exit: Exit
    response: TranscriptionResponse | None = None  # None too if the output was there already
    problem: str = ""
    is_fatal: bool = False  # the other jobs would fail for the same reason


@dataclass(frozen=True)
class Worker:
    """Runs one job: sends the recording and writes the output."""

    send: Callable[[Path], TranscriptionResponse]
    render: Callable[[TranscriptionResponse], str]
    address: str
    overwrite: bool = False

    def run(self, job: Job) -> Outcome:
        """Turns every error that a recording, a file or a server can cause into an outcome."""
        if job.is_done and not self.overwrite:
            return Outcome(job, Exit.DONE)
        try:
            response = self.send(job.recording)
        except TranscriptionRefusedError as error:
            return Outcome(job, Exit.REFUSED, problem=f"[{error.code}] {error}")
        except grpc.RpcError as error:
            is_fatal = error.code() in _FATAL or is_tls_failure(error)
            return Outcome(job, Exit.FAILED, problem=describe_error(error, self.address), is_fatal=is_fatal)
        except IncompleteAnswerError as error:
            return Outcome(job, Exit.FAILED, problem=f"{self.address}: {error}")
        except FileNotFoundError:
            return Outcome(job, Exit.FAILED, problem="Файл не найден")
        except OSError as error:
            return Outcome(job, Exit.FAILED, problem=f"Не удалось прочитать файл: {error.strerror}")
        return self._write(job, response)

    def _write(self, job: Job, response: TranscriptionResponse) -> Outcome:
        if job.output is not None:
            try:
                write_complete(job.output, self.render(response))
            except OSError as error:
                return Outcome(job, Exit.FAILED, problem=f"Не удалось записать {job.output}: {error.strerror}")
        return Outcome(job, Exit.DONE, response)


def run_all(
    jobs: list[Job], worker: Worker, parallel: int, cancel_all: Callable[[], None]
) -> Generator[Outcome, None, None]:
    """Yield the outcome of each job as it ends. After a fatal one, the jobs that have not begun are skipped.

    `cancel_all` must end the calls in flight; it is called if the caller stops iterating early.
    """
    stopping = Event()

    def run_unless_stopping(job: Job) -> Outcome | None:
        if stopping.is_set():
            return None
        outcome = worker.run(job)
        if outcome.is_fatal:
            stopping.set()
        return outcome

    pool = ThreadPoolExecutor(parallel, thread_name_prefix="client")
    try:
        pending = {pool.submit(run_unless_stopping, job) for job in jobs}
        while pending:
            done, pending = wait(pending, _POLL_S, FIRST_COMPLETED)
            yield from (outcome for future in done if (outcome := future.result()))
    except BaseException:  # Ctrl+C, or the caller stopped iterating
        stopping.set()
        cancel_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
