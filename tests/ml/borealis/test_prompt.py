"""The prompt is letter for letter the one that Borealis was trained with."""

from pathlib import Path

import pytest

from ml.borealis.prompt import END_OF_AUDIO, START_OF_AUDIO, build_prompt, load_tokenizer
from ml.errors import ModelFormatError
from tests.support.checkpoints import build_tokenizer

BEFORE = (
    "<|im_start|>system\nВы полезный помощник по автоматическому распознаванию речи. Точно транскрибируйте аудио в "
    "текст.<|im_end|>\n<|im_start|>user\nТранскрибируйте это аудио: <|start_of_audio|>"
)
AFTER = "<|end_of_audio|><|im_end|>\n<|im_start|>assistant\n"


def test_the_prompt_is_the_one_of_the_model_card() -> None:
    tokenizer = build_tokenizer()
    prompt = build_prompt(tokenizer)
    assert tokenizer.decode(prompt.prefix_ids) == BEFORE
    assert tokenizer.decode(prompt.suffix_ids) == AFTER
    assert list(prompt.prefix_ids + prompt.suffix_ids) == tokenizer.encode(BEFORE + AFTER)


def test_the_audio_tokens_stand_at_the_cut() -> None:
    tokenizer = build_tokenizer()
    prompt = build_prompt(tokenizer)
    cut = [prompt.prefix_ids[-1], prompt.suffix_ids[0]]
    assert tokenizer.convert_ids_to_tokens(cut) == [START_OF_AUDIO, END_OF_AUDIO]


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelFormatError, match="шаблон"):
        build_prompt(tokenizer)


@pytest.mark.parametrize("template", ["no audio at all", "{{ messages[1].content * 2 }}", "{% broken"])
def test_a_template_that_loses_or_repeats_the_audio_is_refused(template: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelFormatError, match="не токенизатор Borealis"):
        build_prompt(tokenizer)


def test_a_tokenizer_that_splits_an_audio_token_is_refused(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    for file in tmp_path.iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace("start_of_audio", "start_of_video"), encoding="utf-8")
    with pytest.raises(ModelFormatError, match=r"<\|start_of_audio\|>"):
        build_prompt(load_tokenizer(tmp_path))
