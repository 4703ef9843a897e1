"""The real weights of each implementation for the tests, and recordings that they recognise."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ml.manifest import normalise
from resources.config import PROJECT_ROOT
from tests.support import whisper
from tests.support.audio import wav

TINY_MODEL = PROJECT_ROOT / "ml" / "checkpoints" / "borealis-tiny-ru"
SAMPLES = PROJECT_ROOT / "resources" / "samples"


@dataclass(frozen=True)
class Speech:
    """A model, and recordings with the words in them. `comparable` takes off a text what may differ."""

    model: Path
    recording: Path
    text: str
    clip: bytes  # a WAV file of some seconds
    clip_text: str
    word_times: Path  # a recording of half a minute or more
    words: list[str]  # of `word_times`
    others: int  # recordings that the machine recognises beside another one in a few seconds
    comparable: Callable[[str], str] = str


def speech_for(implementation: str) -> Speech:
    """The weights and recordings for an implementation. Whisper base is fetched where it is missing."""
    return _for_whisper() if implementation == "whisper" else _for_borealis()


def _for_borealis() -> Speech:
    demo, long = SAMPLES / "demo.wav", SAMPLES / "word_times.wav"
    text = demo.with_suffix(".txt").read_text(encoding="utf-8").strip()
    words = [row["word"] for row in json.loads(long.with_suffix(".json").read_text(encoding="utf-8"))]
    return Speech(TINY_MODEL, demo, text, demo.read_bytes(), text, long, words, others=31)


def _for_whisper() -> Speech:
    """Texts are compared without punctuation."""
    words = normalise(whisper.said()).split()
    return Speech(
        whisper.whisper_base(),
        whisper.FREE_TEXT,
        whisper.said(),
        wav(whisper.first_sentences(3)),
        " ".join(whisper.texts()[:3]),
        whisper.FREE_TEXT,
        words,
        others=5,
        comparable=normalise,
    )
