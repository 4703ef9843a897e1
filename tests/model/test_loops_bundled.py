"""The loop guard with the bundled model: made to babble, and over noises that it might take for speech."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ml.audio.splitting import Chunk
from ml.benchmarks.backgrounds import BACKGROUNDS
from ml.benchmarks.weights import load_weights
from ml.borealis.engine import Engine
from ml.loops import LoopGuard, first_repeat, is_unsound
from ml.recognise import recognise_with
from ml.transcript import Status, Unfinished

NEW_TOKENS = 120


@pytest.fixture(scope="module", params=[True, False], ids=["babbling", "as it is"])
def way(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, bool]]:
    """The bundled model's engine, and whether it has been made to babble: then it never ends by itself."""
    model = load_weights("bundled", torch.device("cpu"), torch.float32, NEW_TOKENS, ignore_eos=request.param)
    with Engine(model, slots=4) as engine:
        yield engine, request.param


@pytest.mark.parametrize("name", ["music", "breaths", "knocks", "pink noise"])
def test_no_answer_to_noise_repeats_itself(way: tuple[Engine, bool], name: str) -> None:
    engine, babbles = way
    recognise, again = (recognise_with(engine, window=4, sampled=sampled) for sampled in (False, True))
    chunk = Chunk(BACKGROUNDS[name](6.0, np.random.default_rng(0)), 0)
    (first,) = recognise(iter([chunk]), threading.Event())
    text, status = LoopGuard(recognise, again).sound(chunk, first, threading.Event())
    assert first_repeat(text) is None
    assert (status is Status.TRANSCRIBED) == (not is_unsound(first, 6.0))
    assert isinstance(first, Unfinished) or not babbles
