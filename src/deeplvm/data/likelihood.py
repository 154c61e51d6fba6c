"""What kind of numbers these are, and which likelihood suits them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from deeplvm import conditionals
from deeplvm.conditionals.columns import Columns
from deeplvm.data.readers.source import Array, Facts
from deeplvm.data.records import (
    CODED,
    Data,
    DataError,
    Description,
    Kind,
    LikelihoodName,
    Split,
    Variable,
    listed,
)
from deeplvm.data.statistics import Summary, decimals, quantiles, repeated, shares_of
from deeplvm.distributions.spiked import PiecewiseLinear

# A variance this many times the mean is too much for a Poisson even before the latents explain
# some of it: 1 is exact for a Poisson, and latents only add.
OVERDISPERSION = 1.5
UNDERDISPERSION = 0.7
# Beyond it, single precision spoils the log-gamma of a count, and rounding is invisible anyway.
LARGEST_COUNT = 4096
LARGEST_IMAGE_LEVEL = 255
# Columns of one likelihood that have a sentence each, and warnings of one kind.
_FEW_COUNTS, _FEW_WARNINGS = 5, 5
# A standard deviation, or a value, this many times the range of 15 in 16 values away is that of a
# few; a value this often at the edge, far from the others, may stand for a missing one.
_HIDDEN, _FAR, _SENTINEL = 20, 1000, 0.005
# A value that is this often there, and so many times as often as one in the median, has mass.
_OFTEN, _TIMES = 0.1, 10
# Kinds that have a density in the data's own units.
_REAL: tuple[Kind, ...] = ("real", "date")
# Columns of a table for which a density may need knots and atoms, and values that are looked at.
_MOST_KNOTTED, _LOOKED_AT = 1000, 20_000_000


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
    """

    name: str
    kind: Kind
    conditional: Callable[[Variable], Callable[..., nn.Module]]
    kinds: tuple[Kind, ...]
    title: str
    needs: str = ""
    suits: Callable[[_Look], bool] = lambda _: True
    density: bool = False
    in_units: bool = False
    least_whole: float = -math.inf
    heavier: str = ""
    whole: Kind | None = None


def _mean(head: Callable[..., nn.Module]) -> Callable[[Variable], Callable[..., nn.Module]]:
    return lambda v: partial(head, v.shape, mean=v.mean)


def _units(head: Callable[..., nn.Module]) -> Callable[[Variable], Callable[..., nn.Module]]:
    return lambda v: partial(head, v.shape, units=(v.mean, v.std))


def _smoothed(v: Variable) -> Tensor | None:
    """The shares of codes, none of which is impossible."""
    if not v.shares:
        return None
    shares = torch.tensor(v.shares, dtype=torch.float64)
    return (shares + 1e-3 / shares.shape[-1]).reshape(*v.shape, -1)


def _spiked(v: Variable) -> Callable[..., nn.Module]:
    """Probabilities of the atoms, and elsewhere a mixture on the scores of the knots."""
    counts = v.kind == "counts"
    rising = [_rising(k, float(s)) for k, s in zip(v.knots, v.std, strict=True)]  # type: ignore[arg-type]
    return partial(
        conditionals.Spiked,
        v.shape,
        knots=torch.stack(rising),
        atoms=torch.tensor(v.atoms, dtype=torch.float64),
        shares=torch.tensor(v.shares, dtype=torch.float64) if v.shares else None,
        step=1.0 if counts else None,
        bounds=(0.0, math.inf) if counts else None,
    )


def _rising(knots: Tensor, spread: float) -> Tensor:
    """Knots of which none is the next, on the line through those that are, at the same levels."""
    levels = (torch.arange(len(knots), dtype=torch.float64) + 0.5) / len(knots)
    scores = torch.special.ndtri(levels)
    single = knots.to(torch.get_default_dtype())  # as the conditional has them
    values, place = single.unique(return_inverse=True)
    if len(values) == len(knots):
        return knots
    if len(values) == 1:
        values, mean = values + torch.tensor([-spread, spread]), torch.tensor([-1.0, 1.0])
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
               ("levels",), "discretized-logistic", _COUNTED, lambda look: look.counted),
    Likelihood("categorical", "category",
               lambda v: partial(conditionals.Categorical, v.levels or 2, shape=v.shape,
                                 probabilities=_smoothed(v)),
               ("levels", "category", "ordinal"), "categorical",
               _COUNTED, lambda look: look.counted and look.step == 1),
    Likelihood("ordinal", "ordinal",
               lambda v: partial(conditionals.Ordinal, v.levels or 2, shape=v.shape),
               ("levels", "ordinal"), "ordinal",
               _COUNTED, lambda look: look.counted and look.step == 1),
    Likelihood("poisson", "counts", _mean(conditionals.Poisson), ("counts",), "poisson",
               _COUNTED, lambda look: look.counted and look.step == 1,
               heavier="negative-binomial"),
    Likelihood("negative-binomial", "counts", _mean(conditionals.NegativeBinomial), ("counts",),
               "negative-binomial", _COUNTED, lambda look: look.counted and look.step == 1),
    Likelihood("gaussian", "real", _units(conditionals.Gaussian), ("real", "date"), "a Gaussian",
               density=True, in_units=True, heavier="student-t"),
    Likelihood("laplace", "real", _units(conditionals.Laplace), ("real", "date"), "a Laplace",
               density=True, in_units=True, heavier="student-t"),
    Likelihood("student-t", "real", _units(conditionals.StudentT), ("real", "date"), "a Student-t",
               density=True, in_units=True),
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
               density=True, least_whole=1),
    Likelihood("mixture", "real", _spiked, ("real", "date", "counts"), "a mixture",
               f"reals, or {_COUNTED}", lambda look: look.counted or not look.whole,
               whole="counts"),
)
# fmt: on
LIKELIHOODS: Mapping[str, Likelihood] = {row.name: row for row in _ROWS}
# What is asked for of values of a kind where nothing else is said.
_USUAL = {
    "binary": "bernoulli", "levels": "discretized-logistic", "unit": "continuous-bernoulli",
    "counts": "negative-binomial", "real": "gaussian", "category": "categorical",
    "ordinal": "ordinal", "date": "gaussian",
}  # fmt: skip


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
            raise DataError(_NO_ROUNDING.format(what))
        return _dequantized(look, what, "gaussian")
    if look.kind == "binary":
        return Choice("binary", "bernoulli", f"{what}: values are 0 and 1: bernoulli.", 2)
    if look.kind == "levels":
        top = f"0..{look.levels - 1 if look.levels else ''}"
        reason = f"{what}: whole levels {top}: discretized-logistic. If they are counts: "
        reason += "--likelihood negative-binomial."
        if look.step != 1.0:
            reason = (
                f"{what}: every value in [0, 1] is a multiple of 1/{round(1 / look.step)}: "
                f"recovered as whole levels {top} with a discretized-logistic (a probability of "
                f"whole levels, not a density of greys)."
            )
        return Choice("levels", "discretized-logistic", reason, look.levels, look.step)
    if look.kind == "unit":
        grey = "grey reals in [0, 1]: continuous-bernoulli (a density, with its constant)."
        return Choice("unit", "continuous-bernoulli", f"{what}: {grey}")
    if look.kind == "counts" and 0 <= look.minimum <= look.maximum <= LARGEST_COUNT:
        over = look.dispersion > OVERDISPERSION
        chosen = "negative-binomial" if over else "poisson"
        reason = (
            f"{what}: counts up to {look.maximum:g}, variance {look.dispersion:.3g} times the "
            f"mean ({'above' if over else 'not above'} {OVERDISPERSION}): {chosen}."
        )
        if look.dispersion < UNDERDISPERSION:
            reason += " That is much less than a Poisson's: for codes or grades say --categories."
        if not table and look.maximum <= LARGEST_IMAGE_LEVEL:
            reason += " If they are pixels: --likelihood discretized-logistic."
        return Choice("counts", chosen, reason)
    if not look.whole:
        what_ = "dates, in days" if look.kind == "date" else "reals"
        reason = f"{what}: {what_}: gaussian, a density in the data's own units."
        return Choice(look.kind, "gaussian", reason)
    if look.kind == "date":
        return replace(_dequantized(look, what, "gaussian"), kind="date")
    why = f"whole numbers down to {look.minimum:g}"
    if look.minimum >= 0:
        why = f"whole numbers up to {look.maximum:g}, too large for a count likelihood in single "
        why += "precision"
    choice = _dequantized(look, what, "gaussian")
    return replace(choice, reason=f"{what}: {why}. {choice.reason.removeprefix(what + ': ')}")


def _look(
    seen: Summary, what: str, *, image: bool, table: bool, kind: Kind | None, levels: int | None
) -> _Look:
    if not seen.count.any():
        raise DataError(f"{what}: every value is missing; --drop it, or fill it in.")
    minimum, maximum = float(seen.low.min()), float(seen.high.max())
    whole = bool(seen.whole.all())
    if kind == "real" or (kind == "date" and not whole):
        return _Look(kind, minimum, maximum, whole=False)
    if kind == "date":
        return _Look("date", minimum, maximum)
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
            # the coarsest that fits; 0 .. steps - 1 where the steps are those of bits and 1 is not
            # there, as in k / 256
            steps = seen.steps[0]
            levels = steps + int(maximum == 1 or steps & (steps + 1) == 0)
            return _Look("levels", minimum, maximum, levels=levels, step=1.0 / steps)
        return _Look("unit", minimum, maximum, whole=False)
    return _Look("real", minimum, maximum, whole=False)


def _dispersion(seen: Summary) -> float:
    """Variance over mean, both summed over the elements of a row."""
    return float(np.nansum(seen.variance)) / max(float(np.nansum(seen.mean)), 1e-12)


def _check(look: _Look, what: str, likelihood: str, *, dequantize: bool) -> Choice:
    """The choice that was asked for.

    Raises:
        DataError: If it gives such values no probability, or a density without bound.
    """
    row = LIKELIHOODS.get(likelihood)
    if row is None:
        raise DataError(f"--likelihood {likelihood}: no likelihood has this name.")
    found = _describe(look.whole and look.step == 1.0, look.minimum, look.maximum)
    title = row.title
    if (row.density or row.whole) and look.whole and dequantize:
        if look.minimum < row.least_whole:
            raise DataError(
                f"{what}: {title} density has no value at the edge of its support, where "
                f"dequantized {found} come; use --likelihood gaussian with --dequantize uniform."
            )
        return _dequantized(look, what, likelihood)
    if row.density and look.kind == "binary":
        raise DataError(
            f"{what}: values are 0 and 1, and {title} density of them can grow without bound; use "
            f"--likelihood bernoulli."
        )
    if row.density and look.whole and look.step == 1.0:
        raise DataError(
            f"{what}: {title} gives {found} a density, which can grow without bound, not a "
            f"probability. Use --likelihood discretized-logistic for levels, poisson or "
            f"negative-binomial for counts; or --dequantize uniform, which adds U[0, 1) noise so "
            f"that the density is a lower bound of the probability."
        )
    if row.in_units and look.whole:
        raise DataError(
            f"{what}: every value is a multiple of 1/{round(1 / look.step)}, and {title} density "
            f"of rounded values can grow without bound. Use --likelihood discretized-logistic, or "
            f"--dequantize uniform."
        )
    if (row.density or row.whole) and dequantize:
        raise DataError(_NO_ROUNDING.format(what))
    if not row.suits(look):
        raise DataError(f"{what}: {title} needs {row.needs}, found {found}{_instead(look, row)}.")
    levels = look.levels or (int(look.maximum) + 1 if look.whole else None)
    if row.kind not in CODED:
        levels = 2 if row.kind == "binary" else None
    elif levels is None or levels > LARGEST_COUNT:
        raise DataError(
            f"{what}: {title} needs few levels, found {found}; use --likelihood negative-binomial."
        )
    else:
        levels = max(levels, 2)
    step = look.step if row.kind in CODED else 1.0
    kind = row.whole if row.whole and look.whole and look.step == 1 else row.kind
    return Choice(kind, likelihood, f"{what}: {likelihood}, as asked for.", levels, step)


_NO_ROUNDING = "{}: holds reals, so there is no rounding to dequantize; leave out --dequantize."


def _instead(look: _Look, asked: Likelihood) -> str:
    """What to do where the likelihood that was asked for does not suit."""
    usual = "gaussian" if look.minimum < 0 or asked.density else _USUAL[look.kind]
    if asked.name == "beta" and look.minimum >= 0 and look.maximum <= 1:
        usual = "continuous-bernoulli, which allows 0 and 1, or gaussian"
    if look.whole and look.minimum < 0:
        usual += " with --dequantize uniform"
    if asked.kind != "binary":
        return f"; use --likelihood {usual}"
    draws = "--binarize dynamic or --binarize static draws them as 0 and 1; or use"
    use = draws if look.kind in ("levels", "unit") else "Use"
    return f": it would be no normalised density there. {use} --likelihood {usual}"


def _dequantized(look: _Look, what: str, likelihood: str) -> Choice:
    kind: Kind = "unit" if likelihood == "continuous-bernoulli" else "real"
    levels = look.levels or (int(look.maximum) + 1 if kind == "unit" else None)
    divisor = float(levels or 1) if kind == "unit" else 1.0
    scaled = f", divided by {divisor:g}" if divisor != 1 else ""
    reason = (
        f"{what}: {likelihood} on x + u{scaled}, u ~ U[0, 1) drawn anew at each visit: its "
        f"density is a lower bound of the probability of the whole number x."
    )
    return Choice(kind, likelihood, reason, levels, look.step, dequantize=True, divisor=divisor)


def _describe(whole: bool, minimum: float, maximum: float) -> str:  # noqa: FBT001
    if whole:
        return f"whole numbers {minimum:g}..{maximum:g}"
    return f"reals in [{minimum:g}, {maximum:g}]"


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
    plain = partial(choose_likelihood, likelihood=likelihood, table=facts.columns is not None)
    if facts.columns is None:
        image, levels = facts.image, facts.levels
        return [plain(everything, dequantize=dequantize, image=image, levels=levels)]
    if all_counts(facts):
        return [plain(train, dequantize=dequantize, kind="counts")]
    whats = [f"column {column!r}" for column in facts.columns]  # an error should name the column
    if one_for_all(facts, options):
        for place, what in enumerate(whats):
            plain(everything.column(place), what=what)
        return [plain(everything)]
    choices = []
    for place, (column, what) in enumerate(zip(facts.columns, whats, strict=True)):
        declared, own = facts.kinds.get(column), facts.likelihoods.get(column)
        if (names := facts.categories.get(column)) is not None:
            chosen_ = own or ("ordinal" if declared == "ordinal" else "categorical")
            choices.append(_coded(what, names, chosen_))
            continue
        kind = cast("Kind | None", declared if declared in ("real", "counts", "date") else None)
        values = everything.column(place)
        if own is not None:
            suits = LIKELIHOODS[own].density and declared in ("whole", "date", None)
            suits = suits and bool(values.whole.all())
            look = choose_likelihood(
                values, what=what, likelihood=cast("LikelihoodName", own), dequantize=suits,
                table=True, kind=kind,
            )  # fmt: skip
            choices.append(replace(look, kind="date") if kind == "date" else look)
            continue
        look = choose_likelihood(values, what=what, table=True, kind=kind)
        if look.kind == "binary":  # no other likelihood gives 0 and 1 a probability of their own
            if likelihood not in ("auto", "bernoulli"):
                look = replace(look, reason=f"{what}: bernoulli, as asked for.")
            choices.append(look)
            continue
        if kind == "date":
            choices.append(look)
            continue
        suits = dequantize and kind != "real" and bool(values.whole.all())
        choices.append(plain(values, what=what, dequantize=suits, kind=kind))
    if dequantize and not any(choice.dequantize for choice in choices):
        raise DataError(f"{source}: no column holds whole numbers to dequantize; leave it out.")
    return _merged(choices)


def all_counts(facts: Facts) -> bool:
    """Whether the source itself declares that all columns are counts."""
    same = set(facts.kinds.values()) == {"counts"} and not facts.likelihoods
    return same and len(facts.kinds) >= len(facts.columns or ())


def one_for_all(facts: Facts, options: Mapping[str, Any]) -> bool:
    """Whether a likelihood of whole numbers was asked for, for all columns: those of pixels."""
    asked = LIKELIHOODS.get(options["likelihood"])
    plain = not facts.categories and not facts.likelihoods
    return asked is not None and not (asked.density or asked.whole) and plain


def _coded(what: str, names: Sequence[str], likelihood: str) -> Choice:
    """The choice of a column of codes."""
    kind = LIKELIHOODS[likelihood].kind
    if kind not in ("category", "ordinal"):
        raise DataError(
            f"{what}: its values are categories, whose likelihood is categorical or ordinal, not "
            f"{likelihood}."
        )
    words = "ordered levels" if kind == "ordinal" else "categories"
    reason = f"{what}: {len(names)} {words}: {likelihood}."
    return Choice(kind, likelihood, reason, len(names))


# A column whose name says so, and that has many different whole numbers, names the rows.
_IDENTIFIER = re.compile(
    r"(^|.*[_ ])(id|uuid|guid|index|idx|key|rownum|row_number)|.*[a-z]I[dD]", re.I
)
_MANY, _ROWS_COUNTED = 100, 20


def without_use(
    facts: Facts, seen: Mapping[Split, Summary], source: str, options: Mapping[str, Any]
) -> dict[str, str]:
    """Columns from which nothing can be learned, and why: no value, one value, the rows' numbers.

    Raises:
        DataError: If they may be pixels, of which some never change.
    """
    if facts.columns is None or all_counts(facts) or one_for_all(facts, options):
        return {}
    train, everything = seen["train"], Summary.joined(seen.values())
    _refuse_constant_pixels(everything, source, facts.columns)
    asked, found = {*options["categories"], *facts.likelihoods, *facts.kinds}, {}
    for place, column in enumerate(facts.columns):
        low, high = float(everything.low[place]), float(everything.high[place])
        names = facts.categories.get(column)
        if not train.count[place]:
            found[column] = f"column {column!r} has no value in any training row"
        elif facts.types.get(column) == "int" and max(-low, high) > 2.0**53:
            found[column] = (
                f"column {column!r} holds whole numbers as large as {max(-low, high):.4g}, more "
                f"than a float can hold exactly: an identifier"
            )
        elif low == high:
            value = repr(names[int(low)]) if names else f"{low:g}"
            found[column] = (
                f"column {column!r} is always {value}: there is nothing to learn from it, and a "
                f"density of it is infinite"
            )
        elif names is None and column not in asked and everything.whole[place]:
            reason = _rows_numbers(everything.column(place), column)
            found |= {column: f"column {column!r} {reason}"} if reason else {}
    return {column: f"{why}; --drop {quote(column)}." for column, why in found.items()}


def _rows_numbers(seen: Summary, column: str) -> str | None:
    """Why whole numbers name the rows: 0 or 1 to their number, each once; or by their name."""
    rows, low, high = seen.rows, float(seen.low[0]), float(seen.high[0])
    if _IDENTIFIER.fullmatch(column) and high - low >= _MANY:
        return "holds whole numbers, and its name is that of an identifier"
    counted = rows >= _ROWS_COUNTED and low in (0, 1) and high - low == rows - 1
    if counted and not seen.holes and math.isclose(seen.variance[0], (rows**2 - 1) / 12):
        return f"counts the rows from {low:g} to {high:g}"
    return None


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


def _merged(choices: list[Choice]) -> list[Choice]:
    """One choice where all columns are alike."""
    first = choices[0]
    same = {(each.kind, each.likelihood, each.dequantize) for each in choices}
    if len(same) > 1 or first.kind not in ("binary", "counts", "real"):
        return choices
    alike = f"all {len(choices)} columns alike. " if len(choices) > 1 else ""
    return [replace(first, reason=f"{alike}{first.reason}")]


def reasons_of(choices: list[Choice], facts: Facts) -> list[str]:
    """One sentence a choice; columns of one choice share it."""
    if len(choices) == 1:
        return [choices[0].reason]
    groups: dict[tuple[str, bool], list[tuple[str, Choice]]] = {}
    for column, choice in zip(facts.columns or (), choices, strict=True):
        groups.setdefault((choice.likelihood, choice.dequantize), []).append((column, choice))
    reasons = ["columns of several kinds: each has its own likelihood, a row's is their product."]
    for (likelihood, noisy), members in groups.items():
        names = listed([column for column, _ in members])
        if len(members) <= (_FEW_COUNTS if members[0][1].kind == "counts" else 1):
            reasons += [choice.reason for _, choice in members]
        elif noisy:
            reasons.append(
                f"{likelihood} on x + u, u ~ U[0, 1) drawn anew at each visit, a lower bound of "
                f"the probability of the whole numbers: {names}."
            )
        elif likelihood == "categorical":
            counts = listed([f"{column} ({choice.levels})" for column, choice in members])
            reasons.append(f"categorical: {counts}.")
        else:
            measure = "in its own units" if members[0][1].kind in _REAL else "of whole numbers"
            reasons.append(f"{likelihood}, {measure}: {names}.")
    return reasons


def choices_of(variable: Variable) -> list[Choice]:
    """The choices that made a variable, for reading another file in the same way."""
    parts = variable.parts or (variable,)
    return [
        Choice(p.kind, p.likelihood, "", p.levels, p.step, p.dequantized, p.divisor) for p in parts
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
        wants_whole = part.dequantized or part.is_whole
        top = part.levels - 1 if wants_whole and part.levels else np.inf
        top = 1.0 if part.kind == "unit" and not part.dequantized else top
        bottom = 0.0 if part.is_whole or part.kind == "unit" else -np.inf
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
    for what, number, drop in _first(train.count == 0, columns):
        raise DataError(
            f"{source}: {what} has no value in any training row ({number} such in all); {drop}."
        )


def _first(found: Array, columns: tuple[str, ...] | None) -> Iterator[tuple[str, int, str]]:
    """The first element that was found, if any, in words; how many they are; and a way out."""
    places = np.argwhere(found)
    if len(places):
        where = tuple(places[0].tolist())
        name = columns[where[0]] if columns is not None else str(where[0])
        what = f"column {name!r}" if columns is not None else f"column {name}"
        if len(where) > 1:
            yield f"element {where}", len(places), "leave it out"
        else:
            yield what, len(places), f"--drop {quote(name)}"


def _refuse_constant_pixels(seen: Summary, source: str, columns: tuple[str, ...]) -> None:
    constant = [
        column for place, column in enumerate(columns) if seen.low[place] == seen.high[place]
    ]
    levels = not seen.holes and bool(seen.whole.all())
    if len(constant) > 10 and levels and seen.low.min() >= 0 and seen.high.max() <= 255:
        low = seen.low[columns.index(constant[0])]
        raise DataError(
            f"{source}: column {constant[0]!r} is always {low:g} (and so are {len(constant) - 1} "
            f"others): there is nothing to learn from it, and a density of it is infinite; --drop "
            f"{' '.join(map(quote, constant[:10]))}; or, if these are pixels, --likelihood "
            f"discretized-logistic."
        )


def likelihood_of(
    variable: Variable | Data | Description,
    network: nn.Module | None = None,
    likelihood: str | None = None,
    *,
    components: int = 4,
) -> nn.Module:
    """The conditional ``"x | ..."`` that suits a variable, in the data's own units.

    Args:
        variable: The variable; of data or a description its ``"x"`` is taken.
        network: From the parents to features, as for every conditional.
        likelihood: Another likelihood for values of this kind (``"laplace"`` for reals, say);
            ``None`` or ``"auto"`` takes the one chosen when the data were loaded.
        components: How many logistics the mixture of a column has, under ``"mixture"``.

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
    allowed = [row.name for row in _ROWS if variable.kind in row.kinds] or [variable.likelihood]
    if likelihood == "mixture" and not columns_of(variable):
        raise DataError(
            f"{variable.name}: a mixture needs the quantiles of each column, which are kept of "
            f"tables of at most {_MOST_KNOTTED} columns; use another likelihood."
        )
    if likelihood != variable.likelihood and likelihood not in allowed:
        raise DataError(
            f"{variable.name}: {likelihood} is no likelihood for {variable.kind} values as they "
            f"were loaded; load the data with likelihood={likelihood!r} (--likelihood "
            f"{likelihood}), which checks the values, or use {' or '.join(allowed)}."
        )
    if not variable.parts and likelihood != "mixture":
        return LIKELIHOODS[likelihood].conditional(variable)(network=network)
    groups = []
    for places, group in _groups(replace(variable, likelihood=likelihood)):
        made = LIKELIHOODS[group.likelihood].conditional(group)
        if group.likelihood == "mixture":
            made = partial(made, components=components)
        groups.append((tuple(places), made))
    return Columns(groups, network)


def columns_of(variable: Variable) -> tuple[Variable, ...]:
    """The columns of a table, each a scalar variable; of columns all alike too."""
    if variable.parts or variable.knots is None:
        return variable.parts
    named = variable if variable.columns else replace(variable, columns=_numbered(variable))
    return tuple(named.by_column.values())


def _numbered(variable: Variable) -> tuple[str, ...]:
    return tuple([str(place) for place in range(variable.elements)])


def _groups(variable: Variable) -> list[tuple[list[int], Variable]]:
    """Columns of one likelihood and one number of levels, as one variable of several elements."""
    places: dict[tuple[str, int | None, str], list[int]] = {}
    columns = columns_of(variable)
    for place, part in enumerate(columns):
        levels = part.levels if part.kind in CODED else None
        alike = f"{part.kind}, {len(part.atoms[0])}" if part.likelihood == "mixture" else ""
        places.setdefault((part.likelihood, levels, alike), []).append(place)
    groups = []
    for (likelihood, levels, _), chosen in places.items():
        parts = [columns[place] for place in chosen]
        found = [part.knots for part in parts if part.knots is not None]
        knots = found if len(found) == len(parts) else None
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
            knots=None if knots is None else torch.stack(knots),
            atoms=sum([part.atoms for part in parts], ()),
            shares=sum([part.shares for part in parts], ()),
        )
        groups.append((chosen, together))
    return groups


def refuse_coarse(facts: Facts, train: Summary, source: str, choices: list[Choice]) -> None:
    """Single precision must resolve the spread of each real element."""
    real = np.array([choice.kind in _REAL for choice in choices])
    if not real.any() or (len(choices) == 1 and train.dtype.itemsize < 4):
        return
    coarse = (np.abs(train.mean) * 2.0**-24 > 1e-3 * train.std) & (train.std > 0) & real
    for what, _, _ in _first(coarse, facts.columns):
        place = tuple(np.argwhere(coarse)[0])
        remedy = "subtract a constant from it first"
        if len(choices) > 1 and choices[place[0]].kind == "date":
            remedy = "write it as hours since the first, or --drop it"
        raise DataError(
            f"{source}: {what} has mean {train.mean[place]:.6g} but varies by "
            f"{train.std[place]:.3g} only, which single precision cannot resolve; {remedy}."
        )


def binarization(
    facts: Facts,
    seen: Summary,
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
) -> tuple[float | None, list[str]]:
    """The level of probability 1 where grey values are to be binarized; and a note of it.

    Args:
        facts: What the source says of its rows.
        seen: Of all rows.
        source: For messages.
        options: Those of :func:`~deeplvm.data.load`.
        trained: The variable of the training data, where these are other data.

    Raises:
        DataError: If the values have holes, or are not grey values.
    """
    if (binarize := options["binarize"]) is None:
        return None, []
    low, high, whole = float(seen.low.min()), float(seen.high.max()), bool(seen.whole.all())
    if seen.holes:
        raise DataError(f"{source}: --binarize needs values without holes; leave it out.")
    scale = None if trained is None else trained.grey
    if scale is None and whole and low >= 0 and high <= 1 and facts.levels is None:
        return None, [f"--binarize {binarize} changes nothing: the values are 0 and 1 already."]
    if scale is not None and not (low >= 0 and high <= scale):
        raise DataError(
            f"{source}: the model was fitted to binarized values 0..{scale:g}, found values in "
            f"[{low:g}, {high:g}]."
        )
    if scale is None and not (low >= 0 and (high <= 1 or (whole and high <= 255))):
        raise DataError(
            f"{source}: --binarize reads grey values in [0, 1] or levels 0..255 as probabilities, "
            f"but found {'whole numbers' if whole else 'reals'} in [{low:g}, {high:g}]; leave it "
            f"out."
        )
    if scale is None:
        levels = facts.levels or (int(high) + 1 if high < 32 else 256)
        scale = float(levels - 1) if whole else 1.0
    drawn = "Bernoulli(x)" if scale == 1 else f"Bernoulli(x/{scale:g})"
    if binarize == "static":
        words = f"each element was drawn once as {drawn}, seed {options['seed']}."
        return scale, [f"static binarization: {words}"]
    words = (
        f"{drawn} drawn anew at each visit of a training row; validation and test rows were drawn "
        f"once, seed {options['seed']}. Likelihoods are not comparable with those of a static "
        f"binarization."
    )
    return scale, [f"dynamic binarization: {words}"]


def variable_of(
    facts: Facts,
    source: str,
    choices: list[Choice],
    seen: Mapping[Split, Summary],
    train_rows: Tensor,
    exact: Tensor,
) -> Variable:
    """The variable ``x`` with the statistics of its training rows.

    Args:
        facts: What the source says of its rows.
        source: For messages.
        choices: One, or one a column.
        seen: The summary of each split's rows as they are modelled.
        train_rows: Some or all of the training rows as they are modelled.
        exact: Some of them without noise and in the precision of the source.

    Raises:
        DataError: If an element whose likelihood is a density is constant in the training rows.
    """
    train, everything = seen["train"], Summary.joined(seen.values())
    mean, std = torch.from_numpy(train.mean), torch.from_numpy(train.std)
    first = choices[0]
    columns = facts.columns or ()
    knotted = _knotted(choices, train_rows)
    types = tuple([facts.types.get(column, "") for column in columns or ("x",)])
    each = choices if len(choices) > 1 else choices * len(columns)
    digits = tuple(
        decimals(exact[:, place].numpy())
        if choice.kind == "real" and not choice.dequantize
        else None
        for place, choice in enumerate(each[: exact.shape[-1]])
    )
    parts: tuple[Variable, ...] = ()
    if len(choices) == 1:
        if first.kind in _REAL and first.likelihood != "beta":
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
                types=types[place : place + 1],
                digits=digits[place : place + 1],
                **knotted([place]),
            )
            for place, (column, choice) in enumerate(zip(columns, choices, strict=True))
        )
        reals = torch.tensor([part.kind in _REAL for part in parts])
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
        types=types if any(types) else (),
        digits=digits,
        **({} if parts else knotted(range(train_rows.shape[-1]))),
    )


def _knotted(
    choices: list[Choice], train_rows: Tensor
) -> Callable[[Sequence[int]], dict[str, Any]]:
    """Knots, atoms and shares of some columns by their places."""
    if train_rows.dim() != 2 or not 0 < train_rows.shape[1] <= _MOST_KNOTTED:
        return lambda _: {}
    step = -(-train_rows.numel() // _LOOKED_AT)
    rows = train_rows[::step].numpy()

    def found(places: Sequence[int]) -> dict[str, Any]:
        choice = choices[places[0]] if len(choices) > 1 else choices[0]
        if choice.kind in CODED and len(choices) > 1:
            codes = np.arange(choice.levels or 2)
            return {"shares": tuple([shares_of(rows[:, place], codes) for place in places])}
        counts = choice.kind == "counts" and (len(choices) > 1 or choice.likelihood == "mixture")
        if not (choice.kind in _REAL or counts) or not len(places):
            return {}
        none = np.zeros(0)
        atoms = [
            none if choice.dequantize else repeated(rows[:, place], whole=counts)
            for place in places
        ]
        pairs = list(zip(places, atoms, strict=True))
        knots = [quantiles(rows[:, place], each) for place, each in pairs]
        return {
            "knots": torch.from_numpy(knots[0] if len(choices) > 1 else np.stack(knots)),
            "atoms": tuple([tuple(each.tolist()) for each in atoms]),
            "shares": tuple([shares_of(rows[:, place], each) for place, each in pairs]),
        }

    return found


def _refuse_constant(std: Tensor, source: str, columns: tuple[str, ...] | None) -> None:
    for what, number, drop in _first((std <= 0).numpy(), columns):
        raise DataError(
            f"{source}: {what} is constant in the training rows ({number} such in all), and a "
            f"density of a constant is infinite; {drop}."
        )


def warnings_of(variable: Variable, seen: Mapping[Split, Summary], train: Tensor) -> list[str]:
    """What a density cannot say of rounded or repeated values."""
    known = []
    if variable.missing:
        parts = [part.holes / (part.rows * part.count.size) for part in seen.values() if part.rows]
        share = float(np.mean(parts))
        known = [f"{100 * share:.2g}% of the values are missing; likelihoods are of the others."]
    if variable.columns is None:
        return known
    everything, found = Summary.joined(seen.values()), dict[str, list[str]]()
    for place, (name, part) in enumerate(variable.by_column.items()):
        if part.kind in _REAL:
            ends = float(everything.low[place]), float(everything.high[place])
            for kind, said in _warnings_of(part, ends, train[:, place]).items():
                found.setdefault(kind, []).append(f"warning: column {name!r} {said}")
    for each in found.values():  # of many columns that are alike in this, the first
        known += each[:_FEW_WARNINGS]
        if len(each) > _FEW_WARNINGS:
            known.append(f"warning: and {len(each) - _FEW_WARNINGS} more columns like these.")
    return known


def _warnings_of(part: Variable, ends: tuple[float, float], column: Tensor) -> dict[str, str]:
    """What hides the others, or repeats, among the values of a column."""
    rows, found = column[~column.isnan()], {}
    if not len(rows):
        return {}
    if part.knots is not None:
        below, above = part.knots[[1, -2]].tolist()
        spread = above - below
        far = [f"{end:g}" for end in ends if not below - spread <= end <= above + spread]
        reach = max(ends[1] - above, below - ends[0])
        if spread > 0 and (float(part.std) > _HIDDEN * spread or reach > _FAR * spread):
            found["outliers"] = (
                f"reaches {' and '.join(far)}, but most of it lies between {below:g} and "
                f"{above:g}: a few values may hide all others; correct them, or make them missing."
            )
    rows = (rows * part.divisor).floor() if part.dequantized else rows
    values, counts = rows.unique(return_counts=True)
    most, at = float(counts.max()) / len(rows), float(values[counts.argmax()])
    others = values[values != at]
    low, high = (float(others.min()), float(others.max())) if len(others) else (at, at)
    if most > _SENTINEL and len(others) > 2 and max(low - at, at - high) > high - low:
        found["sentinels"] = (
            f"is exactly {at:g} in {100 * most:.2g}% of the rows, far from all others; if that "
            f'means missing: --schema FILE with missing = ["{at:g}"] for it.'
        )
    if len(values) <= 2 and not part.dequantized:
        found["few"] = (
            f"takes only {len(values)} values, so a density of it can grow without bound; "
            f"--categories {quote(part.name)} gives them probabilities."
        )
    elif part.likelihood != "mixture" and not part.dequantized:
        stands_out = most > _OFTEN and float(counts.max()) > _TIMES * float(counts.median())
        if most > 0.5 or stands_out:
            found["atoms"] = (
                f"({100 * most:.0f}% of it) is exactly {at:g}, so a density of it can grow "
                f"without bound; --likelihood mixture, which the recipes of tables take by "
                f"themselves, gives this value a probability."
            )
    return found
