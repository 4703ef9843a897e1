"""Decoding many chunks together gives each the tokens that transformers' generate() gives it alone."""

import random
from collections.abc import Callable
from concurrent.futures import Future, wait

import pytest
import torch

from ml.benchmarks.strategies import embed, generate, transcribe_batch
from ml.borealis import decoder as decoder_module
from ml.borealis.checkpoint import Checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.decoder import SlotDecoder
from ml.borealis.model import BorealisModel
from ml.borealis.runner import make_engine
from ml.transcript import Completion
from tests.support.checkpoints import HandMade, tone
from tests.support.fake_models import texts_of
from tests.support.reference import (
    CHUNKS,
    MAX_NEW_TOKENS,
    Alone,
    NumberedChunks,
    come_and_go,
    decode_alone,
    ids_as_text,
    numbered_chunk,
    prefill,
    step_to_the_end,
)
from tests.support.waiting import HANG_LIMIT_S


def test_the_chunks_differ_in_their_tokens_and_lengths(alone: Alone) -> None:
    assert len({tuple(tokens) for tokens in alone.tokens}) == CHUNKS
    lengths = [len(tokens) for tokens in alone.tokens]
    assert len(set(lengths)) >= 5
    assert min(lengths) < MAX_NEW_TOKENS / 2
    assert max(lengths) == MAX_NEW_TOKENS


def test_the_penalty_changes_the_tokens(alone: Alone, without_penalty: Alone) -> None:
    changed = [index for index in range(CHUNKS) if alone.tokens[index] != without_penalty.tokens[index]]
    assert len(changed) > CHUNKS / 2


@pytest.fixture(scope="module")
def without_penalty(converted: Checkpoint) -> Alone:
    return decode_alone(converted.path, repetition_penalty=1.0)


def test_without_a_penalty_the_engine_gives_each_chunk_the_text_that_it_has_alone(without_penalty: Alone) -> None:
    with make_engine(NumberedChunks(without_penalty), 5) as engine:
        futures = [engine.submit(numbered_chunk(index)) for index in range(CHUNKS)]
        assert texts_of(futures) == [ids_as_text(tokens) for tokens in without_penalty.tokens]


def test_generate_itself_ends_where_the_tokens_were_cut(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone.model.network.generation_config, "eos_token_id", alone.end)
    index = min(range(CHUNKS), key=lambda index: len(alone.tokens[index]))
    whole = generate(alone.model, embed(alone.model, alone.audio[index : index + 1]))[0].tolist()
    assert whole == [*alone.tokens[index], alone.end]


@pytest.mark.parametrize("rows", [[0], [2], [3, 0, 2], [7, 6, 5, 4, 3, 2, 1, 0], [1, 4, 6]], ids=str)
def test_a_batch_in_any_rows_gives_what_each_chunk_gives_alone(alone: Alone, rows: list[int]) -> None:
    decoder, admitted = alone.make_decoder(8), {row: index for index, row in enumerate(rows)}
    found = step_to_the_end(decoder, alone, prefill(decoder, alone, admitted))
    assert found == {row: alone.tokens[index] for row, index in admitted.items()}


@pytest.mark.parametrize("seed", range(3))
def test_chunks_that_come_and_go_at_any_step_do_not_disturb_each_other(alone: Alone, seed: int) -> None:
    come_and_go(alone.make_decoder(5), alone, random.Random(seed), slots=5)


def test_nothing_of_a_longer_text_is_left_for_the_next_in_its_row(alone: Alone) -> None:
    long, short, other = sorted(range(CHUNKS), key=lambda index: -len(alone.tokens[index]))[:3]
    decoder = alone.make_decoder(2)
    step_to_the_end(decoder, alone, prefill(decoder, alone, {0: long, 1: other}))
    written = decoder.keys[:, :, :, decoder.prefill_length :].abs().sum(dim=(0, 2, 4))  # (2, MAX_NEW_TOKENS)
    assert (written > 0).sum() >= 2 * (MAX_NEW_TOKENS - 1)  # there is something to leak
    decoder.keys[:, :, :, decoder.prefill_length :] *= 100.0  # and it would change the tokens
    decoder.values[:, :, :, decoder.prefill_length :] = 1e4
    for length in (0, decoder.capacity):
        found = step_to_the_end(decoder, alone, prefill(decoder, alone, {1: short, 0: other}), length)
        assert found == {1: alone.tokens[short], 0: alone.tokens[other]}


def test_a_chunk_that_turned_to_nonsense_leaves_none_for_the_next_in_its_row(alone: Alone) -> None:
    decoder = alone.make_decoder(2)
    decoder.prefill([0, 1], torch.full_like(alone.audio[:2], torch.nan), [None, None])
    for place in range(1, MAX_NEW_TOKENS):
        decoder.step(2, decoder.prefill_length + place)
    assert decoder.values[:, :, :, decoder.prefill_length :].isnan().any()
    found = prefill(decoder, alone, {1: 0, 0: 1})
    assert step_to_the_end(decoder, alone, found, decoder.capacity) == {1: alone.tokens[0], 0: alone.tokens[1]}


def test_the_prompt_s_keys_stay_as_they_were_in_every_row(alone: Alone) -> None:
    decoder = alone.make_decoder(3)
    caches = (decoder.keys, decoder.values)
    before = [cache[:, :, :, : decoder.prefix_length].clone() for cache in caches]
    for cache in before:
        assert cache.abs().sum(dim=(1, 2, 3, 4)).gt(0).all()
        torch.testing.assert_close(cache, cache[:, :1].expand_as(cache), atol=0, rtol=0)
    for chunks in ({0: 0, 1: 1, 2: 2}, {2: 3}, {1: 4, 0: 5}):
        step_to_the_end(decoder, alone, prefill(decoder, alone, chunks))
    for _ in range(2 * MAX_NEW_TOKENS):  # vacant rows are stepped past their end
        decoder.step(3, decoder.capacity)
    for cache, kept in zip(caches, before, strict=True):
        assert torch.equal(cache[:, :, :, : decoder.prefix_length], kept)
    assert step_to_the_end(decoder, alone, prefill(decoder, alone, {1: 6})) == {1: alone.tokens[6]}


def test_the_cache_takes_as_much_memory_as_it_says(alone: Alone, hand_made: HandMade) -> None:
    config = hand_made.llm.config
    decoder = alone.make_decoder(3)
    head_dim = config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * 4  # float32
    assert decoder.cache_bytes == 3 * decoder.capacity * token_bytes
    assert decoder.cache_bytes == decoder.keys.nbytes + decoder.values.nbytes
    assert decoder.capacity == decoder.prefill_length + MAX_NEW_TOKENS


@pytest.mark.parametrize(("flops_a_thread", "expected"), [(1e15, 1), (1.0, 3)])
def test_a_step_takes_as_many_threads_as_its_work_is_worth(
    alone: Alone, monkeypatch: pytest.MonkeyPatch, flops_a_thread: float, expected: int
) -> None:
    monkeypatch.setattr(decoder_module, "STEP_FLOPS_A_THREAD", flops_a_thread)
    decoder, before, used = alone.make_decoder(2), torch.get_num_threads(), set()
    sample = decoder.sampler.sample
    monkeypatch.setattr(
        decoder.sampler, "sample", lambda *given: (used.add(torch.get_num_threads()), sample(*given))[1]
    )
    torch.set_num_threads(3)
    try:
        decoder.step(2, decoder.prefill_length + 1)
        decoder.step_rows([1], decoder.prefill_length + 2)
        assert used == {expected} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_the_engine_gives_each_chunk_the_text_that_it_has_alone(alone: Alone, device_pace: str, slots: int) -> None:
    order = random.Random(slots).sample(range(CHUNKS), CHUNKS)
    with make_engine(NumberedChunks(alone), slots) as engine:
        futures = [engine.submit(numbered_chunk(index), recording_id=index % 3) for index in order]
        assert texts_of(futures) == [ids_as_text(alone.tokens[index]) for index in order]


def test_the_engine_s_own_pace_on_the_cpu_changes_nothing(alone: Alone) -> None:
    with make_engine(NumberedChunks(alone), 4) as engine:
        futures = [engine.submit(numbered_chunk(index)) for index in range(CHUNKS)]
        assert texts_of(futures) == [ids_as_text(tokens) for tokens in alone.tokens]


def test_encoder_batches_change_nothing(alone: Alone, in_batches: None, device_pace: str) -> None:
    with make_engine(NumberedChunks(alone), 7) as engine:
        futures = [engine.submit(numbered_chunk(index)) for index in range(CHUNKS)]
        assert texts_of(futures) == [ids_as_text(tokens) for tokens in alone.tokens]


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_cancelling_some_changes_nothing_for_the_others(
    alone: Alone, in_batches: None, device_pace: str, slots: int
) -> None:
    dice = random.Random(slots)
    order = dice.sample(range(CHUNKS), CHUNKS)
    chunks = NumberedChunks(alone)
    futures: list[Future[Completion]] = []
    chunks.make_decoder = cancelling(chunks.make_decoder, lambda: dice.choice(futures[::2]).cancel())
    with make_engine(chunks, slots) as engine:
        futures += [engine.submit(numbered_chunk(index), recording_id=index % 2) for index in order]
        wait(futures, HANG_LIMIT_S)
    assert [future.result().text for future in futures[1::2]] == [
        ids_as_text(alone.tokens[index]) for index in order[1::2]
    ]
    for index, future in zip(order[::2], futures[::2], strict=True):
        assert future.cancelled() or future.result().text == ids_as_text(alone.tokens[index])
    assert any(future.cancelled() for future in futures)


def cancelling(
    make_decoder: Callable[[int], SlotDecoder], cancel: Callable[[], object]
) -> Callable[[int], SlotDecoder]:
    """A decoder that cancels a chunk at every tenth step."""

    def make(slots: int) -> SlotDecoder:
        decoder, steps = make_decoder(slots), iter(range(10**6))
        step = decoder.step

        def cancelling_step(active: int, length: int) -> torch.Tensor:
            if next(steps) % 10 == 5:
                cancel()
            return step(active, length)

        decoder.step = cancelling_step  # type: ignore[method-assign]
        return decoder

    return make


def test_a_chunk_that_breaks_a_step_changes_nothing_for_the_others(alone: Alone, device_pace: str) -> None:
    chunks = NumberedChunks(alone)
    whole_decoder = chunks.make_decoder(4)
    step, failures = whole_decoder.step, iter([5])

    def failing_step(active: int, length: int) -> torch.Tensor:
        if next(failures, None):
            raise RuntimeError("a passing fault")
        return step(active, length)

    whole_decoder.step = failing_step  # type: ignore[method-assign]
    chunks.make_decoder = lambda slots: whole_decoder
    with make_engine(chunks, 4) as engine:
        futures = [engine.submit(numbered_chunk(index)) for index in range(CHUNKS)]
        assert texts_of(futures) == [ids_as_text(tokens) for tokens in alone.tokens]


def test_from_sound_to_text_the_engine_answers_as_the_model_does(model: BorealisModel) -> None:
    sounds = [tone(frequency, 0.5 + frequency / 500) for frequency in (200, 1000, 3000)]
    expected = [transcribe_batch(model, [sound])[0] for sound in sounds]
    assert len(set(expected)) == len(sounds)
    with make_engine(model, 2) as engine:
        engine.warm_up()
        assert texts_of([engine.submit(sound) for sound in reversed(sounds)]) == expected[::-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_engine_runs_in_half_precision(converted: Checkpoint, dtype: torch.dtype) -> None:
    half = BorealisModel.load(converted.path, torch.device("cpu"), dtype, GenerationOptions(max_new_tokens=3))
    with make_engine(half, 2) as engine:
        assert len(texts_of([engine.submit(tone(440, 1)), engine.submit(tone(1000, 2))])) == 2
