"""The encoder for the CPU computes what transformers' own computes, by the kernels that are quickest."""

import pytest
import torch

from ml.borealis import kernels as kernels
from ml.borealis.checkpoint import Checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.encoder import CpuEncoder, EncoderPass, make_encoder
from ml.borealis.kernels import AutotunedKernels, Kernels, OneDnnKernels, TorchKernels
from ml.borealis.load import ModelOptions, load_engine
from ml.borealis.model import BorealisModel
from ml.borealis.workers import CpuWorkers
from tests.support.checkpoints import tone
from tests.support.fake_models import in_background
from tests.support.waiting import HANG_LIMIT_S

WAYS = [TorchKernels(), *([OneDnnKernels()] if OneDnnKernels.is_available() else [])]
SOUNDS = [tone(200, 1), tone(1000, 30), tone(3000, 0.01), tone(440, 12)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_embeddings_equal_those_of_transformers(model: BorealisModel, way: Kernels) -> None:
    features = model.features(SOUNDS)
    expected = torch.stack([model.network.get_audio_features(chunk[None]).pooler_output for chunk in features])
    scale = expected.abs().max()
    assert scale > 0.01
    found = CpuEncoder(model.network, way, CpuWorkers())(features)
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


def test_chunks_beside_each_other_are_what_each_is_alone(model: BorealisModel) -> None:
    encoder = CpuEncoder(model.network, TorchKernels(), CpuWorkers())
    features = model.features(SOUNDS)
    threads = torch.get_num_threads()
    together = encoder(features)
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(together, torch.cat([encoder(chunk[None]) for chunk in features]), atol=1e-5, rtol=1e-5)


def test_a_chunk_that_fails_beside_others_fails_the_batch_and_leaves_the_threads_as_they_were(
    model: BorealisModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, threads = CpuEncoder(model.network, TorchKernels(), CpuWorkers()), torch.get_num_threads()
    features = model.features(SOUNDS[:2])
    with pytest.raises(RuntimeError):
        encoder(features[:, :5])
    assert torch.get_num_threads() == threads
    assert encoder(features).isfinite().all()


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_batch_that_pauses_after_every_layer_gives_what_it_gives_in_one_go(model: BorealisModel, chunks: int) -> None:
    encoder, features = CpuEncoder(model.network, TorchKernels(), CpuWorkers()), model.features(SOUNDS[:chunks])
    batch, turns = EncoderPass(encoder, features), 0
    while not batch.is_ready():
        batch.advance(lambda: True)
        turns += 1
    assert turns > len(model.network.model.audio_tower.layers)
    assert torch.equal(batch.wait(), encoder(features))


def test_another_batch_may_be_computed_while_one_is_paused(model: BorealisModel) -> None:
    encoder, features = CpuEncoder(model.network, TorchKernels(), CpuWorkers()), model.features(SOUNDS)
    paused = EncoderPass(encoder, features[:2])
    paused.advance(lambda: True)
    between = encoder(features[2:])
    assert torch.equal(paused.wait(), encoder(features[:2]))
    assert torch.equal(between, encoder(features[2:]))


def test_transformers_own_encoder_still_answers_the_same_after_its_weights_were_joined(converted: Checkpoint) -> None:
    model = BorealisModel.load(converted.path, torch.device("cpu"), torch.float32, GenerationOptions())
    features = model.features(SOUNDS[:1])
    attention = model.network.model.audio_tower.layers[0].self_attn
    held = {attention.q_proj.weight.untyped_storage().data_ptr(), attention.k_proj.weight.untyped_storage().data_ptr()}
    assert len(held) == 1  # nothing is held twice
    expected = model.network.get_audio_features(features).pooler_output
    assert model.encoder is not None
    torch.testing.assert_close(model.encoder(features)[0], expected, atol=1e-5, rtol=1e-5)


def test_float16_is_left_to_transformers(converted: Checkpoint) -> None:
    model = BorealisModel.load(converted.path, torch.device("cpu"), torch.float16, GenerationOptions())
    assert make_encoder(model.network, CpuWorkers()) is None
    assert model.encoder is None
    assert model.encoder_workers == 1


def test_bfloat16_goes_through_the_same_encoder(converted: Checkpoint, model: BorealisModel) -> None:
    half = BorealisModel.load(converted.path, torch.device("cpu"), torch.bfloat16, GenerationOptions())
    assert half.encoder is not None
    features = model.features(SOUNDS[:2])
    expected, found = model.encode(features), half.encode(features)
    assert found.dtype == torch.bfloat16
    assert ((found.float() - expected).norm() / expected.norm()).item() < 0.05


def test_another_activation_is_left_to_transformers(model: BorealisModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network.config.audio_config, "activation_function", "relu")
    assert make_encoder(model.network, CpuWorkers()) is None


class Clock:
    """Stands in for the module time: only the fakes below advance it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Slowed(TorchKernels):
    """torch's own kernels; by `clock` they take as long as given."""

    def __init__(self, clock: Clock, **durations_s: float) -> None:
        self._clock = clock
        self._durations_s = durations_s

    def linear_gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        self._clock.now_s += self._durations_s.get("linear", 0.01)
        return super().linear_gelu(x, weight, bias)

    def attend(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        self._clock.now_s += self._durations_s.get("attention", 0.01)
        return super().attend(qkv, heads)


@pytest.mark.parametrize("slow", ["linear", "attention"])
def test_each_operation_uses_the_quicker_library(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    other = "attention" if slow == "linear" else "linear"
    clock = Clock()
    monkeypatch.setattr(kernels, "time", clock)
    monkeypatch.setattr(kernels, "TorchKernels", lambda: Slowed(clock, **{slow: 0.2}))
    one_dnn = type("OneDnn", (Slowed,), {"is_available": staticmethod(lambda: True)})
    monkeypatch.setattr(one_dnn, "__init__", lambda self: Slowed.__init__(self, clock, **{other: 0.2}))
    monkeypatch.setattr(kernels, "OneDnnKernels", one_dnn)
    assert AutotunedKernels(300, 64, 64, 1).chosen == {slow: "oneDNN", other: "torch"}


def test_without_onednn_torch_computes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert AutotunedKernels(300, 64, 64, 1).chosen == {"linear": "torch", "attention": "torch"}


def test_the_number_of_threads_that_was_asked_for_holds_in_the_engine_s_thread(converted: Checkpoint) -> None:
    before = torch.get_num_threads()
    options = ModelOptions(str(converted.path), converted.path.parent, device="cpu", cpu_threads=before + 1)
    try:
        with load_engine(options):
            assert in_background(torch.get_num_threads).result(HANG_LIMIT_S) == before + 1
    finally:
        torch.set_num_threads(before)
