"""Whisper base for the tests marked `speech`, and recordings of free text with known words."""

import json
from functools import cache
from pathlib import Path

from filelock import FileLock

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.whisper.weights import DEFAULT_FOLDER, is_complete, provide
from resources.config import PROJECT_ROOT

SPEECH = PROJECT_ROOT / "resources" / "speech"
FREE_TEXT = SPEECH / "free_text.mp3"


@cache
def whisper_base() -> Path:
    """The folder of the weights, fetched once on a machine (133 MB)."""
    DEFAULT_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(DEFAULT_FOLDER.with_suffix(".lock")):
        if not is_complete(DEFAULT_FOLDER):
            provide(DEFAULT_FOLDER)
    return DEFAULT_FOLDER


@cache
def free_text() -> Waveform:
    """The waveform (N,) of FREE_TEXT, 32 s."""
    with FREE_TEXT.open("rb") as file:
        return AudioDecoder(find_ffmpeg(None), max_duration_s=60, timeout_s=60).decode_all(file)


def said() -> str:
    """What FREE_TEXT says."""
    return FREE_TEXT.with_suffix(".txt").read_text(encoding="utf-8").strip()


def spoken_words() -> list[tuple[str, float, float]]:
    """The words of FREE_TEXT with the times that festival gives: (word, start_s, end_s)."""
    words = json.loads(FREE_TEXT.with_suffix(".json").read_text(encoding="utf-8"))
    return [(word["name"], word["start_s"], word["end_s"]) for word in words]


def texts() -> list[str]:
    """The sentences of FREE_TEXT."""
    return said().replace("? ", "?|").replace(". ", ".|").split("|")


def first_word(sentence: int) -> int:
    """The number of the first word of a sentence of FREE_TEXT; both count from 0."""
    return sum(len(text.split()) for text in texts()[:sentence])


def first_sentences(count: int) -> Waveform:
    """The waveform of the first sentences of FREE_TEXT."""
    return free_text()[: int((spoken_words()[first_word(count) - 1][2] + 0.1) * SAMPLE_RATE)]


def sentence(number: int) -> Waveform:
    """The waveform of the sentence `number` of FREE_TEXT, from 0, with what silence is around it."""
    words = spoken_words()[first_word(number) : first_word(number + 1)]
    return free_text()[int((words[0][1] - 0.1) * SAMPLE_RATE) : int((words[-1][2] + 0.1) * SAMPLE_RATE)]
