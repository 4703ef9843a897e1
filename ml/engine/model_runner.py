"""What continuous batching needs of a model, and the sequences that it hands to it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ml.engine.request import Request
from ml.interfaces import Waveform
from ml.transcript import Completion


@dataclass(eq=False)
class Sequence:
    """One admitted chunk. It has a row of the KV cache from its prefill on."""

    request: Request
    urgent: bool = False  # decoded before the others
    row: int | None = None
    steps: int = 0  # decode steps started since the prefill
    tokens: list[int] = field(default_factory=list)  # as read back from the device
    probabilities: list[float] = field(default_factory=list)  # of the tokens, the end included
    finished: bool = False  # complete, failed or evicted: tokens still under way for it are ignored
    truncated: bool = False  # finished by the limit on tokens

    def restart(self) -> None:
        """Back to the state before the prefill."""
        self.row, self.steps = None, 0
        self.finished = self.truncated = False
        self.tokens.clear()
        self.probabilities.clear()


class EncoderBatch(Protocol):
    """Chunks being encoded."""

    def advance(self, must_pause: Callable[[], bool]) -> None:
        """Compute until the batch is ready or `must_pause()`, which any thread may call. A GPU goes on by itself."""

    def is_ready(self) -> bool:
        """Whether the embeddings are computed."""


B = TypeVar("B", bound=EncoderBatch)


@dataclass(eq=False)
class Encoding(Generic[B]):
    """An encoder batch on its way."""

    sequences: list[Sequence]
    batch: B
    overtakes: bool  # it was admitted before chunks that had waited for longer
    paused: bool = False  # another batch has overtaken it


class ModelRunner(Protocol[B]):
    """What continuous batching needs of a model with an encoder and a token decoder."""

    slots: int  # rows of the KV cache: sequences decoded side by side
    encoder_batch: int  # chunks encoded together, at most
    partial_steps: bool  # whether a step of a few sequences takes less time than one of all
    pauses: bool  # whether an encoder batch can pause for another
    max_chunk_samples: int
    logger: logging.Logger
    fast_path_failed: bool  # a slower path serves than the device should have
    on_progress: Callable[[], None]  # called while an encoder batch or a prefill advances; the scheduler sets it

    def encode(self, waveforms: list[Waveform]) -> B:
        """Begin with up to `encoder_batch` chunks."""

    def prefill(self, sequences: list[Sequence], rows: list[int], batch: B) -> None:
        """Fill `rows` of the KV cache from `batch`, in the order of `sequences`, and start decoding a first token.

        A batch that is not ready is completed first.
        """

    def step(self, sequences: list[Sequence], partial: bool) -> None:
        """Start decoding one more token for each of `sequences`, given in the order of their rows.

        They are all that have a row unless the step is `partial`.
        """

    def read_finished(self) -> list[Sequence]:
        """Read the tokens that have arrived; return the sequences that they finish."""

    def move(self, row: int, to: int) -> None:
        """Copy the state of `row` to the vacant row `to`."""

    def release(self, row: int) -> None:
        """Note that the sequence in `row` has left."""

    def clear(self) -> None:
        """Forget tokens under way; every row is vacant."""

    def complete(self, sequences: list[Sequence]) -> list[Completion]:
        """The texts of finished sequences."""

    def recover(self, error: Exception) -> None:
        """Make the device usable after `error`, or raise it where every later call would fail as well."""
