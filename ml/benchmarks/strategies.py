"""What the benchmark compares: recognisers of the same chunks with the same weights."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from ml.audio.splitter import Chunk
from ml.benchmarks.reference import transcribe_batch, transcribe_by_transformers
from ml.borealis.model import BorealisModel
from ml.engine.engine import Engine
from ml.interfaces import RecognitionOptions, Waveform
from ml.pipeline.recogniser import Recognise, recognise_with
from ml.transcript import Completion

REFERENCE_BATCH = 32  # chunks


@dataclass(frozen=True)
class Strategy:
    """One way to run the model; `stats` is what EngineStats counts, so far."""

    name: str
    recognise: Recognise
    stats: Callable[[], dict[str, float]] = dict


def reference(model: BorealisModel) -> Strategy:
    """The plain design: transformers' front end, encoder and generate(), over batches of one request's chunks."""
    return Strategy("reference", _by_batches(REFERENCE_BATCH, partial(transcribe_by_transformers, model)))


def bare(model: BorealisModel) -> Strategy:
    """The bare model call with the service's features and encoder, one chunk at a time."""
    return Strategy("bare", _by_batches(1, partial(transcribe_batch, model)))


def shared(engine: Engine, slots: int) -> Strategy:
    """The service's engine: one for all requests."""

    def stats() -> dict[str, float]:
        gauges = engine.gauges().items()
        return {name.removeprefix("engine_"): value for name, value in gauges if name.startswith("engine_")}

    return Strategy("engine", recognise_with(engine, window=2 * slots), stats)


def _by_batches(batch_size: int, transcribe: Callable[[Sequence[Waveform]], list[str]]) -> Recognise:
    """Each request runs the model over its own chunks, on its own thread."""

    def recognise(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        while not cancelled.is_set() and (batch := list(islice(chunks, batch_size))):
            yield from map(Completion, transcribe([chunk.waveform for chunk in batch]))

    return recognise
