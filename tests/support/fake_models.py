"""Fakes at the engine's edges: a model whose text is its chunk's number, and a device that answers late."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ml.borealis.runner import make_engine
from ml.borealis.sampler import Tokens
from ml.borealis.transfer import Arrived, HostEncoder
from ml.engine.engine import Engine
from ml.interfaces import Waveform
from ml.transcript import Completion
from tests.support.waiting import HANG_LIMIT_S

POISON = 666
END = -1  # the fake model's end of text
FACTOR = 1000  # token = number * FACTOR + place


def chunk(number: int, length: int = 3) -> Waveform:
    """A chunk of which the fake model decodes `length` tokens of `number`."""
    return np.array([number, length], np.float32)


def text(number: int, length: int = 3) -> str:
    """The fake model's text of chunk(number, length)."""
    return f"{number}: {length} tokens" if length else ""


def certain(ids: list[int]) -> Tokens:
    """Tokens of probability 1."""
    return Tokens(torch.tensor(ids), torch.ones(len(ids)))


class FakeDecoder:
    """Decodes number * 1000 + place for each place of a chunk's text, then END, in any row."""

    prefill_length = 10

    def __init__(self, model: "FakeModel", slots: int) -> None:
        self._model = model
        self._left: list[list[int]] = [[] for _ in range(slots)]  # tokens left to decode, END included

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: list[int]) -> Tokens:
        spoken = audio[:, 0].int().tolist()
        self._model.rows += [(number, row) for row, (number, _) in zip(rows, spoken, strict=True)]
        self._model.enter("prefill", [number for number, _ in spoken])
        for row, (number, length) in zip(rows, spoken, strict=True):
            self._left[row] = [number * FACTOR + place for place in range(length)] + [END]
        return certain([self._left[row].pop(0) for row in rows])

    def move(self, row: int, to: int) -> None:
        self._left[to], self._left[row] = self._left[row], []

    def release(self, row: int) -> None:
        pass

    def step(self, active: int, length: int) -> Tokens:
        return self.step_rows(list(range(active)), length)

    def step_rows(self, rows: list[int], length: int) -> Tokens:
        texts = [self._left[row] for row in rows]
        numbers = [left[0] // FACTOR if left != [END] else END for left in texts if left]
        try:
            self._model.enter("step", numbers)
        except Exception:
            self._left = [[] for _ in self._left]
            raise
        return certain([left.pop(0) if left else END for left in texts])


class FakeModel:
    """Decodes a chunk's number, over and over. `gate` holds the encoder back; `log` keeps the calls.

    `poisoned` is the stage that breaks down with `error` over chunk POISON; `at_step[n]` runs just before step n.
    """

    device = torch.device("cpu")
    eos_ids = frozenset({END})
    max_new_tokens = 40
    encoder_workers = 1
    do_sample = False
    pauses = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.at_work = threading.Event()
        self.log: list[tuple[str, list[int]]] = []
        self.rows: list[tuple[int, int]] = []  # number and row of each prefill
        self.threads: set[int] = set()
        self.at_step: dict[int, Callable[[], object]] = {}
        self.largest_batch = 10**6
        self.poisoned = "nothing"
        self.error: BaseException = RuntimeError("poisoned")

    def enter(self, stage: str, numbers: list[int]) -> None:
        self.threads.add(threading.get_ident())
        self.log.append((stage, numbers))
        if stage == "step":
            self.at_step.pop(len(self.calls("step")), lambda: None)()
        if stage == self.poisoned and POISON in numbers:
            raise self.error
        if stage in ("encode", "prefill") and len(numbers) > self.largest_batch:
            raise torch.OutOfMemoryError("too large")

    def calls(self, stage: str) -> list[list[int]]:
        """The chunks' numbers at each call of `stage`."""
        return [numbers for name, numbers in self.log if name == stage]

    def watch_progress(self, on_progress: Callable[[], None]) -> None:
        pass

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        self.at_work.set()
        assert self.gate.wait(HANG_LIMIT_S)
        self.enter("encode", [int(number) for number in waveforms[:, 0]])
        return waveforms[:, None, :2].clone()  # (B, 1, 2)

    def make_decoder(self, slots: int) -> FakeDecoder:
        return FakeDecoder(self, slots)

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        self.enter("decode", [row[0] // FACTOR if row else END for row in ids])
        return [self._text_of(row) for row in ids]

    def _text_of(self, tokens: Sequence[int]) -> str:
        number = tokens[0] // FACTOR if tokens else 0
        if list(tokens) != [number * FACTOR + place for place in range(len(tokens))]:
            return f"garbled: {tokens}"
        return text(number, len(tokens))


class PausingModel(FakeModel):
    """Encodes in layers, as the CPU does; `at_layer[n]` runs just after the n-th layer of all."""

    pauses = True

    def __init__(self) -> None:
        super().__init__()
        self.at_layer: dict[int, Callable[[], object]] = {}

    def start_encoding(self, waveforms: torch.Tensor) -> "LayeredBatch":
        return LayeredBatch(self, waveforms)


class LayeredBatch:
    """Chunks in an encoder of three layers."""

    def __init__(self, model: PausingModel, waveforms: torch.Tensor) -> None:
        self._model, self._waveforms, self._left = model, waveforms, 3

    def advance(self, must_pause: Callable[[], bool]) -> None:
        while self._left:
            self._model.enter("layer", [int(number) for number in self._waveforms[:, 0]])
            self._left -= 1
            self._model.at_layer.pop(len(self._model.calls("layer")), lambda: None)()
            if must_pause():
                return

    def is_ready(self) -> bool:
        return not self._left

    def wait(self) -> torch.Tensor:
        self.advance(lambda: False)
        return self._waveforms[:, None, :2].clone()


class LateReadback:
    """Returns tokens only when `DEPTH` more steps are under way, as a device does that runs behind its host."""

    DEPTH = 3

    def __init__(self) -> None:
        self._pending: deque[Arrived[Any]] = deque()
        self._ready = 0

    def put(self, tokens: Tokens, tag: Any) -> None:
        self._pending.append(Arrived(tokens.ids.tolist(), tokens.probabilities.tolist(), tag))

    def flush(self) -> None:
        """As if the device had caught up."""
        self._ready = len(self._pending)

    def get(self) -> list[Arrived[Any]]:
        return [self._pending.popleft() for _ in range(max(self._ready, len(self._pending) - self.DEPTH))]

    def clear(self) -> None:
        self._pending.clear()
        self._ready = 0


class LateBatch:
    """Ready when asked for the third time."""

    def __init__(self, audio: torch.Tensor) -> None:
        self._audio = audio
        self._asked = 0

    def advance(self, must_pause: Callable[[], bool]) -> None:
        pass

    def is_ready(self) -> bool:
        self._asked += 1
        return self._asked > 2

    def wait(self) -> torch.Tensor:
        return self._audio


class LateEncoder:
    """Encodes beside the decode steps, as far as the scheduler can tell."""

    def __init__(self, prepare: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._host = HostEncoder(prepare)

    def encode(self, waveforms: Sequence[Waveform]) -> LateBatch:
        return LateBatch(self._host.encode(waveforms).wait())


@contextmanager
def busy_engine(fake: FakeModel, slots: int = 4, queue_capacity: int = 64) -> Iterator[Engine]:
    """An engine whose thread is held at a first chunk, number 0 and of one token, until `fake.gate` is set."""
    fake.gate.clear()
    with make_engine(fake, slots, queue_capacity) as engine:
        engine.submit(chunk(0, 1), recording_id="the first")
        assert fake.at_work.wait(HANG_LIMIT_S)
        try:
            yield engine
        finally:
            fake.gate.set()


def texts_of(futures: Sequence["Future[Completion]"]) -> list[str]:
    return [future.result(HANG_LIMIT_S).text for future in futures]


def in_background(work: Callable[[], object]) -> "Future[object]":
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future
