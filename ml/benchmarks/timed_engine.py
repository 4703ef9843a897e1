"""A model that adds up the time the engine spends in each of its parts."""

from typing import Any

import torch

from ml.benchmarks.probe import NetworkProbe
from ml.benchmarks.stages import Stages
from ml.borealis.model import BorealisModel


class TimedModel:
    """Stands in for the model an engine runs; `stages` may be replaced between two measurements.

    Everything but the timed parts is passed through.
    """

    def __init__(self, model: BorealisModel, probe: NetworkProbe) -> None:
        self._model = model
        self._probe = probe
        self.device = model.device
        self.stages = Stages(model.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        """See ChunkModel; "embeddings" includes "features"."""
        with self.stages.time("embeddings"), self._probe.recording(self.stages, only="features"):
            return self._model.audio_embeddings(waveforms)

    def make_decoder(self, slots: int) -> "TimedDecoder":
        """See ChunkModel."""
        return TimedDecoder(self._model.make_decoder(slots), self)


class TimedDecoder:
    """Stands in for a model's decoder."""

    def __init__(self, decoder: Any, model: TimedModel) -> None:
        self._decoder = decoder
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        """See Decoder."""
        with self._model.stages.time("prefill"):
            result: torch.Tensor = self._decoder.prefill(rows, audio, seeds)
        return result

    def step(self, active: int, length: int) -> torch.Tensor:
        """See Decoder."""
        with self._model.stages.time("steps"):
            result: torch.Tensor = self._decoder.step(active, length)
        return result
