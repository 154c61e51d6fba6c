"""Long tables: a row of the file is a step, and those that share an identifier are a sequence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from deeplvm.data.readers.arrays import LABEL_KEYS
from deeplvm.data.readers.cells import cells_of, family, is_date, numbers_of
from deeplvm.data.readers.columns import Understanding, refuse_absent
from deeplvm.data.readers.delimited import MISSING_WORDS, read_delimited
from deeplvm.data.readers.images import files_below, labels_of, splits_of
from deeplvm.data.readers.source import Array, Facts
from deeplvm.data.readers.tables import Frames, Table, groups_of, not_of_its_kind
from deeplvm.data.schema import Rule
from deeplvm.data.variable import DataError
from deeplvm.files import fits, gunzip, read_whole

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
# Time differences of dates are in the unit of which the middle one has at least one.
TIME_UNITS = (("days", 1.0), ("hours", 24.0), ("minutes", 1440.0), ("seconds", 86_400.0))
_REGULAR = 1e-6  # differences that differ by no more of the largest are one


@dataclass(frozen=True, eq=False)
class Folded:
    """A table whose rows are steps, those of a sequence one after another.

    Attributes:
        table: Without the columns of the identifier and of the order; with that of the time
            differences, if there is one.
        lengths: How many steps each sequence has, by part.
        differences: The column of time differences; ``None`` where the steps are regular.
        rows: The rows of the table that was folded, in the order of the steps.
    """

    table: Table
    lengths: dict[str, Array]
    differences: str | None
    rows: Array


class Together:
    """A table of files whose rows are steps in their order already, read as they are.

    Args:
        table: All columns.
        columns: Those that are read.
        notes: What was done.
        more: Further columns of all rows, by name.
    """

    def __init__(
        self, table: Table, columns: Sequence[str], notes: Sequence[str], more: Mapping[str, Array]
    ) -> None:
        import pyarrow as pa

        self._table, self._more = table, more
        self.facts = replace(table.facts, notes=tuple(notes))
        self.origin, self.units = table.origin, table.units
        self.types = {name: table.types[name] for name in columns}
        self.types |= dict.fromkeys(more, pa.float64())
        self.parts, self.total, self.listing = table.parts, table.total, table.listing
        self.where = table.where

    def read(self, group: int, names: Sequence[str]) -> Any:
        """Some columns of a group."""
        import pyarrow as pa

        rows = self._table.read(group, [name for name in names if name not in self._more])
        here = slice(int(self.units[group]), int(self.units[group + 1]))
        for name in names:
            if name in self._more:
                rows = rows.append_column(name, pa.array(self._more[name][here]))
        return rows


def identifiers(table: Table, column: str) -> Array:
    """Which sequence each row belongs to, numbers from 0 in the order in which they begin.

    Raises:
        DataError: If there is no such column, or a cell of it is empty.
    """
    refuse_absent(table.origin, [*table.types], [column])
    found: list[Any] = []
    for _, rows in groups_of(table, [column]):
        cells = rows.column(column)
        if family(cells.type) == "text":
            found.append(cells_of(cells, MISSING_WORDS)[0].to_pandas())
        else:
            found.append(pd.Series(numbers_of(cells)))
    codes, _ = pd.factorize(pd.concat(found, ignore_index=True))
    if (codes < 0).any():
        raise DataError(
            f"{table.where(int(np.argmin(codes)))}, column {column!r}: the cell is empty, so it "
            f"is not known which sequence the row belongs to; fill it in, or leave the row out."
        )
    return codes


def folded_table(
    table: Table,
    codes: Array,
    order: str | None,
    *,
    away: Sequence[str],
    rules: Mapping[str, Rule],
    differences: str | None,
    known: bool,
) -> Folded:
    """Put the steps of each sequence together, in their order.

    Args:
        table: All rows.
        codes: Which sequence each belongs to.
        order: Column of numbers or dates by which the steps of a sequence are ordered; ``None``
            leaves them in the order of the file.
        away: Columns that are left out.
        rules: Of the schema.
        differences: The column of time differences of the training data.
        known: Whether there are training data.

    Raises:
        DataError: If a time is missing, or no number or date.
    """
    import pyarrow as pa

    notes, columns = list(table.facts.notes), [n for n in table.types if n not in {*away, order}]
    times, unit = (None, None) if order is None else _times(table, order, rules)
    parts, lengths, gaps, begins = {}, {}, list[Array](), list[Array]()
    for part, places in table.parts.items():
        rows = places.all()
        keys = (codes[rows],) if times is None else (times[rows], codes[rows])
        parts[part] = rows = rows[np.lexsort(keys)]
        begins.append(np.diff(codes[rows], prepend=-1) != 0)
        lengths[part] = np.diff(np.flatnonzero(begins[-1]), append=len(rows))
        if times is not None:
            gaps.append(np.where(begins[-1], 0.0, np.diff(times[rows], prepend=0.0)))
    moved = np.concatenate([*parts.values()])
    if (np.diff(moved) < 0).any():
        how = f"sorted by {order!r}" if order else "put together, in the order of the file"
        notes.append(f"the steps of a sequence lie apart in the file: they are {how}.")
    name, gap = None, np.concatenate(gaps) if gaps else np.zeros(0)
    if order is not None:
        later = gap[~np.concatenate(begins)]
        if ties := int((later == 0).sum()):
            notes.append(
                f"{ties:,} times {order!r} is that of the step before; such steps stay in the "
                f"order of the file."
            )
        name, factor = _difference(order, later, unit, differences, known=known)
        gap = gap * factor
    if name is not None:
        if name in table.types:
            raise DataError(
                f"{table.origin}: the differences of {order!r} would be called {name!r}, and "
                f"there is such a column; --drop {quote(name)}, or rename it."
            )
        notes.append(
            f"steps are irregular in {order!r}: {name!r}, what has passed since the step before, "
            f"is an input of each step."
        )
    if not isinstance(table, Frames) and (np.diff(moved) > 0).all():
        together = Together(table, columns, notes, {} if name is None else {name: gap})
        return Folded(together, lengths, name, moved)
    rows_of = _whole(table, columns)
    frames, at = {}, 0
    for part, rows in parts.items():
        some = rows_of if np.array_equal(rows, np.arange(len(rows_of))) else rows_of.take(rows)
        if name is not None:
            some = some.append_column(name, pa.array(gap[at : at + len(rows)]))
        frames[part], at = some, at + len(rows)
    facts = Facts(table.facts.name, split=table.facts.split, notes=tuple(notes))
    made = Frames(facts, frames, table.origin, where=lambda row: table.where(int(moved[row])))
    return Folded(made, lengths, name, moved)


def _whole(table: Table, columns: Sequence[str]) -> Any:
    """Some columns of all rows."""
    import pyarrow as pa

    if not columns:
        raise DataError(f"{table.origin}: no column is left to be modelled.")
    return pa.concat_tables([rows for _, rows in groups_of(table, columns)])


def _times(table: Table, order: str, rules: Mapping[str, Rule]) -> tuple[Array, str | None]:
    """The time of each row, and ``"days"`` of dates."""
    refuse_absent(table.origin, [*table.types], [order])
    rule = replace(rules.get(order, Rule()), type="date")  # points in time, if these are dates
    reader = Understanding(table, None, set(), {**rules, order: rule}, None)
    reader.refuse_type(order)
    readings, _ = reader.readings([order])
    reading = readings[order]
    if reading.codes is not None:
        text = next(iter(reading.codes), "")
        raise DataError(
            f"{table.origin}: --order {order}: steps are ordered by numbers or by dates, but the "
            f"column holds text, such as {text!r}; leave --order out if the rows are in order."
        )
    found = []
    for first, rows in groups_of(table, [order]):
        cells = rows.column(order)
        numbers, bad = reading.numbers(cells)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            what = "date" if is_date(reading.type) else "number"
            raise DataError(
                not_of_its_kind(table.where(first + row), order, cells[row].as_py(), what)
            )
        if (holes := np.isnan(numbers)).any():
            raise DataError(
                f"{table.where(first + int(np.argmax(holes)))}, column {order!r}: the cell is "
                f"empty, so the place of the step is not known; fill it in, or leave the row out."
            )
        found.append(numbers.astype(np.float64))
    return np.concatenate(found), "days" if is_date(reading.type) else None


def _difference(
    order: str, gaps: Array, unit: str | None, trained: str | None, *, known: bool
) -> tuple[str | None, float]:
    """The name of the column of time differences, if it is wanted, and what they are times."""
    names = {} if unit is None else {f"{order}_{u}": by for u, by in TIME_UNITS}
    if known:
        return trained, names.get(trained or "", 1.0)
    if not len(gaps) or np.ptp(gaps) <= _REGULAR * np.abs(gaps).max():
        return None, 1.0
    if unit is None:
        return f"{order}_difference", 1.0
    middle = float(np.median(gaps))
    chosen, factor = next((each for each in TIME_UNITS if each[1] * middle >= 1), TIME_UNITS[-1])
    return f"{order}_{chosen}", factor


def folder_of_tables(folder: Path, *, header: bool | None) -> tuple[Frames, Array, Any] | None:
    """The rows of all delimited files below a folder, the file of each, and the files' labels.

    Folders train, valid and test are splits; other sub-folders are labels, if each file is in one.

    Returns:
        ``None`` where there is no such file.

    Raises:
        DataError: If one cannot be read, or the files differ in their columns.
    """
    paths = files_below(folder, ENDINGS)
    if not paths:
        return None
    keys, words = splits_of(folder, paths)
    labels = labels_of(folder, paths, keys)
    read = [read_delimited(path, header=header) for path in paths]
    for path, each in zip(paths, read, strict=True):
        names, first = each.cells.column_names, read[0].cells.column_names
        if names != first or each.named != read[0].named:
            differ = sorted({*names} ^ {*first}) or names
            raise DataError(
                f"{path}: its columns are not those of {paths[0].name} (they differ in "
                f"{', '.join(differ[:5])}); all files of a folder need the same columns."
            )
    import pyarrow as pa

    parts = dict.fromkeys(keys.tolist())
    chosen = {part: [i for i, key in enumerate(keys) if key == part] for part in parts}
    frames = {p: pa.concat_tables([read[i].cells for i in some]) for p, some in chosen.items()}
    order = [i for some in chosen.values() for i in some]
    sizes = np.array([len(read[i].cells) for i in order])
    starts = np.cumsum(sizes) - sizes

    def where(row: int) -> str:
        place = int(np.searchsorted(starts, row, "right")) - 1
        return f"{paths[order[place]]}, row {row - int(starts[place]) + 1}"

    notes = tuple(dict.fromkeys([note for each in read for note in each.notes]))
    facts = Facts(folder.resolve().name, split=words, notes=notes)
    table = Frames(facts, frames, str(folder), where=where)
    of_parts = None if labels is None else {p: labels[some] for p, some in chosen.items()}
    return table, np.repeat(np.arange(len(order)), sizes), of_parts


def json_lines(path: Path) -> dict[str, Any]:
    """Sequences, a line each: a list of steps, or an object of lists by name.

    Returns:
        By name a list with an entry a line: an array of its steps, or a number or text.

    Raises:
        DataError: If a line is no JSON, or not as the first.
    """
    content = read_whole(path, DataError)
    if content[:2] == b"\x1f\x8b":
        content = gunzip(content, path, DataError)
    fits(20 * len(content), f"{path}, read", DataError)
    found: dict[str, list[Any]] = {}
    lines = [(i, line) for i, line in enumerate(content.splitlines(), 1) if line.strip()]
    for count, (number, line) in enumerate(lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: this is no JSON ({error}).") from None
        each = value if isinstance(value, dict) else {"x": value}
        if count and each.keys() != found.keys():
            raise DataError(
                f"{path}, line {number}: it has {', '.join(each) or 'nothing'}, but the first "
                f"line has {', '.join(found)}; all lines need the same names."
            )
        sizes = {name: len(entry) for name, entry in each.items() if isinstance(entry, list)}
        if len({*sizes.values()}) > 1:
            told = " and ".join([f"{name} {size}" for name, size in sizes.items()])
            raise DataError(
                f"{path}, line {number}: its lists have unequal numbers of steps ({told}); the "
                f"lists of a line need one length."
            )
        for name, entry in each.items():
            found.setdefault(name, []).append(_steps(entry, f"{path}, line {number}, {name}"))
    if not found:
        raise DataError(f"{path}: the file is empty.")
    lists = [name for name, each in found.items() if isinstance(each[0], np.ndarray)]
    alone = [name for name in found if lists and name not in (*lists, *LABEL_KEYS)]
    if alone:
        raise DataError(
            f"{path}: {alone[0]!r} is one value a line, beside lists of steps; call it y if it is "
            f"the label of the sequence, or leave it out."
        )
    return {
        name: each if isinstance(each[0], np.ndarray) and each[0].ndim else np.array(each)
        for name, each in found.items()
    }


def _steps(entry: Any, what: str) -> Any:
    """A list as an array, null as NaN."""
    if not isinstance(entry, list):
        return np.nan if entry is None else entry
    try:
        found = np.array(entry)
        if found.dtype == object and not any([isinstance(each, str) for each in entry]):
            found = found.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what}: its steps are not alike ({error}).") from None
    return found
