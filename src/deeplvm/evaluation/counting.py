"""How many objects a model of objects sees, beside how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.conditionals.present import Presence
from deeplvm.core.draws import Sampled
from deeplvm.core.joint import owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.rows import Names, Tensors, for_rows
from deeplvm.randomness import RowNoise
from deeplvm.results import Estimate, Record

_ROWS = 250  # at a time


@dataclass(frozen=True)
class ObjectCounts(Record):
    """How often as many objects are found as the label says.

    Attributes:
        accuracy: The share of rows, with its standard error.
        by_count: The share, by the number that there are.
        rows: How many rows have a label.
        draws: Of q for each row; the number found is the most frequent one.
    """

    accuracy: Estimate
    by_count: dict[str, float]
    rows: int
    draws: int


def presences(model: LatentVariableModel) -> list[str]:
    """Latents that say step by step whether one more object is there."""
    return [name for name in model.q.names if isinstance(owner_of(model.p, name), Presence)]


def object_counts(
    model: LatentVariableModel, rows: NamedRows, draws: int = 16, *, seed: int = 0
) -> Tensor:
    """The most frequent number of objects in draws of q, the smaller one of two: ``(rows,)``."""
    names = presences(model)
    if not names:
        raise ValueError(
            "No latent of the model says whether an object is there (a Presence), as those of the "
            "recipe attend_infer_repeat do."
        )

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        draw = noise.of(Sampled())
        trace = model.posterior(given, particles=draws, default=draw, missing=missing)
        there = [trace[name].value.flatten(2).sum(-1).round().long() for name in names]
        return {"count": torch.stack(there).sum(0).mode(0).values}

    return for_rows(model, rows, measure, batch_size=_ROWS, seed=seed)["count"].cpu()


def counting(
    model: LatentVariableModel, rows: Any, draws: int = 16, *, seed: int = 0
) -> ObjectCounts | None:
    """The numbers found against the labels; none where labels are no numbers, or nothing counts.

    Args:
        rows: Of a data set, with its description.
    """
    classes = rows.description.classes or () if rows.description else ()
    numbers = all([each.isdecimal() for each in classes])
    if not classes or not numbers or "y" not in rows or not presences(model):
        return None
    codes = torch.as_tensor(rows["y"][:]).double()
    known = ~codes.isnan()
    true = torch.tensor([int(each) for each in classes])[codes.nan_to_num(0.0).long()]
    right = (object_counts(model, rows, draws, seed=seed) == true)[known].double()
    if not len(right):
        return None
    true = true[known]
    shares = {str(int(n)): float(right[true == n].mean()) for n in true.unique()}
    return ObjectCounts(Estimate.of(right), shares, len(right), draws)
