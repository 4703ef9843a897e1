"""Linear layers of a checkpoint, joined where they read the same input, in floats or in int8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers import VoxtralForConditionalGeneration

from ml.heap import release_free_memory

LARGEST = 127  # of an int8, symmetric
ZERO_POINT = 128  # of the activations, which oneDNN takes as uint8
SMALLEST_SCALE = 1e-8  # so that a row of zeros has one
ROWS = 4096  # quantised at once


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix (O, I) in int8 with a scale for each of its rows."""

    values: torch.Tensor  # (O, I) int8
    scales: torch.Tensor  # (O,) float32

    @classmethod
    def quantize(cls, matrix: torch.Tensor) -> "Int8Matrix":
        """Round `matrix` (O, I) of any float format; a few rows at a time, so that no float32 copy is held."""
        values, scales = torch.empty(matrix.shape, dtype=torch.int8), torch.empty(len(matrix))
        for start in range(0, len(matrix), ROWS):
            rows = matrix[start : start + ROWS].float()
            scale = rows.abs().amax(dim=1).clamp(min=SMALLEST_SCALE) / LARGEST
            values[start : start + ROWS] = (rows / scale[:, None]).round()
            scales[start : start + ROWS] = scale
        return cls(values, scales)

    @property
    def nbytes(self) -> int:
        """Memory of the matrix and its scales."""
        return self.values.nbytes + self.scales.nbytes

    def lookup(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows `rows` (...,) as float32 (..., I)."""
        return self.values[rows] * self.scales[rows][..., None]

    def floats(self) -> torch.Tensor:
        """The whole matrix in float32."""
        return self.values.float().mul_(self.scales[:, None])


class Int8Linear:
    """A matrix packed for oneDNN. The input is quantised row by row, so that rows do not depend on each other."""

    def __init__(self, matrix: Int8Matrix, rows: int | None) -> None:
        """`rows` is the usual number of rows of the input; None for few."""
        shape = None if rows is None else [rows, matrix.values.shape[1]]
        self._packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(matrix.values, shape)
        self._scales = matrix.scales
        self._zeros = torch.zeros(len(matrix.scales), dtype=torch.long)

    @property
    def nbytes(self) -> int:
        """Memory of the packed matrix, its scales and zero points."""
        return self._packed.numel() + self._scales.nbytes + self._zeros.nbytes

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """`x` (..., I) float32 times the matrix plus `bias` (O,): (..., O)."""
        flat = x.reshape(-1, x.shape[-1])
        scale = flat.abs().amax(dim=-1, keepdim=True).clamp_(min=SMALLEST_SCALE) / LARGEST  # (n, 1)
        quantised = (flat / scale).round_().add_(ZERO_POINT).to(torch.uint8)
        found: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, ZERO_POINT, self._packed, self._scales, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if bias is None:
            found.mul_(scale)
        else:
            torch.addcmul(bias, found, scale, out=found)
        return found.reshape(*x.shape[:-1], found.shape[-1])


Weight = torch.Tensor | Int8Linear | Int8Matrix
"""In floats, in int8 with products in int8, or in int8 with products in float32."""

FloatLinear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def linear(
    x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None, of_floats: FloatLinear = functional.linear
) -> torch.Tensor:
    """`x` (..., I) times `weight` (O, I) plus `bias` (O,): (..., O); products in floats by `of_floats`."""
    if isinstance(weight, Int8Linear):
        return weight(x, bias)
    return of_floats(x, weight.floats() if isinstance(weight, Int8Matrix) else weight, bias)


def set_int8(module: nn.Module, matrix: Int8Matrix) -> None:
    """Give `module`, a linear layer or an embedding, `matrix` in place of its weight, which becomes unusable."""
    vars(module)["int8"] = matrix
    module.weight = nn.Parameter(torch.empty(matrix.values.shape, device="meta"), requires_grad=False)


def int8_of(module: nn.Module) -> Int8Matrix | None:
    """What `set_int8` gave the module; None for floats, and once `join` has taken it."""
    found: Int8Matrix | None = vars(module).get("int8")
    return found


def is_int8(module: nn.Module) -> bool:
    """Whether the module has no floats."""
    weight = module.weight
    return isinstance(weight, torch.Tensor) and weight.is_meta


def embedding_of(network: VoxtralForConditionalGeneration) -> Callable[[torch.Tensor], torch.Tensor]:
    """What takes token ids (...,) to their embeddings (..., H)."""
    module = network.get_input_embeddings()
    matrix = int8_of(module)
    return partial(functional.embedding, weight=module.weight.detach()) if matrix is None else matrix.lookup


def memory_of(network: nn.Module) -> int:
    """Bytes of the weights, tied ones once."""
    tensors = [each for each in network.parameters() if not each.is_meta]
    in_int8: list[Int8Matrix | Int8Linear] = [
        vars(module)[name] for module in network.modules() for name in ("int8", "joined") if name in vars(module)
    ]
    once = {id(found): found.nbytes for found in in_int8}
    return sum(each.nbytes for each in tensors) + sum(once.values())


def join(projections: Sequence[nn.Linear], rows: int | None = None, in_floats: bool = False) -> Weight:
    """The projections' weights below one another, in one memory with those of the modules.

    `rows` is the usual number of rows of the input; see Int8Linear. Those in int8 are packed for products in int8, or
    kept as they are for products `in_floats`.
    """
    if is_int8(projections[0]):
        return _joined_int8(projections, rows, in_floats)
    weights = [projection.weight.detach() for projection in projections]
    together = _covering(weights)
    if together is None:
        together = torch.cat(weights)
        _point_into(projections, together)
    return together


def reserve(projections: Sequence[nn.Linear]) -> None:
    """Lay the projections' weights below one another before they are loaded, so that joining them copies nothing."""
    first = projections[0].weight
    rows = sum(len(projection.weight) for projection in projections)
    _point_into(projections, first.new_empty(rows, first.shape[1]))


def join_biases(projections: Sequence[nn.Linear]) -> torch.Tensor:
    """The projections' biases one after the other, zeros where there is none."""
    like = next(projection.bias for projection in projections if projection.bias is not None)
    biases = [
        like.new_zeros(projection.out_features) if projection.bias is None else projection.bias.detach()
        for projection in projections
    ]
    return torch.cat(biases)


def _joined_int8(projections: Sequence[nn.Linear], rows: int | None, in_floats: bool) -> Int8Matrix | Int8Linear:
    """The projections as one, which replaces what each of them held."""
    first = vars(projections[0])
    if "joined" not in first:
        matrices = [vars(projection).pop("int8") for projection in projections]
        joined = matrices[0]
        if len(matrices) > 1:
            joined = Int8Matrix(torch.cat([m.values for m in matrices]), torch.cat([m.scales for m in matrices]))
        first["joined"] = joined if in_floats else Int8Linear(joined, rows)
        del matrices, joined
        release_free_memory()  # or the peak would hold the matrices twice
    found: Int8Matrix | Int8Linear = first["joined"]
    return found


def _point_into(projections: Sequence[nn.Linear], joined: torch.Tensor) -> None:
    rows = [len(projection.weight) for projection in projections]
    for projection, view in zip(projections, joined.split(rows), strict=True):
        projection.weight.data = view


def _covering(weights: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """One tensor over `weights`, where they lie below one another in one memory already."""
    first, offset = weights[0], weights[0].storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.storage_offset() != offset or not weight.is_contiguous():
            return None
        offset += weight.numel()
    rows = sum(len(weight) for weight in weights)
    return first.as_strided((rows, first.shape[1]), first.stride(), first.storage_offset())
