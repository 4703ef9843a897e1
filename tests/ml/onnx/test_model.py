"""ONNX models in every layout: texts, batches, the longest chunk, words, languages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ml.engine.engine import Engine
from ml.interfaces import RecognitionOptions, Waveform
from ml.onnx.load import OnnxOptions, load_engine
from ml.transcript import Completion
from tests.support.onnx_models import LAYOUTS, tones
from tests.support.waiting import HANG_LIMIT_S

TRANSCRIBERS = [name for name in LAYOUTS if name != "whisper"]  # the fabricated Whisper writes a single letter
RATE = 16_000


@contextmanager
def running(folder: Path, layout: str, **options: object) -> Iterator[Engine]:
    """An engine over a fabricated model."""
    LAYOUTS[layout](folder)
    with load_engine(OnnxOptions(name=str(folder), device="cpu", cpu_threads=2, **options)) as engine:  # type: ignore[arg-type]
        yield engine


def recognise(engine: Engine, *waveforms: Waveform, **options: object) -> list[Completion]:
    futures = [engine.submit(waveform, options=RecognitionOptions(**options)) for waveform in waveforms]  # type: ignore[arg-type]
    return [future.result(HANG_LIMIT_S) for future in futures]


def times_of(completion: Completion) -> list[tuple[float, float]]:
    return [(word.start_s, word.end_s) for word in completion.words]


@pytest.mark.parametrize("layout", TRANSCRIBERS)
def test_every_layout_writes_what_sounds(tmp_path: Path, layout: str) -> None:
    texts = ["а", "о а", "а о а о"]
    with running(tmp_path, layout) as engine:
        completions = recognise(engine, *map(tones, texts))
    assert [completion.text for completion in completions] == texts
    assert all(completion.confidence is not None and 0 < completion.confidence <= 1 for completion in completions)
    assert all(completion.words == () for completion in completions)  # they were not asked for


@pytest.mark.parametrize("layout", TRANSCRIBERS)
def test_a_chunk_is_answered_the_same_alone_as_beside_chunks_of_other_lengths(tmp_path: Path, layout: str) -> None:
    chunks = [tones("а о " * count) for count in (1, 12, 3, 5, 5, 2)] + [tones("о")[:-100], tones("а")[:-3]]
    with running(tmp_path, layout) as engine:
        together = recognise(engine, *chunks, word_times=True)
        alone = [recognise(engine, chunk, word_times=True)[0] for chunk in chunks]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [times_of(answer) for answer in together] == [times_of(answer) for answer in alone]
    assert [answer.confidence for answer in together] == pytest.approx([answer.confidence for answer in alone])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples", [1, 160, 1600])
def test_the_shortest_chunks_are_answered(tmp_path: Path, layout: str, samples: int) -> None:
    with running(tmp_path, layout) as engine:
        (completion,) = recognise(engine, np.zeros(samples, np.float32))
    assert completion.text in {"", "a", "o"}


@pytest.mark.parametrize(("layout", "longest_s"), [(name, 24 if "gigaam" in name else 30) for name in LAYOUTS])
def test_the_longest_chunk_is_the_model_s(tmp_path: Path, layout: str, longest_s: int) -> None:
    with running(tmp_path, layout) as engine:
        (completion,) = recognise(engine, tones("а о", longest_s))
        assert completion.text in {"а о", "a", "o"}
        with pytest.raises(ValueError, match="float32 samples"):
            engine.submit(np.zeros(longest_s * RATE + 1, np.float32))


@pytest.mark.parametrize("layout", TRANSCRIBERS)
def test_words_have_the_times_of_their_sounds(tmp_path: Path, layout: str) -> None:
    with running(tmp_path, layout) as engine:
        (completion,) = recognise(engine, tones("а о а"), word_times=True)
    assert [word.text for word in completion.words] == ["а", "о", "а"]
    for word, starts_s in zip(completion.words, (0.2, 0.6, 1.0), strict=True):
        assert starts_s - 0.1 <= word.start_s <= word.end_s <= starts_s + 0.3
        assert word.confidence is not None and 0 < word.confidence <= 1


def test_whisper_is_told_the_language_or_detects_it(tmp_path: Path) -> None:
    with running(tmp_path, "whisper") as engine:
        answers = [recognise(engine, tones("о"), language=language)[0] for language in ("", "ru", "en", "auto", "xx")]
    assert [answer.text for answer in answers] == ["o"] * 5


def test_the_sound_is_not_changed(tmp_path: Path) -> None:
    sound = tones("а о")
    sound.flags.writeable = False
    with running(tmp_path, "t-one-ctc") as engine:
        assert recognise(engine, sound)[0].text == "а о"
