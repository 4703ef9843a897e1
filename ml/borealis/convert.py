"""Writing an upstream checkpoint as a stock Voxtral folder."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase, VoxtralConfig, VoxtralForConditionalGeneration

from ml.borealis.features import N_FRAMES, N_MELS
from ml.borealis.generation import read_decoding_defaults
from ml.borealis.prompt import TOKENIZER_FILES, build_prompt, load_tokenizer
from ml.errors import ModelFormatError

SAFETENSORS_FILE = "model.safetensors"
CHECKSUM_FILE = "model.safetensors.sha256"  # as sha256sum writes and checks it
COPIED_FILES = (*TOKENIZER_FILES, "preprocessor_config.json")


StateDict = dict[str, torch.Tensor]

WEIGHTS_FILE = "pytorch_model.bin"
HEAD_DIM = 64  # Whisper's and Qwen2.5-0.5B's; head counts leave no trace in a state dict
CONV_STRIDE = 2  # mel frames to an encoder position

# upstream prefix -> prefix in transformers' VoxtralForConditionalGeneration
RENAMED_PREFIXES = {
    "encoder.": "model.audio_tower.",
    "adapter.w_in.": "model.multi_modal_projector.linear_1.",
    "adapter.w_out.": "model.multi_modal_projector.linear_2.",
    "llm.model.": "model.language_model.",
    "llm.lm_head.": "lm_head.",
}
EMBEDDINGS, LM_HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def read_state_dict(folder: Path) -> StateDict:
    """The tensors of `folder`/pytorch_model.bin under Voxtral's names, mapped from the file, not copied.

    Only tensors are unpickled: a pickle that asks for anything else is refused before any of it runs.
    Raises ModelFormatError for such a file, a damaged one, and one that is no Borealis state dict.
    """
    try:
        loaded = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler raises whatever it likes over a damaged file
        raise ModelFormatError(
            f"Файл весов {WEIGHTS_FILE} повреждён или содержит не только тензоры: он отвергнут, его код не выполнялся."
        ) from error
    if not isinstance(loaded, dict) or not all(_is_plain(tensor) for tensor in loaded.values()):
        raise ModelFormatError(f"Файл весов {WEIGHTS_FILE} — не словарь тензоров модели Borealis.")
    state = {_renamed(str(key)): tensor for key, tensor in loaded.items()}
    if LM_HEAD not in state and EMBEDDINGS in state:  # tied, and saved once
        state[LM_HEAD] = state[EMBEDDINGS]
    return state


def _is_plain(value: object) -> bool:
    """Whether `value` is a dense float tensor that the file really holds in full (no views blown up by strides)."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _renamed(key: str) -> str:
    for old, new in RENAMED_PREFIXES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise ModelFormatError(f"В файле весов есть посторонний тензор «{key}»: это не модель Borealis.")


def derive_config(state: StateDict, audio_token_id: int) -> VoxtralConfig:
    """The Voxtral config that `state` (Voxtral's names) fits; `audio_token_id` stands in for audio in input_ids.

    Every value is given, because VoxtralConfig fills gaps in its text_config with Llama-like defaults.
    Raises ModelFormatError if a tensor is missing or the sizes contradict each other.
    """
    return VoxtralConfig(
        architectures=["VoxtralForConditionalGeneration"],
        audio_config=_audio_config(state),
        text_config=_text_config(state),
        audio_token_id=audio_token_id,
        projector_hidden_act="gelu",
        dtype=str(_tensor(state, EMBEDDINGS, 2).dtype).removeprefix("torch."),
    )


def _audio_config(state: StateDict) -> dict[str, object]:
    tower = "model.audio_tower."
    d_model, mel_bins, _ = _tensor(state, f"{tower}conv1.weight", 3).shape
    positions = _tensor(state, f"{tower}embed_positions.weight", 2).shape[0]
    ffn = _tensor(state, f"{tower}layers.0.fc1.weight", 2).shape[0]
    stacked = _tensor(state, "model.multi_modal_projector.linear_1.weight", 2).shape[1]  # downsample * d_model
    _require(mel_bins == N_MELS, f"энкодер ждёт {mel_bins} полос мел-спектра вместо {N_MELS}")
    _require(positions * CONV_STRIDE == N_FRAMES, f"энкодер рассчитан на {positions} позиций, а не на 30 секунд")
    # Voxtral has one number for both.
    _require(stacked == ffn, f"вход адаптера ({stacked}) не равен ширине слоя энкодера ({ffn})")
    _require(stacked % d_model == 0 and positions % (stacked // d_model) == 0, f"вход адаптера: {stacked}")
    return {
        "model_type": "voxtral_encoder",
        "hidden_size": d_model,
        "intermediate_size": ffn,
        "num_hidden_layers": _count_layers(state, f"{tower}layers."),
        "num_attention_heads": _heads(d_model),
        "num_mel_bins": mel_bins,
        "max_source_positions": positions,
        "activation_function": "gelu",
        "scale_embedding": False,
    }


def _text_config(state: StateDict) -> dict[str, object]:
    llm = "model.language_model."
    vocab_size, hidden_size = _tensor(state, EMBEDDINGS, 2).shape
    heads = _heads(_tensor(state, f"{llm}layers.0.self_attn.q_proj.weight", 2).shape[0])
    kv_heads = _heads(_tensor(state, f"{llm}layers.0.self_attn.k_proj.weight", 2).shape[0])
    _require(heads % kv_heads == 0, f"голов внимания {heads}, а голов ключей {kv_heads}")
    return {
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": _tensor(state, f"{llm}layers.0.mlp.gate_proj.weight", 2).shape[0],
        "num_hidden_layers": _count_layers(state, f"{llm}layers."),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "use_sliding_window": False,
        "use_cache": True,
        "tie_word_embeddings": False,  # Voxtral keeps both matrices, whether they are equal or not
    }


def _tensor(state: StateDict, key: str, dims: int) -> torch.Tensor:
    _require(key in state, f"нет тензора «{key}»")
    shape = tuple(state[key].shape)
    _require(len(shape) == dims and min(shape) > 0, f"у тензора «{key}» форма {shape}")
    return state[key]


def _heads(width: int) -> int:
    _require(width % HEAD_DIM == 0, f"ширина внимания {width} не кратна {HEAD_DIM}")
    return width // HEAD_DIM


def _count_layers(state: StateDict, prefix: str) -> int:
    return len({match[1] for key in state if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))})


def _require(fits: bool, problem: str) -> None:
    if not fits:
        raise ModelFormatError(f"Веса не подходят к модели Borealis: {problem}.")


def convert(source: Path, target: Path) -> None:
    """Write the upstream checkpoint in `source` to the new folder `target`, which transformers loads natively.

    `target` appears whole or not at all: it is written beside itself, synced to disk and renamed. Hold a lock.
    Raises ModelFormatError if the source is no Borealis checkpoint, OSError if the disk refuses.
    """
    tokenizer = load_tokenizer(source)
    state = read_state_dict(source)
    config = derive_config(state, audio_token_id=tokenizer.pad_token_id)
    _check_tokenizer(tokenizer, config)
    _check_shapes(state, config)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that died here
    partial.mkdir(parents=True)
    try:
        _write(partial, source, state, config, tokenizer)
        shutil.rmtree(target, ignore_errors=True)  # a damaged earlier conversion
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync(target.parent)


def has_right_checksum(folder: Path) -> bool:
    """Whether the weights in `folder` are, byte for byte, those that were written there."""
    try:
        expected = (folder / CHECKSUM_FILE).read_text(encoding="ascii").split()[0]
        return expected == sha256_of(folder / SAFETENSORS_FILE)
    except (OSError, UnicodeDecodeError, IndexError):
        return False


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of `file`."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: VoxtralConfig) -> None:
    prompt = build_prompt(tokenizer)
    if config.audio_token_id in prompt.prefix_ids + prompt.suffix_ids:
        raise ModelFormatError("Токен заполнения токенизатора занят в запросе: это не токенизатор Borealis.")
    if len(tokenizer) > config.text_config.vocab_size:
        raise ModelFormatError(
            f"Токенизатор знает {len(tokenizer)} токенов, а модель — {config.text_config.vocab_size}: "
            "это файлы разных моделей."
        )


def _check_shapes(state: StateDict, config: VoxtralConfig) -> None:
    """Raise ModelFormatError unless `state` has exactly the tensors of the network `config` describes."""
    with torch.device("meta"):
        network = VoxtralForConditionalGeneration(config)
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    actual = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key in sorted(expected.keys() | actual.keys()):
        if expected.get(key) != actual.get(key):
            raise ModelFormatError(
                f"Веса не подходят к модели Borealis: тензор «{key}» имеет форму {actual.get(key, 'нет')}, "
                f"ожидалась {expected.get(key, 'нет')}."
            )


def _write(
    folder: Path, source: Path, state: StateDict, config: VoxtralConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    if tensors[LM_HEAD].data_ptr() == tensors[EMBEDDINGS].data_ptr():
        tensors[LM_HEAD] = tensors[LM_HEAD].clone()  # a safetensors file knows no shared tensors
    save_file(tensors, folder / SAFETENSORS_FILE, metadata={"format": "pt"})
    (folder / CHECKSUM_FILE).write_text(f"{sha256_of(folder / SAFETENSORS_FILE)}  {SAFETENSORS_FILE}\n", "ascii")
    config.save_pretrained(folder)
    _generation_config(source, tokenizer).save_pretrained(folder)
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for file in folder.iterdir():
        _sync(file)


def _generation_config(source: Path, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Greedy decoding with the penalty and the ends of `source`."""
    defaults = read_decoding_defaults(source, tokenizer)
    eos_ids = list(defaults.eos_ids)
    return GenerationConfig(
        do_sample=False,
        repetition_penalty=defaults.repetition_penalty,
        eos_token_id=eos_ids if len(eos_ids) > 1 else eos_ids[0],
        pad_token_id=tokenizer.pad_token_id,
    )


def _sync(path: Path) -> None:
    """Flush `path` to disk; Windows can do neither folders nor files that are open for reading only."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
