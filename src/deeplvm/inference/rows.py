"""Rows of a data set, batch by batch, as a model that is being evaluated reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split
from collections.abc import Callable
from typing import TYPE_CHECKING

from deeplvm.core.randomness import evaluating
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.parallel.processes import processes


@dataclass(frozen=True, eq=False)
class Batches:
    """The rows of one split, restricted to the names that the model has.

    Attributes:
        data: Data, or named tensors whose first dimension is the rows.
        split: Which split of Data.
        names: The names that are given to the model.
        missing: Those with missing elements (NaN).
        rows: How many rows there are.
        data_rows: How many rows the names shared by all rows belong to: those of the training
            split, where there is one.
        device: Where the model is.
        dtype: The model's floating type.
    """

    data: Data | Mapping[str, Tensor]
    split: Split
    names: tuple[str, ...]
    missing: frozenset[str]
    rows: int
    data_rows: int
    device: torch.device
    dtype: torch.dtype

    def __getitem__(self, index: slice) -> dict[str, Tensor]:
        """Some rows, on the model's device, reals in its floating type."""
        if isinstance(self.data, Mapping):
            taken = {name: self.data[name][index] for name in self.names}
        else:
            batch = self.data.batch(self.split, index)
            taken = {name: batch[name] for name in self.names}
        return {name: self._ready(value) for name, value in taken.items()}

    def each(self, size: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The first row's number and the values of each batch, in order."""
        for start in range(0, self.rows, size):
            yield start, self[slice(start, start + size)]

    def _ready(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # labels are int64 and stay so; bytes and short integers are pixels and counts at rest
        whole = value.dtype == torch.int64 or value.is_complex()
        return value.to(self.device) if whole else value.to(self.device, self.dtype)


def batches_of(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    split: Split = "test",
    omit: Collection[str] = (),
) -> Batches:
    """What of the data the model reads.

    Args:
        model: Its names are taken, the others left.
        data: Data, or named tensors of shape ``(rows, *event)``.
        split: Which split of Data.
        omit: Names that are to be drawn although the data have them.

    Raises:
        ValueError: If nothing that the model knows is in the data, or the split has no rows.
    """
    tensors = data if isinstance(data, Mapping) else getattr(data, split)
    names = tuple([name for name in tensors if name in model.names and name not in omit])
    if not names:
        raise ValueError(
            f"The data have {', '.join(tensors) or 'nothing'}, of which the model reads none; its "
            f"names are {', '.join(sorted(model.names))}: call one of them as the data do."
        )
    rows = len(tensors[names[0]])
    if rows == 0:
        raise ValueError(f"There are no rows to evaluate: {split!r} is empty; name another split.")
    if isinstance(data, Mapping):
        holes = frozenset([name for name in names if _has_nan(data[name])])
        data_rows = rows
    else:
        holes = frozenset(data.missing) & frozenset(names)
        data_rows = data.rows("train") or rows
    like = next(
        (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()),
        torch.zeros(()),
    )
    return Batches(data, split, names, holes, rows, data_rows, like.device, like.dtype)


def _has_nan(value: Any) -> bool:
    return (
        isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any())
    )


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
