"""What the benchmark compares: three recognisers of the same chunks, with the same weights."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol, cast

import torch
from transformers import WhisperFeatureExtractor

from ml.audio.splitter import Chunk
from ml.benchmarks.probe import NetworkProbe
from ml.benchmarks.reference import embed, generate, transcribe_batch
from ml.benchmarks.stages import Stages
from ml.benchmarks.timed_engine import TimedModel
from ml.borealis.features import N_MELS
from ml.borealis.model import BorealisModel
from ml.borealis.runner import Model, make_engine
from ml.interfaces import SAMPLE_RATE, RecognitionOptions
from ml.pipeline.recogniser import Recognise, recognise_with
from ml.transcript import Completion

REFERENCE_BATCH = 32  # chunks

Figures = Callable[[], dict[str, float]]


class Strategy(Protocol):
    """One way to run the model."""

    name: str

    def recogniser(self) -> tuple[Recognise, Figures]:
        """What recognises the chunks of one measurement, and what gives its figures so far.

        The figures are seconds by stage, summed over threads, and "n_steps" (decode steps), "stepped_rows" (chunks
        decoded, summed over steps) and "waited_s" (for the engine, summed over chunks).
        """


class _ThroughGenerate:
    """What the strategies that call transformers' generate() have in common; the hook is `_recogniser`."""

    name = ""

    def __init__(self, model: BorealisModel) -> None:
        self._model = model
        self._probe = NetworkProbe(model)

    def recogniser(self) -> tuple[Recognise, Figures]:
        """See Strategy."""
        stages = Stages(self._model.device)
        return self._recogniser(stages), lambda: {**stages.totals(), **stages.counts()}

    def _recogniser(self, stages: Stages) -> Recognise:
        raise NotImplementedError


class Reference(_ThroughGenerate):
    """The plain design: each request batches its own chunks and runs the model on its own thread."""

    name = "reference"

    def __init__(self, model: BorealisModel) -> None:
        super().__init__(model)
        self._extractor = WhisperFeatureExtractor(feature_size=N_MELS)

    def _recogniser(self, stages: Stages) -> Recognise:
        def recognise(
            chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            while batch := list(islice(chunks, REFERENCE_BATCH)):
                with self._probe.recording(stages):
                    texts = self._run(batch, stages)
                yield from map(Completion, texts)
                if cancelled.is_set():
                    return

        return recognise

    @torch.inference_mode()
    def _run(self, chunks: list[Chunk], stages: Stages) -> list[str]:
        model = self._model
        with stages.time_on_host("features"):
            waveforms = [chunk.waveform for chunk in chunks]
            found = self._extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        features = found.to(model.device, model.dtype)  # (B, 128, 3000)
        audio = model.network.get_audio_features(features).pooler_output  # (B * 375, H)
        return model.decode(generate(model, embed(model, audio.unflatten(0, (len(chunks), -1)))))


class Bare(_ThroughGenerate):
    """The bare model call, one chunk at a time."""

    name = "bare"

    def _recogniser(self, stages: Stages) -> Recognise:
        def recognise(
            chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
        ) -> Iterator[Completion]:
            for chunk in chunks:
                with self._probe.recording(stages):
                    texts = transcribe_batch(self._model, [chunk.waveform])
                yield from map(Completion, texts)

        return recognise


class Shared:
    """The service's engine: one for all requests. A context manager, which ends its thread."""

    name = "engine"

    def __init__(self, model: BorealisModel, slots: int) -> None:
        self._timed = TimedModel(model, NetworkProbe(model))
        self._slots = slots
        self.engine = make_engine(cast(Model, self._timed), slots)
        self.engine.warm_up()

    def __enter__(self) -> "Shared":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def recogniser(self) -> tuple[Recognise, Figures]:
        """See Strategy; for one measurement at a time."""
        stages = self._timed.stages = Stages(self._timed.device)
        before = self.engine.stats.snapshot()

        def figures() -> dict[str, float]:
            after = self.engine.stats.snapshot()
            done = {key: after[key] - before[key] for key in after}
            found = stages.totals()
            found["encode"] = found.pop("embeddings", 0.0) - found.get("features", 0.0)
            found["n_steps"] = done["steps"]
            return {**found, "stepped_rows": done["stepped_rows"], "waited_s": done["waited_s"]}

        return recognise_with(self.engine, window=2 * self._slots), figures
