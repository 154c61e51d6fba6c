"""The ELBO with weighted divergences, and a divergence that is held at a capacity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeplvm.core.evidence import Evidence
from deeplvm.objectives.bounds import elbo
from deeplvm.objectives.groups import mean_rows, reconstruction


def beta_elbo(
    evidence: Evidence, beta: float = 4.0, capacity: Tensor | float | None = None
) -> Tensor:
    r"""ELBO with its divergences weighted: :math:`E_q[\log p(x|z)] - \beta\, KL(q \| p)`.

    With a capacity :math:`C` the divergence of all latents together, its mean over the minibatch,
    is drawn to :math:`C` from either side:

    .. math:: E_q[\log p(x|z)] - \beta\, |E_M[KL(q \| p)] - C|

    beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl; Understanding
    disentangling in beta-VAE (Burgess et al., 2018), https://arxiv.org/abs/1804.03599

    Args:
        evidence: The ledger.
        beta: Weight of the divergences; :math:`\gamma` of Burgess et al., who take 1000.
        capacity: :math:`C` in nats per row. One that grows while training is
            :class:`GrowingCapacity`.

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation for ``beta >= 1`` (looser than the ELBO) and no capacity above zero; not
        otherwise.
    """
    if capacity is None:
        return elbo(evidence.temper(beta * evidence.kl_weight))
    parts = [mean_rows(evidence, evidence.kl(name)) for name in evidence.latents]
    divergence = torch.stack(parts).sum() if parts else torch.zeros(())
    return reconstruction(evidence) - beta * evidence.kl_weight * (divergence - capacity).abs()


class GrowingCapacity(nn.Module):
    r"""Capacity that grows evenly: :func:`beta_elbo` with :math:`C_t = C \min(1, t / T)`.

    Understanding disentangling in beta-VAE (Burgess et al., 2018),
    https://arxiv.org/abs/1804.03599

    Args:
        capacity: :math:`C` at the end, in nats per row.
        steps: :math:`T`, the number of training steps until then.
        beta: Weight of the distance of the divergence from the capacity.

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)``: up to the
        capacity the divergence costs nothing.

    Raises:
        ValueError: If the capacity or the number of steps is not positive.

    >>> objective = GrowingCapacity(25.0, steps=100_000)
    >>> objective.now
    tensor(0.)
    """

    step: Tensor

    def __init__(self, capacity: float = 25.0, steps: int = 100_000, beta: float = 1000.0) -> None:
        super().__init__()
        if not (capacity > 0 and steps > 0):
            raise ValueError(
                f"GrowingCapacity expects a positive capacity in nats and a positive number of "
                f"steps, found {capacity} and {steps}; for a constant one write "
                f"beta_elbo(beta={beta}, capacity=...)."
            )
        self.capacity, self.steps, self.beta = capacity, steps, beta
        self.register_buffer("step", torch.zeros(()))

    @property
    def now(self) -> Tensor:
        """The capacity of the present step, in nats per row."""
        return self.capacity * (self.step / self.steps).clamp(max=1.0)

    @property
    def settled(self) -> bool:
        """Whether the capacity has its last value, so that epochs can be compared."""
        return bool(self.step >= self.steps)

    def forward(self, evidence: Evidence) -> Tensor:
        """The objective; a call in training mode is a step."""
        value = beta_elbo(evidence, self.beta, self.now)
        if self.training:
            with torch.no_grad():
                self.step.add_(1.0)
        return value
