"""What objectives read of the ledger: the observed part, one latent, means over rows."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.parallel.statistics import batch_mean

Groups = Literal["variable", "step", "dimension"]


def reconstruction(evidence: Evidence) -> Tensor:
    r""":math:`E_q[\log p(x | z)]` of all observed names, shape ``(batch,)``."""
    return evidence.expectation(evidence.total(evidence.observed_terms()))


def the_latent(evidence: Evidence, name: str | None, owner: str) -> str:
    """The latent that is meant: the one named, or the only one.

    Raises:
        ValueError: If the name is no latent, or several could be meant.
    """
    if name is None and len(evidence.latents) == 1:
        return evidence.latents[0]
    if name not in evidence.latents:
        found = ", ".join(evidence.latents) or "none"
        raise ValueError(
            f"{owner} reads one latent; say which, as in {owner}(..., name='z'). The latents here "
            f"are: {found}."
        )
    if name in evidence.drawn_in:
        raise ValueError(f"{name!r} is given in some rows, and {owner} reads one that is latent.")
    return name


def full(evidence: Evidence, values: Tensor, lead: int = 0) -> Tensor:
    """``(*lead, *particles, batch)`` of what is broadcastable to it right of ``lead``."""
    groups, rest = values.shape[:lead], values.shape[lead:]
    # what depends on no draw has no particle dimensions: they belong after the groups
    absent = (1,) * (len(evidence.batch_shape) - len(rest))
    return values.reshape(*groups, *absent, *rest).expand(*groups, *evidence.batch_shape)


def mean_particles(evidence: Evidence, values: Tensor, lead: int = 0) -> Tensor:
    """Mean over the particles under their measure, shape ``(*lead, batch)``."""
    values = full(evidence, values, lead)
    if not evidence.particle_dims:
        return values
    particles = tuple(range(lead, values.dim() - 1))
    if isinstance(evidence.log_measure, float):
        return values.mean(particles)
    return (evidence.log_measure.exp() * values).sum(particles)


def mean_rows(evidence: Evidence, values: Tensor, lead: int = 0) -> Tensor:
    """Mean over particles and rows of ``(*lead, *particles, batch)``, shape ``lead``."""
    return batch_mean(mean_particles(evidence, values, lead).mean(-1))


def by_group(evidence: Evidence, name: str, groups: Groups) -> tuple[Tensor, int]:
    """The divergence of a latent, or of its steps or dimensions in front of the particles.

    Returns:
        The divergences in nats, ``(*groups, *particles, batch)`` or broadcastable right of the
        groups, and the number of dimensions of the groups: none where the latent is one group.
    """
    if groups == "variable":
        return evidence.kl(name), 0
    if groups == "step":
        values, lead = evidence.kl_by_step(name), len(evidence.members(name))
    else:
        values = evidence.kl_by_dimension(name)
        lead = evidence.q[name].value.dim() - evidence.q[name].batch_dims
    if not lead:
        return values, 0
    return values.movedim(tuple(range(-lead, 0)), tuple(range(lead))), lead
