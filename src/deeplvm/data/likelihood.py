"""What kind of numbers these are, and which likelihood suits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from deeplvm import conditionals
from deeplvm.conditionals.columns import Columns
from deeplvm.data.readers.source import Array, Facts
from deeplvm.data.records import (
    Data,
    DataError,
    Description,
    Kind,
    LikelihoodName,
    Split,
    Variable,
)
from deeplvm.data.statistics import Summary

CONTINUOUS = ("gaussian", "laplace", "student-t", "continuous-bernoulli", "beta", "gamma")
MASSES = ("bernoulli", "discretized-logistic", "poisson", "negative-binomial", "categorical")
# A variance this many times the mean is too much for a Poisson even before the latents explain
# some of it: 1 is exact for a Poisson, and latents only add.
OVERDISPERSION = 1.5
UNDERDISPERSION = 0.7
# Beyond it, single precision spoils the log-gamma of a count, and rounding is invisible anyway.
LARGEST_COUNT = 4096
LARGEST_IMAGE_LEVEL = 255


@dataclass(frozen=True)
class Choice:
    """What the values are, the likelihood for them, and why.

    Attributes:
        kind: What the values are; see :class:`~deeplvm.data.Variable`.
        likelihood: The likelihood's name.
        reason: One sentence for the user.
        levels: Number of levels, where the values have levels.
        step: One stored unit in the file's own units.
        dequantize: Whether uniform noise is to be added to whole numbers.
        divisor: What the dequantized values are divided by.
    """

    kind: Kind
    likelihood: str
    reason: str
    levels: int | None = None
    step: float = 1.0
    dequantize: bool = False
    divisor: float = 1.0


@dataclass(frozen=True)
class _Look:
    kind: Kind
    minimum: float
    maximum: float
    whole: bool = True
    levels: int | None = None
    step: float = 1.0
    dispersion: float = 1.0


def choose_likelihood(
    values: Array | Summary,
    *,
    what: str = "x",
    likelihood: LikelihoodName = "auto",
    dequantize: bool = False,
    image: bool = False,
    table: bool = False,
    kind: Kind | None = None,
    levels: int | None = None,
) -> Choice:
    """Choose a likelihood by looking, or check the one that was asked for.

    Args:
        values: Numbers of shape ``(rows, *event)``, NaN is a hole; or their summary.
        what: What the error and the reason call them.
        likelihood: ``"auto"``, or a name to be checked.
        dequantize: Whether uniform noise may be added to whole numbers.
        image: Whether the values are pixels.
        table: Whether they are a column of a table: reals in [0, 1] are then proportions, not
            grey values.
        kind: What the source itself declares.
        levels: Number of levels that the source itself declares.

    Raises:
        DataError: If the likelihood gives these values no probability, or one that is not theirs.

    >>> import numpy as np
    >>> choose_likelihood(np.array([[0, 1], [1, 1]])).likelihood
    'bernoulli'
    >>> choose_likelihood(np.array([[0.5], [-3.25]])).likelihood
    'gaussian'
    >>> choose_likelihood(np.array([[0.1], [0.9]]), likelihood="bernoulli")
    Traceback (most recent call last):
        ...
    deeplvm.data.records.DataError: x: a Bernoulli needs 0 and 1 only, found reals in [0.1, 0.9]...
    """
    seen = values if isinstance(values, Summary) else Summary.of(values)
    look = _look(seen, what, image=image, table=table, kind=kind, levels=levels)
    if likelihood != "auto":
        return _check(look, what, likelihood, dequantize=dequantize)
    if dequantize and look.kind != "binary":
        if not look.whole:
            raise DataError(
                f"{what}: holds reals, so there is no rounding to dequantize; leave out "
                f"--dequantize."
            )
        return _dequantized(look, what, "gaussian")
    if look.kind == "binary":
        return Choice("binary", "bernoulli", f"{what}: values are 0 and 1: bernoulli.", 2)
    if look.kind == "levels":
        if look.step != 1.0:
            reason = (
                f"{what}: every value in [0, 1] is a multiple of 1/{round(1 / look.step)}: "
                "recovered "
                f"as whole levels 0..{look.levels - 1 if look.levels else ''} with a "
                f"discretized-logistic (a probability of whole levels, not a density of greys)."
            )
        else:
            reason = (
                f"{what}: whole levels 0..{look.levels - 1 if look.levels else ''}: "
                f"discretized-logistic. If they are counts: --likelihood negative-binomial."
            )
        return Choice("levels", "discretized-logistic", reason, look.levels, look.step)
    if look.kind == "unit":
        reason = (
            f"{what}: grey reals in [0, 1]: continuous-bernoulli (a density, with its constant)."
        )
        return Choice("unit", "continuous-bernoulli", reason)
    if look.kind == "counts" and 0 <= look.minimum <= look.maximum <= LARGEST_COUNT:
        chosen = "negative-binomial" if look.dispersion > OVERDISPERSION else "poisson"
        relation = "above" if look.dispersion > OVERDISPERSION else "not above"
        reason = (
            f"{what}: counts up to {look.maximum:g}, variance {look.dispersion:.3g} times the "
            "mean "
            f"({relation} {OVERDISPERSION}): {chosen}."
        )
        if look.dispersion < UNDERDISPERSION:
            reason += " That is much less than a Poisson's: for codes or grades say --categories."
        return Choice("counts", chosen, reason)
    if look.whole:
        why = (
            f"whole numbers up to {look.maximum:g}, too large for a count likelihood in single "
            f"precision"
            if look.minimum >= 0
            else f"whole numbers down to {look.minimum:g}"
        )
        choice = _dequantized(look, what, "gaussian")
        return replace(choice, reason=f"{what}: {why}. {choice.reason.removeprefix(what + ': ')}")
    reason = f"{what}: reals: gaussian, a density in the data's own units."
    return Choice("real", "gaussian", reason)


def _look(
    seen: Summary, what: str, *, image: bool, table: bool, kind: Kind | None, levels: int | None
) -> _Look:
    if not seen.count.any():
        raise DataError(f"{what}: every value is missing; --drop it, or fill it in.")
    minimum, maximum = float(seen.low.min()), float(seen.high.max())
    whole = bool(seen.whole.all())
    if kind == "real":
        return _Look("real", minimum, maximum, whole=False)
    if kind == "counts" and (not whole or minimum < 0):
        raise DataError(
            f"{what}: declared as counts, but holds {_describe(whole, minimum, maximum)}."
        )
    if whole and minimum >= 0 and maximum <= 1 and kind is None and levels is None:
        return _Look("binary", minimum, maximum, levels=2)
    if levels is not None:
        if not whole or minimum < 0 or maximum >= levels:
            raise DataError(
                f"{what}: expected whole levels 0..{levels - 1}, found "
                f"{_describe(whole, minimum, maximum)}."
            )
        return _Look("levels", minimum, maximum, levels=levels)
    if whole and minimum >= 0:
        bytes_ = seen.dtype == np.uint8
        if kind is None and not table and (image or bytes_) and maximum <= LARGEST_IMAGE_LEVEL:
            return _Look(
                "levels", minimum, maximum, levels=int(maximum) + 1 if maximum < 32 else 256
            )
        return _Look("counts", minimum, maximum, dispersion=_dispersion(seen))
    if whole:
        return _Look("counts", minimum, maximum)
    if minimum >= 0 and maximum <= 1 and not table:
        if seen.steps:
            steps = seen.steps[0]
            levels = 256 if steps == 256 else steps + 1
            return _Look("levels", minimum, maximum, levels=levels, step=1.0 / steps)
        return _Look("unit", minimum, maximum, whole=False)
    return _Look("real", minimum, maximum, whole=False)


def _dispersion(seen: Summary) -> float:
    """Variance over mean, both summed over the elements of a row."""
    return float(np.nansum(seen.variance)) / max(float(np.nansum(seen.mean)), 1e-12)


def _check(look: _Look, what: str, likelihood: str, *, dequantize: bool) -> Choice:
    found = _describe(look.whole and look.step == 1.0, look.minimum, look.maximum)
    levels = look.levels or (int(look.maximum) + 1 if look.whole else None)
    asked = f"{what}: {likelihood}, as asked for."
    if likelihood in CONTINUOUS:
        if look.whole and dequantize:
            if likelihood == "beta" or (likelihood == "gamma" and look.minimum < 1):
                raise DataError(
                    f"{what}: a {likelihood} density has no value at the edge of its support, "
                    "where "
                    f"dequantized {found} come; use --likelihood gaussian with --dequantize "
                    "uniform."
                )
            return _dequantized(look, what, likelihood)
        if look.kind == "binary":
            raise DataError(
                f"{what}: values are 0 and 1, and a {_article(likelihood)} density of them can "
                "grow "
                f"without bound; use --likelihood bernoulli."
            )
        if look.whole and look.step == 1.0:
            raise DataError(
                f"{what}: a {_article(likelihood)} gives {found} a density, which can grow "
                "without "
                f"bound, not a probability. Use --likelihood discretized-logistic for levels, "
                f"poisson or negative-binomial for counts; or --dequantize uniform, which adds "
                f"U[0, 1) noise so that the density is a lower bound of the probability."
            )
        if look.whole and likelihood in ("gaussian", "laplace", "student-t"):
            raise DataError(
                f"{what}: every value is a multiple of 1/{round(1 / look.step)}, and a "
                f"{_article(likelihood)} density of rounded values can grow without bound. Use "
                f"--likelihood discretized-logistic, or --dequantize uniform."
            )
        if dequantize:
            raise DataError(
                f"{what}: holds reals, so there is no rounding to dequantize; leave out "
                f"--dequantize."
            )
        if likelihood == "continuous-bernoulli" and not (look.minimum >= 0 and look.maximum <= 1):
            raise DataError(
                f"{what}: a continuous Bernoulli needs reals in [0, 1], found {found}; use "
                f"--likelihood gaussian."
            )
        if likelihood == "beta" and not (look.minimum > 0 and look.maximum < 1):
            raise DataError(
                f"{what}: a beta needs reals strictly between 0 and 1, found {found}; use "
                f"--likelihood continuous-bernoulli, which allows 0 and 1, or gaussian."
            )
        if likelihood == "gamma" and look.minimum <= 0:
            raise DataError(
                f"{what}: a gamma needs positive reals, found {found}; use --likelihood gaussian."
            )
        kind: Kind = "unit" if likelihood == "continuous-bernoulli" else "real"
        return Choice(kind, likelihood, asked)
    if likelihood == "bernoulli":
        if look.kind != "binary":
            alternative = (
                "discretized-logistic"
                if look.kind == "levels"
                else "continuous-bernoulli"
                if look.kind == "unit"
                else "gaussian"
                if look.kind == "real"
                else "negative-binomial"
            )
            binarize = (
                "--binarize dynamic or --binarize static draws them as 0 and 1; or "
                if look.kind in ("levels", "unit")
                else ""
            )
            raise DataError(
                f"{what}: a Bernoulli needs 0 and 1 only, found {found}: it would be no "
                "normalised "
                f"density there. {binarize}use --likelihood {alternative}.".replace(". u", ". U")
            )
        return Choice("binary", likelihood, asked, 2)
    if not look.whole or look.minimum < 0 or (look.step != 1.0 and "logistic" not in likelihood):
        better = "gaussian" if look.kind == "real" or look.minimum < 0 else "continuous-bernoulli"
        better += " with --dequantize uniform" if look.whole and look.minimum < 0 else ""
        raise DataError(
            f"{what}: {likelihood} needs whole numbers of at least 0, found {found}; use "
            f"--likelihood {better}."
        )
    if likelihood in ("poisson", "negative-binomial"):
        return Choice("counts", likelihood, asked)
    if likelihood in ("discretized-logistic", "categorical"):
        if levels is None or levels > LARGEST_COUNT:
            raise DataError(
                f"{what}: {likelihood} needs few levels, found {found}; use --likelihood "
                f"negative-binomial."
            )
        levels = max(levels, 2)
        named: Kind = "category" if likelihood == "categorical" else "levels"
        return Choice(named, likelihood, asked, levels, look.step)
    raise DataError(f"--likelihood {likelihood}: no likelihood has this name.")


def _dequantized(look: _Look, what: str, likelihood: str) -> Choice:
    kind: Kind = "unit" if likelihood == "continuous-bernoulli" else "real"
    divisor = float(look.levels or look.maximum + 1) if kind == "unit" else 1.0
    scaled = f", divided by {divisor:g}" if divisor != 1 else ""
    reason = (
        f"{what}: {likelihood} on x + u{scaled}, u ~ U[0, 1) drawn anew at each visit: its "
        "density "
        f"is a lower bound of the probability of the whole number x."
    )
    return Choice(
        kind, likelihood, reason, look.levels, look.step, dequantize=True, divisor=divisor
    )


def _describe(whole: bool, minimum: float, maximum: float) -> str:  # noqa: FBT001
    if whole:
        return f"whole numbers {minimum:g}..{maximum:g}"
    return f"reals in [{minimum:g}, {maximum:g}]"


def _article(likelihood: str) -> str:
    return {"gaussian": "Gaussian", "laplace": "Laplace", "student-t": "Student-t"}.get(
        likelihood, likelihood
    )


def choose(
    facts: Facts, seen: Mapping[Split, Summary], source: str, options: Mapping[str, Any]
) -> list[Choice]:
    """One choice for an array or a table of one kind, otherwise one a column.

    Args:
        facts: What the source says of its rows.
        seen: The summary of each split's rows.
        source: For messages.
        options: Those of :func:`~deeplvm.data.load`.
    """
    dequantize = options["dequantize"] is not None
    likelihood = options["likelihood"]
    train, everything = seen["train"], Summary.joined(seen.values())
    _refuse_silent(train, source, facts.columns)
    if facts.columns is None:
        return [
            choose_likelihood(
                everything,
                what="x",
                likelihood=likelihood,
                dequantize=dequantize,
                image=facts.image,
                levels=facts.levels,
            )
        ]
    if set(facts.kinds.values()) == {"counts"} and len(facts.kinds) >= len(facts.columns):
        return [
            choose_likelihood(
                train,
                what="x",
                likelihood=likelihood,
                dequantize=dequantize,
                table=True,
                kind="counts",
            )
        ]
    if likelihood in MASSES and not facts.categories:
        for place, column in enumerate(facts.columns):  # an error should name the column
            what = f"column {column!r}"
            choose_likelihood(
                everything.column(place), what=what, likelihood=likelihood, table=True
            )
        return [choose_likelihood(everything, what="x", likelihood=likelihood, table=True)]
    _refuse_constant_columns(everything, source, facts.columns)
    choices = []
    for place, column in enumerate(facts.columns):
        what = f"column {column!r}"
        if column in facts.categories:
            names = facts.categories[column]
            reason = f"{what}: {len(names)} categories: categorical."
            choices.append(Choice("category", "categorical", reason, len(names)))
            continue
        kind = cast("Kind | None", facts.kinds.get(column))
        values = everything.column(place)
        look = choose_likelihood(values, what=what, table=True, kind=kind)
        if look.kind == "binary":  # no other likelihood gives 0 and 1 a probability of their own
            choices.append(
                look
                if likelihood in ("auto", "bernoulli")
                else choose_likelihood(values, what=what, table=True, likelihood="bernoulli")
            )
            continue
        suits = dequantize and (kind != "real") and bool(values.whole.all())
        choices.append(
            choose_likelihood(
                values, what=what, likelihood=likelihood, dequantize=suits, table=True, kind=kind
            )
        )
    if dequantize and not any(choice.dequantize for choice in choices):
        raise DataError(f"{source}: no column holds whole numbers to dequantize; leave it out.")
    return _merged(choices)


def chosen(
    facts: Facts,
    seen: Mapping[Split, Summary],
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
) -> tuple[list[Choice], list[str]]:
    """The choices, or those of the training data; and the reasons.

    Raises:
        DataError: If no likelihood suits, or the training data's does not.
    """
    if trained is not None:
        refuse_unlike(seen["test"], source, trained)
        return choices_of(trained), []
    choices = choose(facts, seen, source, options)
    refuse_coarse(facts, seen["train"], source, choices)
    return choices, reasons_of(choices, facts)


def binarization_scale(
    facts: Facts,
    seen: Mapping[Split, Summary],
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
) -> tuple[float | None, list[str]]:
    """The level of probability 1 where grey values are to be binarized; and a note of it.

    Raises:
        DataError: If these are no grey values.
    """
    binarize = options["binarize"]
    if not binarize:
        return None, []
    top = None if trained is None else trained.grey
    scale = grey_scale(Summary.joined(seen.values()), source, facts.levels, top)
    if scale is None:
        return None, [f"--binarize {binarize} changes nothing: the values are 0 and 1 already."]
    return scale, [_binarization_note(binarize, scale, options["seed"])]


def _merged(choices: list[Choice]) -> list[Choice]:
    """One choice where all columns are alike."""
    first = choices[0]
    kinds = {choice.kind for choice in choices}
    likelihoods = {choice.likelihood for choice in choices}
    noisy = {choice.dequantize for choice in choices}
    if kinds == {"counts"} and likelihoods == {"poisson", "negative-binomial"}:
        return choices
    if len(kinds) == len(likelihoods) == len(noisy) == 1 and first.kind in (
        "binary",
        "counts",
        "real",
    ):
        reason = (
            f"all {len(choices)} columns alike. {first.reason}"
            if len(choices) > 1
            else first.reason
        )
        return [dataclasses.replace(first, reason=reason)]
    return choices


def reasons_of(choices: list[Choice], facts: Facts) -> list[str]:
    """One sentence a choice; columns of one choice share it."""
    if len(choices) == 1:
        return [choices[0].reason]
    groups: dict[tuple[str, bool], list[tuple[str, Choice]]] = {}
    for column, choice in zip(facts.columns or (), choices, strict=True):
        groups.setdefault((choice.likelihood, choice.dequantize), []).append((column, choice))
    reasons = ["columns of several kinds: each has its own likelihood, a row's is their product."]
    for (likelihood, noisy), members in groups.items():
        names = ", ".join(column for column, _ in members)
        if likelihood in ("poisson", "negative-binomial") or len(members) == 1:
            reasons += [choice.reason for _, choice in members]
        elif noisy:
            reasons.append(
                f"{likelihood} on x + u, u ~ U[0, 1) drawn anew at each visit, a lower bound of "
                "the "
                f"probability of the whole numbers: {names}."
            )
        elif likelihood == "categorical":
            counts = ", ".join(f"{column} ({choice.levels})" for column, choice in members)
            reasons.append(f"categorical: {counts}.")
        else:
            measure = "in its own units" if members[0][1].kind == "real" else "of whole numbers"
            reasons.append(f"{likelihood}, {measure}: {names}.")
    return reasons


def choices_of(variable: Variable) -> list[Choice]:
    """The choices that made a variable, for reading another file in the same way."""
    return [
        Choice(
            kind=part.kind,
            likelihood=part.likelihood,
            reason="",
            levels=part.levels,
            step=part.step,
            dequantize=part.dequantized,
            divisor=part.divisor,
        )
        for part in (variable.parts or (variable,))
    ]


def refuse_other_shape(shape: tuple[int, ...], source: str, variable: Variable) -> None:
    """Other data must have as many numbers a row as the training data."""
    if int(np.prod(shape)) != variable.elements:
        raise DataError(
            f"{source}: rows have shape {shape}, but the model was fitted to {variable.shape}."
        )


def refuse_unlike(seen: Summary, source: str, variable: Variable) -> None:
    """Other data must lie in the support of the training data's likelihood."""
    parts = variable.parts or (variable,)
    for place, part in enumerate(parts):
        values = seen.column(place) if variable.parts else seen
        if not values.count.any():
            continue
        what = f"column {part.name!r}" if variable.parts else "x"
        low, high = float(values.low.min()) / part.step, float(values.high.max()) / part.step
        whole = (
            bool(values.whole.all()) if part.step == 1 else round(1 / part.step) in values.steps
        )
        wants_whole = part.dequantized or part.kind in ("binary", "levels", "counts", "category")
        top = (part.levels or np.inf) - 1 if wants_whole and part.levels else np.inf
        top = 1.0 if part.kind == "unit" and not part.dequantized else top
        bottom = (
            0.0 if part.kind in ("binary", "levels", "counts", "category", "unit") else -np.inf
        )
        if (wants_whole and not whole) or low < bottom or high > top:
            need = "whole numbers" if wants_whole else "reals"
            bounds = f" in [{bottom:g}, {top:g}]" if np.isfinite(top) else ""
            bounds = " of at least 0" if not bounds and bottom == 0 else bounds
            raise DataError(
                f"{source}: {what}: the model was fitted to {need}{bounds} "
                f"({part.likelihood}), found {'whole numbers' if whole else 'reals'} in [{low:g}, "
                f"{high:g}]."
            )


def _refuse_silent(train: Summary, source: str, columns: tuple[str, ...] | None) -> None:
    """No element may be missing in all training rows: nothing could be learned of it."""
    silent = np.argwhere(train.count == 0)
    if len(silent):
        where = tuple(int(place) for place in silent[0])
        name = columns[where[0]] if columns is not None else str(where[0])
        what = f"column {name!r}" if len(where) == 1 else f"element {where}"
        drop = f"--drop {name}" if len(where) == 1 else "leave it out"
        raise DataError(
            f"{source}: {what} has no value in any training row ({len(silent)} such in all); "
            f"{drop}."
        )


def _refuse_constant_columns(seen: Summary, source: str, columns: tuple[str, ...]) -> None:
    constant = [
        column for place, column in enumerate(columns) if seen.low[place] == seen.high[place]
    ]
    if constant:
        low = seen.low[columns.index(constant[0])]
        pixels = len(constant) > 10 and not seen.holes and bool(seen.whole.all())
        pixels = pixels and seen.low.min() >= 0 and seen.high.max() <= 255
        raise DataError(
            f"{source}: column {constant[0]!r} is always {low:g}"
            f"{_others(constant)}: there is nothing to learn from it, and a density of it is "
            f"infinite; --drop {' '.join(constant[:10])}"
            f"{'; or, if these are pixels, --likelihood discretized-logistic' if pixels else ''}."
        )


def _others(names: Sequence[str]) -> str:
    return "" if len(names) == 1 else f" (and so are {len(names) - 1} others)"


def _binarization_note(binarize: str, scale: float, seed: int) -> str:
    probability = "x" if scale == 1 else f"x/{scale:g}"
    if binarize == "static":
        return (
            f"static binarization: each element was drawn once as Bernoulli({probability}), seed "
            f"{seed}."
        )
    return (
        f"dynamic binarization: Bernoulli({probability}) drawn anew at each visit of a training "
        "row; "
        f"validation and test rows were drawn once, seed {seed}. Likelihoods are not comparable "
        "with "
        f"those of a static binarization."
    )


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


def refuse_coarse(facts: Facts, train: Summary, source: str, choices: list[Choice]) -> None:
    """Single precision must resolve the spread of each real element."""
    real = np.array([choice.kind == "real" for choice in choices])
    if not real.any() or (len(choices) == 1 and train.dtype.itemsize < 4):
        return
    mean, std = train.mean, train.std
    coarse = np.argwhere((np.abs(mean) * 2.0**-24 > 1e-3 * std) & (std > 0) & real)
    if not len(coarse):
        return
    place = tuple(coarse[0].tolist())
    what = f"element {place}" if facts.columns is None else f"column {facts.columns[place[0]]!r}"
    raise DataError(
        f"{source}: {what} has mean {float(mean[place]):.6g} but varies by "
        f"{float(std[place]):.3g} only, which single precision cannot resolve; subtract a "
        f"constant from it first."
    )


def grey_scale(seen: Summary, source: str, levels: int | None, top: float | None) -> float | None:
    """The level of probability 1; ``None`` if the values are binary already.

    Args:
        seen: Of all rows.
        source: For messages.
        levels: How many levels the source itself declares.
        top: The level of probability 1 in the training data, where these are other data.

    Raises:
        DataError: If the values have holes, or are not grey values.
    """
    low, high, whole = float(seen.low.min()), float(seen.high.max()), bool(seen.whole.all())
    if seen.holes:
        raise DataError(f"{source}: --binarize needs values without holes; leave it out.")
    if top is None and whole and low >= 0 and high <= 1 and levels is None:
        return None
    if top is not None:
        if not (low >= 0 and high <= top):
            raise DataError(
                f"{source}: the model was fitted to binarized values 0..{top:g}, found values in "
                f"[{low:g}, {high:g}]."
            )
        return top
    if not (low >= 0 and (high <= 1 or (whole and high <= 255))):
        kinds = "whole numbers" if whole else "reals"
        raise DataError(
            f"{source}: --binarize reads grey values in [0, 1] or levels 0..255 as probabilities, "
            f"but found {kinds} in [{low:g}, {high:g}]; leave it out."
        )
    return float((levels or (int(high) + 1 if high < 32 else 256)) - 1) if whole else 1.0


def variable_of(
    facts: Facts, source: str, choices: list[Choice], seen: Mapping[Split, Summary]
) -> Variable:
    """The variable ``x`` with the statistics of its training rows.

    Args:
        facts: What the source says of its rows.
        source: For messages.
        choices: One, or one a column.
        seen: The summary of each split's rows as they are modelled.

    Raises:
        DataError: If an element whose likelihood is a density is constant in the training rows.
    """
    train, everything = seen["train"], Summary.joined(seen.values())
    mean, std = torch.from_numpy(train.mean), torch.from_numpy(train.std)
    first = choices[0]
    columns = facts.columns or ()
    parts: tuple[Variable, ...] = ()
    if len(choices) == 1:
        if first.kind in ("real", "unit") and first.likelihood not in (
            "continuous-bernoulli",
            "beta",
        ):
            _refuse_constant(std, source, facts.columns)
    else:
        parts = tuple(
            Variable(
                name=column,
                shape=(),
                kind=choice.kind,
                likelihood=choice.likelihood,
                mean=mean[place],
                std=std[place],
                minimum=float(everything.low[place]),
                maximum=float(everything.high[place]),
                levels=choice.levels,
                step=choice.step,
                missing=bool(everything.missing[place]),
                dequantized=choice.dequantize,
                categories=facts.categories.get(column),
            )
            for place, (column, choice) in enumerate(zip(columns, choices, strict=True))
        )
        reals = torch.tensor([part.kind == "real" for part in parts])
        _refuse_constant(torch.where(reals, std, 1.0), source, columns)
    return Variable(
        name="x",
        shape=train.shape,
        kind="mixed" if parts else first.kind,
        likelihood="columns" if parts else first.likelihood,
        mean=mean,
        std=std,
        minimum=float(everything.low.min()),
        maximum=float(everything.high.max()),
        levels=None if parts else first.levels,
        step=1.0 if parts else first.step,
        missing=bool(everything.missing.any()),
        dequantized=any(choice.dequantize for choice in choices),
        columns=facts.columns,
        parts=parts,
    )


def _refuse_constant(std: Tensor, source: str, columns: tuple[str, ...] | None) -> None:
    constant = (std <= 0).nonzero()
    if not len(constant):
        return
    where = tuple(constant[0].tolist())
    if columns is not None:
        name = columns[where[0]]
        what, drop = f"column {name!r}", f"--drop {name}"
    elif len(where) == 1:
        what, drop = f"column {where[0]}", f"--drop {where[0]}"
    else:
        what, drop = f"element {where}", "leave it out"
    raise DataError(
        f"{source}: {what} is constant in the training rows ({len(constant)} such in all), and a "
        f"density of a constant is infinite; {drop}."
    )


def warnings_of(variable: Variable, seen: Mapping[Split, Summary], train: Tensor) -> list[str]:
    """What a density cannot say of rounded or repeated values."""
    known = []
    if variable.missing:
        share = float(
            np.mean(
                [part.holes / (part.rows * part.count.size) for part in seen.values() if part.rows]
            )
        )
        known = [f"{100 * share:.2g}% of the values are missing; likelihoods are of the others."]
    if variable.columns is None:
        return known
    for place, name in enumerate(variable.columns):
        part = variable.parts[place] if variable.parts else variable
        if part.kind != "real" or part.dequantized:
            continue
        column = train[:, place]
        values, counts = column[~column.isnan()].unique(return_counts=True)
        if not len(values):
            continue
        most, at = float(counts.max()) / float(counts.sum()), float(values[counts.argmax()])
        if len(values) <= 2:
            known.append(
                f"warning: column {name!r} takes only {len(values)} values, so a density of it "
                "can "
                f"grow without bound; --categories {name} gives them probabilities."
            )
        elif most > 0.5:
            known.append(
                f"warning: {100 * most:.0f}% of column {name!r} is exactly {at:g}, so a density "
                "of "
                f"it can grow without bound."
            )
    return known
