"""Works through jobs a few at a time and says of each how it ended."""

from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Event

import grpc

from api.grpc.client.files import Job
from api.grpc.client.formats import write_complete
from api.grpc.client.messages import describe
from api.grpc.client.responses import IncompleteAnswerError, TranscriptionRefusedError
from api.grpc.client.retry import is_tls_failure
from generated.v1.transcription_pb2 import TranscriptionResponse

_POLL_S = 0.2  # a wait without an end would not hear Ctrl+C on every system
_HOPELESS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


class Exit(IntEnum):
    """How a job ended, and the exit code that says so; of several jobs the greatest counts."""

    DONE = 0
    REFUSED = 1
    FAILED = 2
    INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a response, or with `problem`, one line for whoever asked."""

    job: Job
    exit: Exit
    response: TranscriptionResponse | None = None  # None too where there was nothing left to do
    problem: str = ""
    hopeless: bool = False  # the other jobs would end as this one did


@dataclass(frozen=True)
class Worker:
    """Does one job: sends the recording and writes what comes back."""

    send: Callable[[Path], TranscriptionResponse]
    render: Callable[[TranscriptionResponse], str]
    address: str
    overwrite: bool = False

    def do(self, job: Job) -> Outcome:
        """Raises nothing that a recording, a file or a server can be the cause of."""
        if job.is_done and not self.overwrite:
            return Outcome(job, Exit.DONE)
        try:
            response = self.send(job.recording)
        except TranscriptionRefusedError as error:
            return Outcome(job, Exit.REFUSED, problem=f"[{error.code}] {error}")
        except grpc.RpcError as error:
            hopeless = error.code() in _HOPELESS or is_tls_failure(error)
            return Outcome(job, Exit.FAILED, problem=describe(error, self.address), hopeless=hopeless)
        except IncompleteAnswerError as error:
            return Outcome(job, Exit.FAILED, problem=f"{self.address}: {error}")
        except FileNotFoundError:
            return Outcome(job, Exit.FAILED, problem="Файл не найден")
        except OSError as error:
            return Outcome(job, Exit.FAILED, problem=f"Не удалось прочитать файл: {error.strerror}")
        return self._keep(job, response)

    def _keep(self, job: Job, response: TranscriptionResponse) -> Outcome:
        if job.output is not None:
            try:
                write_complete(job.output, self.render(response))
            except OSError as error:
                return Outcome(job, Exit.FAILED, problem=f"Не удалось записать {job.output}: {error.strerror}")
        return Outcome(job, Exit.DONE, response)


def run(jobs: list[Job], worker: Worker, parallel: int, hang_up: Callable[[], None]) -> Generator[Outcome, None, None]:
    """Yields an outcome for each job as it ends; for those left after a hopeless one, none.

    `hang_up` must end the calls under way: it is called when the caller does not go on to the end.
    """
    given_up = Event()

    def unless_given_up(job: Job) -> Outcome | None:
        if given_up.is_set():
            return None
        outcome = worker.do(job)
        if outcome.hopeless:
            given_up.set()
        return outcome

    pool = ThreadPoolExecutor(parallel, thread_name_prefix="client")
    try:
        pending = {pool.submit(unless_given_up, job) for job in jobs}
        while pending:
            done, pending = wait(pending, _POLL_S, FIRST_COMPLETED)
            yield from (outcome for future in done if (outcome := future.result()))
    except BaseException:  # Ctrl+C too, and a caller that does not go on
        given_up.set()
        hang_up()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
