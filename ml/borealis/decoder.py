"""The language model over rows of one preallocated KV cache: prefill some rows, step all of them."""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import VoxtralForConditionalGeneration

from ml.borealis.config import GenerationOptions
from ml.borealis.linear import Weight, embedding_of, join, join_biases, linear
from ml.borealis.sampler import Sampler, Tokens
from ml.borealis.workers import CpuWorkers

STEP_FLOPS_A_THREAD = 1e8  # below, a step of one thread is quicker: waking others for each product takes longer


@dataclass(frozen=True)
class LayerWeights:
    """One Qwen2 layer with its projections fused, so that a step reads its weights in four matrix products."""

    input_norm: torch.Tensor  # (H,)
    qkv: Weight  # ((heads + 2 kv_heads) D, H)
    qkv_bias: torch.Tensor  # ((heads + 2 kv_heads) D,)
    out: Weight  # (H, heads D)
    post_norm: torch.Tensor  # (H,)
    gate_up: Weight  # (2 F, H)
    down: Weight  # (H, F)


class SlotDecoder:
    """Decodes up to `slots` sequences side by side, each at its own position.

    The prompt before the audio is the same for every chunk: its keys and values are computed once and stay in every
    row. In float32 the tokens are those of transformers' generate() for each chunk alone.
    """

    def __init__(
        self,
        network: VoxtralForConditionalGeneration,
        prefix: torch.Tensor,
        suffix: torch.Tensor,
        audio_length: int,
        options: GenerationOptions,
        slots: int,
        workers: CpuWorkers,
    ) -> None:
        """`prefix` (1, P, H) and `suffix` (1, S, H) are the prompt's embeddings around `audio_length` embeddings."""
        config = network.config.text_config
        self.head_dim: int = config.head_dim
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.eps: float = config.rms_norm_eps
        self.slots = slots
        self._workers = workers
        self.on_progress: Callable[[], None] = lambda: None  # called for each layer of a prefill, on any worker
        self.layers = [_fuse(layer) for layer in network.model.language_model.layers]
        self.embed = embedding_of(network)
        self.final_norm: torch.Tensor = network.model.language_model.norm.weight  # (H,)
        self.head = join([network.lm_head])  # (V, H)
        self.sampler = Sampler(options, slots, network.device)
        # The embeddings are looked up, but the head, which is not among these, multiplies by as many weights.
        self._row_flops = 2 * sum(weight.numel() for weight in network.model.language_model.parameters())

        self.prefix_length: int = prefix.shape[1]  # P
        self.audio_end = self.prefix_length + audio_length  # P + 375
        self.prefill_length = self.audio_end + suffix.shape[1]  # P + 375 + S
        self.capacity = self.prefill_length + options.max_new_tokens  # positions in a row
        shape = (len(self.layers), slots, self.kv_heads, self.capacity, self.head_dim)
        self.keys = _zeros(shape, network.dtype, network.device)
        self.values = _zeros(shape, network.dtype, network.device)
        self.tokens = torch.zeros(slots, dtype=torch.long, device=network.device)  # the last token of each row
        self.positions = torch.full_like(self.tokens, self.prefill_length)  # where its next key goes
        self._rows = torch.arange(slots, device=network.device)
        self._columns = torch.arange(self.capacity, device=network.device)
        self._suffix = suffix
        self._cos, self._sin = _rotary_tables(self._columns, config, network.dtype)  # (capacity, D)
        self._run(prefix, self._rows[:1], 0)
        for cache in (self.keys, self.values):
            prompt = cache[:, :, :, : self.prefix_length]
            prompt[:, 1:] = prompt[:, :1]

    @property
    def cache_bytes(self) -> int:
        """Memory of the KV cache; on a CPU resident as far as rows have been used."""
        return 2 * self.keys.numel() * self.keys.element_size()

    @torch.inference_mode()
    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: Sequence[int | None]) -> Tokens:
        """Fill the KV cache of `rows` from the embeddings `audio` (b, 375, H); return their first tokens.

        `seeds` are for sampling, one a row; None chooses greedily.
        """
        index = torch.cat([self._rows[row : row + 1] for row in rows])  # (b,), without a copy that the host waits for
        x = torch.cat([audio, self._suffix.expand(len(audio), -1, -1)], dim=1)  # (b, T, H)
        self._clear_kv(index)
        x = self._run_side_by_side(x, index, self.prefix_length)
        self.sampler.assign(rows, seeds)
        tokens = self.sampler.sample(self._logits(x[:, -1]), index, torch.zeros_like(index))
        self.tokens[index] = tokens.ids
        self.positions[index] = self.prefill_length
        return tokens

    @torch.inference_mode()
    def step(self, active: int, length: int) -> Tokens:
        """Decode one token for each of the first `active` rows.

        `length` is at least one more than the furthest of these rows' positions: keys beyond it are not read.
        Vacant rows are decoded as well, to no effect.
        """
        with self._step_threads(active):
            return self._decode(self._rows[:active], slice(active), length)

    @torch.inference_mode()
    def step_rows(self, rows: list[int], length: int) -> Tokens:
        """The same for `rows` alone. It copies their keys and values, so it is for few rows."""
        index = torch.tensor(rows, device=self._rows.device)
        with self._step_threads(len(rows)):
            return self._decode(index, index, length)

    @contextmanager
    def _step_threads(self, rows: int) -> Iterator[None]:
        """On a CPU, as many threads as a step of so many rows is worth."""
        threads = torch.get_num_threads()
        worth = int(rows * self._row_flops / STEP_FLOPS_A_THREAD)
        if self._rows.device.type != "cpu" or worth >= threads:
            yield
            return
        torch.set_num_threads(max(1, worth))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _decode(self, rows: torch.Tensor, select: slice | torch.Tensor, length: int) -> Tokens:
        """One token for each of `rows` (n,); `select` is the same rows, as a slice where that spares a copy."""
        positions = self.positions[select].clamp(max=self.capacity - 1)  # (n,)
        visible = (self._columns[:length] <= positions[:, None])[:, None, None]  # (n, 1, 1, length)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # (n, 1, D)
        x = self.embed(self.tokens[select])  # (n, H)
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(layer, x, cos, sin)  # (n, heads, D), (n, kv_heads, D) twice
            self.keys[index, rows, :, positions] = key
            self.values[index, rows, :, positions] = value
            attended = functional.scaled_dot_product_attention(
                query.unflatten(1, (self.kv_heads, -1)),  # query heads of one key head stand in for query positions
                self.keys[index, select, :, :length],
                self.values[index, select, :, :length],
                attn_mask=visible,
            )
            x = self._finish(layer, x, attended.flatten(1))
        tokens = self.sampler.sample(self._logits(x), rows, positions + 1 - self.prefill_length)
        self.tokens[select] = tokens.ids
        self.positions[select] += 1
        return tokens

    @torch.inference_mode()
    def move(self, row: int, to: int) -> None:
        """Copy the state of `row` to `to`."""
        for cache in (self.keys, self.values):
            cache[:, to] = cache[:, row]
        for state in (self.tokens, self.positions):
            state[to] = state[row]
        self.sampler.move(row, to)

    def release(self, row: int) -> None:
        """The sequence in `row` has left: steps need not sample for it any more."""
        self.sampler.release(row)

    @torch.inference_mode()
    def audio_attention(
        self, rows: list[int], tokens: Sequence[Sequence[int]], heads: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """Attention (b, heads, n + 1, 375) float32 to the audio alone, summing to 1, of the (layer, index) in `heads`.

        `rows` hold finished sequences and `tokens` what was decoded there, n at most. Step 0 predicts the first token,
        step i has token i - 1 as its input; steps beyond a sequence's own mean nothing. The queries are not kept while
        decoding: the tokens pass once more, side by side, up to the last layer asked for.
        """
        index = torch.tensor(rows, device=self._rows.device)
        longest = max(map(len, tokens))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens], device=index.device)
        x = torch.cat([self._suffix[:, -1:].expand(len(rows), -1, -1), self.embed(ids)], dim=1)  # (b, n + 1, H)
        start, last = self.prefill_length - 1, max(layer for layer, _ in heads)
        visible = self._visible(start, start + x.shape[1])
        found: dict[tuple[int, int], torch.Tensor] = {}
        for layer in range(last + 1):
            query = self._cache(layer, x, index, start)
            for head in {head for at, head in heads if at == layer}:
                found[layer, head] = self._to_audio(layer, head, query[:, head], index)
            if layer < last:
                x = self._attend(layer, x, query, index, visible)
        return torch.stack([found[head] for head in heads], dim=1)

    def _to_audio(self, layer: int, head: int, query: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Attention (b, T, 375) of one head's queries (b, T, D)."""
        kv_head = head * self.kv_heads // self.heads
        keys = self.keys[layer, rows, kv_head, self.prefix_length : self.audio_end]  # (b, 375, D)
        scores = query @ keys.transpose(1, 2) * self.head_dim**-0.5
        return torch.softmax(scores.float(), dim=-1)

    def _clear_kv(self, rows: torch.Tensor) -> None:
        """Zero what was decoded in `rows` (b,): a key not yet reached is masked, but NaN times 0 is NaN."""
        for cache in (self.keys, self.values):
            cache[:, :, :, self.prefill_length :].index_fill_(1, rows, 0.0)

    def _run_side_by_side(self, x: torch.Tensor, rows: torch.Tensor, start: int) -> torch.Tensor:
        """The same as `_run`; on a CPU each row by itself, on a worker."""
        if x.device.type != "cpu":
            return self._run(x, rows, start)
        parts = list(zip(x.split(1), rows.split(1), strict=True))
        return torch.cat(self._workers.map(lambda part: self._run(part[0], part[1], start), parts))

    def _run(self, x: torch.Tensor, rows: torch.Tensor, start: int) -> torch.Tensor:
        """All layers over `x` (b, T, H) at positions start… of `rows` (b,), keys and values kept there.

        Returns the last position alone, (b, 1, H): of the others the last layer computes only keys and values.
        """
        visible = self._visible(start, start + x.shape[1])
        for index, layer in enumerate(self.layers):
            query = self._cache(index, x, rows, start)
            if layer is self.layers[-1]:
                x, query, visible = x[:, -1:], query[:, :, -1:], visible[-1:]
            x = self._attend(index, x, query, rows, visible)
        return x

    def _visible(self, start: int, end: int) -> torch.Tensor:
        """Whether each of the positions start…end - 1 sees each of the first `end`: causal, (end - start, end)."""
        return self._columns[:end] <= self._columns[start:end, None]

    def _cache(self, index: int, x: torch.Tensor, rows: torch.Tensor, start: int) -> torch.Tensor:
        """Keep layer `index`'s keys and values of `x` (b, T, H) at start…; return its queries (b, heads, T, D)."""
        self.on_progress()
        end = start + x.shape[1]
        cos, sin = self._cos[start:end, None], self._sin[start:end, None]  # (T, 1, D)
        projected = self._project(self.layers[index], x, cos, sin)
        query, key, value = (part.transpose(1, 2) for part in projected)
        self.keys[index, rows, :, start:end] = key
        self.values[index, rows, :, start:end] = value
        return query

    def _attend(
        self, index: int, x: torch.Tensor, query: torch.Tensor, rows: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """Layer `index` after `_cache`: attention to what is `visible` (T, end), and the rest; (b, T, H) as `x`."""
        end = visible.shape[1]
        attended = functional.scaled_dot_product_attention(
            query,
            self._for_each_head(self.keys[index, rows, :, :end]),
            self._for_each_head(self.values[index, rows, :, :end]),
            attn_mask=visible,
        )
        return self._finish(self.layers[index], x, attended.transpose(1, 2).flatten(2))

    def _for_each_head(self, cached: torch.Tensor) -> torch.Tensor:
        """Keys or values (b, kv_heads, end, D) repeated to (b, heads, end, D): fused attention wants them so."""
        return cached.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def _project(
        self, layer: LayerWeights, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (..., heads, D), keys and values (..., kv_heads, D) of `x` (..., H), rotated to their positions."""
        normed = functional.rms_norm(x, x.shape[-1:], layer.input_norm, self.eps)
        projected = linear(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, self.head_dim))
        rotated, value = projected.split([self.heads + self.kv_heads, self.kv_heads], dim=-2)
        low, high = rotated.chunk(2, dim=-1)
        rotated = rotated * cos + torch.cat([-high, low], dim=-1) * sin
        query, key = rotated.split([self.heads, self.kv_heads], dim=-2)
        return query, key, value

    def _finish(self, layer: LayerWeights, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of a layer after attention: output projection and gated feed-forward; (..., H) as `x`."""
        x = x + linear(attended, layer.out)
        normed = functional.rms_norm(x, x.shape[-1:], layer.post_norm, self.eps)
        gate, up = linear(normed, layer.gate_up).chunk(2, dim=-1)
        return x + linear(functional.silu(gate) * up, layer.down)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of the last layer's output (..., H)."""
        return linear(functional.rms_norm(x, x.shape[-1:], self.final_norm, self.eps), self.head)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU in pages that take up memory once they are written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).reshape(shape)


def _fuse(layer: Any) -> LayerWeights:
    """The layer's weights, joined where they read the same input; the module keeps views, so nothing is held twice."""
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=join(projections),
        qkv_bias=join_biases(projections),
        out=join([attention.o_proj]),
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=join([feed_forward.gate_proj, feed_forward.up_proj]),
        down=join([feed_forward.down_proj]),
    )


def _rotary_tables(positions: torch.Tensor, config: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (positions, D) of Qwen2's rotary embedding, computed in float32 as transformers does."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device).float() / config.head_dim
    angles = positions[:, None].float() * (1.0 / config.rope_parameters["rope_theta"] ** exponents)
    doubled = torch.cat([angles, angles], dim=-1)
    return doubled.cos().to(dtype), doubled.sin().to(dtype)
