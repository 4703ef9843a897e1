"""Sampling draws as transformers' generate() does, with random numbers that belong to the chunk."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ml.benchmarks.strategies import embed
from ml.borealis.config import GenerationOptions
from ml.borealis.runner import make_engine
from ml.borealis.sampler import Sampler
from ml.engine.request import Request
from tests.support.fake_models import texts_of
from tests.support.reference import CHUNKS, Alone, NumberedChunks, ids_as_text, numbered_chunk

CPU = torch.device("cpu")
GRID = 20_000  # evenly spaced numbers in [0, 1): each token is drawn as often as it is probable
SAMPLING = GenerationOptions(max_new_tokens=10, do_sample=True, temperature=1.5, top_p=0.95, top_k=100)


def transformers_probabilities(logits: torch.Tensor, options: GenerationOptions) -> torch.Tensor:
    """What generate() draws from, in its own order of filters."""
    warpers = LogitsProcessorList(
        [
            TemperatureLogitsWarper(options.temperature),
            TopKLogitsWarper(options.top_k),
            TopPLogitsWarper(options.top_p),
        ]
    )
    return warpers(torch.zeros(len(logits), 1, dtype=torch.long), logits).softmax(dim=-1)


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(do_sample=True),  # the model card's
        GenerationOptions(do_sample=True, temperature=1.0),
        GenerationOptions(do_sample=True, temperature=3.0, top_k=7, top_p=1.0),
        GenerationOptions(do_sample=True, temperature=1.0, top_k=1000, top_p=0.5),
        GenerationOptions(do_sample=True, temperature=1.0, top_k=5, top_p=0.7),
        GenerationOptions(do_sample=True, temperature=1.0, top_k=50, top_p=0.01),
        GenerationOptions(do_sample=True, temperature=0.7, top_k=1, top_p=0.9),
    ],
    ids=lambda options: f"t{options.temperature} k{options.top_k} p{options.top_p}",
)
def test_tokens_are_drawn_as_transformers_draws_them(
    options: GenerationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (torch.arange(GRID) + 0.5) / GRID
    monkeypatch.setattr(torch, "rand", lambda count, generator: grid)
    sampler = Sampler(replace(options, max_new_tokens=GRID), 3, CPU)
    logits = 2.0 * torch.randn(3, 200, generator=torch.Generator().manual_seed(1))
    sampler.assign([2, 0, 1], [0, 0, 0])
    for row, expected in enumerate(transformers_probabilities(logits, options)):
        rows = torch.full((GRID,), row)
        drawn = sampler.sample(logits[row].expand(GRID, -1), rows, torch.arange(GRID)).ids
        frequencies = drawn.bincount(minlength=200) / GRID
        torch.testing.assert_close(frequencies, expected, atol=1.5 / GRID, rtol=0)
        assert set(drawn.tolist()) == set(expected.nonzero()[:, 0].tolist()) - rare(expected)


def test_the_penalty_lowers_the_tokens_generated_so_far_as_transformers_does() -> None:
    sampler = Sampler(GenerationOptions(max_new_tokens=6, repetition_penalty=1.3), 3, CPU)
    processor = RepetitionPenaltyLogitsProcessor(1.3)
    rows = torch.tensor([2, 0])
    sampler.assign([2, 0], [None, None])
    generator, so_far = torch.Generator().manual_seed(1), torch.zeros(2, 0, dtype=torch.long)
    plain = []
    for count in range(6):
        logits = torch.randn(2, 5, generator=generator)  # of both signs; five tokens soon repeat
        expected = processor(so_far, logits.clone()).argmax(dim=-1) if count else logits.argmax(dim=-1)
        plain.append(logits.argmax(dim=-1))
        found = sampler.sample(logits, rows, torch.full((2,), count)).ids
        assert found.tolist() == expected.tolist()
        so_far = torch.cat([so_far, found[:, None]], dim=1)
    assert not torch.equal(so_far, torch.stack(plain, dim=1))  # it has changed some


def test_the_penalty_of_a_row_forgets_the_sequence_before() -> None:
    sampler = Sampler(GenerationOptions(max_new_tokens=4, repetition_penalty=2.0), 1, CPU)
    row = torch.tensor([0])

    def decode() -> list[int]:
        sampler.assign([0], [None])
        counts = [torch.tensor([count]) for count in range(3)]
        return [int(sampler.sample(torch.tensor([[3.0, 2.0, 1.6]]), row, count).ids) for count in counts]

    assert decode() == decode() == [0, 1, 2]


def test_probabilities_are_those_of_the_distribution_that_was_chosen_from() -> None:
    sampler = Sampler(GenerationOptions(), 2, CPU)
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, 3.0, 2.0]])
    found = sampler.sample(logits.clone(), torch.tensor([0, 1]), torch.tensor([0, 0]))
    torch.testing.assert_close(found.probabilities, logits.softmax(dim=-1).amax(dim=-1))


def rare(probabilities: torch.Tensor) -> set[int]:
    """Tokens too improbable for one of the grid's numbers to fall on them; none, with the options tried here."""
    return set((probabilities < 1 / GRID).nonzero()[:, 0].tolist())


def test_greedy_choice_takes_the_likeliest_and_draws_nothing() -> None:
    sampler = Sampler(GenerationOptions(), 2, CPU)
    before = torch.get_rng_state()
    sampler.assign([0, 1], [1, 2])
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, 3.0, 2.0]])
    assert sampler.sample(logits, torch.tensor([0, 1]), torch.tensor([0, 0])).ids.tolist() == [1, 0]
    assert torch.equal(torch.get_rng_state(), before)


def draws(sampler: Sampler, row: int) -> list[int]:
    """The tokens of a whole text out of even logits: the chunk's random numbers, as it were."""
    counts = torch.arange(SAMPLING.max_new_tokens)
    logits = torch.linspace(0, 1, 100).expand(len(counts), -1)
    return sampler.sample(logits, torch.full_like(counts, row), counts).ids.tolist()


def test_a_chunk_s_draws_follow_its_seed_and_not_its_slot() -> None:
    sampler = Sampler(SAMPLING, 4, CPU)
    sampler.assign([3, 1, 0], [111, 222, 333])
    first = draws(sampler, 3)
    assert len(set(first)) > 3
    assert first != draws(sampler, 1) != draws(sampler, 0) != first
    sampler.assign([0, 3], [111, 444])
    assert draws(sampler, 0) == first != draws(sampler, 3)


def test_another_seed_of_the_options_gives_other_draws() -> None:
    def first(seed: int) -> list[int]:
        sampler = Sampler(replace(SAMPLING, seed=seed), 1, CPU)
        sampler.assign([0], [111])
        return draws(sampler, 0)

    assert first(0) == first(0)
    assert len({tuple(first(seed)) for seed in range(5)}) == 5


def test_a_sequence_that_moves_keeps_its_numbers() -> None:
    sampler = Sampler(replace(SAMPLING, do_sample=False), 3, CPU)
    sampler.assign([0, 2], [None, 7])
    expected = draws(sampler, 2)
    sampler.move(2, 1)
    assert draws(sampler, 1) == expected
    sampler.move(1, 0)
    assert draws(sampler, 0) == expected
    sampler.assign([0, 1, 2], [None] * 3)
    assert not sampler.any_row_sampled
    sampler.assign([1], [8])
    assert len(set(draws(sampler, 0))) == len(set(draws(sampler, 2))) == 1  # greedy, whatever the row held before


def test_steps_are_greedy_again_once_the_sampled_row_is_released() -> None:
    sampler = Sampler(GenerationOptions(max_new_tokens=4), 3, CPU)
    sampler.assign([1], [7])
    assert sampler.any_row_sampled
    sampler.move(1, 0)
    sampler.release(0)
    assert not sampler.any_row_sampled
    assert sampler.sample(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), torch.tensor([0])).ids.tolist() == [1]


def test_drawing_leaves_torch_s_own_generator_alone() -> None:
    before = torch.get_rng_state()
    sampler = Sampler(SAMPLING, 1, CPU)
    sampler.assign([0], [7])
    draws(sampler, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_beyond_the_last_token_do_not_fail() -> None:
    sampler = Sampler(SAMPLING, 1, CPU)
    sampler.assign([0], [7])
    logits = torch.zeros(1, 100)
    last = sampler.sample(logits, torch.tensor([0]), torch.tensor([SAMPLING.max_new_tokens - 1]))
    beyond = sampler.sample(logits, torch.tensor([0]), torch.tensor([SAMPLING.max_new_tokens + 5]))
    assert beyond.ids.tolist() == last.ids.tolist()


def sampling_chunks(alone: Alone, seed: int = 0) -> NumberedChunks:
    model = copy.copy(alone.model)
    model.options = replace(SAMPLING, seed=seed, repetition_penalty=alone.model.options.repetition_penalty)
    model.max_new_tokens = SAMPLING.max_new_tokens
    return NumberedChunks(alone, model)


@pytest.fixture(scope="module")
def sampled(alone: Alone) -> list[str]:
    """The text of each chunk when it is the engine's only one."""
    with make_engine(sampling_chunks(alone), 1) as engine:
        return [engine.submit(numbered_chunk(index)).result().text for index in range(CHUNKS)]


def test_a_sampled_text_is_the_same_alone_and_among_others(
    alone: Alone, sampled: list[str], in_batches: None, device_pace: str
) -> None:
    assert len(set(sampled)) == CHUNKS
    with make_engine(sampling_chunks(alone), 5) as engine:
        for order in (range(CHUNKS), range(CHUNKS - 1, -1, -1)):
            futures = [engine.submit(numbered_chunk(index), recording_id=index % 2) for index in order]
            assert texts_of(futures) == [sampled[index] for index in order]


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
def test_sampled_tokens_equal_those_of_generate_with_the_same_numbers(
    alone: Alone, sampled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    penalty = alone.model.options.repetition_penalty
    config = {"temperature": 1.5, "top_p": 0.95, "top_k": 100, "do_sample": True, "max_new_tokens": 10}
    config |= {"repetition_penalty": penalty, "eos_token_id": alone.end}
    for index in range(CHUNKS):
        seed = Request(numbered_chunk(index), None, 0.0).seed
        numbers = iter(torch.rand(10, generator=torch.Generator().manual_seed(seed)))

        def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
            """The token at the next number's place of the distribution, the likeliest tokens first."""
            ordered, tokens = probabilities.sort(descending=True, dim=-1)
            place = (ordered.cumsum(dim=-1) <= next(numbers)).sum(dim=-1, keepdim=True)  # noqa: B023
            return tokens.gather(-1, place)

        monkeypatch.setattr(torch, "multinomial", multinomial)
        inputs = embed(alone.model, alone.audio[index : index + 1])
        ids = alone.model.network.generate(inputs_embeds=inputs, **config)[0].tolist()
        assert ids_as_text([token for token in ids if token != alone.end]) == sampled[index]


def test_another_seed_of_the_options_gives_other_texts(alone: Alone, sampled: list[str]) -> None:
    with make_engine(sampling_chunks(alone, seed=1), 4) as engine:
        again = texts_of([engine.submit(numbered_chunk(index)) for index in range(CHUNKS)])
    assert sum(one != other for one, other in zip(again, sampled, strict=True)) > CHUNKS / 2
