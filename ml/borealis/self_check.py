"""Choose the path at the start: on CUDA the fast one is used if it gives what the plain one gives."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ml.borealis.device_path import DevicePath, PathModel, fast_path, plain_path
from ml.borealis.sampler import Tokens
from ml.borealis.transfer import BatchEncoder
from ml.errors import DeviceUnavailableError
from ml.heap import MEBIBYTE
from ml.interfaces import SAMPLE_RATE, Waveform

NOT_FINITE = "Модель даёт бесконечные или неопределённые числа: задайте другой формат чисел (MODEL_DTYPE=float32)."
STEPS = 24  # decode steps compared
PROBE_S = 3.0
AUDIO_TOLERANCE = 0.02  # of the largest embedding: formats of 16 bits differ by less between two orders of adding up
LOG_TOLERANCE = 0.1  # of a token's log-probability


logger = logging.getLogger("BorealisModel")


@dataclass(frozen=True)
class Outcome:
    """What a path makes of the probes."""

    audio: list[torch.Tensor]  # embeddings (375, H) of each probe
    ids: list[int]  # of the first probe
    probabilities: list[float]

    @property
    def is_finite(self) -> bool:
        """Whether every number is one."""
        return all(bool(audio.isfinite().all()) for audio in self.audio) and all(map(math.isfinite, self.probabilities))


def choose_path(model: PathModel, slots: int, encoder_batch: int) -> tuple[DevicePath, bool]:
    """The path for `model`'s device, and whether a fast path had to be given up.

    Raises DeviceUnavailableError if the model does not give finite numbers.
    """
    plain = plain_path(model, model.make_decoder(slots))
    if model.device.type != "cuda":
        return plain, False
    chosen = check(plain, lambda: fast_path(model, plain.decoder, slots, encoder_batch))
    logger.info("Занято на видеокарте: %.0f МБ", torch.cuda.memory_reserved(model.device) / MEBIBYTE)
    return chosen, chosen is plain


def check(plain: DevicePath, make_fast: Callable[[], DevicePath]) -> DevicePath:
    """The fast path if it gives what `plain` gives, else `plain`, with an error in the log.

    Raises DeviceUnavailableError if the model does not give finite numbers, and what `plain` raises: a device that is
    lost cannot serve in any way.
    """
    expected = run_probes(plain)
    if not expected.is_finite:
        raise DeviceUnavailableError(NOT_FINITE)
    try:
        fast = make_fast()
        difference = find_difference(expected, run_probes(fast))
    except Exception as error:  # a capture fails in many ways
        difference = f"{type(error).__name__}: {error}".splitlines()[0]
    if difference is None:
        return fast
    logger.error("Быстрый путь видеокарты не прошёл самопроверку (%s): работает обычный, он медленнее.", difference)
    run_probes(plain)
    return plain


def find_difference(plain: Outcome, fast: Outcome) -> str | None:
    """The first thing in which the paths differ, for the log; None where they agree.

    Where the two likeliest tokens are about equally probable, rounding may choose either: the texts are compared up to
    that place.
    """
    for number, (expected, found) in enumerate(zip(plain.audio, fast.audio, strict=True)):
        scale = expected.abs().max()
        if not bool(((found - expected).abs().max() <= AUDIO_TOLERANCE * scale).item()):
            return f"audio embeddings of probe {number}"
    if len(fast.ids) != len(plain.ids):
        return f"{len(fast.ids)} tokens instead of {len(plain.ids)}"
    for place, (expected_id, found_id) in enumerate(zip(plain.ids, fast.ids, strict=True)):
        expected_log, found_log = (_log(outcome.probabilities[place]) for outcome in (plain, fast))
        if abs(expected_log - found_log) > LOG_TOLERANCE:
            return f"probability of token {place}"
        if expected_id != found_id:
            return None if place else "first token"
    return None


def run_probes(path: DevicePath) -> Outcome:
    """Decode one probe; encode another while its steps are under way, as the engine does."""
    first, second = _probe(300.0), _probe(900.0)
    embeddings = _encode(path.encoder, first)
    _put(path, path.decoder.prefill([0], embeddings, [None]))
    other = path.encoder.encode([second])
    for step in range(STEPS):
        _put(path, path.decoder.step(1, path.decoder.prefill_length + 1 + step))
    audio = [embeddings[0].float().cpu(), other.wait()[0].float().cpu()]
    path.synchronize()
    arrived = path.readback.get()
    path.readback.clear()
    path.decoder.release(0)
    return Outcome(audio, [each.ids[0] for each in arrived], [each.probabilities[0] for each in arrived])


def _encode(encoder: BatchEncoder, waveform: Waveform) -> torch.Tensor:
    return encoder.encode([waveform]).wait()


def _put(path: DevicePath, tokens: Tokens) -> None:
    path.readback.put(tokens, None)


def _probe(start_hz: float) -> Waveform:
    """A loud rising tone over a little noise: formats of small range overflow over loud sound, if over any."""
    seconds = np.arange(int(PROBE_S * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(int(start_hz)).normal(0, 0.01, len(seconds))
    return (0.9 * np.sin(2 * np.pi * (start_hz + 400 * seconds) * seconds) + noise).astype(np.float32)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
