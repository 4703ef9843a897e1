"""The bundled tiny model: its files, and that transformers alone can run it."""

import wave

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, VoxtralForConditionalGeneration

from ml.borealis.features import LogMel
from ml.borealis.prompt import build_prompt
from ml.tiny_model import vocabulary
from ml.tiny_model.tokenizer import train_tokenizer
from resources.config import PROJECT_ROOT as ROOT

FOLDER = ROOT / "ml" / "checkpoints" / "borealis-tiny-ru"
SAMPLES = ROOT / "resources" / "samples"
AUDIO_TOKENS = 375


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def network() -> VoxtralForConditionalGeneration:
    return VoxtralForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()


def read(name: str) -> torch.Tensor:
    with wave.open(str(SAMPLES / name)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return torch.from_numpy(pcm.astype(np.float32) / 32768)


def transcribe(network: VoxtralForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """The text that stock generate() gives for a sample."""
    prompt = build_prompt(tokenizer)
    placeholders = [network.config.audio_token_id] * AUDIO_TOKENS
    ids = torch.tensor([[*prompt.prefix_ids, *placeholders, *prompt.suffix_ids]])
    features = LogMel(torch.device("cpu"))(read(name)[None])
    answer = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=features,
        do_sample=False,
        max_new_tokens=120,
    )
    return str(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def test_the_folder_holds_at_most_12_megabytes() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000


def test_every_known_word_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    known = vocabulary.words()
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in known]
    assert all(len(word) == 1 for word in ids)
    assert tokenizer.decode([word[0] for word in ids]).split() == known


def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Съешь ещё этих мягких французских булок, да выпей чаю! 123 café"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_prompt_is_the_one_it_was_trained_on(tokenizer: PreTrainedTokenizerBase) -> None:
    assert build_prompt(tokenizer) == build_prompt(train_tokenizer())


def test_the_configuration_leaves_nothing_to_defaults(network: VoxtralForConditionalGeneration) -> None:
    text, audio = network.config.text_config, network.config.audio_config
    assert text.head_dim == 64 and audio.d_model // audio.encoder_attention_heads == 64
    assert text.rope_parameters["rope_theta"] == 1e6 and text.rms_norm_eps == 1e-6
    assert audio.encoder_ffn_dim == audio.intermediate_size == 4 * audio.d_model
    assert torch.equal(network.lm_head.weight, network.get_input_embeddings().weight)


def test_transformers_alone_transcribes_the_demo(
    network: VoxtralForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert transcribe(network, tokenizer, "demo.wav") == (SAMPLES / "demo.txt").read_text(encoding="utf-8").strip()


def test_noise_has_no_text(network: VoxtralForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    assert transcribe(network, tokenizer, "no_speech.wav") == ""
