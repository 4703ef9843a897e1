"""Chooses the quietest moment of a stretch of sound to cut at, from the energy of its 10 ms frames."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.01
_POWER_FLOOR = 1e-9  # -90 dB re full scale: below it everything is digital silence
_FLOOR_PERCENTILE = 5
_SPEECH_PERCENTILE = 90
_MAX_RANGE_DB = 45.0  # a floor deeper than this below speech is a gate or digital silence, not the room
_MIN_RANGE_DB = 6.0  # with less there are no pauses to tell from sound: music, steady noise, silence
_SURE_SHARE = 0.15  # a pause lies in the lowest 15 % of the range between floor and speech,
_LIKELY_SHARE = 0.3  # or, with a breath or an echo in it, in the lowest 30 %; so do some soft consonants
_SMOOTH_FRAMES = 3  # 30 ms: evens out noise, leaves the closure of a stop consonant (60-80 ms) short
_MIN_PAUSE_FRAMES = 10  # 100 ms: longer than such a closure
_SURE_PAUSE_FRAMES = 20  # 200 ms: more than a closure and what is hardly heard of a word after it
_LONG_PAUSE_FRAMES = 40  # 400 ms: more adds nothing to the certainty that this is a pause
_MARGIN_FRAMES = 25  # 250 ms of a long pause stay on either side of the cut
_LEAST_MARGIN_FRAMES = 12  # 120 ms, or half of a shorter pause, come before a cut at the end of the allowed range
_DIP_FRAMES = 9  # 90 ms: without pauses, a gap between words should still win over a shorter closure

Frames = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """The frame before which to cut, and whether a word may be there."""

    frame: int
    in_word: bool


@dataclass(frozen=True)
class _Pause:
    """Frames [start, end) of quiet, and the frame `cut` before which to cut in it."""

    start: int
    end: int
    cut: int


def frame_powers(waveform: NDArray[np.float32], hop: int) -> Frames:
    """Return the mean power (n,) of the whole frames of `hop` samples in waveform (N,), each freed of its mean.

    Freeing each frame of its mean makes a constant offset and low hum count for nothing. A frame's power depends on
    its own samples alone, to the last bit.
    """
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    centred = frames - frames.mean(axis=1, keepdims=True)  # (n, hop)
    np.square(centred, out=centred)
    powers: Frames = centred.mean(axis=1).astype(np.float64)
    return powers


def best_cut(powers: Frames, earliest: int, latest: int) -> Cut:
    """Return where in [earliest, latest] to cut a stretch whose frames have these powers (n,).

    A pause in the later half of the allowed range wins, then one in the rest, then the quietest moment of the later
    half. `n` may exceed `latest`: what follows tells how long a pause goes on.
    """
    preferred = max(earliest, latest // 2)
    levels, dips = _decibels(_smooth(powers, _SMOOTH_FRAMES)), _decibels(_smooth(powers, _DIP_FRAMES))
    # The deepest dip is the true floor, even where there is a single pause. Where it is not, being a moment of digital
    # silence in a noisy recording, the floor is what the quiet part of the stretch comes down to.
    deepest, usual = float(dips.min()), float(np.percentile(levels, _FLOOR_PERCENTILE))
    for floor, share in ((deepest, _SURE_SHARE), (deepest, _LIKELY_SHARE), (usual, _LIKELY_SHARE)):
        pauses = _pauses(levels, floor, share, earliest, latest)
        for start in (preferred, earliest):
            choice = [pause for pause in pauses if pause.cut >= start]
            if choice:
                best = max(choice, key=lambda pause: _merit(pause, latest))
                return Cut(best.cut, best.end - best.start < _SURE_PAUSE_FRAMES)
    is_steady = float(np.percentile(levels, _SPEECH_PERCENTILE)) - deepest < _MIN_RANGE_DB
    return Cut(_bottom(dips, preferred, latest), not is_steady)


def _pauses(levels: Frames, floor: float, share: float, earliest: int, latest: int) -> list[_Pause]:
    """Return the pauses that can be cut within [earliest, latest].

    They are runs of levels (n,) in dB within the lowest `share` of the range from the noise floor, in dB, to speech.
    """
    speech = np.percentile(levels, _SPEECH_PERCENTILE)
    floor = max(floor, speech - _MAX_RANGE_DB)
    if speech - floor < _MIN_RANGE_DB:
        return []
    quiet = levels <= floor + share * (speech - floor)
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0))
    found = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        margin = min(_MARGIN_FRAMES, (end - start) // 2)
        cut = min(latest, end - margin)
        if end - start >= _MIN_PAUSE_FRAMES and cut >= max(earliest, start + min(margin, _LEAST_MARGIN_FRAMES)):
            found.append(_Pause(start, end, cut))
    return found


def _merit(pause: _Pause, latest: int) -> float:
    """Return how good a cut in `pause` is: its length (0 to 1) and its closeness to the target (to 1/2)."""
    length = min(pause.end - pause.start, _LONG_PAUSE_FRAMES) / _LONG_PAUSE_FRAMES
    return length + 0.5 * pause.cut / latest


def _bottom(dips: Frames, earliest: int, latest: int) -> int:
    """Return the frame in [earliest, latest] with the lowest of these levels (n,); of equal ones the latest."""
    window = np.append(dips, dips[-1])[earliest : latest + 1]
    return earliest + len(window) - 1 - int(np.argmin(window[::-1]))


def _smooth(powers: Frames, width: int) -> Frames:
    """Return the mean over `width` frames around each; at the ends, over those that there are."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(powers)])
    centre = np.arange(len(powers))
    start = np.maximum(centre - half, 0)
    end = np.minimum(centre + half + 1, len(powers))
    return np.asarray((sums[end] - sums[start]) / (end - start))


def _decibels(powers: Frames) -> Frames:
    return np.asarray(10 * np.log10(np.maximum(powers, _POWER_FLOOR)))
