"""Masked autoregressive flow, and a transform run backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, Transform
from deeplvm.conditionals.flows.inverse_autoregressive import (
    autoregressive_context,
    autoregressive_network,
)
from deeplvm.conditionals.heads import Network, Shape, event_shape_of
from deeplvm.registry import Count


class Inverted(Transform):
    r"""Another transform run backwards, :math:`z' = f^{-1}(z)`: draws and densities change roles.

    An inverse autoregressive step turns into a masked autoregressive one, whose density costs one
    pass and whose draw as many as there are elements.

    Args:
        transform: f.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.parameters_per_row = transform.parameters_per_row
        self.reads_context = transform.reads_context

    def prepare(self, context: Tensor) -> Tensor:
        """What f prepares."""
        return self.transform.prepare(context)

    def start(self, raw: Tensor) -> None:
        """As f starts."""
        self.transform.start(raw)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        before, log_det = self.transform.inverse(value, context)
        return before, -log_det

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor | float]:
        after, log_det = self.transform(value, context)
        return after, -log_det


class MaskedAutoregressive(NetworkTransform):
    r"""One step, :math:`x_i = u_i\, e^{\alpha_i} + \mu_i`, both functions of :math:`x_{<i}`.

    In the direction of a density, :math:`u_i = (x_i - \mu_i)\, e^{-\alpha_i}`, all elements cost
    one pass of the network; a draw costs one for each. :math:`\log|\det| = \sum_i \alpha_i`.
    """

    # |alpha| stays below: a step stretches or shrinks twentyfold at most, and can be inverted
    limit = 3.0

    def __init__(
        self, shape: Shape, context: int, hidden: Sequence[int], *, reverse: bool = False
    ) -> None:
        super().__init__()
        self.event_dims = len(event_shape_of(shape, type(self).__name__))
        self.network = autoregressive_network(shape, context, hidden, 2, reverse=reverse)

    def _parts(self, value: Tensor, context: Tensor, weights: Any = None) -> tuple[Tensor, Tensor]:
        shift, raw = self.network(value, context, weights)
        return shift, self.limit * torch.tanh(raw / self.limit)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        after = torch.zeros_like(value)
        log_scale = after
        weights = self.network.masked()
        for _ in range(value.shape[value.dim() - self.event_dims :].numel()):
            shift, log_scale = self._parts(
                after, context, weights
            )  # each pass settles one more element
            after = shift + value * log_scale.exp()
        return after, self._sum(log_scale)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parts(value, context)
        return (value - shift) * (-log_scale).exp(), self._sum(log_scale)


class MaskedAutoregressiveFlow(Flow):
    r"""A density by autoregressive Gaussians: a prior or a likelihood whose score is one pass.

    .. math:: p(x_i | x_{<i}, h) = N(x_i;\, \mu_i(x_{<i}, h),\, e^{2 \alpha_i(x_{<i}, h)})

    stacked: the noise that a step explains its value with is the next one's value. It is the
    inverse of an inverse autoregressive flow: the density of a value costs one pass of each step,
    a draw as many as there are elements. As a posterior, which must draw, take
    :class:`~deeplvm.conditionals.flows.inverse_autoregressive.InverseAutoregressiveFlow`.

    The order of the elements is reversed from step to step. A vector has masked multilayer
    perceptrons (MADE), a map ``(channels, height, width)`` masked convolutions.

    Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
    https://arxiv.org/abs/1705.07057

    Examples:
        >>> prior = MaskedAutoregressiveFlow(3, transforms=2)
        >>> prior().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 5,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        sizes = event_shape_of(shape, type(self).__name__)
        width, total = autoregressive_context(sizes, network, context)
        steps = self._steps(
            transforms, lambda t: MaskedAutoregressive(sizes, width, hidden, reverse=t % 2 == 1)
        )
        super().__init__(sizes, network, steps, context=total, **base)
