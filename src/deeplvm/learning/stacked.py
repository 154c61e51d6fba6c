"""Stacked training: the lower of two layers by itself, the upper on what it says of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from deeplvm.conditionals import StandardNormal
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.training.phases import Phase


def stacked(latent: str = "z1", observed: str = "x") -> list[Phase]:
    r"""Two phases a step: a VAE of the lowest latent alone, and the rest of the model above it.

    The first moves :math:`p(x | z_1)` and :math:`q(z_1 | x)` by the bound under a standard normal
    prior of :math:`z_1`; the second moves all else by the objective of the training, for which the
    features :math:`z_1 \sim q(z_1 | x)` are data. So labels do not reach the features.

    Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014), section 2.1,
    https://arxiv.org/abs/1406.5298, where the first is trained to its end before the second.

    Args:
        latent: The lowest latent, a vector of reals; q draws it from what is observed alone.
        observed: What p draws from it alone.

    >>> print(*stacked()[0].evidence.factors)
    p(z1) p(x | z1) · q(z1 | x)
    """
    lower = _Lower(latent, observed)
    return [
        Phase(objective=elbo, evidence=lower, parameters=lower.parameters),
        Phase(parameters=lower.others),
    ]


@dataclass(frozen=True)
class _Lower:
    """The lower layer of a model as a model by itself, of the same conditionals."""

    latent: str
    observed: str
    traceable = False  # its joints are made anew

    @property
    def factors(self) -> tuple[str, ...]:
        """What it is, in the notation."""
        z, x = self.latent, self.observed
        return f"p({z})", f"p({x} | {z})", "·", f"q({z} | {x})"

    def __call__(self, model: LatentVariableModel, batch: dict[str, Any]) -> Evidence:
        """Its ledger."""
        z, x = self.latent, self.observed
        below, above = self._conditionals(model)
        prior = StandardNormal(math.prod(below.event_shape))
        lower = LatentVariableModel(
            Joint({z: prior, f"{x} | {z}": above}), Joint({f"{z} | {x}": below})
        )
        return lower.evidence({x: batch[x]})

    def parameters(self, model: LatentVariableModel) -> Iterator[nn.Parameter]:
        """Of its conditionals."""
        return nn.ModuleList(self._conditionals(model)).parameters()

    def others(self, model: LatentVariableModel) -> list[nn.Parameter]:
        """All others of the model."""
        own = {id(parameter) for parameter in self.parameters(model)}
        return [parameter for parameter in model.parameters() if id(parameter) not in own]

    def _conditionals(self, model: LatentVariableModel) -> tuple[Any, Any]:
        """Q's of the latent and p's of what is observed.

        Raises:
            ValueError: If these are other factors of the model.
        """
        z, x = self.latent, self.observed
        for joint, name, parent in ((model.q, z, x), (model.p, x, z)):
            known = name in joint.names and [each.name for each in joint.parents(name)]
            if known != [parent]:
                raise ValueError(
                    f"stacked trains {joint.symbol}({name} | {parent}) by itself, which is no "
                    f"factor of {model.factorisation}; say stacked(latent=..., observed=...)."
                )
        return model.q.conditional(z), model.p.conditional(x)
