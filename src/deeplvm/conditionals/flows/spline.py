"""Neural spline flow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, context_width
from deeplvm.conditionals.flows.guarded_zuko import zuko
from deeplvm.conditionals.flows.masked import MaskedPerceptron
from deeplvm.conditionals.heads import Network, Shape, at_least, event_shape_of
from deeplvm.registry import Count

Spline = zuko.transforms.MonotonicRQSTransform


class MonotonicSpline(NetworkTransform):
    r"""Every element through a rising spline of its own, whose knots a masked network gives.

    :math:`\log|\det| = \sum_i \log g_i'(z_i)`.

    Args:
        features: number of elements.
        bins: pieces of a spline.
        bound: the spline bends the interval from -bound to bound onto itself; outside, it is the
            identity.
        passes: groups of elements, see
            :class:`~deeplvm.conditionals.flows.masked.MaskedPerceptron`.
    """

    # slopes at the knots stay between this and its inverse
    least_slope = 1e-3

    def __init__(
        self,
        features: int,
        context: int,
        hidden: Sequence[int],
        *,
        bins: int = 8,
        bound: float = 5.0,
        passes: int | None = None,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.bins = at_least(bins, 2, "A spline", "bins")
        if not bound > 0:
            raise ValueError(f"A spline expects a bound above 0, found {bound}.")
        self.bound = bound
        self.network = MaskedPerceptron(
            features, context, hidden, 3 * bins - 1, passes, reverse=reverse
        )

    def _spline(self, value: Tensor, context: Tensor, weights: Any = None) -> Spline:
        raw = torch.stack(self.network(value, context, weights), -1)
        widths, heights, slopes = raw.split([self.bins, self.bins, self.bins - 1], -1)
        return Spline(widths, heights, slopes, bound=self.bound, slope=self.least_slope)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        after, log_slope = self._spline(value, context).call_and_ladj(value)
        return after, log_slope.sum(-1)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.zeros_like(value)
        weights = self.network.masked()
        for _ in range(self.network.passes):  # each settles one more group
            before = self._spline(before, context, weights)._inverse(value)
        _, log_slope = self._spline(before, context, weights).call_and_ladj(before)
        return before, log_slope.sum(-1)


class NeuralSplineFlow(Flow):
    r"""A density bent by monotonic rational-quadratic splines, element by element.

    Between two knots :math:`(x_k, y_k)` with slopes :math:`\delta_k`, with
    :math:`\xi = (x - x_k) / (x_{k+1} - x_k)` and :math:`s = (y_{k+1} - y_k) / (x_{k+1} - x_k)`,

    .. math:: g(x) = y_k + \frac{(y_{k+1} - y_k) (s \xi^2 + \delta_k \xi (1 - \xi))}
              {s + (\delta_{k+1} + \delta_k - 2 s)\, \xi (1 - \xi)}

    and its inverse is the root of a quadratic. Knots and slopes depend on earlier elements and on
    the context. Outside the interval from ``-bound`` to ``bound`` a step is the identity.

    Args:
        transforms: Number of steps; the order of the elements is reversed from one to the next.
        bins: Pieces of each spline.
        bound: Half the width of the interval that splines bend.
        passes: 2 for coupling layers (the second half depends on the first; either direction costs
            one or two evaluations), ``None`` for autoregressive ones (the inverse costs as many as
            there are elements).

    Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032

    Examples:
        >>> prior = NeuralSplineFlow(2, transforms=3, hidden=(16,))
        >>> prior().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 2,
        bins: int = 8,
        bound: float = 5.0,
        passes: int | None = 2,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        (size,) = event_shape_of(shape, type(self).__name__)
        width = context_width(network, context)
        groups = None if passes is None else min(passes, size)
        step = partial(MonotonicSpline, size, width, hidden, bins=bins, bound=bound, passes=groups)
        steps = self._steps(transforms, lambda t: step(reverse=t % 2 == 1))
        super().__init__(size, network, steps, context=width, **base)
