"""Synthesise Russian speech with espeak-ng or festival, with the times of words and phonemes."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import wave
from ctypes import CFUNCTYPE, POINTER, Structure, Union, c_char, c_char_p, c_int, c_short, c_uint, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.interfaces import Waveform

HELD_OUT_VARIANTS = ("m7", "f5", "klatt2", "Andy")  # for evaluation, never trained on
LIBRARY = "libespeak-ng.so.1"

_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_UTF8 = 1
_LIST_TERMINATED, _WORD, _PHONEME = 0, 1, 7
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_EVENT_SLACK_S = 0.004


@dataclass(frozen=True)
class Span:
    """One word or phoneme and its times."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Speech:
    """A spoken text: mono float32 in [-1, 1] and the times of its parts."""

    waveform: Waveform
    sample_rate: int
    words: tuple[Span, ...]
    phonemes: tuple[Span, ...]


@dataclass(frozen=True)
class Style:
    """How espeak-ng speaks: speed in words a minute, pitch and range 0-100, gap between words in 10 ms."""

    variant: str = ""
    speed: int = 160
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0


class _EventId(Union):
    _fields_ = [("number", c_int), ("name", c_char_p), ("string", c_char * 8)]


class _Event(Structure):
    _fields_ = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _EventId),
    ]


_Callback = CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


class Espeak:
    """The espeak-ng library, loaded once in a process; `speak` runs in milliseconds."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        self._pieces: list[npt.NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, str]] = []
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, style: Style) -> Speech:
        """Speak space-separated words in one style; punctuation may follow a word."""
        self._set(style)
        self._pieces, self._events = [], []
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        pcm = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)
        waveform = pcm.astype(np.float32) / 32768.0
        phonemes = self._phonemes(len(pcm) / self.sample_rate)
        return Speech(waveform, self.sample_rate, self._words(text, phonemes), phonemes)

    def variants(self) -> list[str]:
        """Names of the installed voice variants, as `Style.variant` takes them."""
        path = c_char_p()
        self._library.espeak_Info.restype = c_char_p
        self._library.espeak_Info(ctypes.byref(path))
        folder = Path((path.value or b"").decode()) / "voices" / "!v"
        return sorted(file.name for file in folder.iterdir() if file.is_file())

    def _set(self, style: Style) -> None:
        name = f"ru+{style.variant}" if style.variant else "ru"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name}")
        values = {_RATE: style.speed, _PITCH: style.pitch, _RANGE: style.pitch_range, _WORD_GAP: style.word_gap}
        for parameter, value in values.items():
            self._library.espeak_SetParameter(parameter, value, 0)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events[index].type != _LIST_TERMINATED:
            event = events[index]
            name = event.id.string.decode("utf-8", "replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.audio_position, event.text_position, name))
            index += 1
        return 0

    def _phonemes(self, duration_s: float) -> tuple[Span, ...]:
        marks = [(time_ms / 1000, name) for kind, time_ms, _, name in self._events if kind == _PHONEME]
        ends = [time for time, _ in marks[1:]] + [duration_s]
        return tuple(Span(name, start, end) for (start, name), end in zip(marks, ends, strict=True))

    def _words(self, text: str, phonemes: tuple[Span, ...]) -> tuple[Span, ...]:
        """Words with the times of their own phonemes: a word event may come up to 60 ms before its first one."""
        sounding = [p for p in phonemes if not is_pause(p.name)]
        marks = [(time_ms / 1000, place) for kind, time_ms, place, _ in self._events if kind == _WORD]
        firsts = [sum(p.start_s < time - _EVENT_SLACK_S for p in sounding) for time, _ in marks] + [len(sounding)]
        spans = []
        for (_, place), first, last in zip(marks, firsts, firsts[1:], strict=False):
            word = text[place - 1 :].split()[0].strip(".,!?")
            if first < last:
                spans.append(Span(word, sounding[first].start_s, sounding[last - 1].end_s))
        return tuple(spans)


def is_pause(phoneme: str) -> bool:
    """Whether an espeak-ng phoneme name stands for silence."""
    return phoneme == "" or phoneme.startswith("_")


_FESTIVAL_SCRIPT = """(voice_msu_ru_nsh_clunits)
(define (say text stem)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))) (out (fopen (string-append stem ".txt") "w")))
    (utt.save.wave utt (string-append stem ".wav"))
    (mapcar (lambda (word) (format out "%s %f %f\\n" (item.name word) (item.feat word 'word_start)
      (item.feat word 'word_end))) (utt.relation.items utt 'Word))
    (fclose out)))
"""


def festival_speech(texts: list[str]) -> list[Speech]:
    """Speak texts with festival's Russian voice in one process; it gives no phonemes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = [f'(say "{text}" "{folder}/{index}")' for index, text in enumerate(texts)]
        (folder / "script.scm").write_text(_FESTIVAL_SCRIPT + "\n".join(calls) + "\n")
        subprocess.run(["festival", "-b", str(folder / "script.scm")], check=True, capture_output=True)
        return [_read_festival(folder / str(index)) for index in range(len(texts))]


def _read_festival(stem: Path) -> Speech:
    with wave.open(f"{stem}.wav") as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        sample_rate = file.getframerate()
    rows = [line.split() for line in stem.with_suffix(".txt").read_text().splitlines()]
    words = tuple(Span(row[0], float(row[1]), float(row[2])) for row in rows)
    return Speech(pcm.astype(np.float32) / 32768.0, sample_rate, words, ())
