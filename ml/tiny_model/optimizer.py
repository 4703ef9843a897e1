"""Turn the gradients of two processes into one step: Muon for the matrices, AdamW for all else."""

from __future__ import annotations

import torch
import torch.distributed as distributed
from torch import nn

PROCESSES = 2
MOMENTUM, DECAY = 0.95, 0.01
MUON_SHARE = 10.0  # Muon's rate (the spectral norm of its steps) against AdamW's


class Muon:
    """Momentum with orthogonal steps.

    As `torch.optim.Muon`, which computes in bfloat16: ten times slower on a CPU without units for it.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights = weights
        self.momentum = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every matrix by a step whose spectral norm is `rate` (times the root of its height to width)."""
        for weight, momentum in zip(self.weights, self.momentum, strict=True):
            if weight.grad is None:
                continue
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = orthogonal(weight.grad.lerp(momentum, MOMENTUM))
            weight.mul_(1 - rate * DECAY)
            weight.add_(update, alpha=-rate * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (M, N) with its singular values brought near 1 by five Newton-Schulz steps."""
    flat = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    flat = flat / (flat.norm() + 1e-7)
    for _ in range(5):
        square = flat @ flat.T
        flat = 3.4445 * flat + (-4.775 * square + 2.0315 * square @ square) @ flat
    return flat.T if matrix.shape[0] > matrix.shape[1] else flat  # type: ignore[no-any-return]


class Optimizer:
    """Both optimizers. Muon's work is shared: each process moves half of the matrices and sends them to the other."""

    def __init__(self, rank: int, trainee: nn.Module) -> None:
        self.weights = [weight for weight in trainee.parameters() if weight.requires_grad]
        named = [(name, weight) for name, weight in trainee.named_parameters() if weight.requires_grad]
        matrices = [w for name, w in named if w.ndim == 2 and ("layers" in name or "projector" in name)]
        self.matrices = sorted(matrices, key=lambda weight: -weight.numel())
        self.mine = self.matrices[rank::PROCESSES]
        kept = {id(weight) for weight in self.matrices}
        others = [weight for weight in self.weights if id(weight) not in kept]
        self.muon = Muon(self.mine)
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01)

    def step(self, rate: float) -> None:
        """Move the weights by the mean gradient at AdamW's rate; gradients are cleared."""
        self._average_gradients()
        self.muon.step(rate * MUON_SHARE)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self._exchange()
        for weight in self.weights:
            weight.grad = None

    def _average_gradients(self) -> None:
        """Take the mean over the processes and limit its norm to 1."""
        moved = [weight for weight in self.weights if weight.grad is not None]
        flat = torch.cat([weight.grad.flatten() for weight in moved if weight.grad is not None])
        distributed.all_reduce(flat)
        flat *= min(1.0, PROCESSES / (float(flat.norm()) + 1e-6)) / PROCESSES
        for weight, piece in zip(moved, flat.split([weight.numel() for weight in moved]), strict=True):
            weight.grad = piece.view_as(weight)

    @torch.no_grad()
    def _exchange(self) -> None:
        """Bring the matrices moved by each process to the other."""
        mine = {id(weight) for weight in self.mine}
        pieces = [w.flatten() if id(w) in mine else torch.zeros(w.numel()) for w in self.matrices]
        flat = torch.cat(pieces)
        distributed.all_reduce(flat)
        for weight, piece in zip(self.matrices, flat.split([w.numel() for w in self.matrices]), strict=True):
            weight.copy_(piece.view_as(weight))
