"""The converted network computes what transformers' own parts compute, chunk by chunk."""

import logging

import numpy as np
import pytest
import torch
from transformers import VoxtralForConditionalGeneration

from ml.benchmarks.strategies import embed, generate, transcribe_batch
from ml.borealis import config
from ml.borealis.checkpoint import Checkpoint
from ml.borealis.config import GenerationOptions, resolve_device, resolve_dtype
from ml.borealis.features import pad_chunks
from ml.borealis.model import BorealisModel
from ml.errors import DeviceUnavailableError
from tests.support.checkpoints import HIDDEN, HandMade, tone

CPU = torch.device("cpu")
SOUNDS = [tone(200, 1), tone(440, 5), tone(1000, 30), np.zeros(16_000, np.float32), tone(3000, 0.01)]


def greedy_ids(model: BorealisModel, sounds: list[np.ndarray]) -> torch.Tensor:
    return generate(model, embed(model, model.encode(model.features(sounds))))


def test_logits_equal_a_hand_composition(model: BorealisModel, hand_made: HandMade) -> None:
    features = model.features(SOUNDS)
    logits = model.network(inputs_embeds=embed(model, model.encode(features))).logits
    torch.testing.assert_close(logits, hand_made.logits(features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sound", SOUNDS, ids=len)
def test_greedy_tokens_equal_a_hand_composition(model: BorealisModel, hand_made: HandMade, sound: np.ndarray) -> None:
    ids = greedy_ids(model, [sound])[0].tolist()
    assert ids == hand_made.greedy(model.features([sound]), model.options.max_new_tokens)


def test_different_sounds_give_different_tokens(model: BorealisModel) -> None:
    assert len({tuple(row) for row in greedy_ids(model, SOUNDS).tolist()}) == len(SOUNDS)


def test_a_chunk_gives_the_same_text_alone_as_in_a_batch(model: BorealisModel) -> None:
    assert transcribe_batch(model, SOUNDS) == [transcribe_batch(model, [sound])[0] for sound in SOUNDS]


def test_a_row_that_ends_early_does_not_disturb_the_others(
    converted: Checkpoint, model: BorealisModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = greedy_ids(model, SOUNDS).tolist()
    end = whole[0][3]
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", end)
    for row, full in zip(greedy_ids(model, SOUNDS).tolist(), whole, strict=True):
        length = full.index(end) + 1 if end in full else len(full)
        assert row[:length] == full[:length]
        assert set(row[length:]) <= {model.tokenizer.pad_token_id}


def test_the_stock_class_alone_runs_the_converted_folder(converted: Checkpoint, model: BorealisModel) -> None:
    stock = VoxtralForConditionalGeneration.from_pretrained(converted.path, dtype=torch.float32)
    prompt, features = model.prompt, model.features(SOUNDS[:2])
    ids = [*prompt.prefix_ids, *[stock.config.audio_token_id] * 375, *prompt.suffix_ids]
    answer = stock.generate(
        input_ids=torch.tensor([ids, ids]), input_features=features,
        attention_mask=torch.ones(2, len(ids), dtype=torch.long), max_new_tokens=model.options.max_new_tokens,
    )  # fmt: skip
    assert answer[:, len(ids) :].tolist() == greedy_ids(model, SOUNDS[:2]).tolist()


def test_the_parts_add_up_to_the_whole(model: BorealisModel) -> None:
    audio = model.encode(model.features(SOUNDS[:2]))
    assert audio.shape == (2, 375, HIDDEN)
    inputs = embed(model, audio)
    prefix, suffix = model.prompt_embeddings()
    torch.testing.assert_close(inputs[0], torch.cat([prefix[0], audio[0], suffix[0]]), atol=0, rtol=0)
    together = model.audio_embeddings(pad_chunks(SOUNDS[:2]))
    torch.testing.assert_close(together, audio, atol=0, rtol=0)


def test_tied_embeddings_stay_one_matrix(model: BorealisModel) -> None:
    assert model.network.lm_head.weight is model.network.get_input_embeddings().weight


def test_an_empty_batch_has_no_texts(model: BorealisModel) -> None:
    assert transcribe_batch(model, []) == []


def test_texts_have_no_special_tokens_and_no_space_around_them(model: BorealisModel) -> None:
    ids = model.tokenizer.encode("<|im_start|>  аудио в текст .\n<|im_end|><|endoftext|>")
    assert model.decode(torch.tensor([ids])) == ["аудио в текст ."]


def test_a_read_only_waveform_is_fine(model: BorealisModel) -> None:
    frozen = np.frombuffer(tone(440, 1).tobytes(), np.float32)
    assert transcribe_batch(model, [frozen]) == transcribe_batch(model, [tone(440, 1)])


def test_sampling_follows_its_seed_and_leaves_the_global_generator_alone(converted: Checkpoint) -> None:
    def sample(seed: int) -> list[list[int]]:
        options = GenerationOptions(max_new_tokens=12, do_sample=True, temperature=2.0, top_p=1.0, seed=seed)
        return greedy_ids(BorealisModel.load(converted.path, CPU, torch.float32, options), SOUNDS[:2]).tolist()

    before = torch.get_rng_state()
    first, again, other = sample(1), sample(1), sample(2)
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_and_answers(converted: Checkpoint, dtype: torch.dtype) -> None:
    model = BorealisModel.load(converted.path, CPU, dtype, GenerationOptions(max_new_tokens=3))
    assert model.dtype == model.network.lm_head.weight.dtype == dtype
    assert len(transcribe_batch(model, SOUNDS[:1])) == 1


def test_a_machine_without_a_gpu_falls_back_to_its_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("cuda") == CPU
    assert [(record.name, record.levelno) for record in caplog.records] == [("BorealisModel", logging.WARNING)]


def test_an_unknown_device_or_dtype_is_refused() -> None:
    with pytest.raises(DeviceUnavailableError, match="gpu"):
        resolve_device("gpu")
    with pytest.raises(DeviceUnavailableError, match="int4"):
        resolve_dtype("int4", CPU)
    with pytest.raises(DeviceUnavailableError, match="MODEL_DEVICE=cpu"):
        resolve_dtype("int8", torch.device("cuda", 0))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_automatic_dtype_is_one_that_the_device_computes_with(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda", 0)) == dtype


@pytest.mark.parametrize("device", [CPU, torch.device("cuda", 0)], ids=str)
def test_an_emulated_dtype_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: torch.device
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(config, "computes_natively", lambda dtype: False)
    assert resolve_dtype("bfloat16", device) == torch.bfloat16
    assert "MODEL_DTYPE" in caplog.text


def test_a_native_dtype_gives_no_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(config, "computes_natively", lambda dtype: True)
    for name in ("bfloat16", "float16", "float32"):
        for device in (CPU, torch.device("cuda", 0)):
            resolve_dtype(name, device)
    assert not caplog.records


@pytest.mark.gpu
def test_the_gpu_gives_the_same_tokens_in_float32(converted: Checkpoint, model: BorealisModel) -> None:
    on_gpu = BorealisModel.load(converted.path, resolve_device("cuda"), torch.float32, model.options)
    assert greedy_ids(on_gpu, SOUNDS).tolist() == greedy_ids(model, SOUNDS).tolist()
