"""The repetition guard with the bundled model: on noises like speech, and where the text does not end."""

import threading
import wave
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ml.audio.splitter import Chunk
from ml.benchmarks.weights import load_weights
from ml.borealis.runner import make_engine
from ml.engine.engine import Engine
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.recogniser import recognise_with
from ml.pipeline.repetition import RepetitionGuard, first_repeat, is_repetitive
from ml.pipeline.words import text_of
from ml.transcript import Completion, FinishReason, Status
from tests.conftest import SAMPLES
from tests.support.backgrounds import BACKGROUNDS

NEW_TOKENS = 120


@pytest.fixture(scope="module", params=[True, False], ids=["ignores the end", "unchanged"])
def way(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, bool]]:
    """The engine of the bundled model, and whether it ignores the end-of-sequence token."""
    model = load_weights("bundled", torch.device("cpu"), torch.float32, NEW_TOKENS, ignore_eos=request.param)
    with make_engine(model, slots=4) as engine:
        yield engine, request.param


def ask(engine: Engine, waveform: Waveform) -> tuple[Completion, str, Status]:
    """The model's first completion, and the guard's text and status."""
    recognise, options, chunk = recognise_with(engine, window=4), RecognitionOptions(), Chunk(waveform, 0)
    (first,) = recognise(iter([chunk]), threading.Event(), options)
    verified = RepetitionGuard(recognise, options).verify(chunk, first, threading.Event())
    return first, text_of(verified.words), verified.status


@pytest.mark.parametrize("name", ["music", "breaths", "knocks", "pink noise"])
def test_no_text_for_noise_repeats_itself(way: tuple[Engine, bool], name: str) -> None:
    first, text, status = ask(way[0], BACKGROUNDS[name](6.0, np.random.default_rng(0)))
    assert first_repeat(text) is None
    assert (status is Status.TRANSCRIBED) == (not is_repetitive(first, 6.0))


def test_text_that_does_not_end_is_never_returned_unchanged(way: tuple[Engine, bool]) -> None:
    with wave.open(str(SAMPLES / "demo.wav")) as file:
        speech = np.frombuffer(file.readframes(int(5.4 * SAMPLE_RATE)), "<i2").astype(np.float32) / 32768
    first, text, status = ask(way[0], speech)
    assert first.text and text and first_repeat(text) is None
    assert (first.finish_reason is FinishReason.LENGTH) == way[1]
    assert (status is Status.TRANSCRIBED) == (not way[1])
