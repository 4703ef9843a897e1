"""Borealis as continuous batching runs it: rows of one KV cache, tokens read back behind the steps."""

import logging
from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence
from typing import Protocol

import torch

from ml.borealis.device_path import PathModel
from ml.borealis.features import N_SAMPLES
from ml.borealis.model import ENCODER_BATCH
from ml.borealis.self_check import choose_path
from ml.borealis.transfer import AudioBatch, Readback
from ml.borealis.word_times import Decoded, WordTimer
from ml.borealis.word_times import Model as WordModel
from ml.engine.continuous import ContinuousScheduler
from ml.engine.engine import QUEUE_CAPACITY, Engine
from ml.engine.model_runner import Sequence
from ml.interfaces import Waveform
from ml.transcript import Completion, FinishReason, Word


class Model(PathModel, WordModel, Protocol):
    """What the runner needs of a model; BorealisModel is one."""

    eos_ids: frozenset[int]  # any of them ends a text
    max_new_tokens: int

    @property
    def encoder_workers(self) -> int:
        """Chunks that the encoder computes in parallel."""

    def watch_progress(self, on_progress: Callable[[], None]) -> None:
        """Have `on_progress` called after each layer of the encoder and of a prefill, on any thread."""

    @property
    def do_sample(self) -> bool:
        """Whether texts are sampled rather than decoded greedily."""

    def decode(self, ids: AbstractSequence[AbstractSequence[int]]) -> list[str]:
        """Token ids to texts."""


class BorealisRunner:
    """Implements ml.engine.model_runner.ModelRunner over a model and its decoder of `slots` rows."""

    def __init__(self, model: Model, slots: int) -> None:
        device = model.device
        self.slots = slots
        self.encoder_batch = min(slots, ENCODER_BATCH[device.type] * model.encoder_workers)
        self.partial_steps = device.type == "cpu"  # a GPU would have to launch the kernels of such a step one by one
        self.pauses = model.pauses
        self.max_chunk_samples = N_SAMPLES
        self.logger = logging.getLogger("BorealisModel")
        self.on_progress: Callable[[], None] = lambda: None
        self._model = model
        model.watch_progress(lambda: self.on_progress())
        path, self.fast_path_failed = choose_path(model, slots, self.encoder_batch)
        self._encoder, self._decoder = path.encoder, path.decoder
        self._word_timer = WordTimer(model, path.decoder)
        self._readback: Readback[list[tuple[int, Sequence]]] = path.readback  # tags: (column, sequence)

    def encode(self, waveforms: list[Waveform]) -> AudioBatch:
        """See ModelRunner."""
        return self._encoder.encode(waveforms)

    def prefill(self, sequences: list[Sequence], rows: list[int], batch: AudioBatch) -> None:
        """See ModelRunner."""
        seeds = [self._seed_of(sequence) for sequence in sequences]
        tokens = self._decoder.prefill(rows, batch.wait(), seeds)
        self._readback.put(tokens, list(enumerate(sequences)))

    def step(self, sequences: list[Sequence], partial: bool) -> None:
        """See ModelRunner. In a step of all, vacant rows below the last one are computed as well."""
        rows = [sequence.row or 0 for sequence in sequences]
        length = self._decoder.prefill_length + 1 + max(sequence.steps for sequence in sequences)
        if partial:
            tokens, columns = self._decoder.step_rows(rows, length), list(range(len(rows)))
        else:
            tokens, columns = self._decoder.step(rows[-1] + 1, length), rows
        for sequence in sequences:
            sequence.steps += 1
        self._readback.put(tokens, list(zip(columns, sequences, strict=True)))

    def read_finished(self) -> list[Sequence]:
        """See ModelRunner."""
        finished: list[Sequence] = []
        for arrived in self._readback.get():
            for column, sequence in arrived.tag:
                if not sequence.finished:
                    sequence.probabilities.append(arrived.probabilities[column])
                    self._append(sequence, arrived.ids[column])
                    if sequence.finished:
                        finished.append(sequence)
        return finished

    def move(self, row: int, to: int) -> None:
        """See ModelRunner."""
        self._decoder.move(row, to)

    def release(self, row: int) -> None:
        """See ModelRunner."""
        self._decoder.release(row)

    def clear(self) -> None:
        """See ModelRunner."""
        self._readback.clear()

    def complete(self, sequences: list[Sequence]) -> list[Completion]:
        """See ModelRunner."""
        texts = self._model.decode([sequence.tokens for sequence in sequences])
        words = self._words(sequences)
        return [
            Completion(
                text,
                FinishReason.LENGTH if sequence.truncated else FinishReason.STOP,
                sum(sequence.probabilities) / len(sequence.probabilities),
                words.get(sequence, ()),
            )
            for text, sequence in zip(texts, sequences, strict=True)
        ]

    def recover(self, error: Exception) -> None:
        """See ModelRunner. CUDA errors stick: every later call fails as well."""
        if isinstance(error, torch.AcceleratorError):
            raise error
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()

    def _words(self, sequences: list[Sequence]) -> dict[Sequence, tuple[Word, ...]]:
        """The words of the sequences that want their times and are not cancelled."""
        timed = [each for each in sequences if each.request.options.word_times and each.tokens]
        timed = [each for each in timed if not each.request.is_cancelled]
        if not timed:
            return {}
        decoded = [Decoded(each.row or 0, each.request.waveform, each.tokens, each.probabilities) for each in timed]
        return dict(zip(timed, self._word_timer.words(decoded), strict=True))

    def _seed_of(self, sequence: Sequence) -> int | None:
        """Seed of a sampled sequence; None for a greedy one."""
        is_sampled = sequence.request.options.sampled or self._model.do_sample
        return sequence.request.seed if is_sampled else None

    def _append(self, sequence: Sequence, token: int) -> None:
        """Add a token that has arrived; finish the sequence at its end or at the limit."""
        if token in self._model.eos_ids:
            sequence.finished = True
            return
        sequence.tokens.append(token)
        sequence.finished = sequence.truncated = len(sequence.tokens) >= self._model.max_new_tokens


def make_engine(model: Model, slots: int, queue_capacity: int = QUEUE_CAPACITY) -> Engine:
    """An engine that decodes up to `slots` chunks of `model` side by side, by continuous batching."""
    return Engine(ContinuousScheduler(BorealisRunner(model, slots)), queue_capacity)
