"""Values that are not there, on the command line: holes, what comes after, rows given in words."""

from __future__ import annotations

import csv
import difflib
import math
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.cli.console import count, note, refuse_large
from deeplvm.cli.forms import of_sequences
from deeplvm.cli.outputs import beside_others, free, given, impossible, save_table
from deeplvm.cli.sequences import (
    StepsOf,
    future_columns,
    future_inputs,
    future_keys,
    in_long_form,
    inside,
    keys_of,
    length_of,
    of_steps,
    offsets_of,
)
from deeplvm.data.ragged import INPUTS
from deeplvm.data.tabular import cells_of_file
from deeplvm.data.variable import Variable, listed
from deeplvm.evaluation.samples.synthetic import holes_of
from deeplvm.inference.texts import names_of
from deeplvm.likelihood import forecast
from deeplvm.parallel.processes import processes
from deeplvm.runs.scorer import imputations

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data
    from deeplvm.inference.imputation import Imputation
    from deeplvm.runs.run import Run

_ROWS_AT_ONCE = 20_000  # of a table that is written


def fill(
    opened: Run,
    model: LatentVariableModel,
    rows: Data,
    output: Path,
    *,
    by: Any,
    draws: int | None,
    horizon: int | None,
    details: Path | None,
    level: float | None,
    particles: int | None,
    seed: int,
    escape: bool,
) -> None:
    """Rows with their holes filled in, or the steps that come after them, as a file.

    The options are those of ``deeplvm impute``.
    """
    if names_of(rows.description):
        raise ValueError(
            "A text has no missing values to fill in: draw texts (deeplvm sample), or pass "
            "some through the latents (deeplvm reconstruct)."
        )
    particles = particles or (200 if horizon is None else 1_000)
    refuse_large("--particles", particles, rows.description)
    length = length_of(rows.description)
    of_sequences(opened, **{"--horizon": horizon is not None})
    if horizon is not None:
        _forecast(model, rows, output, horizon, draws, level, particles, seed, escape=escape)
        return
    if draws is not None:
        refuse_large("--draws", draws * rows.rows("test"), rows.description)
    found = imputations(
        opened, model, rows.test, by=by, particles=particles, draws=draws or 0,
        level=None if details is None else level or 0.95, seed=seed,
    )  # fmt: skip
    label = rows.description.label
    filled = dict(rows.variables) | ({"y": label} if label and "y" in found.values else {})
    lengths = None if length is None else rows.test[length][:].cpu()
    here = None if lengths is None else inside(lengths)
    warnings = found.warnings
    if here is not None:
        found = of_steps(found, here)
        filled = {n: v for n, v in filled.items() if n in found.values and n != INPUTS}
    values = {name: found.values[name] for name in filled}
    if processes().first:
        known = [title for each in filled.values() for title in each.titles]
        cells = cells_of_file(rows.source, rows.description, known)
        if draws is not None:
            whole = {n: value.expand(draws, *value.shape) for n, value in values.items()}
            titles = [each.columns or (each.name,) for each in filled.values()]
            values = stacked(whole | found.draws, {*cells, *chain(*titles)})
        number = torch.arange(len(next(iter(found.values.values())))).repeat(draws or 1)
        again: Any = rows.test[number] if here is None else StepsOf(rows.test, here, number)
        of_rows: dict[str, Any] = {}
        if lengths is not None:
            steps = {n: each[number.numpy()] for n, each in in_long_form({}, lengths).items()}
            values = {n: v for n, v in values.items() if n not in ("row", "row_")}
            if output.suffix.lower() == ".npz":
                of_rows = {"offsets": offsets_of(lengths.repeat(draws or 1))}
            elif not cells:
                first = {n: values.pop(n) for n in [*values] if n not in filled}
                values = {**first, **steps, **values}

        def parts() -> Iterator[dict[str, Any]]:
            """Some rows after others, as texts and dates of all would fill the memory."""
            size = again.rows if output.suffix.lower() == ".npz" else _ROWS_AT_ONCE
            for start in range(0, again.rows, size):
                some = slice(start, start + size)
                part = {name: value[some] for name, value in values.items()}
                own = given(part, rows.description, again[some])
                at, apart = number[some].numpy(), output.suffix.lower() == ".npz"
                own = _with_cells(own, cells, known, at, apart=apart) if cells else own
                yield own | of_rows

        save_table(output, parts(), escape=escape)
        note(f"{output}: {again.rows} {'rows' if here is None else 'steps'}")
        if others := [each for each in cells if each not in known]:
            note(f"as they were, for the model does not have them: {', '.join(others)}")
        if details is not None:
            told = details_of(found, filled)
            if lengths is not None:  # a row is a step there
                step = told.pop("row").astype(int)
                keys = keys_of(rows)
                told = {n: k[step] for n, k in in_long_form({}, lengths, keys).items()} | told
            save_table(details, told, escape=escape)
        made = found.draws if draws is not None else found.values
        made = {n: v.where(found.missing[n], torch.nan) for n, v in made.items()}
        for warning in (*warnings, *impossible(made, rows.description)):
            note(f"warning: {warning}")
    count(rows=rows.rows("test"), filled=found.filled)
    note(f"{output}: {found.filled} missing values filled")


def _with_cells(
    own: dict[str, Any], cells: Any, known: Any, rows: Any, *, apart: bool
) -> dict[str, Any]:
    """What is filled in by name, with what the model does not have of the file's columns.

    Tables become one, or stay arrays of their own (``apart``).
    """
    tables = [name for name, each in own.items() if isinstance(each, dict)]
    if apart and len(tables) > 1:
        return own | {name: each[rows] for name, each in cells.items() if name not in known}
    columns = {title: each for name in tables for title, each in own.pop(name).items()}
    columns |= {title: own.pop(title) for title in known if title in own}
    images = {name: own.pop(name) for name in [*own] if getattr(own[name], "ndim", 1) > 2}
    return own | {(*tables, "x")[0]: beside_others(columns, cells, rows)} | images


def _forecast(
    model: Any,
    rows: Any,
    output: Path,
    horizon: int,
    draws: int | None,
    level: float | None,
    particles: int,
    seed: int,
    *,
    escape: bool,
) -> None:
    """The steps after the last of each row: quantiles, or draws."""
    lengths, known = rows.test[str(length_of(rows.description))][:], keys_of(rows)
    inputs = [name for name in model.p.inputs if name == INPUTS]
    edge = (1 - (level or 0.9)) / 2
    found = forecast(
        model, rows.test, horizon, future=future_inputs(rows, inputs, horizon),
        particles=max(particles, draws or 0), levels=(edge, 0.5, 1 - edge), draws=draws or 0,
        seed=seed,
    )  # fmt: skip
    keys = future_keys(known, lengths, horizon)
    if draws is None:
        columns = future_columns(found, rows.description)
    else:
        flat = {name: each.flatten(0, 2) for name, each in found.draws.items()}
        columns = given(flat, rows.description)
        many = len(next(iter(keys.values())))
        keys = {n: np.tile(each, draws) for n, each in keys.items()}
        keys = {"draw": torch.arange(draws).repeat_interleave(many).numpy()} | keys
    save_table(output, {**keys, **columns}, escape=escape)
    note(f"{output}: {horizon} steps after the last of {len(lengths):,} sequences")
    count(rows=len(lengths), horizon=horizon)


def with_holes(values: dict[str, Any], data: Any, rows: int, seed: int) -> dict[str, Any]:
    """Values with those missing that the model, or a training row, does not have."""
    if not data.missing:
        raise ValueError(f"--holes: {data.name} has no missing values; leave it out.")
    masks = {n: f"{n}_observed" for n in values if f"{n}_observed" in values}
    holes = holes_of(data.train, sorted(data.missing.intersection(values)), rows, seed)
    holes |= {name: values[mask] == 0 for name, mask in masks.items()}
    return {
        name: torch.where(holes[name], torch.nan, value) if name in holes else value
        for name, value in values.items()
        if name not in masks.values()
    }


def stacked(draws: Mapping[str, Tensor], taken: set[str]) -> dict[str, Tensor]:
    """Draws ``(draws, rows, *event)`` below one another, the numbers of draw and row in front.

    Args:
        draws: By name.
        taken: Names of the file's own columns.
    """
    count, rows = next(iter(draws.values())).shape[:2]
    number = torch.arange(count * rows)
    return {
        free("draw", taken): number // rows,
        free("row", taken): number % rows,
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
