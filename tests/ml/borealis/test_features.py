"""Log-mel features equal Whisper's own."""

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from ml.borealis.features import N_FRAMES, N_MELS, N_SAMPLES, LogMel
from ml.interfaces import SAMPLE_RATE


def waveforms() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    seconds = np.arange(N_SAMPLES) / SAMPLE_RATE
    return {
        "silence": np.zeros(N_SAMPLES),
        "one sample": np.ones(1),
        "a short tone": 0.1 * np.sin(2 * np.pi * 440 * seconds[: SAMPLE_RATE // 2]),
        "full-scale square": np.sign(np.sin(2 * np.pi * 100 * seconds)),
        "noise": generator.normal(0, 0.3, N_SAMPLES).clip(-1, 1),
        "barely audible noise": generator.normal(0, 1e-5, 7 * SAMPLE_RATE),
        "clicks": (generator.random(29 * SAMPLE_RATE) > 0.9999).astype(float),
    }


def whisper_features(waveform: np.ndarray) -> torch.Tensor:
    extractor = WhisperFeatureExtractor(feature_size=N_MELS)
    return extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel(torch.device("cpu"))


@pytest.mark.parametrize("name", waveforms())
def test_features_equal_those_of_whisper(name: str, log_mel: LogMel) -> None:
    waveform = waveforms()[name].astype(np.float32)
    features = log_mel(torch.from_numpy(waveform)[None])
    assert features.shape == (1, N_MELS, N_FRAMES)
    assert features.dtype == torch.float32
    assert (features - whisper_features(waveform)).abs().max() < 1e-4


def test_a_loud_neighbour_does_not_change_the_features_of_a_quiet_item(log_mel: LogMel) -> None:
    quiet, loud = torch.full((2, N_SAMPLES), 1e-4) * torch.tensor([[1.0], [1e4]]) * torch.randn(2, N_SAMPLES)
    together = log_mel(torch.stack([quiet, loud]))
    torch.testing.assert_close(together[:1], log_mel(quiet[None]), atol=1e-6, rtol=0)


def test_a_waveform_longer_than_a_chunk_is_refused(log_mel: LogMel) -> None:
    with pytest.raises(ValueError, match="480000"):
        log_mel(torch.zeros(1, N_SAMPLES + 1))


@pytest.mark.gpu
def test_features_on_the_gpu_equal_those_of_whisper() -> None:
    for waveform in waveforms().values():
        features = LogMel(torch.device("cuda"))(torch.from_numpy(waveform.astype(np.float32))[None])
        assert (features.cpu() - whisper_features(waveform.astype(np.float32))).abs().max() < 1e-4
