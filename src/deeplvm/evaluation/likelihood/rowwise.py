r"""What estimators of :math:`\log p(x)` share: rows taken batch by batch, and shared out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deeplvm.evaluation.batches import batches_of, evaluating
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.model import LatentVariableModel
from deeplvm.processes import processes

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

# values of a batch, names with NaN -> quantities of each row, (rows, ...)
Evaluate = Callable[[dict[str, Tensor], frozenset[str]], dict[str, Tensor]]


def row_by_row(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    evaluate: Evaluate,
    *,
    split: Split,
    rows: int | None,
    batch_size: int,
    seed: int,
    omit: Collection[str] = (),
) -> dict[str, Tensor]:
    """Quantities of every row, evaluated batch by batch in ``eval()`` mode without gradients.

    Several processes share the batches, and each returns all rows.

    Args:
        model: Left as it was, like torch's random state.
        data: Data, or named tensors of shape ``(rows, *event)``.
        evaluate: What to do with a batch; it may switch gradients on.
        split: Which split of Data.
        rows: How many, from the first on; all.
        batch_size: Rows at a time.
        seed: With a batch's first row it decides the draws there.
        omit: Names that are left out although the data have them.

    Raises:
        ValueError: If a number is below one, or ``log_px`` is NaN or +inf in some row.
    """
    at_least(1, rows=rows, batch_size=batch_size)
    taken = batches_of(model, data, split, omit)
    count = taken.rows if rows is None else min(rows, taken.rows)
    group, starts = processes(), range(0, count, batch_size)
    parts = []
    with evaluating(model, seed), torch.inference_mode(mode=False), torch.no_grad():
        for first in starts[group.part(len(starts))]:
            torch.manual_seed(seed + first)
            given = taken[slice(first, min(first + batch_size, count))]
            parts.append(evaluate(given, taken.missing))
    mine = {key: torch.cat([part[key] for part in parts]) for key in parts[0]} if parts else {}
    joined = group.gather(mine)
    broken = joined["log_px"].isnan() | joined["log_px"].isposinf()
    if bool(broken.any()):
        found = broken.nonzero().flatten().tolist()
        shown = ", ".join([str(each) for each in found[:5]])
        raise ValueError(
            f"log p(x) is not a number, or +inf, in {len(found)} rows (rows {shown}"
            f"{', …' if len(found) > 5 else ''}); look at these rows, or at a model that was "
            f"trained until it broke."
        )
    return joined


def latent_dimensions(
    model: LatentVariableModel, data: Data | Mapping[str, Tensor], split: Split
) -> int:
    """How many free numbers the latents of a row have.

    Raises:
        ValueError: If a latent is discrete, or has no density of its own.
    """
    taken = batches_of(model, data, split)
    with evaluating(model, 0), torch.inference_mode(mode=False), torch.no_grad():
        return LatentSpace(model, taken[slice(0, 1)], taken.missing).size


def at_least(least: float, **numbers: float | None) -> None:
    """Refuse numbers below the least that makes sense."""
    for name, value in numbers.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is at least {least}, found {value}.")
