"""Draw training windows from the pools, as the service would cut them, with labels and augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ml.tiny_model import augment
from ml.tiny_model.corpus import UNKNOWN_PHONEME, Pool
from ml.tiny_model.mel import from_bytes, whisper_scale

IGNORED = -100
WORD_ROWS = 4
WHOLE = 3000  # mel frames in 30 s
_POWER = from_bytes(torch.arange(256)).numpy()  # power of each stored byte

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """B windows of T mel frames that begin at encoder position `offset` of 30 s.

    `features` (B, 128, T); `phonemes` (B, T/2) a class per encoder frame; `words` (4, B, T/8) word classes per audio
    token, 0 for none: the current word, the next to begin, the last begun and the one before it; `texts`
    (B, L) token ids with the end token. -100 is ignored.
    """

    features: torch.Tensor
    phonemes: torch.Tensor
    words: torch.Tensor
    texts: torch.Tensor
    offset: int


@dataclass
class Window:
    """One window while it is made."""

    power: Floats  # (T, 128)
    phonemes: npt.NDArray[np.int64]  # (T,)
    words: list[tuple[int, float, float]]  # number of the word, first and last frame
    end: int = 0  # frames up to the end of the last utterance


class WindowMaker:
    """Draws windows from pools of speech; the seed determines every draw."""

    def __init__(self, pools: list[Pool], shares: list[float], word_ids: list[int], end_id: int, seed: int) -> None:
        self._pools, self._shares = pools, np.array(shares) / sum(shares)
        self._random = np.random.default_rng(seed)
        self._by_voice = [{v: np.flatnonzero(pool.voices == v) for v in np.unique(pool.voices)} for pool in pools]
        self._word_ids, self._end_id = word_ids, end_id
        self._noises = augment.noise_bank(self._random)
        self.strength = 1.0  # how often speech is augmented, from 0 to 1

    def batch(self, count: int, frames: int, single: float) -> Batch:
        """`count` windows; a share `single` of them holds one utterance only."""
        windows = [self._window(frames, single) for _ in range(count)]
        power = torch.from_numpy(np.stack([window.power for window in windows]))
        power = augment.smear(power, self._random, self.strength)
        features = augment.mask(whisper_scale(power), self._random, self.strength).transpose(1, 2).contiguous()
        phonemes = np.stack([window.phonemes[::2] for window in windows])
        words = np.stack([self._word_classes(window, frames) for window in windows], axis=1)
        offset = 4 * int(self._random.integers(0, (WHOLE - frames) // 8 + 1))
        return Batch(features, torch.from_numpy(phonemes), torch.from_numpy(words), self._texts(windows), offset)

    def _texts(self, windows: list[Window]) -> torch.Tensor:
        ids = [[self._word_ids[word] for word, _, _ in window.words] + [self._end_id] for window in windows]
        rows = torch.full((len(ids), max(map(len, ids))), IGNORED)
        for row, text in zip(rows, ids, strict=True):
            row[: len(text)] = torch.tensor(text)
        return rows

    def _word_classes(self, window: Window, frames: int) -> npt.NDArray[np.int64]:
        numbers = np.array([0, 0, *(word + 1 for word, _, _ in window.words), 0])
        times = np.arange(frames // 8) * 8 + 3.0  # the middle of each audio token
        begun = np.searchsorted(np.array([start for _, start, _ in window.words]), times, "right")
        ended = np.searchsorted(np.array([end for _, _, end in window.words]), times, "right")
        current = np.where(begun > ended, numbers[begun + 1], 0)
        return np.stack([current, *(numbers[begun + place] for place in (2, 1, 0))])

    def _window(self, frames: int, single: float) -> Window:
        random = self._random
        window = Window(np.zeros((frames, 128), np.float32), np.zeros(frames, np.int64), [])
        if random.random() >= 0.04:
            self._fill(window, random.random() < single)
        if random.random() < self.strength:
            augment.colour(window.power, random)
        if random.random() < 0.5 * self.strength or not window.words:
            self._add_noise(window)
        augment.set_level(window.power, random)
        return window

    def _fill(self, window: Window, single: bool) -> None:
        """Put in utterances, mostly of one voice, until the window is full."""
        random, frames = self._random, len(window.power)
        which = int(random.choice(len(self._pools), p=self._shares))
        pool = self._pools[which]
        voice = random.choice(list(self._by_voice[which]))
        place = int(random.exponential(20)) if random.random() < 0.7 else int(random.integers(0, frames // 3))
        pause, misses = random.choice([8.0, 30.0, 90.0]), 0
        while misses < 3:
            if random.random() < 0.15:
                voice = random.choice(list(self._by_voice[which]))
            utterance = int(random.choice(self._by_voice[which][voice]))
            placed = self._place(window, pool, utterance, place)
            if placed == 0:
                misses += 1
                continue
            if single:
                break
            place += placed + 10 + int(random.exponential(pause))

    def _place(self, window: Window, pool: Pool, utterance: int, place: int) -> int:
        """Put an utterance at a frame if it fits; return its frames, or 0."""
        first, count, first_word, words = (int(value) for value in pool.utterances[utterance])
        stretch = float(self._random.uniform(0.88, 1.14)) if self._random.random() < 0.4 * self.strength else 1.0
        length = int(count * stretch)
        if place + length > len(window.power):
            return 0
        source = np.minimum((np.arange(length) / stretch).round().astype(np.int64), count - 1)
        power = _POWER[pool.frames[first : first + count]][source]
        window.power[place : place + length] += augment.warp(power, self._random, self.strength)
        phonemes = pool.phonemes[first : first + count][source].astype(np.int64)
        window.phonemes[place : place + length] = np.where(phonemes == UNKNOWN_PHONEME, IGNORED, phonemes)
        for number, start, end in pool.words[first_word : first_word + words]:
            window.words.append((int(number), place + start * stretch, place + end * stretch))
        window.end = place + length
        return length

    def _add_noise(self, window: Window) -> None:
        """Add noise up to the end of the recording, which may come before that of the window: zeros follow."""
        random, frames = self._random, len(window.power)
        end = frames if random.random() < 0.5 else int(random.integers(window.end, frames + 1))
        noise = self._noises[int(random.integers(len(self._noises)))]
        start = int(random.integers(0, len(noise)))
        slice_ = noise[(start + np.arange(end)) % len(noise)]
        speech = float(window.power.mean()) * frames / max(window.end, 1)
        level = speech / 10 ** (random.uniform(3, 40) / 10) if window.words else 10 ** random.uniform(-7, -1)
        if window.words or random.random() < 0.85:
            window.power[:end] += slice_ * np.float32(level)
