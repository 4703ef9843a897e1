"""Makes the recordings that the workloads send: shipped speech repeated, or bursts of noise."""

import wave
from itertools import cycle
from pathlib import Path

import numpy as np

from ml.audio.decoder import AudioDecoder
from ml.interfaces import SAMPLE_RATE, Waveform

BURST_S = (0.4, 2.5)  # shortest and longest sound
PAUSE_S = (0.2, 0.6)
NOISE_S = 120.0  # seconds of different noise before it repeats


class Recordings:
    """Writes WAV files (16 kHz, mono, 16 bit) of any length into one folder, each length and number once."""

    def __init__(self, folder: Path, sound: Waveform) -> None:
        """`sound` (N,) is what the recordings are made of."""
        self._folder = folder
        self._sound = (np.clip(sound, -1, 1) * 32767).astype("<i2")

    def wav(self, duration_s: float, number: int = 0) -> Path:
        """A file of `duration_s`; files of different `number` begin at different places of the sound."""
        path = self._folder / f"{duration_s:g}-{number}.wav"
        if not path.exists():
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE)
                self._write(file, int(duration_s * SAMPLE_RATE), number)
        return path

    def clips(self, duration_s: float, count: int) -> list[Path]:
        """`count` different files."""
        return [self.wav(duration_s, number) for number in range(1, count + 1)]

    def _write(self, file: wave.Wave_write, n_samples: int, number: int) -> None:
        start = number * 7 * SAMPLE_RATE % len(self._sound)  # 7 s from file to file
        for piece in cycle([self._sound[start:], self._sound[:start]]):
            file.writeframes(piece[:n_samples].tobytes())
            n_samples -= len(piece)
            if n_samples <= 0:
                return


def speech(decoder: AudioDecoder, samples: Path) -> Waveform | None:
    """All shipped recordings in the folder `samples`, one after another; None where there are none.

    Of one that is there in two formats, one: hearing the same again, the model may believe it is where it was before.
    """
    waveforms = []
    by_name = {path.stem: path for path in sorted(samples.glob("*")) if path.suffix in (".wav", ".mp3")}
    for path in by_name.values():
        with path.open("rb") as file:
            waveforms.append(decoder.decode_all(file))
    return np.concatenate(waveforms) if waveforms else None


def noise_bursts(duration_s: float = NOISE_S, seed: int = 0) -> Waveform:
    """Bursts of noise with pauses between them, so that there is something to cut at."""
    random = np.random.default_rng(seed)
    parts: list[Waveform] = []
    missing = int(duration_s * SAMPLE_RATE)
    while missing > 0:
        for (shortest_s, longest_s), level in ((BURST_S, 0.2), (PAUSE_S, 0.001)):
            n_samples = int(random.uniform(shortest_s, longest_s) * SAMPLE_RATE)
            parts.append(random.normal(0, level * random.uniform(0.5, 1), n_samples).astype(np.float32))
            missing -= n_samples
    return np.concatenate(parts)[: int(duration_s * SAMPLE_RATE)]
