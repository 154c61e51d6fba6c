"""Free bits: a minimum of divergence that costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from deeplvm.core.evidence import Evidence
from deeplvm.objectives.groups import Groups, by_group, mean_particles, mean_rows, reconstruction
from deeplvm.parallel.statistics import batch_mean


def free_bits(
    evidence: Evidence,
    minimum: float | Mapping[str, float] = 0.5,
    *,
    groups: Groups = "variable",
    per: Literal["batch", "row"] = "batch",
) -> Tensor:
    r"""ELBO in which no group of latents gains by a divergence below a minimum.

    .. math:: E_M[E_q \log p(x|z)] - \sum_j \max(\lambda, E_M[KL(q(z_j|x) \| p(z_j))])

    The mean over the minibatch is inside the maximum: the whole batch shares the allowance.
    With ``per="row"`` each row has its own, and the mean over the minibatch is outside.
    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016,
    appendix C.8), https://arxiv.org/abs/1606.04934

    Args:
        evidence: The ledger.
        minimum: :math:`\lambda` in nats per group, or by name of the latent (0 where it is not
            named).
        groups: Each latent variable a group, each step of a sequence (whose divergence must then
            have a closed form), or each dimension of each (whose distributions must factorise
            over dimensions besides).
        per: Whose divergence is held against the minimum: the minibatch's mean, or each row's.

    Returns:
        One value per observation, shape ``(batch,)``; its mean is the objective. At most the ELBO
        in expectation, so a lower bound on ``log p(x)``; ``minimum=0`` with non-negative
        divergences is the ELBO.

    Raises:
        ValueError: If a name of ``minimum`` is no latent, ``groups="dimension"`` and a latent does
            not factorise, or ``per`` is neither word.
    """
    if per not in ("batch", "row"):
        raise ValueError(f"per is 'batch' or 'row', not {per!r}.")
    if not isinstance(minimum, int | float):
        _known(minimum, evidence)
    total = reconstruction(evidence)
    for name in evidence.latents:
        allowed = minimum if isinstance(minimum, int | float) else minimum.get(name, 0.0)
        each, lead = by_group(evidence, name, groups)
        mean = mean_rows if per == "batch" else mean_particles
        floored = torch.clamp(mean(evidence, each, lead), min=allowed)
        if lead:
            floored = floored.sum(tuple(range(lead)))
        if per == "row" and name in evidence.drawn_in:  # a row that is given it has no allowance
            floored = torch.where(evidence.drawn_in[name], floored, torch.zeros_like(floored))
        total = total - evidence.weighted(name, floored)
    return total


class SoftFreeBits(nn.Module):
    r"""Weights of the divergences that hold each at its target, :math:`KL_j \approx \lambda_j`.

    .. math:: E_q[\log p(x|z)] - \sum_j \gamma_j\, KL(q(z_j|x) \| p(z_j))

    A training step whose mean divergence is above :math:`(1 + \epsilon) \lambda_j` multiplies
    :math:`\gamma_j` by :math:`1 + \epsilon`, one below :math:`\lambda_j` by :math:`1 - \epsilon`,
    and what lies between leaves it. So a group below its target still has a gradient, where
    :func:`free_bits` has none.
    Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731

    Args:
        targets: :math:`\lambda` in nats by name of the latent: a number, or a sequence (nested as
            the event is shaped), each dimension then being a group. A latent that is not named
            keeps its divergence, with weight 1.
        tolerance: :math:`\epsilon`.
        largest: Limit of :math:`\gamma`; with 1 a divergence is never pressed below what the ELBO
            makes of it.

    Returns:
        One value per observation, shape ``(batch,)``. Not a bound on ``log p(x)`` while a weight
        is below 1.

    Raises:
        ValueError: If no target is given, one is not positive, or a name is no latent.

    >>> objective = SoftFreeBits({"z": 3.0})
    >>> objective.weights["z"]
    tensor(1.)
    """

    adapts = True  # values at different weights are not comparable

    def __init__(
        self,
        targets: Mapping[str, float | Sequence[float]],
        tolerance: float = 0.05,
        largest: float = 1.0,
    ) -> None:
        super().__init__()
        if not targets:
            raise ValueError("SoftFreeBits expects a target by name, as in {'z': 3.0} nats.")
        self.targets, self.names = dict(targets), tuple(targets)
        self.tolerance, self.largest = tolerance, largest
        for name, target in targets.items():
            value = torch.as_tensor(target, dtype=torch.get_default_dtype())
            if not bool((value > 0).all()):
                raise ValueError(f"The target of {name!r} must be positive, found {target}.")
            self.register_buffer(f"target_{name}", value.clone())
            self.register_buffer(f"weight_{name}", torch.ones_like(value))

    @property
    def weights(self) -> dict[str, Tensor]:
        r""":math:`\gamma` by name."""
        return {name: self.get_buffer(f"weight_{name}") for name in self.names}

    def forward(self, evidence: Evidence) -> Tensor:
        """The objective; in training mode the weights move first."""
        _known(self.names, evidence)
        total = reconstruction(evidence)
        for name in evidence.latents:
            if name not in self.names:
                each = mean_particles(evidence, evidence.kl(name))
                total = total - evidence.weighted(name, each)
                continue
            target = self.get_buffer(f"target_{name}")
            each, lead = by_group(evidence, name, "dimension" if target.dim() else "variable")
            each = mean_particles(evidence, each, lead)
            if each.shape[:-1] != target.shape:
                raise ValueError(
                    f"{name!r} has dimensions of shape {tuple(each.shape[:-1])}, its targets "
                    f"{tuple(target.shape)}; give one target a dimension, or one number."
                )
            weight = self._moved(name, batch_mean(each.detach().mean(-1))).unsqueeze(-1)
            cost = weight * each
            cost = cost.sum(tuple(range(lead))) if lead else cost
            total = total - evidence.weighted(name, cost)
        return total

    @torch.no_grad()
    def _moved(self, name: str, divergence: Tensor) -> Tensor:
        """The weight of this step: a copy, as a later step changes the buffer in place."""
        weight = self.get_buffer(f"weight_{name}")
        if self.training:
            target = self.get_buffer(f"target_{name}")
            up = torch.where(divergence > (1.0 + self.tolerance) * target, self.tolerance, 0.0)
            down = torch.where(divergence < target, self.tolerance, 0.0)
            weight.mul_(1.0 + up - down).clamp_(max=self.largest)
        return weight.clone()


def _known(names: Mapping[str, float] | Sequence[str], evidence: Evidence) -> None:
    for name in names:
        if name not in evidence.terms:
            raise ValueError(
                f"{name!r} is given a minimum of divergence but is not in the model; its latents "
                f"are {', '.join(evidence.latents)}."
            )
