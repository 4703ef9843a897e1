"""What the benchmark compares: recognisers of the same chunks with the same weights."""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from transformers import WhisperFeatureExtractor

from ml.audio.splitter import Chunk
from ml.borealis.features import N_MELS
from ml.borealis.model import BorealisModel
from ml.engine.engine import Engine
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.pipeline.recogniser import Recognise, recognise_with
from ml.transcript import Completion

REFERENCE_BATCH = 32  # chunks


@dataclass(frozen=True)
class Strategy:
    """One way to run the model; `stats` is what EngineStats counts, so far."""

    name: str
    recognise: Recognise
    stats: Callable[[], dict[str, float]] = dict


def reference(model: BorealisModel) -> Strategy:
    """The plain design: transformers' front end, encoder and generate(), over batches of one request's chunks."""
    return Strategy("reference", _by_batches(REFERENCE_BATCH, partial(transcribe_by_transformers, model)))


def bare(model: BorealisModel) -> Strategy:
    """The bare model call with the service's features and encoder, one chunk at a time."""
    return Strategy("bare", _by_batches(1, partial(transcribe_batch, model)))


def shared(engine: Engine, slots: int) -> Strategy:
    """The service's engine: one for all requests."""

    def stats() -> dict[str, float]:
        gauges = engine.gauges().items()
        return {name.removeprefix("engine_"): value for name, value in gauges if name.startswith("engine_")}

    return Strategy("engine", recognise_with(engine, window=2 * slots), stats)


def _by_batches(batch_size: int, transcribe: Callable[[Sequence[Waveform]], list[str]]) -> Recognise:
    """Each request runs the model over its own chunks, on its own thread."""

    def recognise(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        while not cancelled.is_set() and (batch := list(islice(chunks, batch_size))):
            yield from map(Completion, transcribe([chunk.waveform for chunk in batch]))

    return recognise


def transcribe_batch(model: BorealisModel, waveforms: Sequence[Waveform]) -> list[str]:
    """Return the text of each chunk of at most 30 s; raise ValueError if one is longer."""
    if not waveforms:
        return []
    audio = model.encode(model.features(waveforms))  # (B, 375, H)
    return model.decode(generate(model, embed(model, audio)))


@torch.inference_mode()
def transcribe_by_transformers(model: BorealisModel, waveforms: Sequence[Waveform]) -> list[str]:
    """Do the same with transformers' own feature extractor and encoder, the whole batch at once."""
    extractor = WhisperFeatureExtractor(feature_size=N_MELS)
    features = extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features  # (B, 128, 3000)
    audio = model.network.get_audio_features(features.to(model.device, model.dtype)).pooler_output  # (B * 375, H)
    return model.decode(generate(model, embed(model, audio.unflatten(0, (len(waveforms), -1)))))


@torch.inference_mode()
def embed(model: BorealisModel, audio: torch.Tensor) -> torch.Tensor:
    """Return the language model's whole input (B, P + 375 + S, H): the prompt around `audio` (B, 375, H)."""
    prefix, suffix = model.prompt_embeddings()
    return torch.cat([prefix.expand(len(audio), -1, -1), audio, suffix.expand(len(audio), -1, -1)], dim=1)


@torch.inference_mode()
def generate(model: BorealisModel, inputs: torch.Tensor) -> torch.Tensor:
    """Return new token ids (B, N) after `inputs` (B, T, H).

    Sampling starts from the options' seed every time and leaves torch's global generators as they were.
    """
    mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=model.device)  # every chunk is 30 s: no padding
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=model.options.do_sample), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing `repetition_penalty`")  # that it spares the prompt is intended
        if model.options.do_sample:
            torch.manual_seed(model.options.seed)
        ids: torch.Tensor = model.network.generate(inputs_embeds=inputs, attention_mask=mask)
    return ids
