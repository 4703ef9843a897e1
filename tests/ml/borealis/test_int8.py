"""int8 on a CPU: close to float32, the same for a chunk in every batch, in a quarter of the memory."""

import random

import pytest
import torch
from torch import nn

from ml.borealis.checkpoint import Checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.linear import (
    Int8Linear,
    Int8Matrix,
    int8_of,
    join,
    join_biases,
    linear,
    memory_of,
    reserve,
    set_int8,
)
from ml.borealis.model import BorealisModel
from ml.borealis.runner import make_engine
from tests.support.checkpoints import tone
from tests.support.fake_models import texts_of
from tests.support.reference import CHUNKS, Alone, NumberedChunks, numbered_chunk

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def int8(converted: Checkpoint) -> BorealisModel:
    return BorealisModel.load(converted.path, CPU, torch.int8, GenerationOptions(max_new_tokens=12))


def test_a_product_is_within_a_hundredth_of_that_of_floats() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(300, 128, generator=generator), torch.randn(300, generator=generator)
    x = torch.randn(50, 128, generator=generator) * torch.logspace(-3, 3, 50)[:, None]  # of very different loudness
    found = Int8Linear(Int8Matrix.quantize(weight), rows=50)(x, bias)
    expected = nn.functional.linear(x, weight, bias)
    assert ((found - expected).norm(dim=1) <= 0.015 * expected.norm(dim=1)).all()


def test_a_row_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    packed = Int8Linear(Int8Matrix.quantize(torch.randn(64, 32, generator=generator)), rows=None)
    x = torch.randn(9, 32, generator=generator)
    louder = torch.cat([x[:1], 100 * x[1:]])
    assert torch.equal(packed(x, None)[0], packed(louder, None)[0])
    assert torch.equal(packed(x, None)[:1], packed(x[:1], None))


def test_rows_of_zeros_stay_zeros() -> None:
    packed = Int8Linear(Int8Matrix.quantize(torch.zeros(8, 16)), rows=None)
    assert torch.equal(packed(torch.zeros(2, 16), None), torch.zeros(2, 8))


def test_embeddings_are_close_to_those_of_float32(int8: BorealisModel, model: BorealisModel) -> None:
    features = model.features([tone(440, 5)])
    expected, found = model.encode(features), int8.encode(features)
    assert ((found - expected).norm() / expected.norm()).item() < 0.05


def test_the_weights_take_little_more_than_a_quarter_of_the_memory(int8: BorealisModel, model: BorealisModel) -> None:
    int8.make_decoder(1), model.make_decoder(1)
    layers = sum(weight.nbytes for weight in model.network.model.language_model.layers.parameters())
    other = memory_of(model.network) - layers  # convolutions and positions stay float32
    assert memory_of(int8.network) < 0.3 * layers + other


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_text_is_the_same_alone_and_among_others(alone: Alone, int8: BorealisModel, slots: int) -> None:
    chunks = NumberedChunks(alone, int8)
    with make_engine(chunks, 1) as engine:
        expected = [engine.submit(numbered_chunk(index)).result().text for index in range(CHUNKS)]
    order = random.Random(slots).sample(range(CHUNKS), CHUNKS)
    with make_engine(chunks, slots) as engine:
        futures = [engine.submit(numbered_chunk(index), recording_id=index % 3) for index in order]
        assert texts_of(futures) == [expected[index] for index in order]
    assert len(set(expected)) == CHUNKS


def test_products_in_floats_round_the_weights_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    projections = [nn.Linear(16, 8), nn.Linear(16, 4)]
    for projection in projections:
        set_int8(projection, Int8Matrix.quantize(torch.randn(projection.weight.shape, generator=generator)))
    held = [int8_of(projection) for projection in projections]
    joined = join(projections, in_floats=True)
    x = torch.randn(5, 16, generator=generator)
    expected = torch.cat([x @ (each.values * each.scales[:, None]).T for each in held], dim=1)
    torch.testing.assert_close(linear(x, joined), expected)
    assert memory_of(nn.ModuleList(projections)) == joined.nbytes + sum(each.bias.nbytes for each in projections)


def test_weights_that_were_reserved_together_are_joined_without_a_copy() -> None:
    projections = [nn.Linear(8, 4), nn.Linear(8, 2, bias=False), nn.Linear(8, 6)]
    reserve(projections)
    for number, projection in enumerate(projections):
        projection.weight.data.fill_(number)
    joined = join(projections)
    assert isinstance(joined, torch.Tensor)
    assert joined.untyped_storage().data_ptr() == projections[2].weight.untyped_storage().data_ptr()
    assert joined[:, 0].tolist() == [0] * 4 + [1] * 2 + [2] * 6
    assert join_biases(projections)[4:6].tolist() == [0, 0]
