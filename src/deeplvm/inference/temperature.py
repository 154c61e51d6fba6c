"""Ancestral draws at a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions import Distribution

from deeplvm.core.draws import Drawn, Sampled
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Trace, expand_to, sum_right
from deeplvm.distributions.temperature import tempered


@dataclass(frozen=True)
class Tempered:
    """A draw at a temperature; its log-density is that under the model as it is.

    Attributes:
        temperature: See :func:`~deeplvm.distributions.temperature.tempered`.
    """

    temperature: float

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with ``sample``."""
        expanded = expand_to(distribution, batch_shape, batch_dims)
        try:
            value = tempered(expanded, self.temperature).sample()
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
        log_prob = sum_right(expanded.log_prob(value), len(batch_shape))
        return Drawn(value, log_prob, batch_shape, 0.0)


@torch.no_grad()
def sample_at(
    model: LatentVariableModel,
    rows: int | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    temperature: float = 1.0,
    likelihood_temperature: float = 1.0,
) -> Trace:
    r"""Ancestral draws from p whose latents, and where asked whose rows, are less or more spread.

    Every layer of latents, which are the names of p that q draws, is drawn at the temperature;
    what is observed at that of the likelihood. Both at 1 are :meth:`model.sample`.

    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039, section 5.2

    Args:
        model: p and q.
        rows: How many; by default as many as are given.
        given: Values (labels, latents) to condition downstream names on.
        temperature: Of latents.
        likelihood_temperature: Of what q does not draw.

    Raises:
        ValueError: There are no latents for a temperature, or none is known of a distribution.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, torch.nn.Linear(1, 1))})
        >>> q = Joint({"z | x": Gaussian(1, torch.nn.Linear(1, 1))})
        >>> drawn = sample_at(LatentVariableModel(p, q), 1000, temperature=0.5)["z"].value
        >>> bool((drawn.std() - 0.5).abs() < 0.1)
        True
    """
    latents = [name for name in model.p.names if name in model.q.names]
    given = given or {}
    shape = (len(next(iter(given.values()))) if rows is None else rows,)
    ways = {
        name: Tempered(temperature if name in latents else likelihood_temperature)
        for name in model.p.names
        if name not in given
    }
    trace = model.p(given, shape, draw=ways, default=Sampled())
    if temperature != 1 and not any([trace[name].drawn for name in latents]):
        raise ValueError(
            "The model has no latents whose temperature could be another; that of what it draws "
            "is likelihood_temperature (--likelihood-temperature)."
        )
    return trace
