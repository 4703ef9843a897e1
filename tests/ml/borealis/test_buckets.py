"""Steps rounded up to the sizes that graphs are captured for give the tokens of steps of the right size."""

import random

import pytest
import torch

from ml.borealis import cuda as graphs
from ml.borealis.cuda import GraphedDecoder
from ml.borealis.decoder import SlotDecoder
from ml.borealis.sampler import Tokens
from tests.support.reference import Alone, come_and_go


class Replayed:
    """Stands in for a captured step: runs it again, its result in the same memory."""

    def __init__(self, decoder: SlotDecoder, rows: int, length: int) -> None:
        self._step = lambda: decoder.step(rows, length)
        self.tokens = Tokens(torch.zeros(rows, dtype=torch.long), torch.zeros(rows))

    def replay(self) -> None:
        for kept, new in zip(self.tokens, self._step(), strict=True):
            kept[:] = new


class BucketedDecoder(GraphedDecoder):
    """A GraphedDecoder without CUDA."""

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder
        self.prefill_length = decoder.prefill_length
        self._graphs = {}

    def _capture(self, rows: int, length: int) -> tuple[Replayed, Tokens]:
        replayed = Replayed(self._decoder, rows, length)
        return replayed, replayed.tokens


class Shape:
    """As much of a decoder as buckets are made from."""

    prefill_length = 430

    def __init__(self, slots: int, max_new_tokens: int) -> None:
        self.slots = slots
        self.capacity = self.prefill_length + max_new_tokens


@pytest.mark.parametrize("slots", [1, 2, 3, 20, 32, 100, 512])
@pytest.mark.parametrize("max_new_tokens", [1, 100, 128, 350])
def test_every_step_has_its_bucket_and_every_bucket_is_captured_beforehand(slots: int, max_new_tokens: int) -> None:
    shape = Shape(slots, max_new_tokens)
    decoder = BucketedDecoder(shape)
    needed = set()
    for active in range(1, slots + 1):
        for length in range(shape.prefill_length + 1, shape.capacity + 4):  # the host runs ahead of the last token
            rows, columns = decoder._bucket(active, length)
            assert active <= rows <= slots
            assert min(length, shape.capacity) <= columns <= shape.capacity
            needed.add((rows, columns))
    decoder.capture_all()
    assert set(decoder._graphs) == needed
    assert len(needed) <= len(graphs.ROW_BUCKETS) * (max_new_tokens / graphs.LENGTH_BUCKET + 1)


def test_the_largest_bucket_is_captured_first() -> None:
    decoder = BucketedDecoder(Shape(20, 350))
    decoder.capture_all()
    rows, columns = zip(*decoder._graphs, strict=True)
    assert next(iter(decoder._graphs)) == (max(rows), max(columns)) == (20, 780)


def test_steps_are_replayed_again_once_a_sampled_sequence_has_left(alone: Alone) -> None:
    decoder = BucketedDecoder(alone.make_decoder(3))
    decoder.prefill([1], alone.audio[:1], [7])
    decoder.step(2, decoder.prefill_length + 1)
    assert not decoder._graphs  # sampled: not replayed
    decoder.release(1)
    decoder.prefill([0], alone.audio[:1], [None])
    decoder.step(1, decoder.prefill_length + 1)
    assert decoder._graphs


@pytest.mark.parametrize("seed", range(3))
def test_rounding_up_changes_no_token(alone: Alone, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(graphs, "LENGTH_BUCKET", 7)
    decoder = BucketedDecoder(alone.make_decoder(5))
    come_and_go(decoder, alone, random.Random(seed), slots=5)
    come_and_go(decoder, alone, random.Random(seed + 10), slots=5)
    assert len({rows for rows, _ in decoder._graphs}) >= 2
    assert len({length for _, length in decoder._graphs}) >= 3
