"""The command that measures word times."""

import shutil
from pathlib import Path

import pytest

from ml.benchmarks.word_times import compare, main
from ml.transcript import Word
from tests.conftest import SAMPLES
from tests.support.speech import TINY_MODEL

MODEL = ("--model", str(TINY_MODEL), "--device", "cpu")


def test_only_words_that_both_have_in_order_are_compared() -> None:
    known = [Word("раз", 0.0, 1.0), Word("два", 1.0, 2.0), Word("три", 2.0, 3.0)]
    found = [Word("Раз,", 0.5, 1.0), Word("пять", 1.0, 2.0), Word("три.", 2.25, 3.5)]
    starts_s, ends_s = compare(found, known)
    assert starts_s == [0.5, 0.25] and ends_s == [0.0, 0.5]


def test_command_prints_offsets_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLES / "word_times.wav"), *MODEL, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Слов: 115" in printed and "с оценкой вместо времени: 0" in printed
    assert "Начало: медиана 0.0" in printed and "Процессор:" in printed


def test_missing_words_end_the_command_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SAMPLES / "demo.wav", tmp_path)
    assert main([str(tmp_path / "demo.wav"), *MODEL]) == 2
    assert "demo.json" in capsys.readouterr().err
