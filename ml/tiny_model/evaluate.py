"""Write the evaluation recordings of the tiny model, with manifests: `python -m ml.tiny_model.evaluate FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import numpy as np

from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model.corpus import encoded, trained_variants, write_wav
from ml.tiny_model.evaluation import Clip, recording, short_clips
from ml.tiny_model.speech import HELD_OUT_VARIANTS, Espeak

SEED = 4242  # no pool and no test during training uses it


def write_set(folder: Path, name: str, clips: list[Clip], container: str = "wav") -> None:
    """Recordings and their manifest `name`.tsv."""
    rows = []
    for number, clip in enumerate(clips):
        file = f"{name}-{number:03}.{container}"
        content = write_wav(clip.waveform) if container == "wav" else encoded(clip.waveform, 32, container)
        (folder / file).write_bytes(content)
        rows.append(f"{file}\t{' '.join(clip.words)}\n")
    (folder / f"{name}.tsv").write_text("".join(rows))


def recordings(count: int, seed: int, held_out: bool, length_s: float) -> list[Clip]:
    """Recordings of one voice each."""
    random, espeak = Random(seed), Espeak()
    voices = list(HELD_OUT_VARIANTS) if held_out else trained_variants(espeak)
    return [recording(espeak, random, random.choice(voices), length_s) for _ in range(count)]


def without_speech(seed: int) -> list[Clip]:
    """Silence, hiss at several levels, hum: nothing is said."""
    random = np.random.default_rng(seed)
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    waveforms: list[Waveform] = [np.zeros(len(time_s), np.float32)]
    waveforms += [random.normal(0, level, len(time_s)).astype(np.float32) for level in (0.0005, 0.003, 0.02, 0.1)]
    waveforms += [(level * np.sin(6.2832 * 50 * time_s)).astype(np.float32) for level in (0.003, 0.1)]
    return [Clip(waveform, (), ()) for waveform in waveforms]


def main() -> None:
    """Write every set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_set(folder, "trained", short_clips(98, SEED, held_out=False))
    write_set(folder, "trained-mp3", short_clips(40, SEED + 1, held_out=False), "mp3")
    write_set(folder, "held-out", short_clips(60, SEED + 2, held_out=True))
    write_set(folder, "recordings", recordings(2, SEED + 3, False, 180))
    write_set(folder, "recordings-held-out", recordings(4, SEED + 4, True, 30))
    write_set(folder, "no-speech", without_speech(SEED))


if __name__ == "__main__":
    main()
