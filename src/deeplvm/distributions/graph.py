"""Undirected graphs whose edges are independent given a code of each node."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Size, Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

_BLOCK = 250_000  # pairs at a time, which a processor's cache holds


class InnerProductGraph(Distribution):
    r"""Each pair of nodes is an edge or not, by the inner product of their codes.

    .. math:: p(a | z) = \prod_{i < j} \mathrm{Bernoulli}(a_{ij};
              \sigma(z_i^\top z_j + c))

    A value is a sparse tensor of shape ``(*batch, nodes, nodes)`` with an element for each edge,
    where the row is the smaller number: 1 an edge, NaN a pair of which nothing is known, which is
    left out of the density; pairs without an element are none. The sum over all pairs is taken in
    blocks, so that memory does not grow with the square of the nodes.

    Args:
        codes: z, shape ``(*batch, nodes, dimensions)``.
        offset: c, the log-odds of an edge where codes say nothing.
        sampled: Estimate the sum over all pairs from so many random ones, each counted for all
            that it stands for: the log-density is then right in expectation. By default it is
            exact.

    Examples:
        >>> z = torch.tensor([[[1.0], [1.0], [-1.0]]])
        >>> edge = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> InnerProductGraph(z).log_prob(edge.to_sparse()).exp()  # sigmoid(1) for each pair
        tensor([0.3907])
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    support = constraints.boolean
    has_rsample = False

    def __init__(
        self, codes: Tensor, offset: Tensor | float = 0.0, sampled: int | None = None
    ) -> None:
        self.codes = codes
        self.offset = torch.as_tensor(offset, dtype=codes.dtype, device=codes.device)
        self.sampled = sampled
        nodes = codes.shape[-2]
        super().__init__(codes.shape[:-2], Size((nodes, nodes)), validate_args=False)

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.codes.shape[-2]

    @property
    def pairs(self) -> int:
        """How many pairs of nodes there are."""
        return self.nodes * (self.nodes - 1) // 2

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same graphs with other leading dimensions."""
        codes = self.codes.expand(*batch_shape, *self.codes.shape[-2:])
        return type(self)(codes, self.offset, self.sampled)

    def log_odds(self, pairs: Tensor) -> Tensor:
        """Log-odds of an edge between pairs of nodes ``(pairs, 2)``: ``(*batch, pairs)``."""
        first, second = (self.codes.index_select(-2, each) for each in pairs.unbind(-1))
        return (first * second).sum(-1) + self.offset

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of graphs, shape ``(*batch,)``."""
        return self._log_prob(value, self.offset, 1.0)

    def balanced_log_prob(self, value: Tensor) -> Tensor:
        r"""Cross-entropy, as if there were as many edges as other pairs: no density.

        .. math:: \sum_{i < j} w\, a_{ij} \log \sigma(z_i^\top z_j)
                  + (1 - a_{ij}) \log \sigma(-z_i^\top z_j), \qquad w = e^{-c}

        Where the odds of an edge are :math:`e^c` among all pairs, it is largest at the same codes
        as the density is, if these can say all.
        """
        return self._log_prob(value, torch.zeros_like(self.offset), torch.exp(-self.offset))

    def _log_prob(self, value: Tensor, offset: Tensor, weight: Tensor | float) -> Tensor:
        value = value.coalesce()
        row, *ends = value.indices()
        known = value.values()
        first, second = (self.codes[..., row, each, :] for each in ends)
        odds = (first * second).sum(-1) + offset
        none = _softplus(odds)  # the sum over all pairs has counted each as none
        edge = known == 1
        listed = torch.where(
            edge, none - weight * _softplus(-odds), torch.where(known.isnan(), none, 0.0)
        )
        total = listed.new_zeros((*listed.shape[:-1], self.codes.shape[-3]))
        total = total.index_add(-1, row, listed)
        return total + self._all_none(offset)

    def _all_none(self, offset: Tensor) -> Tensor:
        r""":math:`\sum_{i < j} \log \sigma(-z_i^\top z_j - c)`, shape ``(*batch,)``."""
        if self.sampled is not None:
            first = torch.randint(self.nodes, (self.sampled,), device=self.codes.device)
            other = torch.randint(self.nodes - 1, (self.sampled,), device=self.codes.device)
            second = other + (other >= first)  # uniform among pairs of two nodes
            one, two = (self.codes.index_select(-2, each) for each in (first, second))
            return -self.pairs * _softplus((one * two).sum(-1) + offset).mean(-1)
        return -_Cost.apply(self.codes, offset, [*self.blocks()])  # type: ignore[no-untyped-call]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Numbers of first nodes, with all second ones of which there are few pairs at a time."""
        size = max(1, _BLOCK // max(1, self.nodes * math.prod(self.batch_shape)))
        for start in range(0, self.nodes, size):
            yield start, min(start + size, self.nodes)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Graphs, sparse, shape ``(*sample, *batch, nodes, nodes)``."""
        shape = (*sample_shape, *self.batch_shape)
        codes = self.codes.expand(*shape, *self.codes.shape[-2:])
        drawn = type(self)(codes, self.offset)
        found = []
        for start, stop in drawn.blocks():
            odds = _odds(codes, self.offset, start, stop)
            edges = (torch.rand_like(odds) < odds.sigmoid()).triu(1).nonzero().T
            edges[-2:] += start
            found.append(edges)
        indices = torch.cat(found, 1)
        values = torch.ones(indices.shape[1], dtype=codes.dtype, device=codes.device)
        size = (*shape, *self.event_shape)
        return torch.sparse_coo_tensor(indices, values, size, check_invariants=False).coalesce()


class _Cost(Function):
    r""":math:`\sum_{i < j} \log(1 + e^{z_i^\top z_j + c})`; one block is held at a time."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, offset: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(codes, offset)
        ctx.blocks, total = blocks, codes.new_zeros(codes.shape[:-2])
        for start, stop in blocks:
            each = _softplus(_odds(codes, offset, start, stop))
            square = each[..., : stop - start]  # whose half and diagonal are other pairs
            other = (square.sum((-2, -1)) + square.diagonal(dim1=-2, dim2=-1).sum(-1)) / 2
            total += each.sum((-2, -1)) - other
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        codes, offset = ctx.saved_tensors
        of_codes, of_offset = torch.zeros_like(codes), torch.zeros_like(offset)
        for start, stop in ctx.blocks:
            each = _odds(codes, offset, start, stop).sigmoid_()
            each[..., : stop - start].triu_(1)
            each *= gradient[..., None, None]
            of_codes[..., start:stop, :] += each @ codes[..., start:, :]
            of_codes[..., start:, :] += each.mT @ codes[..., start:stop, :]
            of_offset += each.sum()
        return of_codes, of_offset, None


def _odds(codes: Tensor, offset: Tensor, start: int, stop: int) -> Tensor:
    """Log-odds of some nodes with themselves and all later ones."""
    return (codes[..., start:stop, :] @ codes[..., start:, :].mT).add_(offset)


def _softplus(odds: Tensor) -> Tensor:
    """``log(1 + e^odds)``, exact in double precision, and twice as quick as ``logsigmoid``."""
    return softplus(odds, threshold=40.0)
