"""Transcribe as the plain design does: features, encoder and transformers' own generate(), one batch at a time."""

import warnings
from collections.abc import Sequence

import torch
from transformers import WhisperFeatureExtractor

from ml.borealis.features import N_MELS
from ml.borealis.model import BorealisModel
from ml.interfaces import SAMPLE_RATE, Waveform


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
