"""Tokens of a dozen chunks, each alone through transformers' generate(): decoding them together must give the same."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml.benchmarks.strategies import embed, generate
from ml.borealis.config import GenerationOptions
from ml.borealis.decoder import SlotDecoder
from ml.borealis.device_path import Decoder
from ml.borealis.model import BorealisModel
from ml.borealis.workers import CpuWorkers
from ml.interfaces import Waveform
from tests.support.checkpoints import HIDDEN

CHUNKS = 12
AUDIO_LENGTH = 375
MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Alone:
    """Chunks given as audio embeddings: random ones differ in every token, sounds under random weights do not."""

    model: BorealisModel
    audio: torch.Tensor  # (CHUNKS, 375, H)
    tokens: list[list[int]]  # of each chunk, its end not included

    @property
    def end(self) -> int:
        """The token that ends every text."""
        (end,) = self.model.eos_ids
        return end

    @property
    def device(self) -> torch.device:
        """Where the model is; the chunks stay on the CPU."""
        return self.model.device

    def make_decoder(self, slots: int) -> SlotDecoder:
        """A decoder of the model's, without graphs."""
        prompt = self.model.prompt_embeddings()
        return SlotDecoder(self.model.network, *prompt, AUDIO_LENGTH, self.model.options, slots, CpuWorkers())


class NumberedChunks:
    """The model as the engine sees it, with the encoder's answers known beforehand and token ids for texts."""

    pauses = False

    def __init__(self, alone: Alone, model: BorealisModel | None = None) -> None:
        model = model or alone.model
        self.device = model.device
        self.eos_ids = alone.model.eos_ids
        self.max_new_tokens = model.max_new_tokens
        self.do_sample = model.do_sample
        self.encoder_workers = 1
        self.make_decoder = model.make_decoder
        self._audio = alone.audio.to(model.device)

    def watch_progress(self, on_progress: Callable[[], None]) -> None:
        pass

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self._audio[waveforms[:, 0].long()]

    def decode(self, ids: list[list[int]]) -> list[str]:
        return [ids_as_text(row) for row in ids]


def ids_as_text(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def numbered_chunk(index: int) -> Waveform:
    """The waveform that NumberedChunks takes for chunk `index`."""
    return np.full(2, index, np.float32)


def decode_alone(path: Path, repetition_penalty: float) -> Alone:
    """Load the model at `path` and give it an end of text that comes after very different numbers of tokens."""
    options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, repetition_penalty=repetition_penalty)
    model = BorealisModel.load(path, torch.device("cpu"), torch.float32, options)
    audio = 2.4 * torch.randn(CHUNKS, AUDIO_LENGTH, HIDDEN, generator=torch.Generator().manual_seed(0))
    whole: list[list[int]] = [generate(model, embed(model, chunk[None]))[0].tolist() for chunk in audio]

    def until(end: int) -> list[list[int]]:
        return [row[: row.index(end)] if end in row else row for row in whole]

    candidates = sorted({token for row in whole for token in row})
    end = max(candidates, key=lambda token: len(set(map(len, until(token)))))
    model.eos_ids = frozenset({end})
    return Alone(model, audio, until(end))


def prefill(decoder: Decoder, alone: Alone, chunks: dict[int, int]) -> dict[int, list[int]]:
    """Prefill chunks, given as {row: chunk}, in one batch; return their first tokens by row."""
    rows = list(chunks)
    tokens = decoder.prefill(rows, alone.audio[[chunks[row] for row in rows]].to(alone.device), [None] * len(rows))
    return {row: [token] for row, token in zip(rows, tokens.ids.tolist(), strict=True)}


def step_to_the_end(
    decoder: Decoder, alone: Alone, said: dict[int, list[int]], length: int = 0
) -> dict[int, list[int]]:
    """Step all rows of `said` until each has ended; return their tokens without ends. `length` is a bucket's."""
    for place in range(1, MAX_NEW_TOKENS):
        for row, token in enumerate(decoder.step(max(said) + 1, length or decoder.prefill_length + place).ids.tolist()):
            if row in said:
                said[row].append(token)
    end = alone.end
    return {row: tokens[: tokens.index(end)] if end in tokens else tokens for row, tokens in said.items()}


def come_and_go(decoder: Decoder, alone: Alone, dice: random.Random, slots: int) -> None:
    """Prefill chunks in batches of any size into any rows, step, move and evict them; check every token."""
    to_come = dice.sample(range(CHUNKS), CHUNKS)
    chunk_in: dict[int, int] = {}  # row: chunk
    said: dict[int, list[int]] = {}
    whole = 0
    while to_come or chunk_in:
        free = [row for row in range(slots) if row not in chunk_in]
        count = min(len(free), len(to_come), dice.choice([0, 0, 1, 2, 3]))
        if count:
            admitted = dict(zip(dice.sample(free, count), to_come, strict=False))
            del to_come[:count]
            chunk_in |= admitted
            said |= prefill(decoder, alone, admitted)
        elif free and chunk_in and dice.random() < 0.1:
            row, to = dice.choice(list(chunk_in)), dice.choice(free)
            decoder.move(row, to)
            chunk_in[to], said[to] = chunk_in.pop(row), said.pop(row)
        elif chunk_in:
            furthest = decoder.prefill_length + max(len(said[row]) for row in chunk_in)
            longer = dice.choice([0, 0, 5, 1000])  # a bucket may be longer than any row needs
            if dice.random() < 0.3:
                rows = sorted(dice.sample(list(chunk_in), dice.randint(1, len(chunk_in))))
                tokens = decoder.step_rows(rows, furthest + longer)
            else:
                rows = list(range(max(chunk_in) + 1))
                tokens = decoder.step(len(rows), furthest + longer)
            for row, token in zip(rows, tokens.ids.tolist(), strict=False):  # more rows where they are a bucket's
                if row in chunk_in:
                    said[row].append(token)
        for row, index in list(chunk_in.items()):
            expected = [*alone.tokens[index], alone.end][:MAX_NEW_TOKENS]
            assert said[row] == expected[: len(said[row])]
            at_its_end = len(said[row]) == len(expected)
            if at_its_end or dice.random() < 0.01:  # or is cancelled
                whole += at_its_end
                del chunk_in[row], said[row]
    assert whole > CHUNKS / 2
