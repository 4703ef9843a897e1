"""Joins weights that read the same input, so that one product does the work of several."""

from collections.abc import Sequence

import torch
from torch import nn


def join(projections: Sequence[nn.Linear]) -> torch.Tensor:
    """The projections' weights below one another; the modules keep views, so that nothing is held twice."""
    joined = torch.cat([projection.weight.detach() for projection in projections])
    rows = [len(projection.weight) for projection in projections]
    for projection, view in zip(projections, joined.split(rows), strict=True):
        projection.weight.data = view
    return joined


def join_biases(projections: Sequence[nn.Linear]) -> torch.Tensor:
    """The projections' biases one after the other, zeros where there is none."""
    return torch.cat(
        [
            projection.weight.new_zeros(len(projection.weight)) if projection.bias is None else projection.bias.detach()
            for projection in projections
        ]
    )
