"""Householder flow."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.nn.functional import normalize

from deeplvm.conditionals.flows.flow import Base, Flow
from deeplvm.conditionals.flows.vectors import VectorTransform, dot
from deeplvm.conditionals.heads import Network, Shape
from deeplvm.registry import Count


def reflect(value: Tensor, v: Tensor) -> Tensor:
    r"""The Householder reflection :math:`(I - 2 v v^T / \|v\|^2)\, z`; a v of 0 reflects nothing.

    Args:
        value: z, shape ``(*leading, d)``.
        v: the normal of the mirror, of any length, shape ``(*leading, d)``.

    Examples:
        >>> import torch
        >>> reflect(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
        tensor([ 3., -4.])
    """
    normal = normalize(v, dim=-1, eps=1e-20)
    return value - 2 * normal * dot(normal, value)


class Householder(VectorTransform):
    """A reflection whose normal is d raw numbers a row. It preserves volume and length.

    Args:
        shape: the event shape, of d elements in all.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.parameters_per_row = self.features

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, float]:
        return reflect(value, context), 0.0

    move_back = move

    def start(self, raw: Tensor) -> None:
        """The same mirror for all transforms: two of them do nothing."""
        raw.fill_(1.0)


class HouseholderFlow(Flow):
    r"""A Gaussian draw turned by Householder reflections: a posterior of correlated elements.

    .. math:: z_t = (I - 2 \frac{v_t v_t^T}{\|v_t\|^2}) z_{t-1}, \qquad \log|\det| = 0

    Any orthogonal U is a product of at most d reflections, so d of them give every covariance
    :math:`U \mathrm{diag}(\sigma^2) U^T`; a step costs d operations. All :math:`v_t` come from
    the network's features (in the paper each from the one before, by a linear layer).

    Args:
        transforms: number of reflections; an even one starts as the identity.

    Improving Variational Auto-Encoders using Householder Flow (Tomczak & Welling, 2016),
    https://arxiv.org/abs/1611.09630

    Examples:
        >>> import torch
        >>> posterior = HouseholderFlow(3, torch.nn.Linear(6, 16), transforms=2)
        >>> posterior(torch.zeros(5, 6)).rsample().shape
        torch.Size([5, 3])
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, transforms: Count = 2, **base: Unpack[Base]
    ) -> None:
        steps = self._steps(transforms, lambda _: Householder(shape))
        super().__init__(shape, network, steps, **base)
