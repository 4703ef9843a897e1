"""How a checkpoint's authors decode it: its repetition penalty and its end-of-sequence tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ml.errors import ModelFormatError

GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True)
class LanguageModelDefaults:
    """What a published language model's own generation_config.json says."""

    repetition_penalty: float
    eos_tokens: tuple[str, ...]


# Upstream's generate() takes whatever it is not given from the generation config of the language model it was built
# from, which a Borealis folder names and does not contain.
KNOWN_LANGUAGE_MODELS = {
    "Qwen2.5-0.5B-Instruct": LanguageModelDefaults(1.1, ("<|im_end|>", "<|endoftext|>")),
}
UNKNOWN = LanguageModelDefaults(1.0, ())


@dataclass(frozen=True)
class DecodingDefaults:
    """What decoding takes from the checkpoint."""

    repetition_penalty: float  # 1 for none
    eos_ids: tuple[int, ...]  # any of them ends a text


def read_decoding_defaults(folder: Path, tokenizer: PreTrainedTokenizerBase) -> DecodingDefaults:
    """Read generation_config.json of `folder`; what it leaves out are the defaults of config.json's `llm_name`.

    Raises ModelFormatError if the file is damaged.
    """
    given = _read_json(folder / GENERATION_FILE)
    name = str(_read_json(folder / "config.json").get("llm_name", "")).rsplit("/", 1)[-1]
    known = KNOWN_LANGUAGE_MODELS.get(name, UNKNOWN)
    penalty = given.get("repetition_penalty") or known.repetition_penalty
    eos = given.get("eos_token_id")
    ids = [_id_of(tokenizer, token) for token in known.eos_tokens] if eos is None else eos
    ids = ids if isinstance(ids, list) else [ids]
    try:
        eos_ids = {tokenizer.eos_token_id, *(int(each) for each in ids if each is not None)}
        return DecodingDefaults(_checked(float(penalty)), tuple(sorted(eos_ids)))
    except (TypeError, ValueError) as error:
        raise _damaged() from error


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged() from error
    if not isinstance(found, dict):
        raise _damaged()
    return found


def _id_of(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """The id of `token`; None if the tokenizer does not know it."""
    token_id = tokenizer.convert_tokens_to_ids(token)
    return token_id if tokenizer.convert_ids_to_tokens(token_id) == token else None


def _checked(penalty: float) -> float:
    if not 0 < penalty < float("inf"):
        raise ValueError(f"a repetition penalty is positive, got {penalty}")
    return penalty


def _damaged() -> ModelFormatError:
    return ModelFormatError(f"Файл {GENERATION_FILE} модели повреждён.")
