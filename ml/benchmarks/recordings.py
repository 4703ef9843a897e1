"""Makes the recordings that the workloads send: shipped speech repeated, or bursts of noise."""

import wave
from pathlib import Path

import numpy as np

from ml.audio.decoder import AudioDecoder
from ml.interfaces import SAMPLE_RATE, Waveform

BURST_S, PAUSE_S = (0.4, 2.5), (0.2, 0.6)  # shortest and longest
NOISE_S = 120.0  # seconds of different noise before it repeats


class Recordings:
    """Writes WAV files (16 kHz, mono, 16 bit) of any length into one folder, each length and number once."""

    def __init__(self, folder: Path, source: Waveform) -> None:
        """`source` (N,) is what the recordings are made of."""
        self._folder = folder
        self._source = (np.clip(source, -1, 1) * 32767).astype("<i2")

    def wav(self, duration_s: float, number: int = 0) -> Path:
        """Return a file of `duration_s`; files of different `number` begin 7 s apart in the source."""
        path = self._folder / f"{duration_s:g}-{number}.wav"
        if not path.exists():
            samples = np.resize(np.roll(self._source, -7 * number * SAMPLE_RATE), int(duration_s * SAMPLE_RATE))
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
        return path

    def clips(self, duration_s: float, count: int) -> list[Path]:
        """Return `count` different files."""
        return [self.wav(duration_s, number) for number in range(1, count + 1)]


def speech(decoder: AudioDecoder, samples: Path) -> Waveform:
    """Decode the recordings in the folder `samples` that have a text beside them, one after another.

    Of a recording in two formats only one is taken: over the same words twice the model may lose its place.
    """
    waveforms = []
    for text in sorted(samples.glob("*.txt")):
        formats = [text.with_suffix(suffix) for suffix in (".wav", ".mp3")]
        with next(path for path in formats if path.exists()).open("rb") as file:
            waveforms.append(decoder.decode_all(file))
    return np.concatenate(waveforms)


def noise_bursts(duration_s: float = NOISE_S) -> Waveform:
    """Bursts of noise with pauses between them, at which the splitter can cut."""
    random = np.random.default_rng(0)
    parts: list[Waveform] = []
    while sum(map(len, parts)) < duration_s * SAMPLE_RATE:
        for (shortest_s, longest_s), level in ((BURST_S, 0.2), (PAUSE_S, 0.001)):
            n_samples = int(random.uniform(shortest_s, longest_s) * SAMPLE_RATE)
            parts.append(random.normal(0, level * random.uniform(0.5, 1), n_samples).astype(np.float32))
    return np.concatenate(parts)[: int(duration_s * SAMPLE_RATE)]
