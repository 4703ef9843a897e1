"""Runs the workloads: strategies take turns over the same recordings, each run with a floor measured beside it."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ml.audio.decoder import AudioDecoder
from ml.audio.splitter import Chunk
from ml.benchmarks.figures import Line, Run, to_line, with_floor, with_ratios
from ml.benchmarks.floor import Cost, Floor, measure
from ml.benchmarks.load import Answers, send, transcribe
from ml.benchmarks.machine import Meter
from ml.benchmarks.recordings import Recordings
from ml.benchmarks.sizes import Sizes
from ml.benchmarks.strategies import Bare, Reference, Shared, Strategy
from ml.borealis.model import BorealisModel
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion

T = TypeVar("T")

CHUNK_DURATION_S = 30.0  # the service's default


@dataclass(frozen=True)
class Contender:
    """A strategy behind a server of so many workers."""

    strategy: Strategy
    workers: int


@dataclass(frozen=True)
class Bench:
    """Everything the workloads need. `on_answer` hears of each transcribed recording, for a progress bar."""

    model: BorealisModel
    decoder: AudioDecoder
    recordings: Recordings
    reference: Reference
    engine: Shared
    bare: Bare
    slots: int
    threads: tuple[int, ...]  # server's workers to try
    sizes: Sizes
    babbles: bool  # the weights are random
    on_answer: Callable[[str], None] = lambda workload: None

    def clips(self) -> list[Line]:
        """All clips at once."""
        paths = self.recordings.clips(self.sizes.clip_s, self.sizes.clips)
        contenders = [Contender(strategy, n) for n in self.threads for strategy in (self.reference, self.engine)]
        name = f"{len(paths)} clips of {self.sizes.clip_s:g} s"
        return self._compare(name, paths, len(paths), [*contenders, Contender(self.bare, 1)], self.sizes.repeats)

    def file(self) -> list[Line]:
        """One file."""
        return self._one_file(self.sizes.file_s, (self.reference, self.engine, self.bare), self.sizes.repeats)

    def long_file(self) -> list[Line]:
        """One long file."""
        return self._one_file(self.sizes.long_s, (self.reference, self.engine), 1)

    def clients(self) -> list[Line]:
        """So many clients that each send a clip, wait for its text and send the next."""
        lines = []
        contenders = [Contender(strategy, max(self.threads)) for strategy in (self.reference, self.engine)]
        for clients in self.sizes.clients:
            paths = self.recordings.clips(self.sizes.clip_s, max(clients, self.sizes.clips_per_series))
            lines += self._compare(f"{clients} clients", paths, clients, contenders, 1)
        return lines

    def beside(self) -> list[Line]:
        """Clips sent one by one, alone and while a long file runs."""
        return [self._beside(strategy) for strategy in (self.reference, self.engine)]

    def lengths(self) -> list[Line]:
        """Files of different lengths: as many at once as make an hour together, so that all find the engine as busy."""
        contender = Contender(self.engine, max(self.threads))

        def run(length_s: float) -> Run:
            paths = self.recordings.clips(length_s, max(1, round(self.sizes.long_s / length_s)))
            return self._run(contender, paths, len(paths), f"{length_s:g} s")

        lines = []
        for length_s, own in _in_turns(self.sizes.lengths_s, self.sizes.repeats, run).items():
            name, clients = f"cost of a file of {length_s:g} s", len(own[0].answers.latencies_s)
            line = to_line(name, self.engine.name, contender.workers, clients, own)
            lines.append(with_floor(line, own))
        return lines

    def _one_file(self, duration_s: float, strategies: Sequence[Strategy], repeats: int) -> list[Line]:
        contenders = [Contender(strategy, 1) for strategy in strategies]
        return self._compare(f"a file of {duration_s:g} s", [self.recordings.wav(duration_s)], 1, contenders, repeats)

    def _compare(
        self, workload: str, paths: Sequence[Path], clients: int, contenders: Sequence[Contender], repeats: int
    ) -> list[Line]:
        """Each contender runs once a round; a line for each, with its ratio to the reference of as many workers."""
        runs = _in_turns(contenders, repeats, lambda contender: self._run(contender, paths, clients, workload))
        lines = []
        for contender, own in runs.items():
            line = with_floor(to_line(workload, contender.strategy.name, contender.workers, clients, own), own)
            reference = runs.get(Contender(self.reference, contender.workers))
            lines.append(with_ratios(line, own, reference) if reference else line)
        return lines

    def _run(self, contender: Contender, paths: Sequence[Path], clients: int, workload: str) -> Run:
        recognise, figures = contender.strategy.recogniser()
        before = self._floor()
        meter = Meter(self.model.device)
        answers = send(self._pipeline(recognise), paths, clients, contender.workers, lambda: self.on_answer(workload))
        usage, counted = meter.read(), figures()
        after = self._floor()
        tokens = counted.get("stepped_rows", 0.0)
        floors = [measured.of(answers.chunks, tokens) for measured in (before, after)]
        plain, best = ((first + second) * 0.5 for first, second in zip(*floors, strict=True))
        return Run(answers, usage, counted, plain, best)

    def _pipeline(self, recognise: Recognise) -> Pipeline:
        spoken = _unspoken(recognise) if self.babbles else recognise
        return Pipeline(self.decoder, CHUNK_DURATION_S, spoken)

    def _floor(self) -> Floor:
        return measure(self.model, self.slots, self.sizes.floor_repeats)

    def _beside(self, strategy: Strategy) -> Line:
        paths = self.recordings.clips(self.sizes.clip_s, self.sizes.beside)
        workload = f"a clip beside a file of {self.sizes.long_s:g} s"
        alone = self._run(Contender(strategy, 1), paths, 1, workload)
        recognise, figures = strategy.recogniser()
        pipeline = self._pipeline(recognise)
        cancelled = threading.Event()

        def run_file() -> None:
            with suppress(DecodingCancelledError):
                transcribe(pipeline, self.recordings.wav(self.sizes.long_s), cancelled)

        meter = Meter(self.model.device)
        file = threading.Thread(target=run_file)
        file.start()
        time.sleep(self.sizes.head_start_s)
        answers: Answers = send(pipeline, paths, 1, 1, lambda: self.on_answer(workload))
        usage, counted = meter.read(), figures()
        cancelled.set()
        file.join()
        line = to_line(workload, strategy.name, 2, 1, [Run(answers, usage, counted, Cost(), Cost())])
        return replace(line, idle_p50_s=statistics.median(alone.answers.latencies_s))


def _in_turns(what: Sequence[T], rounds: int, run: Callable[[T], Run]) -> dict[T, list[Run]]:
    """Runs each once a round, so that whatever else the machine does meets all of them."""
    runs: dict[T, list[Run]] = {each: [] for each in what}
    for _ in range(rounds):
        for each, own in runs.items():
            own.append(run(each))
    return runs


def _unspoken(recognise: Recognise) -> Recognise:
    """Drops what random weights say: taken for an endless repetition, it would be asked for again."""

    def recognise_silently(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        return (Completion("") for _ in recognise(chunks, cancelled, options))

    return recognise_silently
