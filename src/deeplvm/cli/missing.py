"""Missing values on the command line: draws, what is known of each, and rows given in words."""

from __future__ import annotations

import csv
import difflib
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.variable import Variable, listed

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.inference.imputation import Imputation
    from deeplvm.runs.run import Run


def stacked(draws: Mapping[str, Tensor], taken: set[str]) -> dict[str, Tensor]:
    """Draws ``(draws, rows, *event)`` below one another, the numbers of draw and row in front.

    Args:
        draws: By name.
        taken: Names of the file's own columns.
    """
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
        at = holes.reshape(len(holes), -1).nonzero()  # (filled, 2)
        row, place = at[:, 0], at[:, 1].numpy()
        flat = found.probability[name].reshape(len(holes), -1)
        size = holes[0].numel()
        one = variable.name if size == 1 else ""
        titles = variable.columns or [one or f"{name}{i}" for i in range(size)]
        told = {
            "row": row.numpy(),
            "column": np.array(titles, dtype=object)[place],
            **{
                what: _cells(values[name], variable, row.numpy(), place)
                for what, values in (
                    ("value", found.values), ("low", found.lower), ("high", found.upper),
                )
            },
            "probability": flat[row, place].double().numpy(),
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
    there = ~values.reshape(len(values), -1).isnan().numpy()[row, place]
    found = given[row, place]
    return found if there.all() else np.where(there, found.astype(object), None)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


_TOGETHER = 20  # draws of a row from one set of particles
_PARTICLES = 1_000  # of which these are chosen by their weights


def sampled_given(
    opened: Run, model: LatentVariableModel, text: str, count: int, seed: int
) -> tuple[dict[str, Tensor], Any, tuple[str, ...]]:
    """So many draws of a row of which some columns are known.

    Args:
        opened: The run, whose columns they are.
        model: Its model.
        text: ``age=40,job=nurse``, as a line of a .csv: what has a comma is put in quotes.
        count: How many.
        seed: Of the draws.

    Returns:
        Values by name, the rows that were given as often, and warnings.

    Raises:
        ValueError: If a column is not one of the data, or a value not one of its.
    """
    from deeplvm.inference import impute

    data = _row_of(opened, text)
    per = min(count, _TOGETHER)
    copies = -(-count // per)
    found = impute(
        model,
        data.test[torch.zeros(copies, dtype=torch.int64)],
        by="draw",
        particles=_PARTICLES if model.q.names else 1,
        draws=per,
        draw=opened.measured(data),
        completed="auto" if opened.saw_holes else True,
        seed=seed,
    )
    whole = {name: found.values[name] for name in opened.description.variables}
    drawn = {name: each.expand(per, *each.shape) for name, each in whole.items()} | found.draws
    values = {name: each.flatten(0, 1)[:count] for name, each in drawn.items()}
    rows = data.test[torch.zeros(count, dtype=torch.int64)]
    return values, rows, found.warnings


def _row_of(opened: Run, text: str) -> Any:
    """One row, of which all but what is given is missing, read as the run's own data were."""
    description = opened.description
    groups, images = description.options.get("group") or {}, set[str]()
    for name, each in description.variables.items():
        if each.is_image and len(group := groups.get(name, ())) == 1:  # the paths of its files
            images |= {*group}
    columns = [*description.columns, *images]
    if not columns:
        raise ValueError(
            "--given names columns, and the data of this run have none; impute FILE --draws draws "
            "what a file lacks: NaN, and whole arrays."
        )
    label = description.options.get("label")
    known = [*columns, *([str(label)] if label else [])]
    cells: dict[str, str] = {}
    for each in next(csv.reader([text], skipinitialspace=True), []):
        column, equals, value = each.partition("=")
        column, value = column.strip(), value.strip()
        if not equals or not column or not value:
            raise ValueError(
                f"--given {each!r} is not column=value, such as {columns[0]}=...; columns are "
                f"parted by commas."
            )
        if column not in known:
            close = difflib.get_close_matches(column, known, n=3, cutoff=0.4)
            hint = (
                f"did you mean {' or '.join(close)}?"
                if close
                else f"there are {listed(known, 20)}."
            )
            raise ValueError(f"--given: there is no column {column!r}; {hint}")
        if column in cells:
            raise ValueError(f"--given says twice what {column!r} is.")
        cells[column] = str(Path(value).absolute()) if column in images else value
    if not cells:
        raise ValueError(f"--given says nothing; write column=value, such as {columns[0]}=....")
    if not set(columns) - set(cells):
        raise ValueError("--given says all columns, so there is nothing left to draw.")
    titles = [*columns, *[each for each in cells if each not in columns]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([titles, [cells.get(each, "") for each in titles]])
        try:
            read = opened.read(str(path))
        except ValueError as error:
            said = str(error).replace(str(path), path.name).replace(path.name, "--given")
            # what it says to do next is about a file
            raise ValueError(f"{said.split('. ')[0].rstrip('.')}.") from error
    row = read.test[torch.zeros(1, dtype=torch.int64)]
    values = [
        value
        for name, each in description.variables.items()
        if each.columns
        for value in row[name].flatten().tolist()
    ]
    for each, value in zip(description.columns, values, strict=True):
        if each in cells and math.isnan(value):
            raise ValueError(
                f"--given {each}={cells[each]}: {cells[each]!r} is a missing value; leave "
                f"{each!r} out, and it is drawn."
            )
    return read
