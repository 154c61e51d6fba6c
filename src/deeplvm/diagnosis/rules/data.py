"""Faults of the data, and of the likelihood that was chosen for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.data.variable import Variable
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import SEARCHED, CannotMeasure, Examination, listed
from deeplvm.evaluation.samples.quality import draws
from deeplvm.results import finite

_FEW_VALUES = 10  # under a density a column of fewer is not continuous
_MANY_ROWS = 200


def shifted_rows(seen: Examination) -> Verdict | None:
    """Held-out rows that come from elsewhere than the training rows: another source or unit."""
    split = seen.held_out
    found = seen.shift(split)
    if not found.found:
        return None
    if found.columns:
        worst, rest = "; ".join([str(each) for each in found.columns[:3]]), len(found.columns) - 3
        how = f"{worst}{f'; and {rest} more' if rest > 0 else ''}"
    else:
        how = "no column by itself, but how they go together"
    train, held = seen.estimate("train"), seen.estimate(split)
    numbers: dict[str, Any] = {"columns": [each.title for each in found.columns]}
    try:
        judged = seen.unseen
    except CannotMeasure:
        nats = train.mean - held.mean
        fit = (
            f"The model gives them {held.mean:.2f} nats a row, training rows {train.mean:.2f}; "
            f"nothing tells how much of that is the model's"
        )
    else:
        other = seen.estimate(judged)
        nats = other.mean - held.mean
        fit = (
            f"The model gives them {held.mean:.2f} nats a row, {judged} rows, which are like "
            f"training rows, {other.mean:.2f} ({train.mean:.2f}): it is judged by those here"
        )
    return Verdict(
        "held-out rows unlike training rows",
        f"A forest of trees tells {split} rows from training rows (area under the curve "
        f"{found.auc}, 0.5 if they are alike): {how}. {fit}.",
        "Look at the file: another unit, another source, or sorted rows that were split in "
        "order. Split at random (--split 0.8 0.1 0.1), or if the shift is real, train on rows "
        "like these.",
        numbers | {"auc": found.auc.value, "stderr": finite(found.auc.stderr)},
        max(nats, 0.0),
        spoils=True,
    )


def repeated_rows(seen: Examination) -> Verdict | None:
    """Held-out rows that are training rows too flatter the likelihood."""
    held, train = (
        seen.whole(split, count)
        for split, count in ((seen.held_out, seen.effort.rows), ("train", SEARCHED))
    )
    by_chance = 0.0
    if all([bool((row.nan_to_num() == row.nan_to_num().round()).all()) for row in held]):
        # whole numbers meet by chance: as often as new draws do, or training rows each other
        if seen.variable.length is None:
            by_chance = _found([*_drawn(seen, len(held)).to(train[0])], train)
        if len(train) > 2 * len(held):
            some, train = train[: len(held)], train[len(held) :]
            by_chance = max(by_chance, _found(some, train))
    again = _found(held, train)
    if again - by_chance <= max(0.01, 4 * math.sqrt(by_chance * (1 - by_chance) / len(held))):
        return None
    return Verdict(
        "rows in two splits",
        f"{100 * again:.1f} % of {len(held)} {seen.held_out} rows are training rows too (by "
        f"chance {100 * by_chance:.1f} %), so the likelihood flatters the model.",
        "Remove repeated rows from the file before it is split.",
        {"share": again, "by_chance": by_chance, "rows": len(held)},
        spoils=True,
    )


def _found(rows: Sequence[Tensor], train: Sequence[Tensor]) -> float:
    """Share of rows that are training rows."""
    known = {row.numpy().tobytes() for row in train}
    return sum([row.numpy().tobytes() in known for row in rows]) / len(rows)


def _drawn(seen: Examination, count: int) -> Tensor:
    try:
        count = min(count, seen.drawable("repeated rows"))
        train, names = seen.first("train", SEARCHED), [each.name for each in seen.scored]
        each = [draws(seen.model, count, train, name, seed=seen.seed).flatten(1) for name in names]
        return torch.cat(each, 1).contiguous()
    except ValueError as error:
        raise CannotMeasure(str(error)) from error


def constant_columns(seen: Examination) -> Verdict | None:
    """Columns of a table that never change: there is nothing to learn of them."""
    names = _columns(seen)
    values = seen.resting("train")
    same = [
        name
        for name, column in zip(names, values.unbind(1), strict=True)
        if len(column[~column.isnan()].unique()) < 2
    ]
    if not same:
        return None
    densities = {n for n, p in zip(names, seen.variable.each, strict=True) if _is_density(p)}
    why = (
        "a density of them is as high as the likelihood's scale may become narrow, and says "
        "nothing about the model"
        if densities.intersection(same)
        else "there is nothing to learn of them, and a new row that differs in one costs dearly"
    )
    return Verdict(
        "constant columns",
        f"{listed(same)} never change in the training rows: {why}.",
        f"Leave them out: --drop {' '.join(same[:5])}",
        {"columns": same},
        spoils=True,
    )


def few_values(seen: Examination) -> Verdict | None:
    """Whole numbers or codes under a density of reals."""
    names = _columns(seen)
    values = seen.resting("train")
    if len(values) < _MANY_ROWS:
        raise CannotMeasure(f"{len(values)} training rows are too few to tell codes from reals.")
    found = {}
    for name, part, column in zip(names, seen.variable.each, values.unbind(1), strict=True):
        distinct = len(column[~column.isnan()].unique())
        if _is_density(part) and 2 <= distinct <= _FEW_VALUES:
            found[name] = distinct
    if not found or seen.variable.dequantized:
        return None
    return Verdict(
        "codes under a density",
        f"{listed(found)} take {min(found.values())} to {max(found.values())} different values "
        f"only, and are modelled as real numbers: the density grows without bound on values that "
        f"repeat.",
        f"If they are codes: --categories {' '.join(list(found)[:5])}; if whole numbers: "
        f"--dequantize uniform, or --likelihood poisson for counts.",
        {"distinct": found},
        spoils=True,
    )


def scale_at_its_floor(seen: Examination) -> Verdict | None:
    """A likelihood as narrow as it may be: its density is the floor's doing."""
    worst: tuple[float, str, float] = (0.0, "", 0.0)
    for name, (scale, floor) in seen.scales.items():
        share = float((scale < 2 * floor).double().mean()) if floor > 0 else 0.0
        worst = max(worst, (share, name, floor))
    share, name, floor = worst
    if share <= 0.01:
        return None
    repeat = ["--drop"] if seen.variable.dequantized else ["--drop", "--dequantize uniform"]
    return Verdict(
        "scale at its floor",
        f"In {100 * share:.0f} % of the elements the standard deviation of p({name} | z) is "
        f"within a factor of two of its lower bound, {floor:g} in units of the data's spread: the "
        f"density there is what the bound allows, not what the model knows.",
        f"Look for elements that repeat exactly ({', '.join(repeat)}), or give the likelihood one "
        f"scale an element (scale='dimension') or a larger minimum_scale.",
        {"share": share, "floor": floor},
        spoils=True,
    )


def impossible_rows(seen: Examination) -> Verdict | None:
    """Held-out rows outside the support of the likelihood."""
    estimate = seen.estimate(seen.held_out)
    count = int(estimate.log_px.isneginf().sum())
    if not count:
        return None
    return Verdict(
        "impossible rows",
        f"{count} of {estimate.rows} {seen.held_out} rows have probability zero under the model.",
        "Their values lie outside the support of the likelihood: choose another with "
        "--likelihood, or look for values that training rows never have.",
        {"rows": count},
        spoils=True,
    )


def _columns(seen: Examination) -> list[str]:
    if not seen.variable.columns:
        raise CannotMeasure("The data are no table.")
    return list(seen.variable.columns)


def _is_density(part: Variable) -> bool:
    return part.likelihood in LIKELIHOODS and LIKELIHOODS[part.likelihood].density
