"""Make the training speech: log-mel frames of random sentences with the times of words and phonemes.

Run `python -m ml.tiny_model.corpus FOLDER --utterances N --seed S`: one pool of speech, kept as numpy arrays.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path
from random import Random

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import torch
import torchaudio

from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model import vocabulary
from ml.tiny_model.mel import mel_power, to_bytes
from ml.tiny_model.speech import HELD_OUT_VARIANTS, Espeak, Speech, Style, festival_speech, is_pause

FRAME_SAMPLES = 160  # one mel frame, 10 ms
GROUP = 200  # utterances that share one MP3 round trip
GUARD_SAMPLES = 20 * FRAME_SAMPLES  # zeros between the utterances of a group
NO_PHONEME, UNKNOWN_PHONEME = 0, 255
# Rates that the synthesiser's samples are taken to have: others than its own make another vocal tract.
SOURCE_RATES = (22_050, 22_050, 22_050, 20_000, 21_000, 23_000, 24_000)

_FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
_RAW = ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "s16le"]


@dataclass(frozen=True)
class Pool:
    """Speech of many utterances, end to end.

    `frames` (N, 128) uint8 as `mel.to_bytes` gives them; `phonemes` (N,) uint8 a number per frame;
    `utterances` (U, 4) int64: first frame, frames, first word, words; `words` (W, 3) int64: number of the word in the
    vocabulary, first frame and last frame within the utterance; `voices` (U,) numbers into a list of names.
    """

    frames: npt.NDArray[np.uint8]
    phonemes: npt.NDArray[np.uint8]
    utterances: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    voices: npt.NDArray[np.int64]

    def save(self, folder: Path) -> None:
        """Write one file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path) -> Pool:
        """Read what `save` wrote; the frames stay on disk."""
        names = ("phonemes", "utterances", "words", "voices")
        frames = np.load(folder / "frames.npy", mmap_mode="r")
        return Pool(frames, *(np.load(folder / f"{name}.npy") for name in names))


def trained_variants(espeak: Espeak) -> list[str]:
    """The plain voice and every variant that is not held out."""
    held_out = {name.lower() for name in HELD_OUT_VARIANTS}
    return ["", *(name for name in espeak.variants() if name.lower() not in held_out)]


def punctuate(random: Random, words: list[str]) -> str:
    """Text for the synthesiser; commas and end marks change the melody and the pauses."""
    marks = [random.choice(",,,.") if random.random() < 0.08 else "" for _ in words]
    marks[-1] = random.choices(["", ".", "?", "!"], [6, 2, 1, 1])[0]
    return " ".join(word + mark for word, mark in zip(words, marks, strict=True))


def random_style(random: Random, variants: list[str]) -> Style:
    """A voice that is not held out, at a random speed, pitch and range."""
    gap = random.randint(1, 12) if random.random() < 0.15 else 0
    speed = random.randint(105, 265)
    return Style(random.choice(variants), speed, random.randint(15, 85), random.randint(15, 90), gap)


def resample(waveform: Waveform, sample_rate: int) -> Waveform:
    """The waveform at 16 kHz."""
    if sample_rate == SAMPLE_RATE:
        return waveform
    result = torchaudio.functional.resample(torch.from_numpy(waveform), sample_rate, SAMPLE_RATE)
    return np.asarray(result.numpy(), np.float32)


def encode_audio(waveform: Waveform, kbit_s: int, container: str = "mp3") -> bytes:
    """Encode the waveform (16 kHz) as an MP3 or other file."""
    pcm = (np.clip(waveform, -1, 1) * 32767).astype(np.int16).tobytes()
    with tempfile.NamedTemporaryFile(suffix=f".{container}") as file:  # ffmpeg writes the delay into no pipe
        subprocess.run(
            [*_FFMPEG, *_RAW, "-i", "-", "-b:a", f"{kbit_s}k", "-bitexact", file.name], input=pcm, check=True
        )
        return file.read()


def through_codec(waveform: Waveform, kbit_s: int, container: str = "mp3") -> Waveform:
    """The waveform (16 kHz) after a round trip through a lossy file, equally long."""
    with tempfile.NamedTemporaryFile(suffix=f".{container}") as file:
        file.write(encode_audio(waveform, kbit_s, container))
        file.flush()
        decoded = subprocess.run([*_FFMPEG, "-i", file.name, *_RAW, "-"], check=True, capture_output=True).stdout
    result = np.frombuffer(decoded, np.int16).astype(np.float32) / 32768.0
    return np.resize(np.pad(result, (0, max(0, len(waveform) - len(result)))), len(waveform))


def encode_wav(waveform: Waveform, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode the waveform as a 16-bit mono WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).astype(np.int16).tobytes())
    return buffer.getvalue()


class PoolMaker:
    """Collects utterances, group by group."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._numbers = {word: number for number, word in enumerate(vocabulary.words())}
        self._phoneme_numbers: dict[str, int] = {}
        self._frames: list[npt.NDArray[np.uint8]] = []
        self._phonemes: list[npt.NDArray[np.uint8]] = []
        self._utterances: list[tuple[int, int, int, int]] = []
        self._words: list[tuple[int, int, int]] = []
        self._voices: list[int] = []
        self._total = 0

    def add(self, group: list[tuple[Speech, int]], vary_rate: bool) -> None:
        """Add utterances and their voices' numbers; a fifth of the groups goes through MP3."""
        waveforms, stretches = [], []
        for speech, _ in group:
            rate = self._random.choice(SOURCE_RATES) if vary_rate else speech.sample_rate
            waveform = resample(speech.waveform, rate)
            waveforms.append(np.pad(waveform, (0, -len(waveform) % FRAME_SAMPLES + GUARD_SAMPLES)))
            stretches.append(speech.sample_rate / rate)
        joined = np.concatenate([np.zeros(GUARD_SAMPLES, np.float32), *waveforms])
        if self._random.random() < 0.2:
            joined = through_codec(joined, self._random.choice([16, 24, 32, 48, 64]))
        frames = to_bytes(mel_power(torch.from_numpy(joined))).numpy()
        first = GUARD_SAMPLES // FRAME_SAMPLES
        for (speech, voice), waveform, stretch in zip(group, waveforms, stretches, strict=True):
            count = len(waveform) // FRAME_SAMPLES
            end = first + count - GUARD_SAMPLES // FRAME_SAMPLES + 5  # 50 ms of the guard stay
            self._append(speech, voice, stretch, frames[first:end])
            first += count

    def _append(self, speech: Speech, voice: int, stretch: float, frames: npt.NDArray[np.uint8]) -> None:
        phonemes = np.full(len(frames), NO_PHONEME if speech.phonemes else UNKNOWN_PHONEME, np.uint8)
        for phoneme in speech.phonemes:
            if not is_pause(phoneme.name):
                number = self._phoneme_numbers.setdefault(phoneme.name, len(self._phoneme_numbers) + 1)
                phonemes[round(phoneme.start_s * stretch * 100) : round(phoneme.end_s * stretch * 100)] = number
        self._utterances.append((self._total, len(frames), len(self._words), len(speech.words)))
        for word in speech.words:
            span = round(word.start_s * stretch * 100), round(word.end_s * stretch * 100)
            self._words.append((self._numbers[word.name], *span))
        self._frames.append(frames)
        self._phonemes.append(phonemes)
        self._voices.append(voice)
        self._total += len(frames)

    def pool(self) -> Pool:
        """Return all that was added."""
        tables = (np.array(rows, np.int64) for rows in (self._utterances, self._words, self._voices))
        return Pool(np.concatenate(self._frames), np.concatenate(self._phonemes), *tables)


def make_espeak_pool(utterances: int, seed: int) -> Pool:
    """Make random sentences in every espeak-ng voice that is not held out."""
    random, espeak, known = Random(seed), Espeak(), vocabulary.words()
    variants = trained_variants(espeak)
    maker = PoolMaker(random)
    for _ in range(0, utterances, GROUP):
        group = []
        for _ in range(GROUP):
            style = random_style(random, variants)
            speech = espeak.speak(punctuate(random, vocabulary.sentence(random, known)), style)
            group.append((speech, variants.index(style.variant)))
        maker.add(group, vary_rate=True)
    return maker.pool()


def make_festival_pool(utterances: int, seed: int) -> Pool:
    """Make random sentences in festival's voice; its number is -1."""
    random, known = Random(seed), vocabulary.words()
    maker = PoolMaker(random)
    for _ in range(0, utterances, GROUP):
        texts = [vocabulary.sentence(random, known) for _ in range(GROUP)]
        spoken = festival_speech([" ".join(words) for words in texts])
        right = [s for words, s in zip(texts, spoken, strict=True) if [w.name for w in s.words] == words]
        maker.add([(speech, -1) for speech in right], vary_rate=False)
    return maker.pool()


def main() -> None:
    """Make one pool and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--festival", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    make = make_festival_pool if chosen.festival else make_espeak_pool
    pool = make(chosen.utterances, chosen.seed)
    pool.save(chosen.folder)
    print(f"{len(pool.utterances)} utterances, {len(pool.frames) / 360_000:.1f} h")


if __name__ == "__main__":
    main()
