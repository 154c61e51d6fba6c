"""The likelihood of an array, or of each column of a table; and whether other data suit it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.looking import MASSES, Choice, choose_likelihood
from deeplvm.data.pixels import grey_scale
from deeplvm.data.raw import Raw
from deeplvm.data.records import Description, Kind, Variable
from deeplvm.data.statistics import Summary
from deeplvm.data.tensors import refuse_coarse


def choose(
    raw: Raw, seen: Mapping[str, Summary], source: str, options: Mapping[str, Any]
) -> list[Choice]:
    """One choice for an array or a table of one kind, otherwise one a column.

    Args:
        raw: What the source says of itself.
        seen: The summary of each split's rows.
        source: For messages.
        options: Those of :func:`~deeplvm.data.load`.
    """
    dequantize = options["dequantize"] is not None
    likelihood = options["likelihood"]
    train, everything = seen["train"], Summary.joined(seen.values())
    _refuse_silent(train, source, raw.columns)
    if raw.columns is None:
        return [
            choose_likelihood(
                everything,
                what="x",
                likelihood=likelihood,
                dequantize=dequantize,
                image=raw.image,
                levels=raw.levels,
            )
        ]
    if set(raw.kinds.values()) == {"counts"} and len(raw.kinds) >= len(raw.columns):
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
    if likelihood in MASSES and not raw.categories:
        for place, column in enumerate(raw.columns):  # an error should name the column
            what = f"column {column!r}"
            choose_likelihood(
                everything.column(place), what=what, likelihood=likelihood, table=True
            )
        return [choose_likelihood(everything, what="x", likelihood=likelihood, table=True)]
    _refuse_constant_columns(everything, source, raw.columns)
    choices = []
    for place, column in enumerate(raw.columns):
        what = f"column {column!r}"
        if column in raw.categories:
            names = raw.categories[column]
            reason = f"{what}: {len(names)} categories: categorical."
            choices.append(Choice("category", "categorical", reason, len(names)))
            continue
        kind = cast("Kind | None", raw.kinds.get(column))
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
    raw: Raw,
    seen: Mapping[str, Summary],
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
) -> list[Choice]:
    """The choices, or those of the training data; the reasons go to the notes.

    Raises:
        DataError: If no likelihood suits, or the training data's does not.
    """
    if trained is not None:
        refuse_unlike(seen["test"], source, trained)
        return choices_of(trained)
    choices = choose(raw, seen, source, options)
    raw.notes += reasons_of(choices, raw)
    refuse_coarse(raw, seen["train"], source, choices)
    return choices


def binarization_scale(
    raw: Raw,
    seen: Mapping[str, Summary],
    source: str,
    options: Mapping[str, Any],
    trained: Variable | None,
) -> float | None:
    """The level of probability 1 where grey values are to be binarized; it goes to the notes.

    Raises:
        DataError: If these are no grey values.
    """
    binarize = options["binarize"]
    if not binarize:
        return None
    top = None if trained is None else trained.grey
    scale = grey_scale(Summary.joined(seen.values()), source, raw.levels, top)
    if scale is None:
        raw.notes.append(f"--binarize {binarize} changes nothing: the values are 0 and 1 already.")
    else:
        raw.levels = None
        raw.notes.append(_binarization_note(binarize, scale, options["seed"]))
    return scale


def description_of(
    raw: Raw, options: Mapping[str, Any], variable: Variable, rows: Mapping[str, int]
) -> Description:
    """What there is to remember of the data."""
    return Description(
        name=raw.name,
        source=options["source"],
        options=options,
        variables={"x": variable},
        classes=raw.classes,
        split=raw.split,
        notes=tuple(raw.notes),
        rows=rows,
    )


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


def reasons_of(choices: list[Choice], raw: Raw) -> list[str]:
    """One sentence a choice; columns of one choice share it."""
    if len(choices) == 1:
        return [choices[0].reason]
    groups: dict[tuple[str, bool], list[tuple[str, Choice]]] = {}
    for column, choice in zip(raw.columns or (), choices, strict=True):
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
