"""A Gaussian posterior that is never nearer to the standard normal than it has committed to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from deeplvm.conditionals.heads import Head, event_shape_of
from deeplvm.distributions.diagonal_normal import DiagonalNormal


class CommittedGaussian(nn.Module):
    r"""Gaussian with :math:`KL(q_i \| N(0, 1)) \ge \delta` in every dimension, whatever it learns.

    The divergence of one dimension is :math:`\frac12 (\mu^2 + \sigma^2 - 1 - \log \sigma^2)`. With
    :math:`\sigma_l < 1 < \sigma_u` the two scales at which a zero mean has the divergence
    :math:`\delta`,

    .. math:: \sigma = \sigma_l + (\sigma_u - \sigma_l)\, \mathrm{sigmoid}(a), \qquad
              \mu = \sqrt{2 \delta + 1 + \log \sigma^2 - \sigma^2} + \mathrm{softplus}(b)

    Means are positive. The aggregate posterior is then not the prior, so draws of the prior are
    not what the decoder was trained on: the paper learns an auxiliary prior for them.

    Preventing Posterior Collapse with delta-VAEs (Razavi et al., 2019),
    https://arxiv.org/abs/1901.03416

    Args:
        shape: The event shape.
        network: Maps the parents to features; a linear head is added. Without one the two
            parameters of each dimension are learned directly.
        minimum: :math:`\delta`, in nats per dimension. The prior must be a standard normal.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Raises:
        ValueError: If the minimum is not positive.

    Examples:
        >>> from torch.distributions import kl_divergence
        >>> from deeplvm.conditionals import StandardNormal
        >>> from deeplvm.networks import MLP
        >>> posterior = CommittedGaussian(2, MLP(6, 8), minimum=0.1)
        >>> bool((kl_divergence(posterior(torch.randn(50, 6)), StandardNormal(2)()) > 0.2).all())
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        minimum: float = 0.1,
    ) -> None:
        super().__init__()
        if not minimum > 0:
            raise ValueError(
                f"CommittedGaussian expects a positive minimum in nats per dimension, found "
                f"{minimum}; without one, use Gaussian."
            )
        self.event_shape = event_shape_of(shape, "CommittedGaussian")
        self.head = Head(network, self.event_shape, 2, "CommittedGaussian")
        self.minimum = minimum
        self.limits = _scale_at(minimum, below=True), _scale_at(minimum, below=False)

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution given parents of shapes ``(*particles, batch, ...)``."""
        loc, raw = self.head.each(*parents)
        low, high = self.limits
        # a raw 0 is the scale 1 of the prior
        start = math.log((1.0 - low) / (high - 1.0))
        scale = low + (high - low) * torch.sigmoid(raw + start)
        room = 2.0 * self.minimum + 1.0 + 2.0 * scale.log() - scale.square()
        # at its ends the root has no finite slope
        loc = room.clamp(min=1e-6).sqrt() + softplus(loc)
        return DiagonalNormal(loc, scale, len(self.event_shape))

    def extra_repr(self) -> str:
        """The minimum, for printing."""
        return f"minimum={self.minimum}"


def _scale_at(divergence: float, *, below: bool) -> float:
    """The scale, below or above 1, at which N(0, scale^2) has this divergence from N(0, 1)."""

    def of(log_scale: float) -> float:
        return 0.5 * (math.expm1(2.0 * log_scale) - 2.0 * log_scale) - divergence

    # e^x - 1 - x >= -1 - x, and >= x^2 / 2 for x > 0: the far end is beyond the root
    far = -(divergence + 1.0) if below else math.sqrt(divergence)
    near = 0.0
    for _ in range(200):
        middle = 0.5 * (near + far)
        near, far = (near, middle) if of(middle) > 0 else (middle, far)
    return math.exp(near)  # the inner end, where the divergence is not above the minimum
