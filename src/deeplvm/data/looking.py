"""What kind of numbers these are, and which likelihood suits them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.raw import Array
from deeplvm.data.records import Kind
from deeplvm.data.statistics import Summary

LikelihoodName = Literal[
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "discretized-logistic",
    "gaussian",
    "laplace",
    "student-t",
    "poisson",
    "negative-binomial",
    "categorical",
    "beta",
    "gamma",
]
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
    deeplvm.data.errors.DataError: x: a Bernoulli needs 0 and 1 only, found reals in [0.1, 0.9]...
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
