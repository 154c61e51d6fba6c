r"""The latents of some rows as one vector without constraints, and their density under p and q."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, biject_to, constraints

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace, base_of
from deeplvm.gradients import Draw, Enumerated, Sampled
from deeplvm.randomness import AMBIENT, Noise


@dataclass(frozen=True)
class Place:
    """Where a latent stands in the vector.

    Attributes:
        name: Of the latent.
        start: Its first element.
        size: How many elements it has there (a simplex has one less than its own).
        shape: Their shape.
        bijection: From all reals to the support.
    """

    name: str
    start: int
    size: int
    shape: Size
    bijection: Any


class LatentSpace:
    r"""The latents of some rows, :math:`u \in R^D` for each particle, and :math:`\log p(x, z(u))`.

    A latent with a constraint (a rate above zero, shares that sum to one) is the image of free
    numbers, and densities are those of the free numbers: the Jacobian is counted. A discrete
    latent y is no part of u: densities are sums over its values, :math:`p(z) = \sum_y p(y, z)`
    and :math:`p(x, z) = \sum_y p(x, y, z)`, exactly.

    Args:
        model: Whose latents these are.
        given: Values of the rows.
        missing: Given names with NaN elements.
        draw: How a discrete latent is enumerated, where it is not by ``Enumerated()``.
        noise: Where the rows' random numbers come from; torch's own generator if left out.

    Raises:
        ValueError: If the values of a discrete latent cannot be listed, or a latent is shared by
            all rows or has no density of its own; or what is given has no density but where the
            latents lie in its cell.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        given: Mapping[str, Any],
        missing: frozenset[str],
        draw: Mapping[str, Draw] | None = None,
        noise: Noise = AMBIENT,
    ) -> None:
        self.model, self.missing = model, missing
        self.noise = noise
        self.given = {name: model.site(name, value, missing) for name, value in given.items()}
        self.rows = model.rows(self.given)
        like = next(s.value for s in self.given.values() if isinstance(s.value, Tensor))
        self.device, self.dtype = like.device, torch.get_default_dtype()
        self.places: list[Place] = []
        self.summed: dict[str, Draw] = {}
        start = 0
        _refuse_shared(model, self.given)
        trace = self._trace(1)
        for name, site in trace.items():
            if not site.drawn:
                _refuse_cells(name, site)
                continue
            support = _support(name, site)
            if support.is_discrete:
                self.summed[name] = (draw or {}).get(name, Enumerated())
                continue
            bijection = bijection_of(name, support)
            free = bijection.inv(site.value)
            shape = free.shape[2:]
            self.places.append(Place(name, start, shape.numel(), shape, bijection))
            self.dtype = free.dtype
            start += shape.numel()
        self.size = start
        # what is given may be said to be summed only where it is missing
        asked = {
            name
            for name, way in (draw or {}).items()
            if name not in given or not getattr(way, "only_missing", False)
        }
        if kept := sorted(asked - set(self.summed)):
            raise ValueError(
                f"Only discrete latents are enumerated, here {', '.join(self.summed) or 'none'}; "
                f"leave out {', '.join(kept)}."
            )

    def nowhere(self) -> Tensor:
        """The one point of a space without dimensions, shape ``(1, rows, 0)``."""
        return torch.zeros(1, self.rows, 0, device=self.device)

    def prior(self, particles: int, noise: Noise | None = None) -> Tensor:
        """Draws of p given the inputs, free numbers of shape ``(particles, rows, D)``."""
        drawn = self._drawn(particles, noise)
        return self.free_of({name: site.value for name, site in drawn.items()})

    def posterior(self, particles: int, noise: Noise | None = None) -> Tensor:
        """Draws of q, free numbers of shape ``(particles, rows, D)``.

        Raises:
            ValueError: If q does not draw all of them.
        """
        if lacking := [each.name for each in self.places if each.name not in self.model.q.names]:
            raise ValueError(
                f"q does not draw {', '.join(lacking)}, so nothing can start from its draws; use "
                f"start='prior', or add '{lacking[0]} | ...' to q."
            )
        trace = self.model.q(
            self._for(self.model.q), (particles, self.rows), missing=self.missing,
            default=(noise or self.noise).of(Sampled()),
        )  # fmt: skip
        return self.free_of({place.name: trace[place.name].value for place in self.places})

    def log_joint(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of the latents (as free numbers) and of what is observed given them.

        Both ``(particles, rows)``, nats.
        """
        latents, volume = self._sites(free)
        trace = self._scored(self.model.p, latents, free)
        prior, likelihood = volume, torch.zeros_like(volume)
        for name, site in trace.items():
            if site.log_prob is None:
                continue
            if name in latents or name in self.summed:
                prior = prior + site.log_prob
            else:
                likelihood = likelihood + site.log_prob
        if not self.summed:
            return prior, likelihood
        # log p(z) and log p(x, z) - log p(z): each value of y has its own term in both
        marginal = _over_values(prior, trace)
        return marginal, _over_values(prior + likelihood, trace) - marginal

    def log_posterior(self, free: Tensor) -> Tensor:
        """Log-density of q, of the free numbers, ``(particles, rows)``."""
        latents, volume = self._sites(free)
        trace = self._scored(self.model.q, latents, free)
        own = (*latents, *[name for name in self.summed if name in trace])
        terms = [trace[name].log_prob for name in own]
        return _over_values(sum(terms, volume), trace)  # type: ignore[arg-type]

    def values(self, free: Tensor) -> dict[str, Tensor]:
        """The latents themselves, each ``(particles, rows, *event)``."""
        return {name: site.value for name, site in self._sites(free)[0].items()}

    def _sites(self, free: Tensor) -> tuple[dict[str, Site], Tensor]:
        leading = free.shape[:-1]
        sites, volume = {}, torch.zeros(leading, dtype=free.dtype, device=free.device)
        for place in self.places:
            part = free[..., place.start : place.start + place.size]
            part = part.reshape(*leading, *place.shape)
            value = place.bijection(part)
            change = place.bijection.log_abs_det_jacobian(part, value)
            volume = volume + change.reshape(*leading, -1).sum(-1)
            site = self.model.site(place.name, value, batch_dims=2)
            sites[place.name] = replace(site, drawn=True)
        return sites, volume

    def free_of(self, values: Mapping[str, Tensor]) -> Tensor:
        """The free numbers of latents, each ``(particles, rows, *event)``."""
        parts = [
            place.bijection.inv(values[place.name]).reshape(
                *values[place.name].shape[:2], place.size
            )
            for place in self.places
        ]
        return torch.cat(parts, -1)

    def _drawn(self, particles: int, noise: Noise | None = None) -> dict[str, Site]:
        return {name: site for name, site in self._trace(particles, noise).items() if site.drawn}

    def _trace(self, particles: int, noise: Noise | None = None) -> Trace:
        # what is given stays: a latent may have observed parents
        return self.model.p(
            self._for(self.model.p), (particles, self.rows), missing=self.missing,
            default=(noise or self.noise).of(Sampled()),
        )  # fmt: skip

    def _scored(self, joint: Any, latents: Mapping[str, Site], free: Tensor) -> Trace:
        return joint(
            {**self._for(joint), **latents}, tuple(free.shape[:-1]), draw=self.summed,
            missing=self.missing,
        )  # fmt: skip

    def _for(self, joint: Any) -> dict[str, Site]:
        return {n: s for n, s in self.given.items() if n in joint.names or n in joint.inputs}


def _refuse_cells(name: str, site: Site) -> None:
    """No gradient leads into a cell, and outside of it there is nothing to anneal."""
    if site.distribution is not None and getattr(base_of(site.distribution), "in_cells", False):
        raise ValueError(
            f"{name!r} is possible only where the latents lie in its cell, into which no chain "
            f"finds its way; use importance sampling."
        )


def _support(name: str, site: Site) -> Any:
    distribution: Distribution | None = site.distribution
    if distribution is None:
        raise ValueError(
            f"{name!r} has one distribution a step, of which no chain of this kind knows the "
            f"space; use importance sampling."
        )
    support, base = distribution.support, base_of(distribution)
    if support is None or (support.is_discrete and not base.has_enumerate_support):
        raise ValueError(
            f"{name!r} is discrete, and chains that follow a gradient need continuous latents, or "
            f"discrete ones that Enumerated() sums over; the values of its "
            f"{type(base).__name__} cannot be listed, so use importance sampling."
        )
    return support


def bijection_of(name: str, support: Any) -> Any:
    """From free numbers to where a latent lives.

    Raises:
        ValueError: If it is no image of a space of these.
    """
    try:
        return biject_to(_plain(support))
    except NotImplementedError:
        raise ValueError(
            f"{name!r} lives on {support}, which is not the image of a space of free numbers in "
            f"which chains could move; use importance sampling."
        ) from None


def _plain(support: Any) -> Any:
    """The support of a mixture is that of its components; torch has no bijection to its own."""
    if isinstance(support, constraints.independent):
        base = _plain(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    mixed = type(support).__name__ == "MixtureSameFamilyConstraint"
    return _plain(support.base_constraint) if mixed else support


def _over_values(log_prob: Tensor, trace: Trace) -> Tensor:
    """The log of the sum over enumerated values, ``(particles, rows)``."""
    outer = tuple(range(len(trace.batch_shape) - 2))
    return torch.logsumexp(log_prob.expand(trace.batch_shape), outer) if outer else log_prob


def _refuse_shared(model: LatentVariableModel, given: Mapping[str, Any]) -> None:
    shared = sorted(model.shared.intersection(model.p.names) - set(given))
    if shared:
        raise ValueError(
            f"All rows share {', '.join(shared)}, and chains are of each row by itself; use "
            f"importance sampling."
        )
