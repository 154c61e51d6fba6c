"""Names: which columns, arrays and pictures of a source are which variables of a model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any

import numpy as np

from deeplvm.data.readers.columns import refuse_absent
from deeplvm.data.readers.source import Facts, Held, Source
from deeplvm.data.readers.tables import TableRows
from deeplvm.data.records import Description
from deeplvm.data.sequences import Sequences
from deeplvm.data.variable import DataError, Variable, listed

Groups = Mapping[str, tuple[str, ...]]


def columns_by_name(
    said: Sequence[str] | Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """The columns, or arrays, of each name, as ``x1=a,b`` or in a mapping.

    Raises:
        DataError: If a name cannot be one of a model, or a column has two.

    >>> columns_by_name(["x1=age,height", 'x2="weight, kg"'])
    {'x1': ('age', 'height'), 'x2': ('weight, kg',)}
    """
    if isinstance(said, Mapping):
        pairs = [(str(n), [c] if isinstance(c, str) else list(c)) for n, c in said.items()]
    else:
        pairs = []
        for each in [said] if isinstance(said, str) else said:
            name, _, columns = str(each).partition("=")
            pairs.append((name.strip(), next(csv.reader([columns], skipinitialspace=True), [])))
    found: dict[str, tuple[str, ...]] = {}
    for name, columns in pairs:
        if not columns or not all(columns):
            raise DataError(
                f"--group {name}: which columns? Write NAME=COLUMN,COLUMN, such as x1=age,height."
            )
        if not name.isidentifier() or name == "y":
            why = "y are the labels (--label)" if name == "y" else "a name is one word"
            raise DataError(f"--group {name}={columns[0]}: {why}; choose another, such as x1.")
        if name in found:
            raise DataError(f"--group {name} is said twice; give all its columns in one.")
        found[name] = tuple(map(str, columns))
    owners: dict[str, str] = {}
    for name, group in found.items():
        for column in group:
            if column in owners:
                both = dict.fromkeys((owners[column], name))
                raise DataError(f"--group: {column!r} is twice in {' and '.join(both)}.")
            owners[column] = name
    return found


def parted(
    found: Held | TableRows, groups: Groups, known: Description | None, source: str
) -> dict[str, Source]:
    """The columns of a table by the name that they belong to; those of none are ``"x"``.

    Args:
        found: All columns.
        groups: Of :func:`columns_by_name`, without those of pictures.
        known: Of the training data, whose groups these are then.
        source: For messages.

    Raises:
        DataError: If a column is not there, or is left out because nothing can be learned of it.
    """
    columns = found.facts.columns or ()
    if known is not None:
        wanted = {n: v.columns for n, v in known.variables.items() if v.columns is not None}
        wanted = {n: each for n, each in wanted.items() if {*each} <= {*columns}}
    else:
        for name, group in groups.items():
            if reasons := [found.facts.left[each] for each in group if each in found.facts.left]:
                raise DataError(f"{source}: --group {name}: {reasons[0]}")
            refuse_absent(source, columns, group)
        grouped = {column for group in groups.values() for column in group}
        rest = tuple([column for column in columns if column not in grouped])
        if rest and "x" in groups:
            raise DataError(
                f"{source}: --group x: the columns that belong to no name would be x too "
                f"({listed(rest)}); --drop {' '.join(map(quote, rest[:10]))}, or call x another "
                f"name."
            )
        wanted = {**({"x": rest} if rest else {}), **groups}
    if list(wanted.values()) == [columns]:
        return dict.fromkeys(wanted, found)
    places = {column: place for place, column in enumerate(columns)}
    views: dict[str, Source] = {}
    for name, group in wanted.items():
        views[name] = found.at(np.array([places[column] for column in group], int))
        # what is left out of the table is said once
        left = {} if len(views) > 1 else found.facts.left
        views[name].facts = replace(views[name].facts, left=left)
    return views


def completed(views: Mapping[str, Any], source: str, known: Description | None) -> dict[str, Any]:
    """All names of the model, in its order; one that the source has not is missing in all rows.

    Raises:
        DataError: If names do not go together: numbers of rows, or a name that is no model's.
    """
    counts = {
        name: {part: len(places) for part, places in each.parts.items()}
        for name, each in views.items()
    }
    if len({str(sorted(each.items())) for each in counts.values()}) > 1:
        told = [f"{n} has {sum(each.values()):,}" for n, each in counts.items()]
        raise DataError(
            f"{source}: a row has a value of each name, but {', '.join(told)} rows"
            f"{' or other splits' if len({sum(e.values()) for e in counts.values()}) < 2 else ''}"
            f"; give as many of each, NaN where one is missing."
        )
    if known is None:
        return dict(views)
    for name, each in views.items():
        trained = known.variables.get(name)
        if trained is not None and (trained.length is None) == isinstance(each, Sequences):
            was, here = ("sequences", "no sequence") if trained.length else ("rows", "a sequence")
            raise DataError(
                f"{source}: the model was fitted to {was}, but a row of {name} is {here} here; "
                f"give data of the form to which it was fitted."
            )
    if strange := [name for name in views if name not in known.variables]:
        raise DataError(
            f"{source}: the model was fitted to {listed(list(known.variables))}, and there is "
            f"{strange[0]!r} here; give arrays of these names, or a table with their columns."
        )
    first = next(iter(views.values()))
    rows = first.rows if isinstance(first, Sequences) else first
    return {
        name: views.get(name) or _absent(variable, first if variable.length else rows)
        for name, variable in known.variables.items()
    }


def _absent(variable: Variable, other: Any) -> Any:
    """Rows of which one name is missing."""
    if variable.kind == "token" and variable.length is None:
        raise DataError(
            f"{other.facts.name}: the model reads a text of each row, {variable.name}, which is "
            f"not here; add it."
        )
    if isinstance(other, Sequences):
        return replace(other, steps=_absent(variable, other.steps))
    facts = Facts(
        other.facts.name, columns=variable.columns, image=variable.is_image,
        notes=(f"{variable.name} is not here: it is missing in all rows.",),
    )  # fmt: skip
    hole = np.broadcast_to(np.float32("nan"), (other.total, *variable.shape))
    return Held(facts, {"all": hole})


def only(known: Description | None, name: str) -> Description | None:
    """The training data as if they had one name alone."""
    return known and replace(known, variables={name: known.variables[name]})
