"""Choose the next token of every row on the device: greedily, or as the model card samples."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ml.borealis.config import GenerationOptions

SEED_STRIDE = 0x9E3779B1  # 2**32 over the golden ratio: seeds side by side end up far apart


class Tokens(NamedTuple):
    """One token of each of some rows."""

    ids: torch.Tensor  # (n,) long
    probabilities: torch.Tensor  # (n,) float32: of these tokens, by the distribution that they were chosen from


class Sampler:
    """Repetition penalty, then greedy choice, or temperature → top-k → top-p with the sequence's own random numbers.

    The order of the filters is that of transformers' generate(), as is the penalty: it concerns the tokens generated so
    far, not the prompt. A sequence's numbers are drawn when it takes its row, from its own seed and the options', so
    that its text does not depend on the other sequences of the batch.
    """

    def __init__(self, options: GenerationOptions, slots: int, device: torch.device) -> None:
        self._options = options
        self._penalty = options.repetition_penalty or 1.0
        self._last = options.max_new_tokens - 1
        self._uniform = torch.zeros(slots, options.max_new_tokens, device=device)  # one number a row and token
        self._tokens = torch.zeros(slots, options.max_new_tokens, dtype=torch.long, device=device)  # generated so far
        self._columns = torch.arange(options.max_new_tokens, device=device)
        self._sampled = torch.zeros(slots, dtype=torch.bool, device=device)
        self._seeded = [False] * slots  # the same on the host

    @property
    def any_row_sampled(self) -> bool:
        """Whether single rows are sampled although the options are greedy."""
        return not self._options.do_sample and any(self._seeded)

    def assign(self, rows: list[int], seeds: Sequence[int | None]) -> None:
        """Draw the random numbers of the sequences that take `rows`; a seed of None is for greedy choice."""
        for row, seed in zip(rows, seeds, strict=True):
            self.release(row)
            if seed is None:
                continue
            self._sampled[row] = self._seeded[row] = True
            mixed = (seed + SEED_STRIDE * self._options.seed) % 2**32  # torch's generator takes no more bits
            generator = torch.Generator().manual_seed(mixed)
            drawn = torch.rand(self._options.max_new_tokens, generator=generator)
            self._uniform[row].copy_(drawn)

    def release(self, row: int) -> None:
        """Choose greedily in `row` from now on: its sequence has left."""
        if self._seeded[row]:
            self._sampled[row] = self._seeded[row] = False

    def move(self, row: int, to: int) -> None:
        """Copy the state of `row` to `to`, and release `row`."""
        self._uniform[to] = self._uniform[row]
        self._tokens[to] = self._tokens[row]
        self._sampled[to] = self._sampled[row]
        self._seeded[to] = self._seeded[row]
        self.release(row)

    def sample(self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor) -> Tokens:
        """The next tokens of `rows` (n,), which have `counts` (n,) tokens so far. Overwrites `logits` (n, V)."""
        counts = counts.clamp(max=self._last)  # vacant rows are stepped past their end
        logits = logits.float()
        if self._penalty != 1.0:
            logits = self._penalise(logits, rows, counts)
        tokens = self._choose(logits, rows, counts)
        if self._penalty != 1.0:
            self._tokens[rows, counts] = tokens
        chosen = logits.gather(-1, tokens[:, None])[:, 0]
        return Tokens(tokens, (chosen - logits.logsumexp(dim=-1)).exp())

    def _choose(self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        if self._options.do_sample:
            return self._draw(logits, rows, counts)
        greedy = logits.argmax(dim=-1)
        if not self.any_row_sampled:
            return greedy
        return torch.where(self._sampled[rows], self._draw(logits, rows, counts), greedy)

    def _penalise(self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Lower the logits of the tokens generated so far: positive ones are divided, negative ones multiplied.

        The places of `_tokens` not reached yet repeat the first token, so that all shapes are fixed; a row without
        tokens changes nothing.
        """
        tokens = self._tokens[rows]  # (n, max_new_tokens)
        tokens = torch.where(self._columns < counts[:, None], tokens, tokens[:, :1])
        found = logits.gather(-1, tokens)
        lowered = torch.where(found < 0, found * self._penalty, found / self._penalty)
        return logits.scatter_(-1, tokens, torch.where(counts[:, None] > 0, lowered, found))

    def _draw(self, logits: torch.Tensor, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        scaled = logits / self._options.temperature
        top, tokens = scaled.topk(min(self._options.top_k, scaled.shape[-1]), dim=-1)  # (n, k), descending
        probabilities = top.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        kept = torch.where(before < self._options.top_p, probabilities, 0.0)
        cumulative = kept.cumsum(dim=-1)
        threshold = self._uniform[rows, counts][:, None] * cumulative[:, -1:]
        choice = (cumulative <= threshold).sum(dim=-1, keepdim=True).clamp(max=top.shape[-1] - 1)
        return tokens.gather(-1, choice)[:, 0]
