r"""The latents of some rows as one vector without constraints, and their density under p and q."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, biject_to

from deeplvm.gradients import Sampled
from deeplvm.joint import as_site, batch_shape_of, embed, owner_of
from deeplvm.model import LatentVariableModel
from deeplvm.trace import Site


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
    numbers, and densities are those of the free numbers: the Jacobian is counted.

    Args:
        model: Whose latents these are.
        given: Values of the rows.
        missing: Given names with NaN elements.

    Raises:
        ValueError: If a latent is discrete, shared by all rows, or has no density of its own.
    """

    def __init__(
        self, model: LatentVariableModel, given: Mapping[str, Any], missing: frozenset[str]
    ) -> None:
        self.model, self.missing = model, missing
        self.given = {
            name: as_site(name, value, _owner(model, name), missing)
            for name, value in given.items()
        }
        self.rows = batch_shape_of(self.given)[-1]
        self.latents = [name for name in model.p.names if name not in given]
        self.places: list[Place] = []
        start = 0
        for name, site in self._drawn(1).items():
            bijection = biject_to(_support(name, site))
            free = bijection.inv(site.value)
            shape = free.shape[2:]
            self.places.append(Place(name, start, shape.numel(), shape, bijection))
            start += shape.numel()
        self.size = start

    def prior(self, particles: int) -> Tensor:
        """Draws of p given the inputs, free numbers of shape ``(particles, rows, D)``."""
        return self.free_of({name: site.value for name, site in self._drawn(particles).items()})

    def posterior(self, particles: int) -> Tensor:
        """Draws of q, free numbers of shape ``(particles, rows, D)``."""
        trace = self.model.q(
            self._for(self.model.q), (particles, self.rows), missing=self.missing,
            default=Sampled(),
        )  # fmt: skip
        return self.free_of({place.name: trace[place.name].value for place in self.places})

    def log_joint(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of the latents (as free numbers) and of what is observed given them.

        Both ``(particles, rows)``, nats.
        """
        latents, volume = self._sites(free)
        shape = tuple(free.shape[:-1])
        trace = self.model.p({**self._for(self.model.p), **latents}, shape, missing=self.missing)
        prior, likelihood = volume, torch.zeros(shape, dtype=free.dtype, device=free.device)
        for name, site in trace.items():
            if site.log_prob is None:
                continue
            if name in latents:
                prior = prior + site.log_prob
            else:
                likelihood = likelihood + site.log_prob
        return prior, likelihood

    def log_posterior(self, free: Tensor) -> Tensor:
        """Log-density of q, of the free numbers, ``(particles, rows)``."""
        latents, volume = self._sites(free)
        trace = self.model.q(
            {**self._for(self.model.q), **latents}, tuple(free.shape[:-1]), missing=self.missing
        )
        terms = [trace[place.name].log_prob for place in self.places]
        return torch.stack([volume.expand(free.shape[:-1]), *terms]).sum(0)  # type: ignore[list-item]

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
            features = embed(owner_of(self.model.p, place.name), value)
            sites[place.name] = Site(value, drawn=True, batch_dims=2, features=features)
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

    def _drawn(self, particles: int) -> dict[str, Site]:
        inputs = {n: s for n, s in self._for(self.model.p).items() if n in self.model.p.inputs}
        trace = self.model.p(inputs, (particles, self.rows), default=Sampled())
        return {
            name: site for name, site in trace.items() if site.drawn and name not in self.given
        }

    def _for(self, joint: Any) -> dict[str, Site]:
        return {n: s for n, s in self.given.items() if n in joint.names or n in joint.inputs}


def _owner(model: LatentVariableModel, name: str) -> Any:
    return next((joint for joint in (model.p, model.q) if name in joint.names), None)


def _support(name: str, site: Site) -> Any:
    distribution: Distribution | None = site.distribution
    if distribution is None:
        raise ValueError(
            f"{name!r} has one distribution a step, of which no chain of this kind knows the "
            f"space; use importance sampling."
        )
    support = distribution.support
    if support is None or support.is_discrete:
        raise ValueError(
            f"{name!r} is discrete, and chains that follow a gradient need continuous latents; "
            f"sum over its values, by importance sampling with draw={{{name!r}: Enumerated()}}."
        )
    return support
