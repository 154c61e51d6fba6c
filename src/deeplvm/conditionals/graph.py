"""Graphs given a code of each node."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deeplvm.conditionals.heads import at_least
from deeplvm.distributions.graph import InnerProductGraph

_EXACT, _SAMPLED = 20_000_000, 2_000_000


class InnerProduct(nn.Module):
    r"""An undirected graph whose edges follow the inner products of its nodes' codes.

    .. math:: p(a | z) = \prod_{i < j} \mathrm{Bernoulli}(a_{ij}; \sigma(z_i^\top z_j + c)),
              \qquad \sigma(c) = \text{density}

    The paper has c = 0, under which codes near zero have an edge between every other pair; with
    the share of pairs that are edges in its place, probabilities are those of the graph. It has no
    parameters.

    Variational Graph Auto-Encoders (Kipf & Welling, 2016), https://arxiv.org/abs/1611.07308

    Args:
        density: The share of pairs that are edges where codes say nothing.
        sampled: The sum over all pairs is estimated from so many random ones, each counted for
            those that it stands for, so that the bound stays one. By default it is exact, and of
            graphs with more than 20,000,000 pairs (6,300 nodes) of 2,000,000.

    Shape:
        Codes ``(*particles, batch, nodes, dimensions)`` give batch shape ``(*particles, batch)``;
        a value is a sparse tensor ``(*particles, batch, nodes, nodes)``, see
        :class:`~deeplvm.distributions.graph.InnerProductGraph`.

    Raises:
        ValueError: The density is not between 0 and 1, or no pair is sampled.

    Examples:
        >>> InnerProduct(density=0.1)(torch.zeros(1, 5, 2)).event_shape
        torch.Size([5, 5])
    """

    offset: Tensor

    def __init__(self, *, density: float = 0.5, sampled: int | None = None) -> None:
        super().__init__()
        if not 0.0 < density < 1.0:
            raise ValueError(f"InnerProduct expects a density between 0 and 1, found {density}.")
        if sampled is not None:
            at_least(sampled, 1, "InnerProduct", "sampled")
        self.sampled = sampled
        offset = torch.tensor(math.log(density) - math.log1p(-density))
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, codes: Tensor) -> InnerProductGraph:
        """The distribution of the graph given a code of each node."""
        nodes = codes.shape[-2]
        many = nodes * (nodes - 1) // 2 > _EXACT
        sampled = self.sampled or (_SAMPLED if many else None)
        return InnerProductGraph(codes, self.offset, sampled)

    def extra_repr(self) -> str:
        return f"density={self.offset.sigmoid().item():.4g}"
