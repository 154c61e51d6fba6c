"""A divergence that is minimised while the reconstruction is held good enough."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deeplvm.core.evidence import Evidence
from deeplvm.objectives.groups import mean_particles, reconstruction
from deeplvm.parallel.statistics import batch_mean


class Constrained(nn.Module):
    r"""Least divergence under a constraint on the reconstruction (GECO), by a multiplier.

    .. math:: -KL(q \| p) - \mu\, (E_q[d(x, z)] - D), \qquad
              \mu \leftarrow \mu\, e^{r (\bar d - D)}

    The distortion :math:`d` is :math:`-\log p(x|z)` in nats, or another function of the ledger;
    :math:`\bar d` is its moving mean over minibatches. The multiplier :math:`\mu` grows while the
    constraint is broken and falls while it is met with room to spare, so that training ends where
    the distortion is :math:`D`. With :math:`\mu = 1` the gradient is the ELBO's.

    Taming VAEs (Rezende & Viola, 2018), https://arxiv.org/abs/1810.00597

    Args:
        most: :math:`D`, the largest mean distortion per row: in nats where it is the default, so
            ``-E_q[log p(x|z)] <= most``.
        distortion: Evidence to one number per row, shape ``(batch,)``, such as a squared error.
        decay: Of the moving mean; 0 reads the present minibatch alone.
        rate: :math:`r`, the relative change of the multiplier per step and unit of distortion. One
            step changes it by a factor between 1/e and e.
        limits: Smallest and largest multiplier.

    Returns:
        One value per observation, shape ``(batch,)``, the Lagrangian. Not a bound on
        ``log p(x)``; with the multiplier 1 it is the ELBO plus the constant D.

    Raises:
        ValueError: If the decay, the rate or the limits are out of range.

    >>> objective = Constrained(most=80.0)
    >>> objective.multiplier
    tensor(1.)
    """

    adapts = True  # values at different multipliers are not comparable
    multiplier: Tensor
    mean: Tensor
    steps: Tensor

    def __init__(
        self,
        most: float,
        distortion: Callable[[Evidence], Tensor] | None = None,
        decay: float = 0.99,
        rate: float = 1e-2,
        limits: tuple[float, float] = (1e-4, 1e4),
    ) -> None:
        super().__init__()
        if not (0.0 <= decay < 1.0 and rate > 0.0 and 0.0 < limits[0] <= 1.0 <= limits[1]):
            raise ValueError(
                f"Constrained expects a decay in [0, 1), a positive rate and limits about 1; "
                f"found decay={decay}, rate={rate}, limits={limits}."
            )
        self.most, self.distortion = most, distortion
        self.decay, self.rate, self.limits = decay, rate, limits
        self.register_buffer("multiplier", torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, evidence: Evidence) -> Tensor:
        """The Lagrangian; in training mode the multiplier moves afterwards."""
        if self.distortion is None:
            distortion = -reconstruction(evidence)
        else:
            distortion = self.distortion(evidence)
        value = -self.multiplier.clone() * (distortion - self.most)
        for name in evidence.latents:
            divergence = mean_particles(evidence, evidence.kl(name))
            value = value - evidence.weighted(name, divergence)
        if self.training:
            self._move(batch_mean(distortion.detach().mean()))
        return value

    @torch.no_grad()
    def _move(self, distortion: Tensor) -> None:
        self.steps.add_(1.0)
        # the first minibatch is the mean so far, whatever the decay is
        weight = torch.where(self.steps == 1.0, 1.0, 1.0 - self.decay)
        self.mean.add_(weight * (distortion - self.mean))
        exponent = (self.rate * (self.mean - self.most)).clamp(-1.0, 1.0)
        self.multiplier.mul_(exponent.exp()).clamp_(*self.limits)
