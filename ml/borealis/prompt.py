"""The words around the audio: Borealis' one fixed prompt as token ids."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from ml.errors import ModelFormatError

START_OF_AUDIO = "<|start_of_audio|>"
END_OF_AUDIO = "<|end_of_audio|>"

# Letter for letter what the model was trained with (model card of Vikhrmodels/Borealis).
SYSTEM_TEXT = "Вы полезный помощник по автоматическому распознаванию речи. Точно транскрибируйте аудио в текст."
USER_TEXT = f"Транскрибируйте это аудио: {START_OF_AUDIO}{END_OF_AUDIO}"


@dataclass(frozen=True)
class Prompt:
    """Token ids on either side of the audio embeddings; the two audio tokens stay."""

    prefix_ids: tuple[int, ...]  # up to and including <|start_of_audio|>
    suffix_ids: tuple[int, ...]  # from <|end_of_audio|> to the end of the assistant's header


def build_prompt(tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Render the prompt with the tokenizer's own chat template and split it where the audio goes.

    Raises ModelFormatError if there is no usable template or the audio tokens are not one id each.
    """
    start_id, end_id = _single_id(tokenizer, START_OF_AUDIO), _single_id(tokenizer, END_OF_AUDIO)
    ids = tokenizer.encode(_render(tokenizer), add_special_tokens=False)
    if ids.count(start_id) != 1 or ids.count(end_id) != 1 or ids.index(end_id) != ids.index(start_id) + 1:
        raise ModelFormatError(
            f"Шаблон диалога токенизатора теряет или повторяет {START_OF_AUDIO}{END_OF_AUDIO}: "
            "это не токенизатор Borealis."
        )
    split = ids.index(end_id)
    return Prompt(prefix_ids=tuple(ids[:split]), suffix_ids=tuple(ids[split:]))


def _render(tokenizer: PreTrainedTokenizerBase) -> str:
    messages = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": USER_TEXT}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (ValueError, TemplateError) as error:
        raise ModelFormatError("У токенизатора нет пригодного шаблона диалога: это не токенизатор Borealis.") from error


def _single_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or tokenizer.convert_ids_to_tokens(ids[0]) != token:
        raise ModelFormatError(f"Токенизатор не знает токена {token}: это не токенизатор Borealis.")
    return int(ids[0])


# Everything a tokenizer may be made of; code is never among it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`, from tokenizer.json as it stands or else from Qwen's vocab.json and merges.txt.

    Raises ModelFormatError if it cannot be read or has no end-of-sequence or padding token.
    """
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else Qwen2Tokenizer
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the parsers below raise whatever they like over a damaged file
        raise ModelFormatError("Файлы токенизатора модели отсутствуют или повреждены.") from error
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ModelFormatError("У токенизатора модели нет токена конца или заполнения: это не токенизатор Borealis.")
    return tokenizer
