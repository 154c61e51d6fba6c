"""The table of likelihoods: what values each is of, and the conditional that it makes."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm import conditionals
from deeplvm.conditionals.heads import Source
from deeplvm.data.variable import DataError, Kind, Variable
from deeplvm.distributions.spiked import PiecewiseLinear
from deeplvm.registry import Count, Positive, SpellingError, call_of


@dataclass(frozen=True)
class Range:
    """What a look at values found."""

    kind: Kind
    minimum: float
    maximum: float
    whole: bool = True
    levels: int | None = None
    step: float = 1.0
    dispersion: float = 1.0

    @property
    def counted(self) -> bool:
        """Whether the values are whole numbers of at least 0."""
        return self.whole and self.minimum >= 0


@dataclass(frozen=True)
class Likelihood:
    """A row of the table: what values a likelihood is of, and the conditional that it makes.

    Attributes:
        name: What the user types.
        kind: What the values are under it.
        conditional: From a variable to the conditional, all but its network.
        kinds: Kinds of values that it takes without another look at them.
        title: What a sentence calls it.
        needs: The values that it needs, in words.
        suits: Whether a look found such values.
        density: Whether reals have a density under it; whole numbers have a probability otherwise.
        in_units: Whether it is of all reals, measured by mean and standard deviation: then its
            density grows without bound also on what was rounded.
        least_whole: The smallest whole number to which U[0, 1) may be added: below it the density
            has no value.
        heavier: A likelihood for the same values with heavier tails.
        whole: What whole numbers are under it, where that is another kind: a probability each.
        joint: Whether it is of all columns of a row together.
        options: What may be written in parentheses, ``"gaussian(scale='global')"``, each with its
            type: arguments of the conditional.
    """

    name: str
    kind: Kind
    conditional: Callable[[Variable], Callable[..., nn.Module]]
    kinds: tuple[Kind, ...]
    title: str
    needs: str = ""
    suits: Callable[[Range], bool] = lambda _: True
    density: bool = False
    in_units: bool = False
    least_whole: float = -math.inf
    heavier: str = ""
    whole: Kind | None = None
    joint: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def of(self, variable: Variable) -> Callable[..., nn.Module]:
        """The conditional of a variable, with its options, all but its network."""
        return partial(self.conditional(variable), **variable.likelihood_options)


_SCALE = {"scale": Source, "minimum_scale": Positive}


def _mean(head: Callable[..., nn.Module]) -> Callable[[Variable], Callable[..., nn.Module]]:
    return lambda v: partial(head, v.shape, mean=v.mean)


def _units(head: Callable[..., nn.Module]) -> Callable[[Variable], Callable[..., nn.Module]]:
    return lambda v: partial(head, v.shape, units=(v.mean, _unit(v)))


def _unit(v: Variable) -> Tensor:
    """The standard deviation of each element; of an image under one scale that of all pixels."""
    source = v.likelihood_options.get("scale", "network")
    if not v.is_image or source in ("network", "dimension"):
        return v.std
    return (v.std.square().mean() + v.mean.var(correction=0)).sqrt().expand_as(v.std)


def _smoothed(v: Variable) -> Tensor | None:
    """The shares of codes, none of which is impossible."""
    if not v.shares:
        return None
    shares = torch.tensor(v.shares, dtype=torch.float64)
    return (shares + 1e-3 / shares.shape[-1]).reshape(*v.shape, -1)


def _spiked(v: Variable) -> Callable[..., nn.Module]:
    """Probabilities of the atoms, and elsewhere a mixture on the scores of the knots."""
    assert v.knots is not None
    counts, count = v.kind == "counts", v.knots.shape[-1]
    ends = v.bounds or [(None, None)] * v.elements
    least = 0.0 if counts else -math.inf
    low = torch.tensor([least if end is None else end for end, _ in ends])
    high = torch.tensor([math.inf if end is None else end for _, end in ends])
    scores = v.scores
    if scores is None:
        levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        scores = torch.special.ndtri(levels).expand_as(v.knots)
    rising = [_rising(*each) for each in zip(v.knots, scores, v.std, low, high, strict=True)]
    bounded = bool((low.isfinite() | high.isfinite()).any())
    return partial(
        conditionals.Spiked,
        v.shape,
        knots=torch.stack(rising),
        scores=scores,
        atoms=torch.tensor(v.atoms, dtype=torch.float64),
        shares=torch.tensor(v.shares, dtype=torch.float64) if v.shares else None,
        step=1.0 if counts else None,
        bounds=(low, high) if bounded else None,
        truncated=bounded and not counts,
    )


def _rising(knots: Tensor, scores: Tensor, spread: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Knots of which none is the next, on the line through those that are, at the same scores."""
    single = knots.to(torch.get_default_dtype())  # as the conditional has them
    values, place = single.unique(return_inverse=True)
    if len(values) == len(knots):
        return knots
    if len(values) == 1:
        below, above = torch.minimum(spread, values - low), torch.minimum(spread, high - values)
        values, mean = torch.cat([values - below, values + above]), torch.tensor([-1.0, 1.0])
    else:
        mean = torch.zeros(len(values), dtype=torch.float64).index_add(0, place, scores)
        mean = mean / place.bincount()
        mean[0], mean[-1] = scores[0], scores[-1]  # the ends stay where they are
    return PiecewiseLinear(values.double(), mean.double()).inverse(scores)


_COUNTED = "whole numbers of at least 0"
# fmt: off
_ROWS = (
    Likelihood("bernoulli", "binary", _mean(conditionals.Bernoulli), ("binary",), "a Bernoulli",
               "0 and 1 only", lambda look: look.kind == "binary"),
    Likelihood("discretized-logistic", "levels",
               lambda v: partial(
                   conditionals.DiscretizedLogistic, v.shape, levels=v.levels or 256),
               ("levels",), "discretized-logistic", _COUNTED, lambda look: look.counted,
               options=_SCALE),
    Likelihood("discretized-logistic-mixture", "levels",
               lambda v: partial(conditionals.DiscretizedLogisticMixture, v.shape,
                                 levels=v.levels or 256, coupled=v.is_image),
               ("levels",), "discretized-logistic-mixture", _COUNTED, lambda look: look.counted,
               options={"components": Count, "coupled": bool, "minimum_scale": Positive}),
    Likelihood("categorical", "category",
               lambda v: partial(conditionals.Tokens, v.levels or 2, probabilities=_smoothed(v))
               if v.kind == "token"
               else partial(conditionals.Categorical, v.levels or 2, shape=v.shape,
                            probabilities=_smoothed(v), ordered=v.kind == "levels"),
               ("levels", "category", "ordinal", "token"), "categorical",
               _COUNTED, lambda look: look.counted and look.step == 1),
    Likelihood("ordinal", "ordinal",
               lambda v: partial(conditionals.Ordinal, v.levels or 2, shape=v.shape),
               ("levels", "ordinal"), "ordinal",
               _COUNTED, lambda look: look.counted and look.step == 1),
    Likelihood("poisson", "counts", _mean(conditionals.Poisson), ("counts",), "poisson",
               _COUNTED, lambda look: look.counted and look.step == 1,
               heavier="negative-binomial"),
    Likelihood("negative-binomial", "counts", _mean(conditionals.NegativeBinomial), ("counts",),
               "negative-binomial", _COUNTED, lambda look: look.counted and look.step == 1,
               options={"dispersion": Source}),
    Likelihood("zero-inflated-poisson", "counts",
               _mean(partial(conditionals.Poisson, zero_inflated=True)), ("counts",),
               "zero-inflated-poisson", _COUNTED, lambda look: look.counted and look.step == 1,
               heavier="zero-inflated-negative-binomial"),
    Likelihood("zero-inflated-negative-binomial", "counts",
               _mean(partial(conditionals.NegativeBinomial, zero_inflated=True)), ("counts",),
               "zero-inflated-negative-binomial", _COUNTED,
               lambda look: look.counted and look.step == 1, options={"dispersion": Source}),
    Likelihood("multinomial", "counts",
               lambda v: partial(conditionals.Multinomial, v.shape, mean=v.mean,
                                 total=max(1, round(float(v.mean.nansum())))), ("counts",),
               "multinomial", _COUNTED, lambda look: look.counted and look.step == 1, joint=True),
    Likelihood("gaussian", "real", _units(conditionals.Gaussian), ("real", "date"), "a Gaussian",
               density=True, in_units=True, heavier="student-t", options=_SCALE),
    Likelihood("laplace", "real", _units(conditionals.Laplace), ("real", "date"), "a Laplace",
               density=True, in_units=True, heavier="student-t", options=_SCALE),
    Likelihood("student-t", "real", _units(conditionals.StudentT), ("real", "date"), "a Student-t",
               density=True, in_units=True, options={**_SCALE, "df": Source}),
    Likelihood("continuous-bernoulli", "unit",
               lambda v: partial(conditionals.ContinuousBernoulli, v.shape), ("unit",),
               "a continuous Bernoulli", "reals in [0, 1]",
               lambda look: look.minimum >= 0 and look.maximum <= 1, density=True),
    Likelihood("beta", "real", lambda v: partial(conditionals.Beta, v.shape), (), "a beta",
               "reals strictly between 0 and 1",
               lambda look: look.minimum > 0 and look.maximum < 1,
               density=True, least_whole=math.inf),
    Likelihood("gamma", "real", lambda v: partial(conditionals.Gamma, v.shape, unit=v.mean), (),
               "a gamma", "positive reals", lambda look: look.minimum > 0,
               density=True, least_whole=1, options={"concentration": Source}),
    Likelihood("mixture", "real", _spiked, ("real", "date", "counts"), "a mixture",
               f"reals, or {_COUNTED}", lambda look: look.counted or not look.whole,
               whole="counts", options={"components": Count}),
)
# fmt: on
LIKELIHOODS: Mapping[str, Likelihood] = {row.name: row for row in _ROWS}
# What is asked for of values of a kind where nothing else is said.
USUAL = {
    "binary": "bernoulli", "levels": "discretized-logistic", "unit": "continuous-bernoulli",
    "counts": "negative-binomial", "real": "gaussian", "category": "categorical",
    "ordinal": "ordinal", "token": "categorical", "date": "gaussian",
}  # fmt: skip


def known() -> dict[str, Callable[..., dict[str, Any]]]:
    """A function of each likelihood's options, which returns them; for ``"auto"`` of none."""
    options = {"auto": {}, **{name: row.options for name, row in LIKELIHOODS.items()}}
    return {name: _taking(name, each) for name, each in options.items()}


def _taking(name: str, options: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
    def taken(**given: Any) -> dict[str, Any]:
        return given

    each = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for option, hint in options.items()
    ]
    taken.__name__ = name
    taken.__signature__ = inspect.Signature(each)  # type: ignore[attr-defined]
    return taken


def spelled(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a likelihood and its options, as they are written.

    Raises:
        DataError: There is none of that name, or it has no such option.

    >>> spelled("gaussian(scale='global')")
    ('gaussian', {'scale': 'global'})
    >>> spelled("poisson(scale='global')")
    Traceback (most recent call last):
    deeplvm.data.variable.DataError: likelihood "poisson(scale='global')": ...
    """
    name, names = str(text).partition("(")[0].strip(), ["auto", *LIKELIHOODS]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}."
        raise DataError(f"there is no likelihood {name!r}; {hint}")
    try:
        return name, call_of(text, "likelihood")()
    except SpellingError as error:
        raise DataError(str(error)) from error
