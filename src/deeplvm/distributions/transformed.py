"""The distribution of a draw after transforms, drawn and scored in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

_NONE = Size()

# (value, context) -> (other value, log|det Jacobian| of shape (*batch,), or 0 where it is 1)
Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]]


class Bound(NamedTuple):
    r"""A transform of one row: its maps in both directions, and the context they read.

    ``forward`` maps :math:`z_{t-1}` to :math:`z_t` and returns
    :math:`\log |\det \partial z_t / \partial z_{t-1}|`; ``inverse`` maps :math:`z_t` back to
    :math:`z_{t-1}` and returns the log-determinant of the *forward* map there.
    """

    forward: Map
    inverse: Map
    context: Tensor


class Noise(NamedTuple):
    """A standard distribution of independent elements: how one is drawn, and its log-density.

    ``draw(shape, like)`` has the dtype and the device of a tensor.
    """

    draw: Callable[[Size, Tensor], Tensor]
    log_density: Callable[[Tensor], Tensor]


def _normal(shape: Size, like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def _logistic(shape: Size, like: Tensor) -> Tensor:
    uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
    return torch.logit(uniform, torch.finfo(like.dtype).tiny)


#: What a flow can start from: a normal, or a logistic, of heavier tails.
NOISE = {
    "normal": Noise(_normal, lambda e: -0.5 * e.square() - 0.5 * math.log(2 * math.pi)),
    "logistic": Noise(_logistic, lambda e: logsigmoid(e) + logsigmoid(-e)),
}


class TransformedDraw(Distribution):
    r"""A draw after transforms :math:`f_1, \dots, f_T` whose parameters a context gives.

    .. math:: z_0 = \mu + \sigma\, \epsilon, \qquad z_t = f_t(z_{t-1}; h), \qquad
              \log q(z_T) = \log p(\epsilon) - \sum_i \log \sigma_i
              - \sum_{t=1}^T \log \left|\det \frac{\partial z_t}{\partial z_{t-1}}\right|

    The noise :math:`\epsilon` is standard normal, or standard logistic.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770

    Args:
        loc: mean of the first draw, shape ``(*batch, *event)``.
        scale: its standard deviation, same shape.
        transforms: in the order in which they are applied.
        event_dims: how many of the last dimensions are the event.
        batch_shape: the batch shape, where it is larger than the parameters'.
        noise: ``"normal"`` or ``"logistic"``.

    A draw and its density cost one pass of each transform forward; the density of a value drawn
    elsewhere one pass of each inverse.
    """

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012 - torch's own form

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        transforms: Sequence[Bound],
        event_dims: int = 1,
        batch_shape: Size | None = None,
        noise: str = "normal",
    ) -> None:
        self.noise = noise
        self.loc, self.scale = loc, scale
        self.transforms = tuple(transforms)
        self.event_dims = event_dims
        cut = loc.dim() - event_dims
        shape = loc.shape[:cut] if batch_shape is None else batch_shape
        super().__init__(shape, loc.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, self.event_dims)

    def expand(self, batch_shape: Size, _instance: object = None) -> TransformedDraw:
        return TransformedDraw(
            self.loc, self.scale, self.transforms, self.event_dims, Size(batch_shape), self.noise
        )

    def rsample(self, sample_shape: Size = _NONE) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Size = _NONE) -> tuple[Tensor, Tensor]:
        """A draw ``(*sample, *batch, *event)`` and its log-density ``(*sample, *batch)``, nats."""
        shape = self._extended_shape(sample_shape)
        noise = NOISE[self.noise].draw(shape, self.loc)
        z, volume = self.of_noise(noise)
        return z, self._log_density(noise) - volume

    def of_noise(self, noise: Tensor) -> tuple[Tensor, Tensor | float]:
        r"""The value that noise :math:`\epsilon` becomes, and the sum of the log-determinants."""
        z, volume = self.loc + self.scale * noise, 0.0
        for transform in self.transforms:
            z, log_det = transform.forward(z, transform.context)
            volume = volume + log_det  # type: ignore[assignment]
        return z, volume

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value drawn elsewhere, shape ``(*sample, *batch)``, nats.

        Raises:
            NotImplementedError: a transform cannot be inverted.
        """
        noise, volume = self.noise_of(value)
        log_prob = self._log_density(noise) - volume
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def noise_of(self, value: Tensor) -> tuple[Tensor, Tensor | float]:
        r"""The noise :math:`\epsilon` of a value, and the sum of the log-determinants there.

        Raises:
            NotImplementedError: a transform cannot be inverted.
        """
        z, volume = value, 0.0
        for transform in reversed(self.transforms):
            z, log_det = transform.inverse(z, transform.context)
            volume = volume + log_det  # type: ignore[assignment]
        return (z - self.loc) / self.scale, volume

    def _log_density(self, noise: Tensor) -> Tensor:
        """Log-density of :math:`z_0` by its noise."""
        each = NOISE[self.noise].log_density(noise) - self.scale.log()
        return each.flatten(each.dim() - self.event_dims).sum(-1) if self.event_dims else each

    def __repr__(self) -> str:
        return (
            f"TransformedDraw(batch_shape: {tuple(self.batch_shape)}, event_shape: "
            f"{tuple(self.event_shape)}, transforms: {len(self.transforms)})"
        )
