"""The workloads in this process: strategies take turns over the same recordings, each run beside a measured floor."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tqdm import tqdm

from ml.audio.decoder import AudioDecoder
from ml.benchmarks.lines import Line, Run, to_line
from ml.benchmarks.meter import Meter
from ml.benchmarks.recordings import Recordings, Sizes
from ml.benchmarks.roofline import measure
from ml.benchmarks.strategies import Strategy, bare, reference
from ml.borealis.model import BorealisModel
from ml.errors import DecodingCancelledError
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion, Transcript

CHUNK_DURATION_S = 30.0  # the service's default
BESIDE = "a clip beside a file of {:g} s"


class Job(NamedTuple):
    """Recordings for a strategy."""

    workload: str
    strategy: Strategy
    workers: int  # requests handled at once
    clients: int  # each waits for its answer before it sends the next recording
    paths: Sequence[Path]


@dataclass(frozen=True)
class Workloads:
    """What the workloads need; each public method measures one of them."""

    model: BorealisModel
    decoder: AudioDecoder
    recordings: Recordings
    engine: Strategy
    slots: int
    threads: Sequence[int]  # numbers of server workers to try
    sizes: Sizes
    keep_text: bool  # dropped of random weights: taken for a repetition, the chunk would be recognised again

    def clips(self) -> list[Line]:
        """Measure all clips sent at once."""
        paths = self.recordings.clips(self.sizes.clip_s, self.sizes.clips)
        name, compared = f"{len(paths)} clips of {self.sizes.clip_s:g} s", (reference(self.model), self.engine)
        jobs = [Job(name, strategy, workers, len(paths), paths) for workers in self.threads for strategy in compared]
        return self._measure([*jobs, Job(name, bare(self.model), 1, len(paths), paths)], self.sizes.repeats)

    def file(self) -> list[Line]:
        """Measure one file."""
        name, paths = f"a file of {self.sizes.file_s:g} s", [self.recordings.wav(self.sizes.file_s)]
        strategies = (reference(self.model), self.engine, bare(self.model))
        return self._measure([Job(name, strategy, 1, 1, paths) for strategy in strategies], self.sizes.repeats)

    def clients(self) -> list[Line]:
        """Measure clients that each send a clip, wait for its text and send the next."""
        jobs = []
        for clients in self.sizes.clients:
            paths = self.recordings.clips(self.sizes.clip_s, max(clients, self.sizes.clips_per_series))
            for strategy in (reference(self.model), self.engine):
                jobs.append(Job(f"{clients} clients", strategy, max(self.threads), clients, paths))
        return self._measure(jobs, 1)

    def beside(self) -> list[Line]:
        """Measure clips sent one by one, first alone and then while a long file runs."""
        return [self._beside(strategy) for strategy in (reference(self.model), self.engine)]

    def lengths(self) -> list[Line]:
        """Measure files of several lengths: as many at once as make an hour, so that the engine is equally busy."""
        jobs = []
        for length_s in self.sizes.lengths_s:
            paths = self.recordings.clips(length_s, max(1, round(self.sizes.long_s / length_s)))
            jobs.append(Job(f"files of {length_s:g} s", self.engine, max(self.threads), len(paths), paths))
        lines = []
        for line in self._measure(jobs, self.sizes.repeats):
            s_per_hour, ms_per_chunk = 3600 / line.rtfx, 1000 * line.elapsed_s / line.chunks
            lines.append(replace(line, extra={"s_per_hour": s_per_hour, "ms_per_chunk": ms_per_chunk}))
        return lines

    def _measure(self, jobs: Sequence[Job], rounds: int) -> list[Line]:
        """Run each job once a round, so that whatever else the machine does meets all of them; give each a line.

        Lines are compared with the reference's of the same workload and as many workers.
        """
        runs: list[list[Run]] = [[] for _ in jobs]
        for _ in range(rounds):
            for job, own in zip(jobs, runs, strict=True):
                roofline, run = measure(self.model, self.slots), self._run(job)
                floor_s = roofline.least_s(run.chunks, run.stats.get("stepped_rows", 0.0))
                own.append(replace(run, floor_s=floor_s))
        done = list(zip(jobs, runs, strict=True))
        references = {(job.workload, job.workers): own for job, own in done if job.strategy.name == "reference"}
        return [
            to_line(name, strategy.name, workers, clients, own, references.get((name, workers), ()))
            for (name, strategy, workers, clients, _), own in done
        ]

    def _run(self, job: Job) -> Run:
        before, meter = job.strategy.stats(), Meter(self.model.device)
        latencies_s, waited_s, transcripts = zip(*send(self._pipeline(job.strategy), job), strict=True)
        usage = meter.read()
        stats = {name: value - before[name] for name, value in job.strategy.stats().items()}
        audio_s = sum(transcript.audio_duration_s for transcript in transcripts)
        chunks = sum(len(transcript.segments) for transcript in transcripts)
        return Run(latencies_s, audio_s, chunks, usage, waited_s, stats)

    def _pipeline(self, strategy: Strategy) -> Pipeline:
        recognise = strategy.recognise if self.keep_text else _without_text(strategy.recognise)
        return Pipeline(self.decoder, CHUNK_DURATION_S, recognise)

    def _beside(self, strategy: Strategy) -> Line:
        sizes, cancelled, long = self.sizes, threading.Event(), self.recordings.wav(self.sizes.long_s)
        clips = self.recordings.clips(sizes.clip_s, sizes.beside)
        job = Job(BESIDE.format(sizes.long_s), strategy, 1, 1, clips)
        idle = self._run(job)
        with ThreadPoolExecutor(1) as pool:
            file = pool.submit(_transcribe, self._pipeline(strategy), long, cancelled)
            time.sleep(sizes.head_start_s)
            try:
                run = self._run(job)
            finally:
                cancelled.set()
        with suppress(DecodingCancelledError):
            file.result()
        line = to_line(job.workload, strategy.name, 2, 1, [run])
        return replace(line, extra=times_idle(line.p50_s, idle.latencies_s))


def send(pipeline: Pipeline, job: Job) -> list[tuple[float, float, Transcript]]:
    """Let the job's clients send its recordings to a server of its workers.

    Returns each one's latency, the seconds of it that it waited for a worker, and its transcript. Raises what a
    transcription raises.
    """

    def serve(path: Path, sent_s: float) -> tuple[float, Transcript]:
        waited_s = time.perf_counter() - sent_s
        return waited_s, _transcribe(pipeline, path)

    def call(path: Path) -> tuple[float, float, Transcript]:
        sent_s = time.perf_counter()
        waited_s, transcript = server.submit(serve, path, sent_s).result()
        return time.perf_counter() - sent_s, waited_s, transcript

    with ThreadPoolExecutor(job.workers) as server, ThreadPoolExecutor(job.clients) as clients:
        answers = clients.map(call, job.paths)
        return list(tqdm(answers, job.workload, len(job.paths), leave=False, unit="", disable=None))


def times_idle(p50_s: float, idle_latencies_s: Sequence[float]) -> dict[str, float]:
    """How the median latency compares with that of an idle service."""
    return {"idle_p50_s": median(idle_latencies_s), "times_idle": p50_s / median(idle_latencies_s)}


def _transcribe(pipeline: Pipeline, path: Path, cancelled: threading.Event | None = None) -> Transcript:
    with path.open("rb") as file:
        return pipeline.transcribe(file, cancelled=cancelled)


def _without_text(recognise: Recognise) -> Recognise:
    return lambda *call: (Completion("") for _ in recognise(*call))
