"""Tables as sources of rows: the columns of a file or a data frame, decoded a group at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote
from typing import Any, Protocol

import numpy as np
import pandas as pd

from deeplvm.data.readers.cells import Reading, is_narrow, texts_of
from deeplvm.data.readers.delimited import refuse_duplicates
from deeplvm.data.readers.source import Array, Facts, Places, consecutive, row_of_part
from deeplvm.data.variable import DataError
from deeplvm.files import WORKING, fits


class Table(Protocol):
    """Columns by name, in groups of rows.

    Attributes:
        facts: What the source says of them, without columns.
        origin: What they are called in a message.
        types: Arrow's type of each column.
        units: The first row of each group, and the number of rows.
    """

    facts: Facts
    origin: str
    types: dict[str, Any]
    units: Array

    @property
    def parts(self) -> Mapping[str, Places]: ...
    @property
    def total(self) -> int: ...
    @property
    def listing(self) -> Mapping[str, str]: ...
    def where(self, row: int) -> str: ...

    def read(self, group: int, names: Sequence[str]) -> Any:
        """Some columns of a group, as an Arrow table."""
        ...


class Frames:
    """A table in memory, or one a split.

    Args:
        facts: What is said of it.
        frames: Data frames or Arrow tables by part, ``"all"`` where there is no split.
        origin: What it is called in a message.
        names: Names of the columns, where the table has none of its own.
        where: A row's place in words; by default its number in its part.

    Raises:
        DataError: If a column is complex, or two have one name.
    """

    def __init__(
        self,
        facts: Facts,
        frames: Mapping[str, Any],
        origin: str,
        names: Sequence[str] | None = None,
        where: Callable[[int], str] | None = None,
    ) -> None:
        import pyarrow as pa

        self.facts, self.origin, self._where = facts, origin, where
        tables = [
            _arrow_table(origin, each) if isinstance(each, pd.DataFrame) else each
            for each in frames.values()
        ]
        if any(each.column_names != tables[0].column_names for each in tables):
            raise DataError(f"{origin}: the splits have different columns.")
        if any(not len(each) for each in tables):
            raise DataError(f"{origin}: the table has no rows.")
        if names is not None and len(names) == tables[0].num_columns:
            tables = [each.rename_columns(list(names)) for each in tables]
        refuse_duplicates(origin, tables[0].column_names)
        whole = tables[0]
        if len(tables) > 1:
            whole = pa.concat_tables(tables, promote_options="permissive")
        self._columns = dict(zip(whole.column_names, whole.columns, strict=True))
        self.types = {name: column.type for name, column in self._columns.items()}
        self.parts = consecutive(
            {key: len(each) for key, each in zip(frames, tables, strict=True)}
        )
        self.total, self.units = len(whole), np.array([0, len(whole)])
        self.listing: Mapping[str, str] = {}

    def read(self, group: int, names: Sequence[str]) -> Any:
        """Some columns."""
        import pyarrow as pa

        return pa.table({name: self._columns[name] for name in names})

    def keep(self, name: str, values: Any) -> None:
        """Put what its texts mean in the place of a column."""
        self._columns[name], self.types[name] = values, values.type

    def where(self, row: int) -> str:
        """The number of a row."""
        return self._where(row) if self._where else row_of_part(self.origin, self.parts, row)


def _arrow_table(origin: str, frame: pd.DataFrame) -> Any:
    import pyarrow as pa

    names, arrays = list(map(str, frame.columns)), []
    for name, (_, column) in zip(names, frame.items(), strict=True):
        if column.dtype.kind == "c":
            raise DataError(
                f"{origin}: column {name!r} holds complex numbers; split it into a real and an "
                f"imaginary column, or --drop {quote(name)}."
            )
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except pa.ArrowException:  # cells of several types: their text
            cells = zip(column, column.isna(), strict=True)
            arrays.append(pa.array([None if missing else str(cell) for cell, missing in cells]))
    return pa.table(arrays, names=names)


class TableRows:
    """Rows of a table as numbers; a group is decoded whole, and the last one is kept.

    Args:
        table: The columns.
        facts: What is known of them; its columns are those that are read.
        label: Column of labels, or ``None``.
        readings: Of each column, and of the label.

    Raises:
        DataError: If a group is larger than the memory.
    """

    def __init__(
        self, table: Table, facts: Facts, label: str | None, readings: Mapping[str, Reading]
    ) -> None:
        self._table, self._columns, self._label = table, list(facts.columns or ()), label
        if table.listing:
            largest = int(np.diff(table.units).max())
            fits(
                WORKING * 8 * largest * len(self._columns),
                f"{table.origin}, a row group of {largest:,} rows, unpacked",
                DataError,
                "write smaller row groups (row_group_size=100_000)",
            )
        self.facts, self._readings = facts, readings
        self.parts, self.total, self.listing = table.parts, table.total, table.listing
        self.where = table.where
        self.units: Array | None = table.units
        self.shape: tuple[int, ...] = (len(self._columns),)
        narrow = all(
            [is_narrow(table.types[n]) or readings[n].codes is not None for n in self._columns]
        )
        self.dtype = np.dtype(np.float32 if narrow else np.float64)
        self._last: tuple[int, Array, Array | None] | None = None
        self._lock = threading.Lock()

    def at(self, places: Array) -> TableRows:
        """The same rows, some of their columns."""
        return TableRows(self._table, self.facts.at(places), self._label, self._readings)

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values by increasing row numbers, NaN where they are missing; and codes of labels.

        The code of a row without a label is −1.
        """
        groups = np.searchsorted(self._table.units, rows, "right") - 1
        cuts = np.flatnonzero(np.diff(groups)) + 1
        if not len(cuts) and len(rows) == np.diff(self._table.units)[groups[0]]:
            return self._group(int(groups[0]))  # all of it, as it is
        values = np.empty((len(rows), len(self._columns)), self.dtype)
        labels = None if self._label is None else np.empty(len(rows), np.int64)
        for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            group = int(groups[begin])
            decoded, codes = self._group(group)
            within = rows[begin:end] - self._table.units[group]
            values[begin:end] = decoded[within]
            if labels is not None and codes is not None:
                labels[begin:end] = codes[within]
        return values, labels

    def _group(self, group: int) -> tuple[Array, Array | None]:
        with self._lock:
            if self._last is None or self._last[0] != group:
                self._last = None
                self._last = (group, *self._decoded(group))
            return self._last[1:]

    def _decoded(self, group: int) -> tuple[Array, Array | None]:
        wanted = [*self._columns, *([self._label] if self._label else [])]
        first = int(self._table.units[group])
        table = self._table.read(group, wanted)
        values = np.empty((table.num_rows, len(self._columns)), self.dtype)
        for place, name in enumerate(self._columns):
            values[:, place] = self._numbers(table, name, first)
        if self._label is None:
            return values, None
        codes = self._numbers(table, self._label, first)
        return values, np.where(np.isnan(codes), -1, codes).astype(np.int64)

    def _numbers(self, table: Any, name: str, first: int) -> Array:
        column, reading = table.column(name), self._readings[name]
        if reading.codes is None:
            numbers, bad = reading.numbers(column)
            if not bad.any():
                return numbers
            row = int(np.flatnonzero(bad)[0])
            what = "date" if reading.type.startswith("date") else "number"
            cell, where = column[row].as_py(), self.where(first + row)
            raise DataError(not_of_its_kind(where, name, cell, what))
        texts, places = texts_of(column, reading.missing)
        codes = np.array([reading.codes.get(text, -1.0) for text in texts] + [np.nan])
        found = codes[places]
        if (found < 0).any():
            row = int(np.flatnonzero(found < 0)[0])
            known = ", ".join(list(reading.codes)[:10])
            what = "labels" if name == self._label else "categories"
            raise DataError(
                f"{self.where(first + row)}, column {name!r}: {texts[places[row]]!r} is "
                f"none of the {what} of the training data ({known}); correct the cell."
            )
        return found


def not_of_its_kind(where: str, name: str, cell: str, what: str) -> str:
    """The error of a cell that is not what the others of its column are."""
    return (
        f"{where}, column {name!r}: {cell!r} is not a {what}. Correct the cell, or leave it empty "
        f"if the value is missing; or --drop {quote(name)}, --label {quote(name)} if it is the "
        f"label, --categories {quote(name)} if its values are codes."
    )


def groups_of(table: Table, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """First row and content of each group, some columns."""
    for group in range(len(table.units) - 1):
        yield int(table.units[group]), table.read(group, names)
