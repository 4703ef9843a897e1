"""Stand-ins for the two edges of the pipeline: decoded blocks, and recognisers that know their answer."""

import threading
from collections.abc import Callable, Iterable, Iterator

from ml.audio.splitter import Chunk
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import Recognise
from ml.transcript import Completion, Segment, Transcript


class Blocks:
    """A decoding that yields these blocks, mono (n,) or separate channels (C, n)."""

    warnings = ()

    def __init__(self, blocks: Iterable[Waveform]) -> None:
        self._blocks = blocks
        self.duration_s = 0.0

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self.duration_s += block.shape[-1] / SAMPLE_RATE
            yield block


def recogniser(answer: Callable[[Chunk], Completion]) -> Recognise:
    """A recogniser that answers each chunk by itself."""

    def recognise(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        return map(answer, chunks)

    return recognise


def transcribe_blocks(
    blocks: Iterable[Waveform],
    recognise: Recognise,
    target_s: float = 5,
    on_segment: Callable[[Segment], None] = lambda segment: None,
    cancelled: threading.Event | None = None,
    options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
) -> Transcript:
    """Run the pipeline on decoded blocks."""
    pipeline = Pipeline(None, target_s, recognise)  # type: ignore[arg-type]  # nothing is decoded
    return pipeline.run(Blocks(blocks), cancelled or threading.Event(), on_segment, options)  # type: ignore[arg-type]
