"""Neural autoregressive flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from deeplvm.conditionals.flows.flow import Base, Flow, NetworkTransform, context_width
from deeplvm.conditionals.flows.masked import MaskedPerceptron
from deeplvm.conditionals.heads import Network, Shape, at_least, event_shape_of, positive
from deeplvm.registry import Count


class SigmoidalLayer(nn.Module):
    r"""A rising map of I numbers to O, :math:`y = \mathrm{logit}(w\, \sigma(a \odot u x + b))`.

    The rows of u (S by I) and w (O by S) are positive and sum to one, and a is positive:
    so every y rises with every x, and lies between the smallest and the largest of
    :math:`a \odot u x + b`. The raw a, b and what is added to the raw u and w come from a
    conditioner.

    Args:
        inputs, sigmoids, outputs: the sizes I, S and O.
    """

    # Slopes stay above this, so that a layer can always be inverted.
    least_slope = 1e-2
    start: Tensor

    def __init__(self, inputs: int, sigmoids: int, outputs: int) -> None:
        super().__init__()
        # slope, shift and weight of every sigmoid, and the weights of the inputs if several
        self.sizes = [sigmoids, sigmoids, sigmoids, inputs if inputs > 1 else 0]
        # sigmoids that start alike would stay alike
        start = torch.linspace(-1.0, 1.0, sigmoids)
        self.register_buffer("start", start - start.mean(), persistent=False)
        # own parameters tell inputs apart, and outputs; of a single one there is nothing to tell
        self.inner = nn.Parameter(torch.randn(sigmoids, inputs)) if inputs > 1 else None
        self.outer = nn.Parameter(torch.randn(outputs, sigmoids)) if outputs > 1 else None

    def lines(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Slope a and shift b of every sigmoid, shape ``(..., S)`` each."""
        slope, shift, _, _ = raw.split(self.sizes, -1)
        return positive(slope, self.least_slope, 1 - self.least_slope), shift + self.start

    def forward(self, value: Tensor, log_slope: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(..., I)`` and the logarithms of their derivatives, to ``(..., O)`` each."""
        slope, shift = self.lines(raw)
        _, _, outer, inner = raw.split(self.sizes, -1)
        if self.inner is not None:
            log_inner = (self.inner + inner.unsqueeze(-2)).log_softmax(-1)  # (..., S, I)
            value = (log_inner.exp() * value.unsqueeze(-2)).sum(-1)
            log_slope = (log_inner + log_slope.unsqueeze(-2)).logsumexp(-1)
        line = slope * value + shift  # (..., S)
        log_one, log_zero = logsigmoid(line), logsigmoid(-line)
        rise = slope.log() + log_slope + log_one + log_zero
        weight = outer.unsqueeze(-2) if self.outer is None else self.outer + outer.unsqueeze(-2)
        log_weight = weight.log_softmax(-1)  # (..., O, S)
        above = (log_weight + log_one.unsqueeze(-2)).logsumexp(-1)  # the log of the sum s
        below = (log_weight + log_zero.unsqueeze(-2)).logsumexp(-1)  # of 1 - s
        # d logit(s) = ds / (s (1 - s))
        return above - below, (log_weight + rise.unsqueeze(-2)).logsumexp(-1) - above - below


class DeepSigmoidal(NetworkTransform):
    r"""Every element through a small monotonic network whose weights a masked network gives.

    A thousandth of the result is the element itself.
    :math:`\log|\det| = \sum_i \log \partial z'_i / \partial z_i`, computed in logarithms.

    Args:
        features: number of elements.
        sigmoids: how many each monotonic layer has.
        layers: how many of them: 1 is the deep sigmoidal flow, more the deep dense one.
    """

    # A share of the identity keeps slopes above this. Sigmoids far from each other leave plateaus
    # between them, where an inverse would have no correct digit in single precision.
    least_slope = 1e-3

    def __init__(
        self,
        features: int,
        context: int,
        hidden: Sequence[int],
        *,
        sigmoids: int = 16,
        layers: int = 1,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.order = range(features)[::-1] if reverse else range(features)
        owner = "A neural autoregressive flow"
        at_least(sigmoids, 1, owner, "sigmoids")
        between = [sigmoids] * (at_least(layers, 1, owner, "layers") - 1)
        self.layers = nn.ModuleList(
            [
                SigmoidalLayer(inputs, sigmoids, outputs)
                for inputs, outputs in zip([1, *between], [*between, 1], strict=True)
            ]
        )
        self.sizes = [sum(layer.sizes) for layer in self.layers]  # type: ignore[arg-type]
        self.network = MaskedPerceptron(
            features, context, hidden, sum(self.sizes), reverse=reverse
        )

    def _raw(self, value: Tensor, context: Tensor, weights: Any = None) -> Tensor:
        """What the layers of each element read, shape ``(..., features, sum of sizes)``."""
        return torch.stack(self.network(value, context, weights), -1)

    def bent(self, value: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Elements of any shape through their layers, and the logarithms of the slopes there."""
        bent = value.unsqueeze(-1)
        log_slope = torch.zeros_like(bent)
        for layer, own in zip(self.layers, raw.split(self.sizes, -1), strict=True):
            bent, log_slope = layer(bent, log_slope, own)
        share, rest = self.least_slope, 1 - self.least_slope
        least = torch.full_like(log_slope, math.log(share))
        after = rest * bent.squeeze(-1) + share * value
        return after, torch.logaddexp(log_slope + math.log(rest), least).squeeze(-1)

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        after, log_slope = self.bent(value, self._raw(value, context))
        return after, log_slope.sum(-1)

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        leading = torch.broadcast_shapes(value.shape[:-1], context.shape[:-1])
        settled = list(value.expand(*leading, value.shape[-1]).unbind(-1))
        weights = self.network.masked()
        for index in self.order:  # each pass settles one more element
            raw = self._raw(torch.stack(settled, -1), context, weights)[..., index, :]
            settled[index] = self.straightened(settled[index], raw)
        before = torch.stack(settled, -1)
        _, log_slope = self.bent(before, self._raw(before, context, weights))
        return before, log_slope.sum(-1)

    def straightened(self, value: Tensor, raw: Tensor) -> Tensor:
        r"""Elements that the layers take to ``value``, with the gradient of the implicit function.

        Bisection of an interval that surely holds them, then Newton's steps, without a gradient;
        then :math:`z - (f(z) - z') / f'(z)`, whose gradients are those of :math:`f^{-1}`.
        """
        with torch.no_grad():
            low, high = self._bracket(value, raw)
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                over = self.bent(middle, raw)[0] > value
                low, high = torch.where(over, low, middle), torch.where(over, middle, high)
            root = 0.5 * (low + high)
            for _ in range(_NEWTON):
                after, log_slope = self.bent(root, raw)
                root = (root - (after - value) * (-log_slope).exp()).clamp(low, high)
            slope = self.bent(root, raw)[1].exp()
        return root - (self.bent(root, raw)[0] - value) / slope

    def _bracket(self, value: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers below and above the inverse: a layer lies between its lines."""
        low = high = value.unsqueeze(-1)
        parts = raw.split(self.sizes, -1)
        for layer, own in zip(reversed(self.layers), reversed(parts), strict=True):
            slope, shift = layer.lines(own)  # type: ignore[operator]
            low = ((low - shift) / slope).amin(-1, keepdim=True)
            high = ((high - shift) / slope).amax(-1, keepdim=True)
        low, high = low.squeeze(-1), high.squeeze(-1)
        return torch.minimum(low, value), torch.maximum(high, value)


# An interval of width 1000 comes down to 1e-6 by halving; from there Newton's steps are quadratic.
_HALVINGS, _NEWTON = 30, 5


class NeuralAutoregressiveFlow(Flow):
    r"""A density bent by monotonic networks, element by element: any shape, given enough sigmoids.

    .. math:: z'_i = \mathrm{logit}(\sum_j w_{ij}\, \sigma(a_{ij} z_i + b_{ij})), \qquad
              a > 0, \quad w \ge 0, \quad \sum_j w_{ij} = 1

    with (a, b, w) of an element from a masked network that sees earlier elements and the context.
    ``layers`` above 1 make it dense: layers of as many numbers each. A draw and its density cost
    one evaluation of each step. A value drawn elsewhere is found by bisection, one element after
    another: affordable for a prior of some tens of elements. zuko's flow of this name has other
    monotonic networks, which do not reach every real number.

    Args:
        transforms: Number of steps; the order of the elements is reversed from one to the next.
        sigmoids: How many each monotonic layer has.
        layers: Monotonic layers of a step: 1 is the deep sigmoidal flow, more the deep dense one.

    Neural Autoregressive Flows (Huang et al., 2018), https://arxiv.org/abs/1804.00779

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = NeuralAutoregressiveFlow(4, MLP(6, 16), transforms=1)
        >>> z, log_q = posterior(torch.zeros(5, 6)).rsample_and_log_prob()
        >>> z.shape, log_q.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 2,
        sigmoids: int = 16,
        layers: int = 1,
        hidden: Sequence[int] = (64, 64),
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        (size,) = event_shape_of(shape, type(self).__name__)
        width = context_width(network, context)
        step = partial(DeepSigmoidal, size, width, hidden, sigmoids=sigmoids, layers=layers)
        steps = self._steps(transforms, lambda t: step(reverse=t % 2 == 1))
        super().__init__(size, network, steps, context=width, **base)
