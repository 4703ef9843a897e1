"""A fast path is used only if it gives what the plain path gives, however it may break."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from ml.borealis import load as loading
from ml.borealis import runner as runner_module
from ml.borealis.checkpoint import Checkpoint
from ml.borealis.device_path import DevicePath, plain_path
from ml.borealis.sampler import Tokens
from ml.borealis.self_check import check, choose_path
from ml.borealis.transfer import HostBatch, HostEncoder, HostReadback
from ml.errors import DeviceUnavailableError
from ml.interfaces import Waveform
from tests.ml.borealis.test_buckets import BucketedDecoder
from tests.support.fake_models import FakeModel, LateEncoder, LateReadback, chunk, text
from tests.support.reference import Alone, NumberedChunks

BREAK = Callable[[DevicePath], DevicePath]


@pytest.fixture
def plain(alone: Alone) -> DevicePath:
    path = plain_path(alone.model, alone.make_decoder(2))
    return replace(path, encoder=HostEncoder(alone.model.audio_embeddings))  # as beside a GPU


def fast(plain: DevicePath) -> DevicePath:
    """As on CUDA: an encoder and a readback that are late, steps replayed from buckets."""
    readback = LateReadback()
    decoder = BucketedDecoder(plain.decoder)
    decoder.capture_all()
    return DevicePath(LateEncoder(plain.encoder._encode), decoder, readback, readback.flush)


class BrokenCapture(BucketedDecoder):
    """Replays a graph that reads the tokens of the capture instead of those of the last step."""

    def step(self, active: int, length: int) -> Tokens:
        self._decoder.tokens.zero_()
        return self._decoder.step(active, length)


class FailingCapture(BucketedDecoder):
    """Cannot be captured."""

    def step(self, active: int, length: int) -> Tokens:
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


class UnorderedEncoder(HostEncoder):
    """Returns embeddings before they are computed: the second batch in the state of its memory before."""

    batches = 0

    def encode(self, waveforms: Sequence[Waveform]) -> HostBatch:
        self.batches += 1
        batch = super().encode(waveforms)
        return batch if self.batches == 1 else HostBatch(torch.zeros_like(batch.audio))


class UncopiedEncoder(HostEncoder):
    """Encodes a buffer that the copy has not reached."""

    def encode(self, waveforms: Sequence[Waveform]) -> HostBatch:
        return super().encode([waveform * 0 for waveform in waveforms])


class OverwrittenReadback(HostReadback[None]):
    """Copies tokens after the next step has overwritten them."""

    def put(self, tokens: Tokens, tag: None) -> None:
        super().put(Tokens(tokens.ids + 1, tokens.probabilities), tag)


class ForgetfulReadback(HostReadback[None]):
    """Loses the last token."""

    def get(self) -> list:
        return super().get()[:-1]


BREAKS: dict[str, BREAK] = {
    "capture": lambda path: replace(path, decoder=BrokenCapture(path.decoder._decoder)),
    "failing capture": lambda path: replace(path, decoder=FailingCapture(path.decoder._decoder)),
    "stream order": lambda path: replace(path, encoder=UnorderedEncoder(path.encoder._host._encode)),
    "copy to the device": lambda path: replace(path, encoder=UncopiedEncoder(path.encoder._host._encode)),
    "copy to the host": lambda path: replace(path, readback=OverwrittenReadback()),
    "lost token": lambda path: replace(path, readback=ForgetfulReadback()),
}


def test_a_fast_path_that_gives_the_same_is_used(plain: DevicePath, caplog: pytest.LogCaptureFixture) -> None:
    other = fast(plain)
    assert check(plain, lambda: other) is other
    assert not caplog.records


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_fast_path_is_given_up_with_one_line(
    plain: DevicePath, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    assert check(plain, lambda: BREAKS[broken](fast(plain))) is plain
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()


def test_a_fast_path_that_cannot_be_made_is_given_up(plain: DevicePath, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> DevicePath:
        raise RuntimeError("no graphs here")

    assert check(plain, make) is plain
    assert "no graphs here" in caplog.text


def test_a_device_that_is_lost_ends_the_start(plain: DevicePath, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> DevicePath:
        monkeypatch.setattr(plain.decoder, "prefill", lost)
        raise RuntimeError("an illegal memory access")

    def lost(*_: object) -> Tokens:
        raise torch.AcceleratorError("an illegal memory access")

    with pytest.raises(torch.AcceleratorError):
        check(plain, make)


def test_numbers_that_are_not_finite_are_refused_with_the_setting(plain: DevicePath) -> None:
    broken = replace(plain, encoder=HostEncoder(lambda waveforms: torch.full((len(waveforms), 375, 128), torch.inf)))
    with pytest.raises(DeviceUnavailableError, match="MODEL_DTYPE"):
        check(broken, lambda: broken)


def test_a_model_whose_warm_up_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch, alone: Alone) -> None:
    chunks = NumberedChunks(alone)
    chunks._audio = torch.full_like(chunks._audio, torch.nan)
    monkeypatch.setattr(loading, "prepare_checkpoint", lambda *_, **__: Checkpoint(None, "broken", None))
    monkeypatch.setattr(loading.BorealisModel, "load", lambda *_: chunks)
    with pytest.raises(DeviceUnavailableError, match="MODEL_DTYPE"):
        loading.load_engine(loading.ModelOptions("broken", None, device="cpu", batch_size=2))


def test_the_engine_on_the_plain_path_says_so_in_its_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "choose_path", lambda *arguments: (choose_path(*arguments)[0], True))
    with runner_module.make_engine(FakeModel(), 2) as engine:
        assert engine.gauges()["engine_fast_path_failed"] == 1
        assert engine.submit(chunk(1)).result().text == text(1)
