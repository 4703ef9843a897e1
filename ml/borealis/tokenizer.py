"""Reading a checkpoint folder's tokenizer."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from ml.errors import ModelFormatError

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
