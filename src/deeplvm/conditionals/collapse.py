"""A Gaussian posterior whose means cannot all be the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, softplus

from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.parallel.statistics import refuse_parts


class BatchNormalisedGaussian(Elementwise):
    r"""Gaussian whose means have a fixed spread over the minibatch: a remedy for collapse.

    .. math:: \mu_i = \gamma\, \frac{\hat\mu_i - m_i}{\sqrt{v_i + \epsilon}} + \beta_i

    with :math:`m, v` the mean and variance over the minibatch of what the network computes, their
    running values in eval mode, and :math:`\beta` learned. The mean divergence from
    :math:`N(0, I)` over a minibatch of D-dimensional latents is then at least

    .. math:: \tfrac12 \sum_i (\gamma^2 + \beta_i^2) \ge \tfrac12 D \gamma^2,

    as far as :math:`\epsilon = 10^{-5}` is small beside :math:`v`. In training mode a row's
    posterior depends on the other rows; a minibatch of one row takes the running values.

    A Batch Normalized Inference Network Keeps the KL Vanishing Away (Zhu et al., 2020),
    https://arxiv.org/abs/2004.12585

    Args:
        spread: :math:`\gamma`, the standard deviation of each mean over rows.
        scale: Where the standard deviation comes from, as in
            :class:`~deeplvm.conditionals.Gaussian`.
        minimum_scale: The lower bound of a learned scale.
        momentum: Weight of the present minibatch in the running values.

    Raises:
        ValueError: If the spread is not positive or the momentum not in (0, 1].

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = BatchNormalisedGaussian(2, MLP(6, 8), spread=0.5)
        >>> posterior(torch.randn(100, 6)).mean.std(0, correction=0).detach().round(decimals=2)
        tensor([0.5000, 0.5000])
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        shape: Shape,
        network: nn.Module,
        *,
        spread: float = 0.5,
        scale: str | float = "network",
        minimum_scale: float = 1e-3,
        momentum: float = 0.1,
    ) -> None:
        if not (spread > 0 and 0 < momentum <= 1):
            raise ValueError(
                f"BatchNormalisedGaussian expects a positive spread and a momentum in (0, 1], "
                f"found {spread} and {momentum}."
            )
        super().__init__(shape, network, scale=(scale, minimum_scale))
        self.spread, self.momentum = spread, momentum
        size = self.event_shape.numel()
        self.shift = nn.Parameter(torch.zeros(self.event_shape))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_variance", torch.ones(size))

    def distribution(self, loc: Tensor, scale: Tensor) -> DiagonalNormal:
        if self.training:
            refuse_parts("BatchNormalisedGaussian", "normalises by the rows of a batch")
        rows = math.prod(loc.shape[: loc.ndim - len(self.event_shape)])
        centred = batch_norm(
            loc.reshape(rows, -1),
            self.running_mean,
            self.running_variance,
            training=self.training and rows > 1,
            momentum=self.momentum,
        )
        loc = self.spread * centred.reshape(loc.shape) + self.shift
        return DiagonalNormal(loc, scale, len(self.event_shape))

    def extra_repr(self) -> str:
        return f"spread={self.spread}"


class CommittedGaussian(Elementwise):
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
        minimum: :math:`\delta`, in nats per dimension. The prior must be a standard normal.

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

    def __init__(self, shape: Shape, network: Network = None, *, minimum: float = 0.1) -> None:
        if not minimum > 0:
            raise ValueError(
                f"CommittedGaussian expects a positive minimum in nats per dimension, found "
                f"{minimum}; without one, use Gaussian."
            )
        super().__init__(shape, network, 2)
        self.minimum = minimum
        self.limits = _scale_at(minimum, below=True), _scale_at(minimum, below=False)

    def distribution(self, loc: Tensor, raw: Tensor) -> DiagonalNormal:
        low, high = self.limits
        # a raw 0 is the scale 1 of the prior
        start = math.log((1.0 - low) / (high - 1.0))
        scale = low + (high - low) * torch.sigmoid(raw + start)
        room = 2.0 * self.minimum + 1.0 + 2.0 * scale.log() - scale.square()
        # at its ends the root has no finite slope
        loc = room.clamp(min=1e-6).sqrt() + softplus(loc)
        return DiagonalNormal(loc, scale, len(self.event_shape))

    def extra_repr(self) -> str:
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
