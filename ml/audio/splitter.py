"""Split a waveform into chunks of at most 30 s, cut at pauses, while it still arrives."""

from dataclasses import dataclass

import numpy as np

from ml.audio.levels import ONSET_FRAMES, Frames, LevelMeter
from ml.audio.vad import stands_out
from ml.interfaces import SAMPLE_RATE, Waveform

MAX_CHUNK_S = 30
MIN_TARGET_S = 1
_EARLIEST_SHARE = 0.2  # of the target: an earlier cut makes too short a chunk
_MAX_TAIL_S = 1.0  # the last chunk is no shorter where that can be avoided

_POWER_FLOOR = 1e-9  # -90 dBFS: anything below counts as digital silence
_FLOOR_PERCENTILE = 5
_SPEECH_PERCENTILE = 90
_MAX_RANGE_DB = 45.0  # a deeper floor comes from a noise gate or digital silence, not from the room
_MIN_RANGE_DB = 6.0  # below it there are no pauses: music, steady noise, silence
_SURE_SHARE = 0.15  # a pause lies in the lowest 15 % of the range between floor and speech,
_LIKELY_SHARE = 0.3  # or, with a breath or an echo in it, in the lowest 30 %; so do some soft consonants
_SMOOTH_FRAMES = 3  # 30 ms: evens out noise, leaves the closure of a stop consonant (60-80 ms) short
_MIN_PAUSE_FRAMES = 10  # 100 ms: longer than such a closure
_SURE_PAUSE_FRAMES = 20  # 200 ms: more than a closure and the soft start of a word after it
_LONG_PAUSE_FRAMES = 40  # 400 ms: a longer pause is no better
_MARGIN_FRAMES = 25  # 250 ms of a long pause stay on either side of the cut
_LEAST_MARGIN_FRAMES = 12  # 120 ms, or half of a shorter pause, come before a cut at the end of the allowed range
_DIP_FRAMES = 9  # 90 ms: without pauses, a gap between words still wins over a shorter closure


@dataclass(frozen=True)
class Cut:
    """A cut before `frame`; `in_word`: whether a word may be there."""

    frame: int
    in_word: bool


@dataclass(frozen=True)
class _Pause:
    """Quiet frames [start, end), to be cut before the frame `cut`."""

    start: int
    end: int
    cut: int


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


@dataclass(frozen=True)
class Chunk:
    """A stretch of a recording, at most 30 s.

    waveform: mono float32 (N,) in [-1, 1]; a view of a longer array: read only
    start_sample: its place in the whole recording
    sample_rate: Hz
    ends_in_word: the cut at its end may be inside a word, as there was no pause
    has_speech: it is more than silence or steady noise
    """

    waveform: Waveform
    start_sample: int
    sample_rate: int = SAMPLE_RATE
    ends_in_word: bool = False
    has_speech: bool = True

    @property
    def start_s(self) -> float:
        """Start in the recording, seconds."""
        return self.start_sample / self.sample_rate

    @property
    def end_s(self) -> float:
        """End in the recording, seconds."""
        return (self.start_sample + len(self.waveform)) / self.sample_rate


class PauseSplitter:
    """Takes a recording in blocks of any size and returns it in chunks of nearly, never over, `target_s`.

    Every sample is in exactly one chunk, in order. Where a cut falls depends only on the samples from the start of
    its chunk to at most a second after the target, so the sizes of the blocks do not matter. Holds little more than
    one chunk and one block. One recording per splitter.
    """

    def __init__(self, target_s: float, sample_rate: int = SAMPLE_RATE) -> None:
        """Raises ValueError unless `target_s` is from 1 to 30 s."""
        if not MIN_TARGET_S <= target_s <= MAX_CHUNK_S:
            raise ValueError(f"target_s must be from {MIN_TARGET_S} to {MAX_CHUNK_S} s, not {target_s:g}")
        self._sample_rate = sample_rate
        self._meter = LevelMeter(sample_rate)
        self._hop = self._meter.frame_samples
        self._target_samples = int(target_s * sample_rate)
        self._tail_samples = int(min(_MAX_TAIL_S, target_s / 4) * sample_rate)
        self._start_sample = 0
        self._blocks: list[Waveform] = []  # samples since the start of the chunk
        self._n_held = 0
        self._powers: list[Frames] = []  # of the frames measured so far

    def push(self, block: Waveform) -> list[Chunk]:
        """Take the next samples (n,) and return the chunks that are now decided."""
        self._blocks.append(block)
        self._n_held += len(block)
        self._powers.append(self._meter.push(block))
        return self._cut_while_longer_than(self._target_samples + self._tail_samples)

    def finish(self) -> list[Chunk]:
        """Return the remaining chunks: two at most, none if there is nothing left."""
        self._powers.append(self._meter.finish())
        chunks = self._cut_while_longer_than(self._target_samples, at_end=True)
        if self._n_held:
            chunks.append(self._chunk(_joined(self._blocks), np.concatenate(self._powers)))
        self._blocks, self._n_held, self._powers = [], 0, []
        return chunks

    def _cut_while_longer_than(self, limit_samples: int, at_end: bool = False) -> list[Chunk]:
        """Cut while more than that is held and, before the end, measured."""
        n_measured = sum(map(len, self._powers)) * self._hop
        if (self._n_held if at_end else n_measured) <= limit_samples:
            return []
        waveform, powers = _joined(self._blocks), np.concatenate(self._powers)
        chunks = []
        while (len(waveform) if at_end else len(powers) * self._hop) > limit_samples:
            cut = self._next_cut(len(waveform), powers)
            n_samples = cut.frame * self._hop
            chunks.append(self._chunk(waveform[:n_samples], powers[: cut.frame], cut.in_word))
            self._start_sample += n_samples
            waveform, powers = waveform[n_samples:], powers[cut.frame :]
        self._blocks, self._n_held, self._powers = [waveform], len(waveform), [powers]
        return chunks

    def _chunk(self, waveform: Waveform, powers: Frames, ends_in_word: bool = False) -> Chunk:
        at_onset = self._start_sample == 0 and len(powers) > 2 * ONSET_FRAMES
        has_speech = stands_out(powers[ONSET_FRAMES:] if at_onset else powers)
        return Chunk(waveform, self._start_sample, self._sample_rate, ends_in_word, has_speech)

    def _next_cut(self, n_held: int, powers: Frames) -> Cut:
        """Return where to end the chunk at the start of what is held, which is longer than the target."""
        n_seen = min(n_held, self._target_samples + self._tail_samples)
        latest = min(self._target_samples, n_seen - self._tail_samples) // self._hop
        earliest = max(1, int(self._target_samples * _EARLIEST_SHARE) // self._hop)
        return best_cut(powers[: n_seen // self._hop], earliest, latest)


def split_at_pauses(waveform: Waveform, sample_rate: int, target_s: float) -> list[Chunk]:
    """Return waveform (N,) in chunks of nearly, never over, `target_s` (1 to 30), cut in pauses where there are any.

    Raises: ValueError for another target.
    """
    splitter = PauseSplitter(target_s, sample_rate)
    return splitter.push(waveform) + splitter.finish()


def _joined(blocks: list[Waveform]) -> Waveform:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
