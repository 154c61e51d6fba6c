"""From a variable to the conditional of its likelihood."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from deeplvm import conditionals
from deeplvm.conditionals.columns import Columns
from deeplvm.data.errors import DataError
from deeplvm.data.records import Data, Description, Variable

# Which likelihoods the values of a kind allow without being looked at again.
_ALLOWED = {
    "binary": ("bernoulli",),
    "levels": ("discretized-logistic", "categorical"),
    "unit": ("continuous-bernoulli",),
    "counts": ("poisson", "negative-binomial"),
    "real": ("gaussian", "laplace", "student-t"),
    "category": ("categorical",),
    "mixed": ("columns",),
}


def likelihood_of(
    variable: Variable | Data | Description,
    network: nn.Module | None = None,
    likelihood: str | None = None,
) -> nn.Module:
    """The conditional ``"x | ..."`` that suits a variable, in the data's own units.

    Args:
        variable: The variable; of data or a description its ``"x"`` is taken.
        network: From the parents to features, as for every conditional.
        likelihood: Another likelihood for values of this kind (``"laplace"`` for reals, say);
            ``None`` or ``"auto"`` takes the one chosen when the data were loaded.

    Returns:
        A module whose ``forward(*parents)`` is a distribution with event shape
        ``variable.shape``. It starts at the mean of the training rows where that has a meaning.

    Raises:
        DataError: If the likelihood is not one for values of this kind.

    >>> from deeplvm.data import load
    >>> from deeplvm.networks import MLP
    >>> decoder = likelihood_of(load("iris"), MLP(2, 16))
    >>> type(decoder).__name__, tuple(decoder.event_shape)
    ('Gaussian', (4,))
    """
    if not isinstance(variable, Variable):
        variable = variable.variables["x"]
    if likelihood in (None, "auto"):
        likelihood = variable.likelihood
    allowed = _ALLOWED[variable.kind]
    if likelihood != variable.likelihood and likelihood not in allowed:
        raise DataError(
            f"{variable.name}: {likelihood} is no likelihood for {variable.kind} values as they "
            "were "
            f"loaded; load the data with likelihood={likelihood!r} (--likelihood {likelihood}), "
            f"which checks the values, or use {' or '.join(allowed)}."
        )
    if variable.parts:
        return Columns(
            [(tuple(places), _build(group)) for places, group in _groups(variable)], network
        )
    return _builder(variable, likelihood)(network=network)


def _builder(variable: Variable, likelihood: str) -> Callable[..., nn.Module]:
    """The conditional's constructor, all but its network."""
    shape, mean = variable.shape, variable.mean
    units = (mean, variable.std)
    builders: dict[str, Callable[..., nn.Module]] = {
        "bernoulli": partial(conditionals.Bernoulli, shape, mean=mean),
        "continuous-bernoulli": partial(conditionals.ContinuousBernoulli, shape),
        "discretized-logistic": partial(
            conditionals.DiscretizedLogistic, shape, levels=variable.levels or 256
        ),
        "gaussian": partial(conditionals.Gaussian, shape, units=units),
        "laplace": partial(conditionals.Laplace, shape, units=units),
        "student-t": partial(conditionals.StudentT, shape, units=units),
        "poisson": partial(conditionals.Poisson, shape, mean=mean),
        "negative-binomial": partial(conditionals.NegativeBinomial, shape, mean=mean),
        "categorical": partial(conditionals.Categorical, variable.levels or 2, shape=shape),
        "beta": partial(conditionals.Beta, shape),
        "gamma": partial(conditionals.Gamma, shape, unit=mean),
    }
    return builders[likelihood]


def _groups(variable: Variable) -> list[tuple[list[int], Variable]]:
    """Columns of one likelihood and one number of levels, as one variable of several elements."""
    places: dict[tuple[str, int | None], list[int]] = {}
    for place, part in enumerate(variable.parts):
        levels = (
            part.levels if part.likelihood in ("categorical", "discretized-logistic") else None
        )
        places.setdefault((part.likelihood, levels), []).append(place)
    groups = []
    for (likelihood, levels), chosen in places.items():
        parts = [variable.parts[place] for place in chosen]
        together = Variable(
            name=variable.name,
            shape=(len(parts),),
            kind=parts[0].kind,
            likelihood=likelihood,
            mean=torch.stack([part.mean for part in parts]),
            std=torch.stack([part.std for part in parts]),
            minimum=min(part.minimum for part in parts),
            maximum=max(part.maximum for part in parts),
            levels=levels,
        )
        groups.append((chosen, together))
    return groups


def _build(group: Variable) -> Callable[..., nn.Module]:
    return _builder(group, group.likelihood)
