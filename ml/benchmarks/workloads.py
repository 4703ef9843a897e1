"""The workloads in this process: strategies take turns over the same recordings, each run beside a measured floor."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

from ml.audio.decoder import AudioDecoder
from ml.audio.splitter import Chunk
from ml.benchmarks.lines import Line, Run, to_line
from ml.benchmarks.load import send, transcribe
from ml.benchmarks.meter import Meter
from ml.benchmarks.recordings import Recordings
from ml.benchmarks.roofline import measure
from ml.benchmarks.strategies import Strategy, bare, reference
from ml.borealis.model import BorealisModel
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion

T = TypeVar("T")
Contender = tuple[Strategy, int]
"""A strategy and the number of requests handled at once."""

CHUNK_DURATION_S = 30.0  # the service's default
BESIDE = "a clip beside a file of {:g} s"


@dataclass(frozen=True)
class Sizes:
    """How much work each workload does."""

    clip_s: float = 10.0  # seconds in a short recording
    clips: int = 32  # short recordings sent at once
    file_s: float = 600.0
    long_s: float = 3600.0  # the file beside which clips are sent
    lengths_s: tuple[float, ...] = (60.0, 600.0, 3600.0, 10800.0)
    clients: tuple[int, ...] = (1, 4, 16, 64)
    clips_per_series: int = 16  # at least, over all clients
    beside: int = 12  # clips sent, one by one, while a long file runs
    http: int = 50  # clips sent one by one, by gRPC and by HTTP each
    head_start_s: float = 2.0  # of that file, in this process
    cluster_calls: int = 40
    cluster_chunks: int = 160  # chunks of the recording that replicas share
    repeats: int = 3  # of the short workloads


QUICK = Sizes(10, 8, 60, 1800, (60, 240), (1, 4), 4, beside=3, http=10, cluster_calls=5, cluster_chunks=32, repeats=1)


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
    on_answer: Callable[[], object]  # called after each transcribed recording

    def clips(self) -> list[Line]:
        """Measure all clips sent at once."""
        paths = self.recordings.clips(self.sizes.clip_s, self.sizes.clips)
        strategies = (reference(self.model), self.engine)
        contenders = [(strategy, workers) for workers in self.threads for strategy in strategies]
        name = f"{len(paths)} clips of {self.sizes.clip_s:g} s"
        return self._compare(name, paths, len(paths), [*contenders, (bare(self.model), 1)], self.sizes.repeats)

    def file(self) -> list[Line]:
        """Measure one file."""
        paths = [self.recordings.wav(self.sizes.file_s)]
        contenders: list[Contender] = [(reference(self.model), 1), (self.engine, 1), (bare(self.model), 1)]
        return self._compare(f"a file of {self.sizes.file_s:g} s", paths, 1, contenders, self.sizes.repeats)

    def clients(self) -> list[Line]:
        """Measure clients that each send a clip, wait for its text and send the next."""
        lines = []
        contenders: list[Contender] = [(reference(self.model), max(self.threads)), (self.engine, max(self.threads))]
        for clients in self.sizes.clients:
            paths = self.recordings.clips(self.sizes.clip_s, max(clients, self.sizes.clips_per_series))
            lines += self._compare(f"{clients} clients", paths, clients, contenders, 1)
        return lines

    def beside(self) -> list[Line]:
        """Measure clips sent one by one, first alone and then while a long file runs."""
        return [self._beside(strategy) for strategy in (reference(self.model), self.engine)]

    def lengths(self) -> list[Line]:
        """Measure files of several lengths: as many at once as make an hour, so that the engine is equally busy."""

        def run(length_s: float) -> Run:
            paths = self.recordings.clips(length_s, max(1, round(self.sizes.long_s / length_s)))
            return self._run(self.engine, max(self.threads), paths, len(paths))

        lines = []
        for length_s, runs in _in_turns(self.sizes.lengths_s, self.sizes.repeats, run).items():
            clients = len(runs[0].answers.latencies_s)
            line = to_line(f"files of {length_s:g} s", self.engine.name, max(self.threads), clients, runs)
            hours, per_chunk = line.audio_s / 3600, 1000 / line.chunks
            cost = {"s_per_hour": line.elapsed_s / hours, "ms_per_chunk": line.elapsed_s * per_chunk}
            lines.append(replace(line, extra=cost))
        return lines

    def _compare(
        self, workload: str, paths: Sequence[Path], clients: int, contenders: Sequence[Contender], rounds: int
    ) -> list[Line]:
        """Run each contender once a round; give each a line, compared with the reference of as many workers."""
        runs = _in_turns(contenders, rounds, lambda contender: self._run(*contender, paths, clients))
        references = {workers: own for (strategy, workers), own in runs.items() if strategy.name == "reference"}
        return [
            to_line(workload, strategy.name, workers, clients, own, references.get(workers, ()))
            for (strategy, workers), own in runs.items()
        ]

    def _run(self, strategy: Strategy, workers: int, paths: Sequence[Path], clients: int) -> Run:
        roofline = measure(self.model, self.slots)
        before, meter = strategy.stats(), Meter(self.model.device)
        answers = send(self._pipeline(strategy), paths, clients, workers, self.on_answer)
        usage, stats = meter.read(), _since(before, strategy)
        return Run(answers, usage, stats, roofline.least_s(answers.chunks, stats.get("stepped_rows", 0.0)))

    def _pipeline(self, strategy: Strategy) -> Pipeline:
        recognise = strategy.recognise if self.keep_text else _without_text(strategy.recognise)
        return Pipeline(self.decoder, CHUNK_DURATION_S, recognise)

    def _beside(self, strategy: Strategy) -> Line:
        sizes, pipeline, cancelled = self.sizes, self._pipeline(strategy), threading.Event()
        paths = self.recordings.clips(sizes.clip_s, sizes.beside)
        idle = self._run(strategy, 1, paths, 1).answers

        def run_file() -> None:
            with suppress(DecodingCancelledError):
                transcribe(pipeline, self.recordings.wav(sizes.long_s), cancelled)

        before, meter = strategy.stats(), Meter(self.model.device)
        file = threading.Thread(target=run_file)
        file.start()
        time.sleep(sizes.head_start_s)
        run = Run(send(pipeline, paths, 1, 1, self.on_answer), meter.read(), _since(before, strategy))
        cancelled.set()
        file.join()
        line = to_line(BESIDE.format(sizes.long_s), strategy.name, 2, 1, [run])
        return replace(line, extra=times_idle(line.p50_s, idle.latencies_s))


def times_idle(p50_s: float, idle_latencies_s: Sequence[float]) -> dict[str, float]:
    """How the median latency compares with that of an idle service."""
    return {"idle_p50_s": median(idle_latencies_s), "times_idle": p50_s / median(idle_latencies_s)}


def _since(before: dict[str, float], strategy: Strategy) -> dict[str, float]:
    return {name: value - before[name] for name, value in strategy.stats().items()}


def _in_turns(what: Sequence[T], rounds: int, run: Callable[[T], Run]) -> dict[T, list[Run]]:
    """Run each once a round, so that whatever else the machine does meets all of them."""
    runs: dict[T, list[Run]] = {each: [] for each in what}
    for _ in range(rounds):
        for each, own in runs.items():
            own.append(run(each))
    return runs


def _without_text(recognise: Recognise) -> Recognise:
    def recognise_silently(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        return (Completion("") for _ in recognise(chunks, cancelled, options))

    return recognise_silently
