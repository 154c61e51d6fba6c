"""Linear inverse autoregressive flow, and convex combinations of it."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from deeplvm.conditionals.flows.flow import Base, Flow
from deeplvm.conditionals.flows.vectors import VectorTransform, times
from deeplvm.conditionals.heads import Network, Shape, at_least


class LinearInverseAutoregressive(VectorTransform):
    r"""The map :math:`z' = L z`, L lower triangular with a unit diagonal.

    Its raw numbers are the entries below the diagonal, d(d - 1)/2 a row; of several L one after
    the other, and then the scores of their weights.

    Args:
        shape: the event shape, of d elements in all.
        components: number of L whose convex combination is taken.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape, components: int = 1) -> None:
        super().__init__(shape)
        self.components = components
        rows, columns = torch.tril_indices(self.features, self.features, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.entries = len(rows)
        scores = components if components > 1 else 0
        self.parameters_per_row = components * self.entries + scores

    def _below(self, context: Tensor) -> Tensor:
        """L below its diagonal, and zero elsewhere."""
        entries = context
        if self.components > 1:
            every, scores = context.split([self.components * self.entries, self.components], -1)
            every = every.reshape(*context.shape[:-1], self.components, self.entries)
            entries = (scores.softmax(-1).unsqueeze(-1) * every).sum(-2)
        below = entries.new_zeros(*entries.shape[:-1], self.features, self.features)
        below[..., self.rows, self.columns] = entries
        return below

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, float]:
        return value + times(self._below(context), value), 0.0

    def move_back(self, value: Tensor, context: Tensor) -> tuple[Tensor, float]:
        below = self._below(context)
        before = torch.linalg.solve_triangular(
            below, value.unsqueeze(-1), upper=False, unitriangular=True
        )
        return before.squeeze(-1), 0.0

    def start(self, raw: Tensor) -> None:
        """The identity; several components start a little apart, or they would stay equal."""
        if self.components > 1:
            raw[: self.components * self.entries].normal_(std=0.05)


class LinearInverseAutoregressiveFlow(Flow):
    r"""A Gaussian draw after one linear step: every Gaussian, and combinations of them.

    .. math:: z = (\sum_{k=1}^K y_k(x)\, L_k(x)) z_0, \qquad \sum_k y_k = 1,\ y_k \ge 0,
              \qquad \log|\det| = 0

    Each :math:`L_k` is lower triangular with a unit diagonal, so their convex combination is, and
    :math:`L\, \mathrm{diag}(\sigma_0^2) L^T` is any covariance: given x, the density is that of a
    full-covariance Gaussian, and more than one step would add nothing. What K > 1 (ccLinIAF)
    changes is how the network says L: the weights y, a softmax of its outputs, choose among
    matrices. Costs K d squared a row, as outputs of the network too.

    Args:
        components: K, the number of matrices; 1 is linear IAF.

    Improving Variational Auto-Encoders using convex combination linear Inverse Autoregressive
    Flow (Tomczak & Welling, 2017), https://arxiv.org/abs/1706.02326

    Examples:
        >>> posterior = LinearInverseAutoregressiveFlow(3, torch.nn.Linear(6, 16), components=5)
        >>> posterior(torch.zeros(5, 6)).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, components: int = 1, **base: Unpack[Base]
    ) -> None:
        number = at_least(components, 1, type(self).__name__, "components")
        step = LinearInverseAutoregressive(shape, number)
        super().__init__(shape, network, [step], **base)
