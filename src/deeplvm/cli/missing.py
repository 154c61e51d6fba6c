"""Tables about missing values: several draws below one another, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from deeplvm.data.records import Variable
    from deeplvm.inference.imputation import Imputation


def stacked(draws: Mapping[str, Tensor], variables: Mapping[str, Variable]) -> dict[str, Tensor]:
    """Draws ``(draws, rows, *event)`` below one another, the numbers of draw and row in front."""
    taken = {name for each in variables.values() for name in each.columns or (each.name,)}
    count, rows = next(iter(draws.values())).shape[:2]
    number = torch.arange(count * rows)
    return {
        _free("draw", taken): number // rows,
        _free("row", taken): number % rows,
        **{name: value.flatten(0, 1) for name, value in draws.items()},
    }


def details_of(found: Imputation, variables: Mapping[str, Variable]) -> dict[str, Any]:
    """One line a filled value: where, what, between which ends, and how sure; columns by name.

    Values are as the file has them, the probability is that of a category or level filled in.
    """
    columns: dict[str, list[Any]] = {}
    for name, variable in variables.items():
        holes = found.missing[name]
        if not bool(holes.any()):
            continue
        at = holes.flatten(1).nonzero()  # (filled, 2)
        row, place = at[:, 0], at[:, 1].numpy()
        size = holes[0].numel()
        titles = variable.columns or [f"{name}{i}" if size > 1 else name for i in range(size)]
        told = {
            "row": row.numpy(),
            "column": np.array(titles, dtype=object)[place],
            **{
                what: _cells(values[name], variable, row.numpy(), place)
                for what, values in (
                    ("value", found.values), ("low", found.lower), ("high", found.upper),
                )
            },
            "probability": found.probability[name].flatten(1)[row, place].double().numpy(),
            "ess": found.ess[row].numpy(),
            "pareto_k": found.pareto_k[row].numpy(),
        }  # fmt: skip
        for what, values in told.items():
            columns.setdefault(what, []).append(values)
    if not columns:
        names = "row column value low high probability ess pareto_k"
        return {what: np.zeros(0) for what in names.split()}
    return {what: np.concatenate(parts) for what, parts in columns.items()}


def _cells(values: Tensor, variable: Variable, row: Any, place: Any) -> Any:
    """Some elements as the file has them; an interval that there is not stays empty."""
    columns = [each.reshape(len(values), -1) for each in variable.restored(values).values()]
    kinds = {each.dtype for each in columns}
    given = np.concatenate(
        [each if len(kinds) == 1 else each.astype(object) for each in columns], 1
    )
    there = ~values.flatten(1).isnan().numpy()[row, place]
    found = given[row, place]
    return found if there.all() else np.where(there, found.astype(object), None)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
