"""A model for the real engine whose behaviour the recording sets: a text, or a way to break down."""

import threading
import time

import numpy as np
import torch

from ml.engine.engine import Engine
from tests.support import audio as media
from tests.support.fake_models import POISON, FakeModel, text

STICKY, HANG, DIE = 700, 701, 702  # numbers of recordings that break the engine, not themselves
_FULL_SCALE = 32_768

__all__ = ["DIE", "HANG", "POISON", "STICKY", "ScriptedModel", "spoken", "text"]


def spoken(number: int, length: int = 3, duration_s: float = 0.5) -> bytes:
    """A recording of which the model says `length` tokens of `number`: they are its first two samples."""
    samples = np.frombuffer(media.pcm(media.voice(duration_s)), "<i2").copy()
    samples[:2] = number, length
    return media.wav(np.asarray(samples / 32_767, np.float32))


class ScriptedModel(FakeModel):
    """FakeModel for recordings that have come over the wire. STICKY breaks the device for good."""

    engine: Engine  # the engine that runs it
    broken = False

    def enter(self, stage: str, numbers: list[int]) -> None:
        self.broken = self.broken or STICKY in numbers
        if self.broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if HANG in numbers:
            time.sleep(3600)
        if DIE in numbers:
            raise SystemExit("the thread ends here")
        super().enter(stage, numbers)

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        return super().audio_embeddings((waveforms[:, :2] * _FULL_SCALE).round())

    def hold(self) -> threading.Event:
        """Holds the encoder back until the result is set."""
        self.at_work.clear()
        self.gate.clear()
        return self.gate
