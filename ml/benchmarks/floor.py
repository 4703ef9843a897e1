"""The least time the work can take on this machine: its matrix products and memory reads, at measured rates."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ml.borealis.model import ENCODER_BATCH, BorealisModel

COPY_BYTES = 256 * 1024 * 1024

Route = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]
"""Multiplies (B, M, K) by (B, K, N); the third is room for the result, to be used where that is possible."""


@dataclass(frozen=True)
class Product:
    """`count` products of (batch, rows, inner) by (batch, inner, columns) in the work for one chunk."""

    part: str
    count: int
    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Floating point operations of all of them."""
        return 2 * self.count * self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Cost:
    """Seconds by the wall clock, and of processor time: what others do on the machine hardly counts in the latter."""

    elapsed_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.elapsed_s + other.elapsed_s, self.cpu_s + other.cpu_s)

    def __mul__(self, factor: float) -> "Cost":
        return Cost(self.elapsed_s * factor, self.cpu_s * factor)


@dataclass(frozen=True)
class Floor:
    """The least that the work for one chunk costs.

    plain: by torch's own matrix product; best: each product by the fastest way found; token: on CUDA, one chunk's
    share of reading the language model's weights for one token
    """

    plain: Cost
    best: Cost
    token: Cost
    gflops: dict[str, float]  # 1e9 operations a second, by product and way
    copy_gb_per_s: float

    def of(self, chunks: int, tokens: float) -> tuple[Cost, Cost]:
        """The least for `chunks` with `tokens` decoded in all, by torch's own products and by the fastest found."""
        return self.plain * chunks + self.token * tokens, self.best * chunks + self.token * tokens


def encoder_products(model: BorealisModel, batch: int = 1) -> list[Product]:
    """The matrix products of Whisper's encoder and the adapter, convolutions as the products they are."""
    audio = model.network.config.audio_config
    width, ffn, layers, length = audio.hidden_size, audio.intermediate_size, audio.num_hidden_layers, 1500
    heads = audio.num_attention_heads
    hidden = model.network.config.text_config.hidden_size
    tokens = length * width // ffn  # 375
    return [
        Product("conv1", 1, 1, batch * 2 * length, 3 * audio.num_mel_bins, width),
        Product("conv2", 1, 1, batch * length, 3 * width, width),
        Product("q, k, v, out", 4 * layers, 1, batch * length, width, width),
        Product("scores", layers, batch * heads, length, width // heads, length),
        Product("weighted values", layers, batch * heads, length, length, width // heads),
        Product("fc1", layers, 1, batch * length, width, ffn),
        Product("fc2", layers, 1, batch * length, ffn, width),
        Product("adapter 1", 1, 1, batch * tokens, ffn, hidden),
        Product("adapter 2", 1, 1, batch * tokens, hidden, hidden),
    ]


def prefill_products(model: BorealisModel, batch: int = 1) -> list[Product]:
    """The matrix products of the language model over one chunk's audio and the prompt after it."""
    text = model.network.config.text_config
    audio = model.network.config.audio_config
    rows = batch * (1500 * audio.hidden_size // audio.intermediate_size + len(model.prompt.suffix_ids))
    hidden, ffn, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    return [
        Product("prefill q, k, v", layers, 1, rows, hidden, queries + 2 * keys),
        Product("prefill out", layers, 1, rows, queries, hidden),
        Product("prefill gate, up", layers, 1, rows, hidden, 2 * ffn),
        Product("prefill down", layers, 1, rows, ffn, hidden),
    ]


def measure(model: BorealisModel, slots: int, repeats: int) -> Floor:
    """Times the products and a copy on the model's device, in its number format, `repeats` times each."""
    on_cuda = model.device.type == "cuda"
    group = ENCODER_BATCH[model.device.type]
    products = encoder_products(model, group) + (prefill_products(model, group) if on_cuda else [])
    plain, best = Cost(), Cost()
    gflops = {}
    for product in products:
        times = {name: _time(product, route, model, repeats) for name, route in _routes(model.device).items()}
        plain += times["torch"] * (product.count / group)
        best += min(times.values(), key=lambda cost: cost.cpu_s or cost.elapsed_s) * (product.count / group)
        for name, cost in times.items():
            gflops[f"{product.part}, {name}"] = product.flops / product.count / cost.elapsed_s / 1e9
    copy_rate = _copy_rate(model.device, repeats)
    read_s = _language_model_bytes(model) / copy_rate if on_cuda else 0.0
    return Floor(plain, best, Cost(read_s / slots), gflops, copy_rate / 1e9)


def _routes(device: torch.device) -> dict[str, Route]:
    """The ways to multiply that are tried: torch's own, and on a CPU oneDNN, which torch uses for convolutions."""
    routes: dict[str, Route] = {"torch": lambda left, right, result: torch.matmul(left, right, out=result)}
    pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if device.type == "cpu" else None
    if pointwise is not None:

        def by_onednn(left: torch.Tensor, right: torch.Tensor, result: torch.Tensor) -> None:
            for x, weight in zip(left, right.transpose(1, 2), strict=True):
                pointwise(x, weight, None, "none", [], "")

        routes["onednn"] = by_onednn
    return routes


def _time(product: Product, route: Route, model: BorealisModel, repeats: int) -> Cost:
    """Median cost of one product."""
    left = torch.randn(product.batch, product.rows, product.inner, device=model.device).to(model.dtype)
    right = torch.randn(product.batch, product.columns, product.inner, device=model.device).to(model.dtype)
    result = left.new_empty(product.batch, product.rows, product.columns)
    return _median(lambda: route(left, right.transpose(1, 2), result), model.device, repeats)  # weights lie transposed


def _copy_rate(device: torch.device, repeats: int) -> float:
    """Bytes read and written a second, in a copy within the device's memory."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _median(lambda: target.copy_(source), device, repeats).elapsed_s


def _median(work: Callable[[], object], device: torch.device, repeats: int) -> Cost:
    elapsed_s, cpu_s = [], []
    for _ in range(repeats):
        _synchronise(device)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        work()
        _synchronise(device)
        elapsed_s.append(time.perf_counter() - started_s)
        cpu_s.append(time.process_time() - started_cpu_s)
    return Cost(statistics.median(elapsed_s), statistics.median(cpu_s) if device.type == "cpu" else 0.0)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _language_model_bytes(model: BorealisModel) -> int:
    """Weights that one decode step reads: the layers and the head, which is tied to the embeddings."""
    language_model = model.network.model.language_model
    return sum(weight.numel() * weight.element_size() for weight in language_model.parameters())
