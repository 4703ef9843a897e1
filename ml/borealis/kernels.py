"""Linear layers and attention of an encoder on a CPU, by the library that is quickest on this machine."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch.nn import functional

from ml.borealis.linear import Int8Linear, Weight, linear

BLOCK = 250  # queries whose scores are computed at once: they stay in the caches, and 1,500 is a multiple
ROUNDS = 5  # of a measurement
CLEARLY = 0.9  # of the time of torch's own kernels: what others must stay below to be used


def gelu_(x: torch.Tensor) -> torch.Tensor:
    """GELU in place: to get as much memory again from the system takes longer than the function itself."""
    found: torch.Tensor = torch.ops.aten.gelu_(x)
    return found


class Kernels(Protocol):
    """One library's linear layers and attention."""

    def linear(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """`x` (T, I) times `weight` (O, I) plus `bias` (O,): (T, O)."""

    def linear_gelu(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """The same with GELU after it."""

    def attend(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """Attention of every position to every position; queries, keys and values (T, 3 heads D) to (T, heads D)."""


class TorchKernels:
    """torch's own functions: its BLAS, which is MKL on x86, and its fused attention. int8 goes to oneDNN."""

    def linear(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """See Kernels."""
        return linear(x, weight, bias)

    def linear_gelu(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """See Kernels."""
        return gelu_(linear(x, weight, bias))

    def attend(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """See Kernels."""
        query, key, value = qkv.view(1, len(qkv), 3, heads, -1).permute(2, 0, 3, 1, 4)  # (1, heads, T, D) each
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).reshape(len(qkv), -1)


class OneDnnKernels:
    """oneDNN, which uses the wide registers of processors on which MKL does not.

    torch itself takes it for convolutions only. Its fused linear layer is the one that torch.compile would call.
    """

    def __init__(self) -> None:
        self._pointwise: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise

    def _plain(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._pointwise(x, weight, bias, "none", [], "")

    def _with_gelu(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._pointwise(x, weight, bias, "gelu", [], "none")

    @staticmethod
    def is_available() -> bool:
        """Whether this build of torch has it."""
        return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

    def linear(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """See Kernels."""
        return linear(x, weight, bias, self._plain)

    def linear_gelu(self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None) -> torch.Tensor:
        """See Kernels."""
        if isinstance(weight, Int8Linear):
            return gelu_(weight(x, bias))
        return linear(x, weight, bias, self._with_gelu)

    def attend(self, qkv: torch.Tensor, heads: int) -> torch.Tensor:
        """See Kernels."""
        queries, keys, values = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, dim=1))  # (T, heads, D)
        attended = torch.empty_like(queries, memory_format=torch.contiguous_format)
        scaled = queries * queries.shape[-1] ** -0.5
        for head in range(heads):
            key, value = keys[:, head].contiguous(), values[:, head].t().contiguous()  # (T, D), (D, T)
            for rows in range(0, len(qkv), BLOCK):
                scores = self.linear(scaled[rows : rows + BLOCK, head].contiguous(), key, None)  # (BLOCK, T)
                attended[rows : rows + BLOCK, head] = self.linear(scores.softmax(dim=-1), value, None)
        return attended.flatten(1)


class AutotunedKernels:
    """Each operation by the library that was quickest over shapes like those to come."""

    @torch.inference_mode()
    def __init__(self, positions: int, width: int, ffn: int, heads: int) -> None:
        ways: dict[str, Kernels] = {"torch": TorchKernels()}
        if OneDnnKernels.is_available():
            ways["oneDNN"] = OneDnnKernels()
        x, weight, bias = (torch.full(shape, 0.1) for shape in ((positions, width), (ffn, width), (ffn,)))
        qkv = torch.full((positions, 3 * width), 0.1)
        linear = _quickest({name: partial(way.linear_gelu, x, weight, bias) for name, way in ways.items()})
        attend = _quickest({name: partial(way.attend, qkv, heads) for name, way in ways.items()})
        self.chosen = {"linear": linear, "attention": attend}
        self.linear = ways[linear].linear
        self.linear_gelu = ways[linear].linear_gelu
        self.attend = ways[attend].attend


def _quickest(ways: Mapping[str, Callable[[], object]]) -> str:
    """The one that is clearly quicker than the first, else the first. They take turns; the best time of each counts."""
    best_s = dict.fromkeys(ways, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way()
            if turn:  # the first warms up
                best_s[name] = min(best_s[name], time.perf_counter() - started_s)
    first, quickest = next(iter(ways)), min(best_s, key=lambda name: best_s[name])
    return quickest if best_s[quickest] < CLEARLY * best_s[first] else first
