"""From arrays to tensors of the smallest exact type, their statistics, and warnings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.likelihood import Choice
from deeplvm.data.readers.raw import Array, Raw
from deeplvm.data.records import Column, DataError, Renewal, Variable
from deeplvm.data.statistics import Summary


def tensors_of(
    raw: Raw, choices: list[Choice], generator: torch.Generator
) -> tuple[dict[str, Tensor], Renewal | None]:
    """The splits in the smallest exact type; and the noise that is renewed, if any."""
    tensors = {
        split: torch.from_numpy(at_rest(part, smallest_type(Summary.of(part), choices), choices))
        for split, part in raw.values.items()
    }
    renewal = dequantization(choices, tensors["train"])
    if renewal is None:
        return tensors, None
    noisy = {
        split: renewal.draw(part, generator, torch.float32) for split, part in tensors.items()
    }
    return noisy, renewal


def dequantization(choices: list[Choice], train: Column) -> Renewal | None:
    """The noise that is to be added to the training rows, if any."""
    if not any(choice.dequantize for choice in choices):
        return None
    columns = None
    if len(choices) > 1:
        columns = torch.tensor([float(choice.dequantize) for choice in choices])
    return Renewal("dequantization", train, choices[0].divisor, columns)


def at_rest(values: Array, kind: np.dtype, choices: list[Choice]) -> Array:
    """Rows in the type they rest in; rounded values as the whole numbers they once were."""
    first = choices[0]
    if len(choices) == 1 and first.step != 1.0:
        values = np.round(values.astype(np.float64) / first.step)
    return np.ascontiguousarray(values.astype(kind, copy=False))


def smallest_type(seen: Summary, choices: list[Choice]) -> np.dtype:
    """The smallest type that holds whole numbers exactly, else float32."""
    reals = any(choice.kind in ("real", "unit") and not choice.dequantize for choice in choices)
    if not seen.rows or seen.holes or (reals and seen.dtype.kind == "f"):
        return np.dtype(np.float32)
    step = choices[0].step if len(choices) == 1 else 1.0
    low, high = round(float(seen.low.min()) / step), round(float(seen.high.max()) / step)
    for candidate in (np.uint8, np.int16, np.int32):
        if np.iinfo(candidate).min <= low and high <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    return np.dtype(np.int64)


def variable_of(
    raw: Raw, source: str, choices: list[Choice], seen: Mapping[str, Summary]
) -> Variable:
    """The variable ``x`` with the statistics of its training rows.

    Args:
        raw: What the source says of itself.
        source: For messages.
        choices: One, or one a column.
        seen: The summary of each split's rows as they are modelled.

    Raises:
        DataError: If an element whose likelihood is a density is constant in the training rows.
    """
    train, everything = seen["train"], Summary.joined(seen.values())
    mean, std = torch.from_numpy(train.mean), torch.from_numpy(train.std)
    first = choices[0]
    columns = raw.columns or ()
    parts: tuple[Variable, ...] = ()
    if len(choices) == 1:
        if first.kind in ("real", "unit") and first.likelihood not in (
            "continuous-bernoulli",
            "beta",
        ):
            _refuse_constant(std, source, raw.columns)
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
                categories=raw.categories.get(column),
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
        columns=raw.columns,
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


def warnings_of(variable: Variable, seen: Mapping[str, Summary], train: Tensor) -> list[str]:
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
