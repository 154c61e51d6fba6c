"""The likelihood of an array, or of each column of a table; and whether other data suit it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.looking import MASSES, Choice, choose_likelihood
from deeplvm.data.raw import Array, Raw
from deeplvm.data.records import SPLITS, Kind, Variable


def choose(raw: Raw, source: str, options: Mapping[str, Any]) -> list[Choice]:
    """One choice for an array or a table of one kind, otherwise one a column."""
    dequantize = options["dequantize"] is not None
    likelihood = options["likelihood"]
    everything = [raw.values[split] for split in SPLITS]
    if raw.columns is None:
        values = np.concatenate(everything) if len(everything) > 1 else everything[0]
        _refuse_silent(values[: len(everything[0])], source, None)
        return [
            choose_likelihood(
                values,
                what="x",
                likelihood=likelihood,
                dequantize=dequantize,
                image=raw.image,
                levels=raw.levels,
            )
        ]
    train = raw.values["train"]
    _refuse_silent(train, source, raw.columns)
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
    table = np.concatenate(everything)
    if likelihood in MASSES and not raw.categories:
        for place, column in enumerate(raw.columns):  # an error should name the column
            what = f"column {column!r}"
            choose_likelihood(
                table[:, place : place + 1], what=what, likelihood=likelihood, table=True
            )
        return [choose_likelihood(table, what="x", likelihood=likelihood, table=True)]
    _refuse_constant_columns(raw, source)
    choices = []
    for place, column in enumerate(raw.columns):
        what = f"column {column!r}"
        if column in raw.categories:
            names = raw.categories[column]
            reason = f"{what}: {len(names)} categories: categorical."
            choices.append(Choice("category", "categorical", reason, len(names)))
            continue
        kind = cast("Kind | None", raw.kinds.get(column))
        values = table[:, place : place + 1]
        look = choose_likelihood(values, what=what, table=True, kind=kind)
        if look.kind == "binary":  # no other likelihood gives 0 and 1 a probability of their own
            choices.append(
                look
                if likelihood in ("auto", "bernoulli")
                else choose_likelihood(values, what=what, table=True, likelihood="bernoulli")
            )
            continue
        suits = dequantize and (kind != "real") and bool((np.nan_to_num(values) % 1 == 0).all())
        choices.append(
            choose_likelihood(
                values, what=what, likelihood=likelihood, dequantize=suits, table=True, kind=kind
            )
        )
    if dequantize and not any(choice.dequantize for choice in choices):
        raise DataError(f"{source}: no column holds whole numbers to dequantize; leave it out.")
    return _merged(choices)


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


def refuse_unlike(raw: Raw, source: str, variable: Variable) -> None:
    """Other data must have the shape and lie in the support of the training data's likelihood."""
    test = raw.values["test"]
    if tuple(test.shape[1:]) != variable.shape:
        flat = int(np.prod(test.shape[1:]))
        if flat != variable.elements:
            raise DataError(
                f"{source}: rows have shape {tuple(test.shape[1:])}, but the model was fitted to "
                f"{variable.shape}."
            )
        raw.values = {key: part.reshape(-1, *variable.shape) for key, part in raw.values.items()}
        test = raw.values["test"]
    parts = variable.parts or (variable,)
    for place, part in enumerate(parts):
        values = test[:, place] if variable.parts else test
        if values.dtype.kind == "f":
            values = values[~np.isnan(values)]
        if not values.size:
            continue
        values = values.astype(np.float64) / part.step if part.step != 1 else values
        what = f"column {part.name!r}" if variable.parts else "x"
        low, high = float(values.min()), float(values.max())
        whole = values.dtype.kind in "bui" or bool(
            (np.abs(values - np.round(values)) < 1e-3).all()
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


def _refuse_silent(train: Array, source: str, columns: tuple[str, ...] | None) -> None:
    """No element may be missing in all training rows: nothing could be learned of it."""
    if train.dtype.kind != "f":
        return
    silent = np.argwhere(np.isnan(train).all(axis=0))
    if len(silent):
        where = tuple(int(place) for place in silent[0])
        name = columns[where[0]] if columns is not None else str(where[0])
        what = f"column {name!r}" if len(where) == 1 else f"element {where}"
        drop = f"--drop {name}" if len(where) == 1 else "leave it out"
        raise DataError(
            f"{source}: {what} has no value in any training row ({len(silent)} such in all); "
            f"{drop}."
        )


def _refuse_constant_columns(raw: Raw, source: str) -> None:
    table = np.concatenate([raw.values[split] for split in SPLITS])
    constant = [
        column
        for place, column in enumerate(raw.columns or ())
        if np.nanmin(table[:, place]) == np.nanmax(table[:, place])
    ]
    if constant:
        place = (raw.columns or ()).index(constant[0])
        pixels = len(constant) > 10 and ((table >= 0) & (table <= 255) & (table % 1 == 0)).all()
        raise DataError(
            f"{source}: column {constant[0]!r} is always {np.nanmin(table[:, place]):g}"
            f"{_others(constant)}: there is nothing to learn from it, and a density of it is "
            f"infinite; --drop {' '.join(constant[:10])}"
            f"{'; or, if these are pixels, --likelihood discretized-logistic' if pixels else ''}."
        )


def _others(names: Sequence[str]) -> str:
    return "" if len(names) == 1 else f" (and so are {len(names) - 1} others)"
