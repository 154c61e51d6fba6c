"""A variable is made of a source: columns of use, likelihoods, statistics, refusals, warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.likelihood import (
    MOST_KNOTTED,
    REAL,
    Choice,
    all_counts,
    choose,
    first_of,
    one_for_all,
)
from deeplvm.data.readers.source import Array, Facts
from deeplvm.data.records import Split
from deeplvm.data.statistics import Summary, bounds_of, decimals, knots_of, repeated, shares_of
from deeplvm.data.tokens import END
from deeplvm.data.variable import CODED, DataError, Variable, listed

# Columns of one likelihood that have a sentence each, and warnings of one kind.
_FEW_COUNTS, _FEW_WARNINGS = 5, 5
# A standard deviation, or a value, this many times the range of 15 in 16 values away is that of a
# few; a value this often at the edge, far from the others, may stand for a missing one.
_HIDDEN, _FAR, _SENTINEL = 20, 1000, 0.005
# A value that is this often there, and so many times as often as one in the median, has mass.
_OFTEN, _TIMES = 0.1, 10
_BOUNDED = ("real", "counts")  # kinds that a mixture may have bounds of
# Values of a table that are looked at for knots and atoms.
_LOOKED_AT = 20_000_000
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
    if facts.columns is None or all_counts(facts, options) or one_for_all(facts, options):
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
    sample: Callable[[], Array],
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
    name: str = "x",
) -> tuple[list[Choice], list[str]]:
    """The choices, or those of the training data; and the reasons. ``sample`` are training rows.

    Raises:
        DataError: If no likelihood suits, or the training data's does not.
    """
    if trained is not None:
        refuse_unlike(seen["test"], source, trained)
        return choices_of(trained), []
    choices = choose(facts, seen, sample(), source, options, name)
    refuse_coarse(facts, seen["train"], source, choices)
    return choices, reasons_of(choices, facts)


def reasons_of(choices: list[Choice], facts: Facts) -> list[str]:
    """One sentence a choice; columns of one choice share it."""
    if len(choices) == 1:
        return [choices[0].reason] if choices[0].reason else []
    groups: dict[tuple[str, bool, bool], list[tuple[str, Choice]]] = {}
    for column, choice in zip(facts.columns or (), choices, strict=True):
        group = (choice.likelihood, choice.dequantize, choice.kind in REAL)
        groups.setdefault(group, []).append((column, choice))
    reasons = ["columns of several kinds: each has its own likelihood, a row's is their product."]
    for (likelihood, noisy, _), members in groups.items():
        names = listed([f"{column} ({c.why})" if c.why else column for column, c in members])
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
            measure = "in its own units" if members[0][1].kind in REAL else "of whole numbers"
            reasons.append(f"{likelihood}, {measure}: {names}.")
    return reasons


def choices_of(variable: Variable) -> list[Choice]:
    """The choices that made a variable, for reading another file in the same way."""
    parts = variable.parts or (variable,)
    return [
        Choice(
            p.kind,
            p.likelihood,
            "",
            p.levels,
            p.step,
            p.dequantized,
            p.divisor,
            options=p.likelihood_options,
        )
        for p in parts
    ]


def refuse_other_shape(shape: tuple[int, ...], source: str, variable: Variable) -> None:
    """Other data must have as many numbers a row as the training data."""
    if int(np.prod(shape)) != variable.elements:
        raise DataError(
            f"{source}: rows have shape {shape}, but the model was fitted to {variable.shape}."
        )


def refuse_unlike(seen: Summary, source: str, variable: Variable) -> None:
    """Other data must lie in the support of the training data's likelihood."""
    apart = bool(variable.parts or (variable.bounds and variable.columns))
    parts = tuple(variable.by_column.values()) if apart else (variable,)
    for place, part in enumerate(parts):
        values = seen.column(place) if apart else seen
        if not values.count.any():
            continue
        what = f"column {part.name!r}" if apart else variable.name
        low, high = float(values.low.min()) / part.step, float(values.high.max()) / part.step
        whole = (
            bool(values.whole.all()) if part.step == 1 else round(1 / part.step) in values.steps
        )
        wants_whole, bottom, top = support_of(part)
        hint = ""
        if part.bounds and part.bounds[0] != (None, None):
            low, high = _as_it_rests(low), _as_it_rests(high)
            hint = " Correct them, or fit again with wider bounds of it in RUN/schema.toml."
        if (wants_whole and not whole) or low < bottom or high > top:
            need = "whole numbers" if wants_whole else "reals"
            bounds = f" in [{bottom:g}, {top:g}]" if np.isfinite(top) else ""
            least = f" of at least {bottom:g}" if np.isfinite(bottom) else ""
            bounds = bounds or least
            raise DataError(
                f"{source}: {what}: the model was fitted to {need}{bounds} "
                f"({part.likelihood}), found {'whole numbers' if whole else 'reals'} in [{low:g}, "
                f"{high:g}].{hint}"
            )


def support_of(part: Variable) -> tuple[bool, float, float]:
    """Whether values of a column, in its own step, are whole; the least and the largest."""
    whole = part.dequantized or part.is_whole
    top = float(part.levels - 1) if whole and part.levels else np.inf
    top = 1.0 if part.kind == "unit" and not part.dequantized else top
    bottom = 0.0 if part.is_whole or part.kind == "unit" else -np.inf
    if part.bounds and part.bounds[0] != (None, None):
        low, high = part.bounds[0]
        bottom, top = (-np.inf if low is None else low), (np.inf if high is None else high)
    return whole, bottom, top


def _as_it_rests(end: float) -> float:
    """The shortest decimal of what single precision makes of a number, as the data rest."""
    return float(str(np.float32(end)))


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


def refuse_coarse(facts: Facts, train: Summary, source: str, choices: list[Choice]) -> None:
    """Single precision must resolve the spread of each real element."""
    real = np.array([choice.kind in REAL for choice in choices])
    if not real.any() or (len(choices) == 1 and train.dtype.itemsize < 4):
        return
    coarse = (np.abs(train.mean) * 2.0**-24 > 1e-3 * train.std) & (train.std > 0) & real
    for what, _, _ in first_of(coarse, facts.columns):
        place = tuple(np.argwhere(coarse)[0])
        raise DataError(
            f"{source}: {what} has mean {train.mean[place]:.6g} but varies by "
            f"{train.std[place]:.3g} only, which single precision cannot resolve; subtract a "
            f"constant from it first."
        )


def binarization(
    facts: Facts, seen: Summary, source: str, options: Mapping[str, Any], trained: Variable | None
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
    name: str = "x",
) -> Variable:
    """The variable with the statistics of its training rows.

    Args:
        facts: What the source says of its rows.
        source: For messages.
        choices: One, or one a column.
        seen: The summary of each split's rows as they are modelled.
        train_rows: Some or all of the training rows as they are modelled.
        exact: Some of them without noise and in the precision of the source.
        name: What it is called in the model.

    Raises:
        DataError: If an element whose likelihood is a density is constant in the training rows.
    """
    train, everything = seen["train"], Summary.joined(seen.values())
    mean, std = torch.as_tensor(train.mean), torch.as_tensor(train.std)  # of one number too
    first = choices[0]
    columns = facts.columns or ()
    knotted = _knotted(facts, choices, train_rows, everything)
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
        if first.kind in REAL and first.likelihood != "beta":
            _refuse_constant(std, source, facts.columns)
    else:
        parts = tuple(
            Variable(
                name=column,
                shape=(),
                kind=choice.kind,
                likelihood=choice.likelihood,
                likelihood_options=choice.options,
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
                reason=choice.why,
                origin=facts.origins.get(column, 0.0),
                **knotted([place]),
            )
            for place, (column, choice) in enumerate(zip(columns, choices, strict=True))
        )
        reals = torch.tensor([part.kind in REAL for part in parts])
        _refuse_constant(torch.where(reals, std, 1.0), source, columns)
    return Variable(
        name=name,
        shape=train.shape,
        kind="mixed" if parts else first.kind,
        likelihood="columns" if parts else first.likelihood,
        likelihood_options={} if parts else first.options,
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
        categories=facts.categories.get(columns[0]) if len(columns) == 1 else facts.vocabulary,
        reason="" if parts else first.why,
        origin=0.0 if parts else sum(facts.origins.values()),
        **(  # type: ignore[arg-type]
            {"shares": (_shares_of_tokens(train_rows, facts.vocabulary),)}
            if facts.vocabulary is not None
            else {}
            if parts
            else knotted(range(train_rows.shape[-1]))
        ),
    )


def _shares_of_tokens(tokens: Tensor, vocabulary: Sequence[str]) -> tuple[float, ...]:
    """How often each token is there, in so many digits that rare ones are told apart."""
    counts = torch.bincount(tokens.flatten().long(), minlength=len(vocabulary))
    if tokens.dim() > 1:  # texts that each end once, and are then padded
        counts[END] = len(tokens)
    return tuple([round(share, 8) for share in (counts.double() / counts.sum()).tolist()])


def _knotted(
    facts: Facts, choices: list[Choice], train_rows: Tensor, everything: Summary
) -> Callable[[Sequence[int]], dict[str, Any]]:
    """Knots, their scores, atoms, shares and bounds of some columns by their places."""
    if train_rows.dim() != 2 or not 0 < train_rows.shape[1] <= MOST_KNOTTED:
        return lambda _: {}
    step = -(-train_rows.numel() // _LOOKED_AT)
    rows = train_rows[::step].numpy()

    def bounds_at(place: int, atoms: Array, *, whole: bool) -> tuple[float | None, float | None]:
        column = facts.columns[place] if facts.columns else ""
        low, high = float(everything.low[place]), float(everything.high[place])
        ends = facts.bounds.get(column)
        if ends is None:
            if whole:  # not each of the many whole numbers that have a probability is a cap
                atoms = repeated(rows[:, place])
            ends = tuple(map(_as_it_rests, bounds_of(rows[:, place], low, high, atoms)))
            ends = (0.0, ends[1]) if whole else ends
        elif _as_it_rests(low) < _as_it_rests(ends[0]) or _as_it_rests(high) > _as_it_rests(
            ends[1]
        ):
            raise DataError(
                f"column {column!r}: the schema says bounds = [{ends[0]:g}, {ends[1]:g}], but it "
                f"holds numbers from {low:g} to {high:g}."
            )
        least, largest = (float(end) if np.isfinite(end) else None for end in ends)
        return least, largest

    def found(places: Sequence[int]) -> dict[str, Any]:
        choice = choices[places[0]] if len(choices) > 1 else choices[0]
        if choice.kind in CODED and len(choices) > 1:
            codes = np.arange(choice.levels or 2)
            return {"shares": tuple([shares_of(rows[:, place], codes) for place in places])}
        counts = choice.kind == "counts" and (len(choices) > 1 or choice.likelihood == "mixture")
        if not (choice.kind in REAL or counts) or not len(places):
            return {}
        none = np.zeros(0)
        atoms = [
            none if choice.dequantize else repeated(rows[:, place], whole=counts)
            for place in places
        ]
        pairs = list(zip(places, atoms, strict=True))
        knots, scores = zip(
            *[knots_of(rows[:, place], each, len(rows)) for place, each in pairs], strict=True
        )
        alone, bounds = len(choices) > 1, {}
        if choice.kind in _BOUNDED and choice.likelihood == "mixture" and not choice.dequantize:
            ends = [bounds_at(place, each, whole=counts) for place, each in pairs]
            if not counts or any([end is not None for _, end in ends]):  # none is below 0
                bounds = {"bounds": tuple(ends)}
        return {
            "knots": torch.from_numpy(knots[0] if alone else np.stack(knots)),
            "scores": torch.from_numpy(scores[0] if alone else np.stack(scores)),
            **bounds,
            "atoms": tuple([tuple(each.tolist()) for each in atoms]),
            "shares": tuple([shares_of(rows[:, place], each) for place, each in pairs]),
        }

    return found


def _refuse_constant(std: Tensor, source: str, columns: tuple[str, ...] | None) -> None:
    for what, number, drop in first_of((std <= 0).numpy(), columns):
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
        if part.kind in REAL:
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
        atoms = torch.tensor(part.atoms[0] if part.atoms else (), dtype=rows.dtype)
        others = rows[~torch.isin(rows, atoms)]
        below, above = np.quantile((others if len(others) else rows).numpy(), (1 / 32, 31 / 32))
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
    if len(values) <= 2 and not part.dequantized and part.likelihood != "mixture":
        found["few"] = (
            f"takes only {len(values)} values, so a density of it can grow without bound; "
            f"--categories {quote(part.name)} gives them probabilities."
        )
    elif part.likelihood != "mixture" and not part.dequantized:
        stands_out = most > _OFTEN and float(counts.max()) > _TIMES * float(counts.median())
        if most > 0.5 or stands_out:
            found["atoms"] = (
                f"({100 * most:.0f}% of it) is exactly {at:g}, so a density of it can grow "
                f"without bound; --likelihood mixture, which columns of tables have by "
                f"themselves, gives this value a probability."
            )
    return found
