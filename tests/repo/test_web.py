"""Which model `make web` starts with."""

import pytest

from ml.whisper import weights
from tests import web


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What there is on a machine; a test changes it."""
    there = {"gpu": True, "borealis": True, "whisper": True}
    monkeypatch.setattr(web.torch.cuda, "is_available", lambda: there["gpu"])
    monkeypatch.setattr(web, "try_to_load_from_cache", lambda *_: "config.json" if there["borealis"] else None)
    monkeypatch.setattr(weights, "main", lambda _arguments: 0 if there["whisper"] else 1)
    return there


@pytest.mark.parametrize(
    ("lacking", "implementation", "model"),
    [
        ((), "borealis", "Vikhrmodels/Borealis"),
        (("gpu",), "whisper", str(weights.DEFAULT_FOLDER)),
        (("borealis",), "whisper", str(weights.DEFAULT_FOLDER)),
        (("gpu", "whisper"), "borealis", str(web.TINY_MODEL)),
    ],
)
def test_best_model_at_hand_is_chosen(
    has: dict[str, bool], lacking: tuple[str, ...], implementation: str, model: str
) -> None:
    has.update(dict.fromkeys(lacking, False))
    choice = web.choose()
    assert (choice.implementation, choice.model) == (implementation, model)
