"""From arrays to tensors of the smallest exact type, their statistics, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.errors import DataError
from deeplvm.data.looking import Choice
from deeplvm.data.raw import Array, Raw
from deeplvm.data.records import Renewal, Variable

_WIDEST_BLOCK = 1 << 20  # elements widened at a time while taking statistics: they stay in cache


def tensors_of(
    raw: Raw, choices: list[Choice], generator: torch.Generator
) -> tuple[dict[str, Tensor], Renewal | None]:
    """The splits in the smallest exact type; and the noise that is renewed, if any."""
    values = raw.values
    first = choices[0]
    if len(choices) == 1 and first.step != 1.0:
        values = {
            split: np.where(np.isnan(part), np.nan, np.round(part.astype(np.float64) / first.step))
            for split, part in values.items()
        }
    tensors = {split: _smallest(part, choices) for split, part in values.items()}
    if not any(choice.dequantize for choice in choices):
        return tensors, None
    columns = None
    if len(choices) > 1:
        columns = torch.tensor([float(choice.dequantize) for choice in choices])
    renewal = Renewal("dequantization", tensors["train"], first.divisor, columns)
    noisy = {
        split: renewal.draw(part, generator, torch.float32) for split, part in tensors.items()
    }
    return noisy, renewal


def _smallest(values: Array, choices: list[Choice]) -> Tensor:
    """A tensor of the smallest type that holds whole numbers exactly, else of float32."""
    reals = values.dtype.kind == "f" and (
        any(choice.kind in ("real", "unit") and not choice.dequantize for choice in choices)
        or bool(np.isnan(values).any())
    )
    if reals or not values.size:
        kind: Any = np.float32
    else:
        low, high = float(values.min()), float(values.max())
        kind = np.int64
        for candidate in (np.uint8, np.int16, np.int32):
            if np.iinfo(candidate).min <= low and high <= np.iinfo(candidate).max:
                kind = candidate
                break
    return torch.from_numpy(np.ascontiguousarray(values.astype(kind, copy=False)))


def variable_of(
    raw: Raw, source: str, choices: list[Choice], tensors: Mapping[str, Tensor]
) -> Variable:
    """The variable ``x`` with the statistics of its training rows.

    Raises:
        DataError: If an element whose likelihood is a density is constant in the training rows.
    """
    mean, std = moments(tensors["train"])
    lows, highs, holes = _extremes(tensors)
    shape = tuple(tensors["train"].shape[1:])
    first = choices[0]
    if len(choices) == 1:
        if first.kind in ("real", "unit") and first.likelihood not in (
            "continuous-bernoulli",
            "beta",
        ):
            _refuse_constant(std, source, raw.columns)
        return Variable(
            name="x",
            shape=shape,
            kind=first.kind,
            likelihood=first.likelihood,
            mean=mean,
            std=std,
            minimum=float(lows.min()),
            maximum=float(highs.max()),
            levels=first.levels,
            step=first.step,
            missing=bool(holes.any()),
            dequantized=first.dequantize,
            columns=raw.columns,
        )
    columns = raw.columns or ()
    parts = tuple(
        Variable(
            name=column,
            shape=(),
            kind=choice.kind,
            likelihood=choice.likelihood,
            mean=mean[place],
            std=std[place],
            minimum=float(lows[place]),
            maximum=float(highs[place]),
            levels=choice.levels,
            step=choice.step,
            missing=bool(holes[place]),
            dequantized=choice.dequantize,
            categories=raw.categories.get(column),
        )
        for place, (column, choice) in enumerate(zip(columns, choices, strict=True))
    )
    reals = torch.tensor([part.kind == "real" for part in parts])
    _refuse_constant(torch.where(reals, std, 1.0), source, columns)
    return Variable(
        name="x",
        shape=shape,
        kind="mixed",
        likelihood="columns",
        mean=mean,
        std=std,
        minimum=float(lows.min()),
        maximum=float(highs.max()),
        missing=bool(holes.any()),
        dequantized=any(choice.dequantize for choice in choices),
        columns=columns,
        parts=parts,
    )


def moments(train: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element over the rows, holes left out, in float64."""
    shape = train.shape[1:]
    flat = train.reshape(len(train), -1)
    block = max(1, _WIDEST_BLOCK // max(1, flat.shape[1]))
    count = torch.zeros(flat.shape[1], dtype=torch.float64)
    total = torch.zeros_like(count)
    for start in range(0, len(flat), block):
        part = flat[start : start + block].double()
        count += (~part.isnan()).sum(0)
        total += part.nansum(0)
    mean = total / count
    square = torch.zeros_like(count)
    for start in range(0, len(flat), block):
        square += (flat[start : start + block].double() - mean).square().nansum(0)
    return mean.reshape(shape), (square / count).sqrt().reshape(shape)


def _extremes(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest and largest value of each element in any split, and whether one is missing."""
    lows, highs, holes = [], [], []
    for tensor in tensors.values():
        if tensor.is_floating_point():
            missing = tensor.isnan()
            lows.append(tensor.masked_fill(missing, torch.inf).amin(0).double())
            highs.append(tensor.masked_fill(missing, -torch.inf).amax(0).double())
            holes.append(missing.any(0))
        else:
            lows.append(tensor.amin(0).double())
            highs.append(tensor.amax(0).double())
            holes.append(torch.zeros(tensor.shape[1:], dtype=torch.bool))
    return (
        torch.stack(lows).amin(0),
        torch.stack(highs).amax(0),
        torch.stack(holes).any(0),
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


def refuse_coarse(raw: Raw, source: str, choices: list[Choice]) -> None:
    """Single precision must resolve the spread of each real element."""
    train = raw.values["train"]
    real = np.array([choice.kind == "real" for choice in choices])
    if not real.any() or (len(choices) == 1 and train.dtype.itemsize < 4):
        return
    if len(choices) > 1:
        train = train[:, real]
    mean, std = moments(torch.from_numpy(np.ascontiguousarray(train)))
    coarse = ((mean.abs() * 2.0**-24 > 1e-3 * std) & (std > 0)).nonzero()
    if not len(coarse):
        return
    place = tuple(coarse[0].tolist())
    names = np.array(raw.columns)[real] if len(choices) > 1 else raw.columns
    what = f"element {place}" if names is None else f"column {str(names[place[0]])!r}"
    raise DataError(
        f"{source}: {what} has mean {float(mean[place]):.6g} but varies by "
        f"{float(std[place]):.3g} only, which single precision cannot resolve; subtract a "
        f"constant from it first."
    )


def warnings_of(variable: Variable, tensors: Mapping[str, Tensor]) -> list[str]:
    """What a density cannot say of rounded or repeated values."""
    train = tensors["train"]
    if variable.missing:
        share = float(
            torch.stack([part.isnan().double().mean() for part in tensors.values()]).mean()
        )
        known = [f"{100 * share:.2g}% of the values are missing; likelihoods are of the others."]
    else:
        known = []
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
