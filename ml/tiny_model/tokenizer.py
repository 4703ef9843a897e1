"""Train the tiny model's tokenizer: Qwen2's byte-level BPE in which every known word is one token."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ml.borealis.prompt import END_OF_AUDIO, START_OF_AUDIO, SYSTEM_TEXT, USER_TEXT
from ml.tiny_model import vocabulary

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", START_OF_AUDIO, END_OF_AUDIO]
SPLIT = (  # Qwen2's pre-tokenisation
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (  # Qwen2.5's without tools
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (message['role'] == 'system' and loop.first) %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same at every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    prompt = ["system\n", "user\n", "assistant\n", SYSTEM_TEXT, USER_TEXT.split("<")[0]]
    tokenizer.train_from_iterator([f" {word}" for word in vocabulary.words()] * 2 + prompt, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def word_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The one token of each vocabulary word with a space before it."""
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in vocabulary.words()]
    assert all(len(word) == 1 for word in ids)
    return [word[0] for word in ids]


if __name__ == "__main__":
    train_tokenizer().save_pretrained(Path(sys.argv[1]))
