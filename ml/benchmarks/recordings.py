"""Makes the recordings that the workloads send, of shipped speech repeated, and says how many and how long."""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.audio.decoder import AudioDecoder
from ml.interfaces import SAMPLE_RATE, Waveform


@dataclass(frozen=True)
class Sizes:
    """How much work each workload does."""

    clip_s: float = 10.0  # seconds in a short recording
    clips: int = 32  # short recordings sent at once
    file_s: float = 600.0
    long_s: float = 3600.0  # the file beside which clips are sent
    lengths_s: tuple[float, ...] = (60.0, 600.0, 3600.0, 10800.0)
    clients: tuple[int, ...] = (1, 4, 16, 64)
    clips_per_series: int = 16  # at least, over all clients
    beside: int = 12  # clips sent, one by one, while a long file runs
    http: int = 50  # clips sent one by one, by gRPC and by HTTP each
    head_start_s: float = 2.0  # of that file, in this process
    cluster_calls: int = 40
    cluster_chunks: int = 160  # chunks of the recording that replicas share
    repeats: int = 3  # of the short workloads


QUICK = Sizes(10, 8, 60, 1800, (60, 240), (1, 4), 4, beside=3, http=10, cluster_calls=5, cluster_chunks=32, repeats=1)


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
