"""What kind of numbers these are, and which likelihood suits them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from deeplvm.conditionals.columns import Columns
from deeplvm.data.likelihood_table import LIKELIHOODS, USUAL, Likelihood, Range, spelled
from deeplvm.data.readers.source import Array, Facts
from deeplvm.data.records import Data, Description, Split
from deeplvm.data.statistics import MOST_KNOTS, Summary, bounds_of, gain_of_mixture, repeated
from deeplvm.data.variable import CODED, DataError, Kind, Variable, listed

# A variance this many times the mean is too much for a Poisson even before the latents explain
# some of it: 1 is exact for a Poisson, and latents only add.
OVERDISPERSION = 1.5
UNDERDISPERSION = 0.7
# Beyond it, single precision spoils the log-gamma of a count, and rounding is invisible anyway.
LARGEST_COUNT = 4096
LARGEST_IMAGE_LEVEL = 255
_SINGLE = 2**24  # beyond it single precision no longer holds every whole number
# Nats a value that a mixture must be above a Gaussian.
_GAIN = 0.02
# Columns of a table for which a density may need knots and atoms.
MOST_KNOTTED = 1000
# Kinds that have a density in the data's own units.
REAL: tuple[Kind, ...] = ("real", "date")


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
        why: Of a column, why this likelihood, in a few words, where its values decided.
        options: Of the likelihood, as they were written.
    """

    kind: Kind
    likelihood: str
    reason: str
    levels: int | None = None
    step: float = 1.0
    dequantize: bool = False
    divisor: float = 1.0
    why: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def choose_likelihood(
    values: Array | Summary,
    *,
    what: str = "x",
    likelihood: str = "auto",
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
        likelihood: ``"auto"``, or a name to be checked, with options in parentheses if any.
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
    deeplvm.data.variable.DataError: x: a Bernoulli needs 0 and 1 only, found reals in [0.1, ...
    """
    seen = values if isinstance(values, Summary) else Summary.of(values)
    look = _look(seen, what, image=image, table=table, kind=kind, levels=levels)
    likelihood, options = spelled(likelihood)
    if likelihood != "auto":
        found = _check(look, what, likelihood, dequantize=dequantize)
        coded = found.likelihood == "categorical" and image and look.kind == "levels"
        # of pixels categories are levels all the same, which networks see as numbers
        return replace(found, options=options, kind="levels" if coded else found.kind)
    if dequantize and look.kind != "binary":
        if not look.whole:
            raise DataError(_NO_ROUNDING.format(what))
        return _dequantized(look, what, "gaussian")
    if look.kind == "binary":
        return Choice("binary", "bernoulli", f"{what}: values are 0 and 1: bernoulli.", 2)
    if look.kind == "levels":
        top = f"0..{look.levels - 1 if look.levels else ''}"
        mixed = ", of which recipes of pixels take a mixture" if image else ""
        reason = f"{what}: whole levels {top}: discretized-logistic{mixed}. If they are counts: "
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
) -> Range:
    if not seen.count.any():
        raise DataError(f"{what}: every value is missing; --drop it, or fill it in.")
    minimum, maximum = float(seen.low.min()), float(seen.high.max())
    whole = bool(seen.whole.all())
    if kind == "real" or (kind == "date" and not whole):
        return Range(kind, minimum, maximum, whole=False)
    if kind == "date":
        return Range("date", minimum, maximum)
    if kind == "counts" and (not whole or minimum < 0):
        raise DataError(
            f"{what}: declared as counts, but holds {_describe(whole, minimum, maximum)}."
        )
    if whole and minimum >= 0 and maximum <= 1 and kind is None and levels is None:
        return Range("binary", minimum, maximum, levels=2)
    if levels is not None:
        if not whole or minimum < 0 or maximum >= levels:
            raise DataError(
                f"{what}: expected whole levels 0..{levels - 1}, found "
                f"{_describe(whole, minimum, maximum)}."
            )
        return Range("levels", minimum, maximum, levels=levels)
    if whole and minimum >= 0:
        bytes_ = seen.dtype == np.uint8
        if kind is None and not table and (image or bytes_) and maximum <= LARGEST_IMAGE_LEVEL:
            return Range(
                "levels", minimum, maximum, levels=int(maximum) + 1 if maximum < 32 else 256
            )
        return Range("counts", minimum, maximum, dispersion=_dispersion(seen))
    if whole:
        return Range("counts", minimum, maximum)
    if minimum >= 0 and maximum <= 1 and not table:
        if seen.steps:
            # the coarsest that fits; 0 .. steps - 1 where the steps are those of bits and 1 is not
            # there, as in k / 256
            steps = seen.steps[0]
            levels = steps + int(maximum == 1 or steps & (steps + 1) == 0)
            return Range("levels", minimum, maximum, levels=levels, step=1.0 / steps)
        return Range("unit", minimum, maximum, whole=False)
    return Range("real", minimum, maximum, whole=False)


def _dispersion(seen: Summary) -> float:
    """Variance over mean, both summed over the elements of a row."""
    return float(np.nansum(seen.variance)) / max(float(np.nansum(seen.mean)), 1e-12)


def _check(look: Range, what: str, likelihood: str, *, dequantize: bool) -> Choice:
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
            f"{what}: {title} needs few levels, found {found}; use --likelihood negative-binomial "
            f"for counts, gaussian with --dequantize uniform for pixels."
        )
    else:
        levels = max(levels, 2)
    step = look.step if row.kind in CODED else 1.0
    kind = row.whole if row.whole and look.whole and look.step == 1 else row.kind
    return Choice(kind, likelihood, f"{what}: {likelihood}, as asked for.", levels, step)


_NO_ROUNDING = "{}: holds reals, so there is no rounding to dequantize; leave out --dequantize."


def _instead(look: Range, asked: Likelihood) -> str:
    """What to do where the likelihood that was asked for does not suit."""
    usual = "gaussian" if look.minimum < 0 or asked.density else USUAL[look.kind]
    if asked.name == "beta" and look.minimum >= 0 and look.maximum <= 1:
        usual = "continuous-bernoulli, which allows 0 and 1, or gaussian"
    if look.whole and look.minimum < 0:
        usual += " with --dequantize uniform"
    if asked.kind != "binary":
        return f"; use --likelihood {usual}"
    draws = "--binarize dynamic or --binarize static draws them as 0 and 1; or use"
    use = draws if look.kind in ("levels", "unit") else "Use"
    return f": it would be no normalised density there. {use} --likelihood {usual}"


def _dequantized(look: Range, what: str, likelihood: str) -> Choice:
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
    facts: Facts,
    seen: Mapping[Split, Summary],
    sample: Array,
    source: str,
    options: Mapping[str, Any],
    name: str = "x",
) -> list[Choice]:
    """One choice for an array or a table of one kind, otherwise one a column.

    Args:
        facts: What the source says of its rows.
        seen: The summary of each split's rows.
        sample: Some of the training rows.
        source: For messages.
        options: Those of :func:`~deeplvm.data.load`.
        name: What an array is called in the model.
    """
    if facts.vocabulary is not None:
        return [Choice("token", "categorical", "", len(facts.vocabulary))]
    asked = spelled(options["likelihood"])
    own = {column: spelled(text) for column, text in facts.likelihoods.items()}
    facts = replace(facts, likelihoods={column: name for column, (name, _) in own.items()})
    found = _choose(facts, seen, sample, source, {**options, "likelihood": asked[0]}, name)
    columns = facts.columns if len(found) == len(facts.columns or ()) else ()
    each = [own.get(column, asked) for column in columns or ()] or [asked]
    choices = [
        replace(choice, options=written) if choice.likelihood == likelihood else choice
        for choice, (likelihood, written) in zip(found, each, strict=True)
    ]
    return choices if len(choices) == 1 else _merged(choices)


def _choose(
    facts: Facts,
    seen: Mapping[Split, Summary],
    sample: Array,
    source: str,
    options: Mapping[str, Any],
    name: str,
) -> list[Choice]:
    """Of likelihoods by their names alone."""
    likelihood = options["likelihood"]
    train, everything = seen["train"], Summary.joined(seen.values())
    dequantize = options["dequantize"] == "uniform"
    if options["dequantize"] == "auto":
        of_rest = likelihood == "auto" or LIKELIHOODS[likelihood].density
        dequantize = of_rest and not options["binarize"] and _is_whole(facts, everything)
    _refuse_silent(train, source, facts.columns)
    if any([LIKELIHOODS[each].joint for each in facts.likelihoods.values()]):
        likelihood = _for_all(facts, source)
        facts, options = replace(facts, likelihoods={}), {**options, "likelihood": likelihood}
    plain = partial(choose_likelihood, likelihood=likelihood, table=facts.columns is not None)
    if facts.columns is None:
        image, levels = facts.image, facts.levels
        return [plain(everything, what=name, dequantize=dequantize, image=image, levels=levels)]
    if all_counts(facts, options):
        high = float(train.high.max())
        if likelihood == "auto" and not dequantize and high > LARGEST_COUNT:
            found = plain(train, likelihood="negative-binomial", kind="counts")
            return [replace(found, reason=f"{name}: counts up to {high:g}: {found.likelihood}.")]
        return [plain(train, what=name, dequantize=dequantize, kind="counts")]
    whats = [f"column {column!r}" for column in facts.columns]  # an error should name the column
    if one_for_all(facts, options):
        for place, what in enumerate(whats):
            plain(everything.column(place), what=what)
        return [plain(everything, what=name)]
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
            row = LIKELIHOODS[own]
            suits = row.density or _unlike_counts(row, values, kind)
            suits = suits and declared in ("whole", "date", None)
            suits = suits and bool(values.whole.all())
            look = choose_likelihood(
                values, what=what, likelihood=own, dequantize=suits,
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
        noisy = dequantize and kind != "real" and bool(values.whole.all())
        if likelihood == "auto" and not noisy and len(whats) <= MOST_KNOTTED:
            look = suited(look, what, values, sample[:, place])
        if kind == "date" or (likelihood == "auto" and not noisy):
            choices.append(look)
            continue
        row = LIKELIHOODS.get(likelihood)
        noisy = noisy or (row is not None and kind is None and _unlike_counts(row, values))
        choices.append(plain(values, what=what, dequantize=noisy, kind=kind))
    if dequantize and not any(choice.dequantize for choice in choices):
        raise DataError(f"{source}: no column holds whole numbers to dequantize; leave it out.")
    return choices


def _is_whole(facts: Facts, everything: Summary) -> bool:
    """Whether all values are whole numbers, or whole levels of a grey, and not 0 and 1 alone."""
    if facts.columns is not None:
        low, high = float(everything.low.min()), float(everything.high.max())
        plain = not facts.categories and not facts.likelihoods
        return plain and bool(everything.whole.all()) and (low < 0 or high > 1)
    image, levels = facts.image, facts.levels
    look = _look(everything, "x", image=image, table=False, kind=None, levels=levels)
    return look.kind in ("levels", "counts") and look.whole


def _for_all(facts: Facts, source: str) -> str:
    """The one likelihood of all columns, of which each says that it is of them together."""
    named = {*facts.likelihoods.values()}
    if len(named) > 1 or len(facts.likelihoods) < len(facts.columns or ()):
        column, joint = next((c, n) for c, n in facts.likelihoods.items() if LIKELIHOODS[n].joint)
        raise DataError(
            f"{source}: column {column!r}: {joint} is of all columns of a row together, given "
            f"their total; name it for all of them, or poisson or negative-binomial for this one."
        )
    return named.pop()


def suited(choice: Choice, what: str, seen: Summary, values: Array) -> Choice:
    """What suits a column of a table, where it would be a Gaussian, by what its values are like.

    A mixture where values repeat, where they are bounded, and where held-out ones are likelier by
    their normal scores than by a Gaussian; of whole numbers too large for counts a probability
    each. Of counts a mixture where they end at a cap, and where held-out ones are likelier by it
    than by a negative binomial.

    Args:
        choice: By a look at their summary.
        what: What the reason calls the column.
        seen: Of all rows.
        values: Some of the training rows.
    """
    low, high = float(seen.low[0]), float(seen.high[0])
    if choice.likelihood in ("poisson", "negative-binomial"):
        _, largest = bounds_of(values, low, high, repeated(values))
        gain, error = gain_of_mixture(values, counts=True)
        told = [f"at most {largest:g}"] if math.isfinite(largest) else []
        if gain > _GAIN + 2 * error:
            told.append(f"{gain:.2g} nats a value above a negative binomial")
        if not told:
            return choice
        why = ", ".join(told)
        reason = f"{what}: counts, {why}: mixture, a probability of each."
        return Choice("counts", "mixture", reason, why=why)
    if choice.likelihood != "gaussian":
        return choice
    if choice.dequantize and choice.kind == "real" and 0 <= low <= high <= _SINGLE:
        why = f"whole numbers up to {high:g}"
        return Choice(
            "counts", "mixture", f"{what}: {why}: mixture, a probability of each.", why=why
        )
    atoms, told = repeated(values), []
    if choice.dequantize:
        values = values + np.random.default_rng(0).random(values.shape)
        atoms = atoms[:0]
    if len(atoms):
        told.append(f"often exactly {listed([f'{atom:g}' for atom in atoms], 3)}")
    if choice.kind == "real" and not choice.dequantize:
        least, largest = bounds_of(values, low, high, atoms)
        if math.isfinite(largest):
            told.append(f"in [{least:g}, {largest:g}]")
        elif math.isfinite(least):
            told.append(f"at least {least:g}")
    gain, error = gain_of_mixture(values)
    if gain > _GAIN + 2 * error:
        told.append(f"{gain:.2g} nats a value above a Gaussian")
    if not told:
        return replace(choice, why="close to normal")
    why = ", ".join(told)
    of = "on x + u, u ~ U[0, 1), with" if choice.dequantize else "in the data's own units,"
    reason = f"{what}: {why}: mixture, {of} a density on its normal scores."
    return replace(choice, likelihood="mixture", reason=reason, why=why)


def _unlike_counts(row: Likelihood, values: Summary, kind: Kind | None = None) -> bool:
    """Whether a likelihood with probabilities of counts has a density of these whole numbers."""
    counts = 0 <= float(values.low[0]) <= float(values.high[0]) <= _SINGLE
    return bool(row.whole and values.whole.all() and (kind == "date" or not counts))


def all_counts(facts: Facts, options: Mapping[str, Any]) -> bool:
    """Whether the source itself declares that all columns are counts; a schema is of each."""
    same = set(facts.kinds.values()) == {"counts"} and not options["schema"]
    return same and len(facts.kinds) >= len(facts.columns or ())


def one_for_all(facts: Facts, options: Mapping[str, Any]) -> bool:
    """Whether a likelihood of whole numbers was asked for, for all columns: those of pixels."""
    asked = LIKELIHOODS.get(spelled(options["likelihood"])[0])
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


def _merged(choices: list[Choice]) -> list[Choice]:
    """One choice where all columns are alike."""
    first = choices[0]
    same = {(c.kind, c.likelihood, c.dequantize, repr(c.options)) for c in choices}
    if len(same) > 1 or first.kind not in ("binary", "counts", "real"):
        return choices
    alike = f"all {len(choices)} columns alike. " if len(choices) > 1 else ""
    return [replace(first, reason=f"{alike}{first.reason}")]


def _refuse_silent(train: Summary, source: str, columns: tuple[str, ...] | None) -> None:
    """No element may be missing in all training rows: nothing could be learned of it."""
    for what, number, drop in first_of(train.count == 0, columns):
        raise DataError(
            f"{source}: {what} has no value in any training row ({number} such in all); {drop}."
        )


def first_of(found: Array, columns: tuple[str, ...] | None) -> Iterator[tuple[str, int, str]]:
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


def likelihood_of(
    variable: Variable | Data | Description,
    network: nn.Module | None = None,
    likelihood: str | None = None,
    *,
    components: int | None = None,
) -> nn.Module:
    """The conditional ``"x | ..."`` that suits a variable, in the data's own units.

    Args:
        variable: The variable; of data or a description the one that they have.
        network: From the parents to features, as for every conditional.
        likelihood: Another likelihood for values of this kind (``"laplace"`` for reals, say, or
            ``"gaussian(scale='global')"``); ``None`` or ``"auto"`` takes the one chosen when the
            data were loaded, with its options.
        components: How many logistics the mixture of a column has, under ``"mixture"``; by default
            four, and two of few rows, whose columns have fewer knots than 33.

    Returns:
        A module whose ``forward(*parents)`` is a distribution with event shape
        ``variable.shape``. It starts at the mean of the training rows where that has a meaning.

    Raises:
        DataError: If the likelihood is not one for values of this kind, or the data have several
            variables.

    >>> from deeplvm.data import load
    >>> from deeplvm.networks import MLP
    >>> decoder = likelihood_of(load("iris", likelihood="gaussian"), MLP(2, 16))
    >>> type(decoder).__name__, tuple(decoder.event_shape)
    ('Gaussian', (4,))
    """
    if not isinstance(variable, Variable):
        if len(variable.variables) > 1:
            raise DataError(
                f"{variable.name} has the variables {', '.join(variable.variables)}, each with a "
                f"likelihood of its own: likelihood_of(data.variables[name], network)."
            )
        (variable,) = variable.variables.values()
    if variable.kind == "graph":
        raise DataError(
            f"{variable.name} is a graph, whose edges this model does not know; take the recipe "
            f"variational_graph_autoencoder."
        )
    if likelihood not in (None, "auto"):
        likelihood, options = spelled(likelihood)
        variable = replace(alike(variable, likelihood) or variable, likelihood_options=options)
    if likelihood in (None, "auto"):
        likelihood = variable.likelihood
    allowed = [row.name for row in LIKELIHOODS.values() if variable.kind in row.kinds] or [
        variable.likelihood
    ]
    if likelihood == "mixture" and not columns_of(variable):
        raise DataError(
            f"{variable.name}: a mixture needs the quantiles of each column, which are kept of "
            f"tables of at most {MOST_KNOTTED} columns; use another likelihood."
        )
    if likelihood != variable.likelihood and likelihood not in allowed:
        raise DataError(
            f"{variable.name}: {likelihood} is no likelihood for {variable.kind} values as they "
            f"were loaded; load the data with likelihood={likelihood!r} (--likelihood "
            f"{likelihood}), which checks the values, or use {' or '.join(allowed)}."
        )
    if not variable.parts and likelihood != "mixture":
        return LIKELIHOODS[likelihood].of(variable)(network=network)
    groups = []
    for places, group in _groups(replace(variable, likelihood=likelihood)):
        made = LIKELIHOODS[group.likelihood].of(group)
        if group.likelihood == "mixture" and group.knots is not None:
            asked = group.likelihood_options.get("components")
            if asked and components:
                raise DataError(
                    f"mixture(components={asked}): this model says itself how many components the "
                    f"mixture of a column has, {components}; leave that out."
                )
            many = group.knots.shape[-1] >= MOST_KNOTS
            made = partial(made, components=components or asked or (4 if many else 2))
        groups.append((tuple(places), made))
    return Columns(groups, network)


def alike(variable: Variable, likelihood: str | None) -> Variable | None:
    """A table with one likelihood for all columns, where it is one of the kinds of them all."""
    kinds = {part.kind for part in variable.by_column.values()}
    kinds -= {"binary"} if "counts" in kinds else set()  # counts of what is seldom
    if len(kinds) != 1 or likelihood in (variable.likelihood, "mixture"):
        return None
    (kind,) = kinds
    if likelihood not in LIKELIHOODS or kind not in LIKELIHOODS[likelihood].kinds or kind in CODED:
        return None
    return replace(variable, kind=kind, likelihood=likelihood, parts=(), likelihood_options={})


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
        alike = ""
        if part.likelihood == "mixture" and part.knots is not None:
            alike = f"{part.kind}, {len(part.atoms[0])}, {part.scores is None}, {len(part.knots)}"
        alike += repr(part.likelihood_options)
        places.setdefault((part.likelihood, levels, alike), []).append(place)
    groups = []
    for (likelihood, levels, _), chosen in places.items():
        parts = [columns[place] for place in chosen]
        found = [part.knots for part in parts if part.knots is not None]
        knots = found if len(found) == len(parts) else None
        scores = [part.scores for part in parts if part.scores is not None]
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
            scores=torch.stack(scores) if scores and len(scores) == len(parts) else None,
            bounds=sum([part.bounds or ((None, None),) for part in parts], ()),
            atoms=sum([part.atoms for part in parts], ()),
            shares=sum([part.shares for part in parts], ()),
            likelihood_options=parts[0].likelihood_options,
        )
        groups.append((chosen, together))
    return groups
