"""Tables: .csv, and the columns of any table -> rows of numbers, codes of categories, labels."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from deeplvm.data.readers.source import Array, Facts, Places, consecutive, no_label, row_of_part
from deeplvm.data.records import DataError, Description
from deeplvm.files import ROW, WORKING, fits, gunzip, read_whole

# pandas' own list, and the question mark of the UCI repository.
MISSING_WORDS = (
    "", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "?",
)  # fmt: skip
MOST_CATEGORIES = 100
_MOST_LABELS = 100_000
_CELL = 40  # bytes for a cell while it is parsed and loaded
_BLOCK = 1 << 24
LARGEST_EXACT = 2**53  # beyond it a float64 no longer holds every whole number


def read_csv(path: Path) -> pd.DataFrame:
    """A delimited text file: commas, semicolons or tabs; a header or none; gzipped or not.

    The first line is a header if none of its cells is a number, or if it counts 0, 1, 2, ... A
    first column without a name that counts the rows is pandas' index and is left out. Empty
    cells, ``NA``, ``nan``, ``?`` and the like are missing.

    Raises:
        DataError: If the file is empty, ragged, not text, names a column twice, or does not fit
            into the memory.
    """
    content = _read_text(path)
    begin = next((line for line in io.BytesIO(content) if line.strip()), b"").decode()
    if not begin:
        raise DataError(f"{path}: the file is empty.")
    delimiter = max((",", ";", "\t"), key=begin.count)
    rows = content.count(b"\n")
    cells = content.count(delimiter.encode()) + rows
    hint = "save it as .npy or .parquet, which are read from disk row by row"
    size = WORKING * len(content) + _CELL * cells + ROW * rows
    fits(size, f"{path}, {cells:,} cells", DataError, hint)
    first, rows = _equal_widths(path, content, delimiter)
    named = first[1:] if not first[0] else first
    counted = len(named) > 1 and named == [str(number) for number in range(len(named))]
    words = any(cell not in MISSING_WORDS for cell in first)
    header = counted or (words and not any(_is_number(cell) for cell in first))
    if header and rows < 2:
        raise DataError(f"{path}: there is a header ({', '.join(first[:5])}) but no row below it.")
    if header:
        _refuse_duplicates(path, first)
    frame = pd.read_csv(
        io.BytesIO(content),
        sep=delimiter,
        header=0 if header else None,
        keep_default_na=False,
        na_values=list(MISSING_WORDS),
        skipinitialspace=True,
        low_memory=False,
        index_col=False,
    )
    frame.columns = [str(name).strip() for name in frame.columns]
    if header and not first[0] and (frame.iloc[:, 0] == np.arange(len(frame))).all():
        frame = frame.iloc[:, 1:]  # what pandas' to_csv writes when not told index=False
    return frame


def _equal_widths(path: Path, content: bytes, delimiter: str) -> tuple[list[str], int]:
    """The cells of the first line, and the number of lines, all of so many cells."""
    lines = csv.reader(
        io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), delimiter=delimiter
    )
    try:
        first = [cell.strip() for cell in next(filter(None, lines))]
        counts: Iterable[tuple[int, Array]]
        if b'"' in content or content.count(b"\r") > content.count(b"\r\n"):
            counts = ((lines.line_num, np.array([len(cells)])) for cells in lines if cells)
            rows = 1
        else:  # a cell is what lies between two delimiters
            counts, rows = _widths(content, ord(delimiter)), 0
        for line, widths in counts:
            rows += int((widths > 0).sum())
            wrong = np.flatnonzero((widths != len(first)) & (widths > 0))
            if len(wrong):
                raise DataError(
                    f"{path}: line {line + wrong[0]} has {_cells(int(widths[wrong[0]]))} but the "
                    f"first line has {len(first)}; every line needs the same number (an empty "
                    f"cell is a missing value)."
                )
    except csv.Error as problem:
        raise DataError(f"{path}: line {lines.line_num}: {problem}.") from None
    return first, rows


def _widths(content: bytes, delimiter: int) -> Iterator[tuple[int, Array]]:
    """The number of a line, and how many cells it and those after it have; 0 if blank."""
    start, line = 0, 1
    while start < len(content):
        end = content.rfind(b"\n", start, start + _BLOCK) + 1 or content.find(b"\n", start) + 1
        block = np.frombuffer(content, np.uint8, (end or len(content)) - start, start)
        ends = np.flatnonzero(block == ord("\n")) + 1
        begins = np.concatenate([[0], ends])
        begins = begins[begins < len(block)]
        widths = np.add.reduceat(block == delimiter, begins, dtype=np.int64) + 1
        widths[np.isin(block[begins], (ord("\n"), ord("\r")))] = 0
        yield line, widths
        start, line = start + len(block), line + len(widths)


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
        frames: By part, ``"all"`` where there is no split.
        origin: What it is called in a message.
        known: Names of the columns, of which a table without a header has as many.

    Raises:
        DataError: If a column is complex, or two have one name.
    """

    def __init__(
        self,
        facts: Facts,
        frames: Mapping[str, pd.DataFrame],
        origin: str,
        known: Sequence[str] | None = None,
    ) -> None:
        self.facts, self.origin = facts, origin
        names = [list(map(str, frame.columns)) for frame in frames.values()]
        if any(each != names[0] for each in names):
            raise DataError(f"{origin}: the splits have different columns.")
        if any(not len(frame) for frame in frames.values()):
            raise DataError(f"{origin}: the table has no rows.")
        _refuse_duplicates(origin, names[0])
        if known is not None and len(known) == len(names[0]) and all(map(str.isdigit, names[0])):
            names[0] = list(known)
        frame, *others = frames.values()
        whole = pd.concat([frame, *others], ignore_index=True) if others else frame
        self._table = _arrow_table(origin, names[0], whole)
        self.types = dict(zip(names[0], self._table.schema.types, strict=True))
        self.parts = consecutive({key: len(each) for key, each in frames.items()})
        self.total, self.units = len(whole), np.array([0, len(whole)])
        self.listing: Mapping[str, str] = {}

    def read(self, group: int, names: Sequence[str]) -> Any:
        """Some columns."""
        return self._table.select(list(names))

    def where(self, row: int) -> str:
        """The number of a row."""
        return row_of_part(self.origin, self.parts, row)


def _arrow_table(origin: str, names: Sequence[str], frame: pd.DataFrame) -> Any:
    import pyarrow as pa

    arrays = []
    for name, (_, column) in zip(names, frame.items(), strict=True):
        if column.dtype.kind == "c":
            raise DataError(
                f"{origin}: column {name!r} holds complex numbers; split it into a real and an "
                f"imaginary column, or --drop {name}."
            )
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except pa.ArrowException:  # cells of several types: their text
            cells = zip(column, column.isna(), strict=True)
            arrays.append(pa.array([None if missing else str(cell) for cell, missing in cells]))
    return pa.table(arrays, names=list(names))


class TableRows:
    """Rows of a table as numbers; a group is decoded whole, and the last one is kept.

    Args:
        table: The columns.
        facts: What is known of them; its columns are those that are read.
        label: Column of labels, or ``None``.
        codes: What the texts of a column, or of the label, are as numbers.

    Raises:
        DataError: If a group is larger than the memory.
    """

    def __init__(
        self,
        table: Table,
        facts: Facts,
        label: str | None,
        codes: Mapping[str, Mapping[str, float]],
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
        self.facts, self._codes = facts, codes
        self.parts, self.total, self.listing = table.parts, table.total, table.listing
        self.where = table.where
        self.units: Array | None = table.units
        self.shape: tuple[int, ...] = (len(self._columns),)
        narrow = all([is_narrow(table.types[n]) or n in codes for n in self._columns])
        self.dtype = np.dtype(np.float32 if narrow else np.float64)
        self._last: tuple[int, Array, Array | None] | None = None
        self._lock = threading.Lock()

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values by increasing row numbers, NaN where they are missing; and codes of labels."""
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
        return values, self._numbers(table, self._label, first).astype(np.int64)

    def _numbers(self, table: Any, name: str, first: int) -> Array:
        column = table.column(name)
        if name not in self._codes:
            return numbers_of(column)
        lookup = self._codes[name]
        texts, places = texts_of(column)
        codes = np.array([lookup.get(text, -1.0) for text in texts] + [np.nan])
        found = codes[places]
        if (found < 0).any():
            row = int(np.flatnonzero(found < 0)[0])
            known = ", ".join(list(lookup)[:10])
            what = "labels" if name == self._label else "categories"
            raise DataError(
                f"{self.where(first + row)}, column {name!r}: {texts[places[row]]!r} is "
                f"none of the {what} of the training data ({known}); correct the cell."
            )
        return found


def family(kind: Any) -> str:
    """What an Arrow type holds, in one word."""
    import pyarrow.types as is_a

    if is_a.is_dictionary(kind):
        return family(kind.value_type)
    if is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_boolean(kind):
        return "number"
    if is_a.is_decimal(kind) or is_a.is_null(kind):
        return "number"
    if is_a.is_string(kind) or is_a.is_large_string(kind):
        return "text"
    if is_a.is_temporal(kind):
        return "dates"
    return "lists" if is_a.is_nested(kind) else "values"


def is_narrow(kind: Any) -> bool:
    """Whether single precision holds all values of an Arrow type."""
    import pyarrow.types as is_a

    small = is_a.is_integer(kind) and kind.bit_width <= 16
    return small or is_a.is_boolean(kind) or is_a.is_float16(kind) or is_a.is_float32(kind)


def numbers_of(column: Any) -> Array:
    """An Arrow column of numbers, NaN where they are missing."""
    import pyarrow as pa
    import pyarrow.types as is_a

    if is_a.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (is_a.is_integer(column.type) or is_a.is_floating(column.type)):
        wide = pa.uint8() if is_a.is_boolean(column.type) else pa.float64()
        column = column.cast(wide)
    return column.to_numpy()


def texts_of(column: Any) -> tuple[list[str], Array]:
    """The different values of an Arrow column as stripped text, and which one each row has.

    A missing value has the last place, -1. Whole numbers are written without a point.
    """
    import pyarrow as pa

    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if not isinstance(whole, pa.DictionaryArray):
        whole = whole.dictionary_encode()
    values = whole.dictionary.to_pylist()
    texts = [str(int(v)) if isinstance(v, float) and v == int(v) else str(v) for v in values]
    places = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return [text.strip() for text in texts], places


def open_table(
    table: Table,
    *,
    label: str | None,
    drop: Sequence[str],
    categories: Sequence[str],
    known: Description | None,
) -> TableRows:
    """Columns of numbers; text becomes categories; a label column becomes the labels.

    The text alone is passed over first, for what occurs in it.

    Raises:
        DataError: If a column named does not exist, or holds what is neither numbers nor
            categories.
    """
    origin, present = table.origin, list(table.types)
    trained = None if known is None else known.variables["x"]
    notes = list(table.facts.notes)
    if trained is None:
        refuse_absent(origin, present, [*drop, *categories, *([label] if label else [])])
        left = {*drop, label}
        kept = [name for name in present if name not in left]
        notes += perhaps_labels(kept) if label is None else []
    elif trained.columns is None:
        raise DataError(f"{origin}: the model was fitted to arrays, not to a table.")
    else:
        kept = list(trained.columns)
        absent = [name for name in kept if name not in table.types]
        if absent:
            raise DataError(
                f"{origin}: column {absent[0]!r} of the training data is not there "
                f"({len(absent)} absent in all); the file has {', '.join(present[:10])}."
            )
        used = {*kept, label}
        ignored = [name for name in present if name not in used]
        if ignored:
            notes.append(f"columns not in the training data are left out: {_some(ignored)}.")
    if not kept:
        raise DataError(f"{origin}: no column is left to be modelled.")
    label = label if label in table.types else None
    families = {name: family(table.types[name]) for name in [*kept, *([label] if label else [])]}
    for name, what in families.items():
        if what not in ("number", "text"):
            raise DataError(
                f"{origin}: column {name!r} holds {what} ({table.types[name]}), not numbers; "
                f"--drop {name}, or turn it into numbers."
            )
    names_of = {
        part.name: part.categories
        for part in (trained.parts if trained is not None else ())
        if part.categories is not None
    }
    asked = {*categories, *names_of}
    coded = [name for name in kept if families[name] == "text" or name in asked]
    distinct = _distinct(table, [*coded, *([label] if label else [])], label)
    codes: dict[str, Mapping[str, float]] = {}
    found: dict[str, tuple[str, ...]] = {}
    for name in coded:
        names = names_of.get(name)
        if name not in asked or (known is not None and names is None):
            numbers = _as_numbers(table, name, distinct[name], new=known is None)
            if numbers is not None:
                codes[name] = numbers
                continue
        if names is None:
            names = _categories(table, name, distinct[name], text=families[name] == "text")
        found[name] = names
        codes[name] = {text: float(code) for code, text in enumerate(names)}
    classes = known.classes if known is not None else None
    if label is not None:
        if classes is None:
            classes = tuple(_ordered(distinct[label], text=families[label] == "text"))
        codes[label] = {text: float(code) for code, text in enumerate(classes)}
    facts = replace(
        table.facts,
        columns=tuple(kept),
        categories=found,
        classes=classes if label is not None else None,
        notes=tuple(notes),
    )
    return TableRows(table, facts, label, codes)


def _groups(table: Table, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """First row and content of each group, some columns."""
    for group in range(len(table.units) - 1):
        yield int(table.units[group]), table.read(group, names)


def _distinct(table: Table, names: Sequence[str], label: str | None) -> dict[str, set[str]]:
    """The different texts of some columns."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for first, rows in _groups(table, names) if names else ():
        for name in names:
            texts, places = texts_of(rows.column(name))
            found[name] |= set(texts)
            if len(found[name]) > _MOST_LABELS:
                raise DataError(
                    f"{table.origin}: column {name!r} holds text with more than {_MOST_LABELS} "
                    f"different values: names or free text rather than "
                    f"{'labels' if name == label else 'categories'}; --drop {name}."
                )
            if name != label:
                continue
            if (places < 0).any():
                row = first + int(np.flatnonzero(places < 0)[0])
                raise DataError(
                    f"{table.where(row)}: the label column {name!r} is empty; give every row a "
                    f"label, or leave those rows out."
                )
            whole = family(table.types[name]) == "text"
            for text in texts:
                if not (whole or text.lstrip("-").isdigit() or text in ("True", "False")):
                    raise DataError(no_label(f"{table.origin}, column {name!r}", text))
    return found


def _as_numbers(table: Table, name: str, texts: set[str], *, new: bool) -> dict[str, float] | None:
    """Numbers, or truth values, that were written as text; ``None`` if all are words."""
    if texts and {text.lower() for text in texts} <= {"true", "false"}:
        return {text: float(text.lower() == "true") for text in texts}
    listed = sorted(texts)
    numbers = pd.to_numeric(pd.Series(listed, dtype=object), errors="coerce").to_numpy(float)
    words = {text for text, bad in zip(listed, np.isnan(numbers), strict=True) if bad}
    if not words:
        return dict(zip(listed, numbers.tolist(), strict=True))
    if new and len(words) == len(listed):
        return None
    for first, rows in _groups(table, [name]):
        said, places = texts_of(rows.column(name))
        bad = np.array([text in words for text in said] + [False])[places]
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{table.where(first + row)}, column {name!r}: {said[places[row]]!r} is not a "
                f"number. Correct the cell, or leave it empty if the value is missing; or --drop "
                f"{name}, --label {name} if it is the label, --categories {name} if its values "
                f"are codes."
            )
    return None


def _categories(table: Table, column: str, texts: set[str], *, text: bool) -> tuple[str, ...]:
    if len(texts) > MOST_CATEGORIES or len(texts) > max(2, table.total // 2):
        raise DataError(
            f"{table.origin}: column {column!r} holds text with {len(texts)} different values in "
            f"{table.total} rows: names or free text rather than categories. --drop {column}, or "
            f"--label {column} if it is the label."
        )
    return tuple(_ordered(texts, text=text))


def _ordered(texts: set[str], *, text: bool) -> list[str]:
    if text:
        return sorted(texts)
    return sorted(texts, key=lambda each: (float(each) if _is_number(each) else 0.0, each))


def perhaps_labels(columns: Sequence[str]) -> list[str]:
    """A note for each column that is called as labels often are."""
    known = set(columns)
    return [
        f"column {guess!r} is modelled like any other; --label {guess} would set it aside as the "
        f"label."
        for guess in ("label", "class", "target", "y")
        if guess in known
    ]


def refuse_absent(name: str, present: Sequence[str], asked: Sequence[str]) -> None:
    """Columns that are asked for must be there.

    Raises:
        DataError: If one is not.
    """
    known = set(present)
    for column in asked:
        if column not in known:
            close = difflib.get_close_matches(column, present, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {_some(present)}."
            raise DataError(f"{name}: there is no column {column!r}; {hint}")


def _refuse_duplicates(path: Path | str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for column in names:
        if column in seen:
            raise DataError(f"{path}: two columns are called {column!r}; rename one of them.")
        seen.add(column)


def _read_text(path: Path) -> bytes:
    """Text in UTF-8, without the mark of its byte order."""
    content = read_whole(path, DataError)
    if content[:2] == b"\x1f\x8b":
        content = gunzip(content, path, DataError)
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        content.decode()
    except UnicodeDecodeError as problem:
        line = content[: problem.start].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 text; save the file as UTF-8 (CSV UTF-8)."
        ) from None
    if b"\0" in content:
        raise DataError(f"{path}: this is a binary file, not text.")
    return content


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
