"""Draws at another temperature: closer to the mode, or further from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, distributions
from torch.distributions import Distribution, Independent

from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.discrete import (
    Bernoulli,
    DiscretizedLogistic,
    LevelCategorical,
    OneHotCategorical,
    Ordinal,
)
from deeplvm.distributions.mixture import NormalMixture
from deeplvm.distributions.pixels import CoupledLogisticMixture, DiscretizedLogisticMixture
from deeplvm.distributions.real import Logistic, StudentT
from deeplvm.distributions.tokens import TokenCategorical
from deeplvm.distributions.transformed import TransformedDraw


def tempered(distribution: Distribution, temperature: float) -> Distribution:
    r"""The distribution from which draws at a temperature T come.

    Of a location and a scale, :math:`x = \mu + T s\, \epsilon`: normal, logistic, Laplace,
    Student-t, levels of a logistic; of a flow the noise that it transforms; of logits
    :math:`\eta / T`: Bernoulli, categories, levels; of a mixture the weights :math:`w^{1/T}` and
    the scales of the components; of elements one after another each of them. At 1 it is itself.

    Raises:
        ValueError: The temperature is not positive, or none is known of such a distribution.

    Examples:
        >>> import torch
        >>> tempered(DiagonalNormal(torch.zeros(2), torch.ones(2), 1), 0.5).variance
        tensor([0.2500, 0.2500])
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"A temperature is a number above 0, not {temperature}.")
    if temperature == 1:
        return distribution
    if hasattr(distribution, "temperature"):  # elements one after another
        return _with(distribution, temperature=distribution.temperature * temperature)
    if isinstance(distribution, Independent) and not isinstance(distribution, DiagonalNormal):
        base = tempered(distribution.base_dist, temperature)
        return Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)
    for kinds, change in _CHANGES:
        if isinstance(distribution, kinds):
            return change(distribution, temperature)
    raise ValueError(
        f"No temperature is known of a {type(distribution).__name__}, which has neither a scale "
        f"nor logits to be changed; draw it at temperature 1."
    )


def _with(distribution: Any, **changed: Any) -> Any:
    """A copy, but for some attributes."""
    other = copy.copy(distribution)
    other.__dict__.update(changed)
    return other


def _logits(d: Any, t: float) -> Distribution:
    made: Callable[..., Distribution] = type(d)
    options = (
        {} if isinstance(d, LevelCategorical | OneHotCategorical) else {"validate_args": False}
    )
    return made(logits=d.logits / t, **options)


def _softer(log_weights: Tensor, t: float, axis: int) -> Tensor:
    return (log_weights / t).log_softmax(axis)


def _mixture(d: Any, t: float) -> Distribution:
    """Of levels or normals, the components along an axis that the mixture knows."""
    if isinstance(d, DiscretizedLogisticMixture):
        return DiscretizedLogisticMixture(
            d.log_weights / t, d.each.loc, t * d.each.scale, d.levels
        )
    axis = -1 - getattr(d, "pixel_dims", 0)
    return _with(d, log_weights=_softer(d.log_weights, t, axis), scale=t * d.scale)


_SCALED = (
    DiscretizedLogistic,
    Logistic,
    StudentT,
    TransformedDraw,
    distributions.Laplace,
    distributions.Normal,
)
_BY_LOGITS = (Bernoulli, OneHotCategorical, LevelCategorical, Ordinal, distributions.Categorical)
_CHANGES: tuple[tuple[Any, Callable[[Any, float], Distribution]], ...] = (
    (DiagonalNormal, lambda d, t: _with(d, _scale=t * d._scale, _standard=False)),
    ((DiscretizedLogisticMixture, CoupledLogisticMixture, NormalMixture), _mixture),
    (_SCALED, lambda d, t: _with(d, scale=t * d.scale)),
    (_BY_LOGITS, _logits),
    (TokenCategorical, lambda d, t: type(d)(d.features / t, d.weight, d.bias / t, d.allowed)),
)
