"""A model for the real engine that follows a script in the recording: a text, or a way to break down."""

import sys
import threading

import numpy as np
import torch

from ml.engine.engine import Engine
from tests.support import audio as media
from tests.support.fake_models import POISON, FakeModel, text

STICKY, HANG, DIE = 700, 701, 702  # numbers of recordings that break the engine, not only themselves
HANGING = "the model hangs"
_FULL_SCALE = 32_768
_MARK_SAMPLES = 64  # of a digit
_DIGIT_STEP = 100

__all__ = ["DIE", "HANG", "HANGING", "POISON", "STICKY", "ScriptedModel", "spoken", "text"]


def spoken(number: int, length: int = 3, duration_s: float = 0.5) -> bytes:
    """Return a recording for which the model decodes `length` tokens of `number`.

    Its first samples carry the digits of both as amplitudes of the highest frequency, which the decoder's high-pass
    changes by less than half a step.
    """
    samples = np.frombuffer(media.pcm(media.voice(duration_s)), "<i2").copy()
    for place, digit in enumerate(f"{number:03d}{length:03d}"):
        mark = np.resize([int(digit) * _DIGIT_STEP, -int(digit) * _DIGIT_STEP], _MARK_SAMPLES)
        samples[place * _MARK_SAMPLES : (place + 1) * _MARK_SAMPLES] = mark
    return media.wav(np.asarray(samples / 32_767, np.float32))


class ScriptedModel(FakeModel):
    """FakeModel for recordings that arrive over the wire. STICKY breaks the device until the process ends."""

    engine: Engine  # that runs this model
    broken = False

    def enter(self, stage: str, numbers: list[int]) -> None:
        self.broken = self.broken or STICKY in numbers
        if self.broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if HANG in numbers:
            print(HANGING, file=sys.stderr, flush=True)
            threading.Event().wait()
        if DIE in numbers:
            raise SystemExit("the thread ends here")
        super().enter(stage, numbers)

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        marks = waveforms[:, : 6 * _MARK_SAMPLES].reshape(len(waveforms), 2, 3, -1, 2) * _FULL_SCALE
        digits = ((marks[..., 0] - marks[..., 1]).mean(dim=-1) / (2 * _DIGIT_STEP)).round()  # (B, 2, 3)
        return super().audio_embeddings(digits @ torch.tensor([100.0, 10.0, 1.0]))

    def hold(self) -> threading.Event:
        """Hold the encoder back until the returned event is set."""
        self.at_work.clear()
        self.gate.clear()
        return self.gate
