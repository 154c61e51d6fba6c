"""Tables: the columns of a file or a data frame -> numbers, codes of categories, labels."""

from __future__ import annotations

import difflib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, Protocol

import numpy as np
import pandas as pd

from deeplvm.data.readers.delimited import MISSING_WORDS, is_number, refuse_duplicates
from deeplvm.data.readers.source import Array, Facts, Places, consecutive, no_label, row_of_part
from deeplvm.data.records import DataError, Description, Variable
from deeplvm.data.schema import Rule
from deeplvm.files import WORKING, fits

# A column of so many words at most has categories; up to the second, if each is there often.
MOST_CATEGORIES, _MOST_FREQUENT, _OFTEN = 100, 1000, 20
_MOST_LABELS, _SOME = 100_000, 500
# Dates of so few days may be periods as well as points in time.
_FEW_DATES = 30
LARGEST_EXACT = 2**53  # beyond it a float64 no longer holds every whole number
_DAY = 86_400_000_000  # microseconds
_FORMS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d", "%d.%m.%Y",
    "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
)  # fmt: skip
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*")
# How numbers are dressed, and what to do about it.
_DRESSES = (
    (r"[+-]?\d+,\d+|[+-]?\d{1,3}([,'\s]\d{3})+(\.\d+)?",
     "numbers with decimal commas or thousands separators",
     "write them with a point and no separator"),
    (r"[+-]?[\d.,]+\s*%", "percentages with a % sign", "leave the sign out"),
    (r"[+-]?[$€£¥]\s*[\d.,]+|[+-]?[\d.,]+\s*[$€£¥]", "amounts with a currency sign ($, €)",
     "leave the sign out"),
    (r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", "times of day", "write them as hours, 9.5"),
)  # fmt: skip
_WITH_UNIT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)\s*([^\d\s.,:+-][^\d\s]*)")


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

    Raises:
        DataError: If a column is complex, or two have one name.
    """

    def __init__(
        self,
        facts: Facts,
        frames: Mapping[str, Any],
        origin: str,
        names: Sequence[str] | None = None,
    ) -> None:
        import pyarrow as pa

        self.facts, self.origin = facts, origin
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
        return row_of_part(self.origin, self.parts, row)


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


@dataclass(frozen=True)
class Reading:
    """How the cells of a column become numbers.

    Attributes:
        type: What they are in the source: ``"int"``, ``"float"``, ``"float32"``, ``"bool"``,
            ``"text"``, ``"days"``, ``"time"``, or ``"date"`` and the form of a date as text;
            ``"bool lower"`` are the words true and false.
        codes: The number of each text; ``None`` of numbers and dates.
        missing: Words that mean that a cell is missing.
    """

    type: str
    codes: Mapping[str, float] | None = None
    missing: tuple[str, ...] = MISSING_WORDS

    def without_missing(self, numbers: Array) -> Array:
        """Numbers, none where one means missing: -999.0 if -999 does."""
        words = [float(word) for word in self.missing if is_number(word)]
        return np.where(np.isin(numbers, words), np.nan, numbers) if words else numbers


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
        column, reading = table.column(name), self._readings[name]
        if reading.codes is None:
            if family(column.type) != "text":
                return reading.without_missing(numbers_of(column))
            cells, _ = cells_of(column, reading.missing)
            numbers, bad = _parsed(cells, reading.type)
            if not bad.any():
                return reading.without_missing(numbers)
            row = int(np.flatnonzero(bad)[0])
            what = "date" if reading.type.startswith("date") else "number"
            cell, where = cells[row].as_py(), self.where(first + row)
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


def family(kind: Any) -> str:
    """What an Arrow type holds, in one word."""
    import pyarrow.types as is_a

    if is_a.is_dictionary(kind):
        return family(kind.value_type)
    if is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_boolean(kind):
        return "number"
    if is_a.is_decimal(kind) or is_a.is_null(kind):
        return "number"
    if is_a.is_string(kind) or is_a.is_large_string(kind) or is_a.is_string_view(kind):
        return "text"
    if is_a.is_binary(kind) or is_a.is_large_binary(kind):
        return "text"
    if is_a.is_date(kind) or is_a.is_timestamp(kind):
        return "dates"
    if is_a.is_temporal(kind):
        return "times"
    return "lists" if is_a.is_nested(kind) else "values"


def is_narrow(kind: Any) -> bool:
    """Whether single precision holds all values of an Arrow type."""
    import pyarrow.types as is_a

    small = is_a.is_integer(kind) and kind.bit_width <= 16
    return small or is_a.is_boolean(kind) or is_a.is_float16(kind) or is_a.is_float32(kind)


def type_of(kind: Any) -> str:
    """What the numbers or dates of an Arrow type are, as :attr:`Reading.type` says it."""
    import pyarrow.types as is_a

    if is_a.is_dictionary(kind):
        return type_of(kind.value_type)
    if is_a.is_date(kind):
        return "days"
    if is_a.is_timestamp(kind):
        return "time"
    if is_a.is_boolean(kind):
        return "bool"
    if is_a.is_float16(kind) or is_a.is_float32(kind):
        return "float32"
    return "int" if is_a.is_integer(kind) else "float"


def numbers_of(column: Any) -> Array:
    """An Arrow column of numbers or dates (days since 1970), NaN where they are missing."""
    import pyarrow as pa
    import pyarrow.types as is_a

    if is_a.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_a.is_date(column.type):
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.float64()).to_numpy()
    if is_a.is_timestamp(column.type):
        whole = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        return whole.cast(pa.float64(), safe=False).to_numpy() / _DAY
    if not (is_a.is_integer(column.type) or is_a.is_floating(column.type)):
        wide = pa.uint8() if is_a.is_boolean(column.type) else pa.float64()
        column = column.cast(wide)
    return column.to_numpy()


def cells_of(column: Any, missing: Sequence[str]) -> tuple[Any, Counter[str]]:
    """The stripped texts of an Arrow column, none where one means missing; and these words."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        cells = _compute("utf8_trim_whitespace", column.cast(pa.string()))
    except pa.ArrowException:
        raise DataError("a column holds bytes that are no text (UTF-8); --drop it.") from None
    away = _compute("is_in", cells, value_set=pa.array(list(missing), pa.string()))
    if not _compute("any", away, min_count=0).as_py():
        return cells, Counter()
    words = {
        each["values"]: each["counts"] for each in cells.filter(away).value_counts().to_pylist()
    }
    return _compute("if_else", away, pa.scalar(None, pa.string()), cells), Counter(words)


def _compute(name: str, *cells: Any, **options: Any) -> Any:
    """A function of Arrow, which makes them when it is imported."""
    import pyarrow.compute as compute

    return getattr(compute, name)(*cells, **options)


def _numbers_in_cells(column: Any, missing: Sequence[str]) -> tuple[str, Any]:
    """``"int"`` or ``"float"`` and the numbers, if all texts are such; ``""`` if one is none."""
    import pyarrow as pa

    cells = column
    if missing or not pa.types.is_string(column.type):
        cells = cells_of(column, missing)[0]
    # some first: a cast that fails takes long
    step = -(-max(len(cells), 1) // _SOME)
    some = [cell for cell in cells.take(list(range(0, len(cells), step))).to_pylist() if cell]
    if not all(map(is_number, some)):
        return "", None
    digits = all([cell.lstrip("+-").isdigit() for cell in some])
    whole = digits and _all_match(cells, r"^[+-]?\d+$")
    if whole and not _all_match(cells, r"^[+-]?(0|[1-9]\d*)$"):
        return "", None  # 01 is a code
    try:
        return "int" if whole else "float", cells.cast(pa.float64())
    except pa.ArrowException:  # one that Arrow does not know, such as +5; or a word
        return "", None


def _all_match(cells: Any, pattern: str) -> bool:
    """Whether all texts that are there match."""
    matched = _compute("match_substring_regex", cells, pattern)
    return _compute("all", matched, min_count=0).as_py()


def _parsed(cells: Any, kind: str) -> tuple[Array, Array]:
    """Numbers or days of texts, NaN where there is none; and which texts are neither."""
    import pyarrow as pa

    if kind in ("int", "float"):
        try:
            return cells.cast(pa.float64()).to_numpy(), np.zeros(len(cells), bool)
        except pa.ArrowException:  # one that Arrow does not know, or none
            pass
    texts, places = texts_of(cells, ())
    numbers = days_of(texts, kind) if kind.startswith("date") else numbers_in(texts)
    found = np.append(numbers, np.nan)[places]
    return found, np.isnan(found) & (places >= 0)


def numbers_in(texts: Sequence[str]) -> Array:
    """Texts as numbers, NaN where one is none."""
    numbers = pd.to_numeric(pd.Series(list(texts), dtype=object), errors="coerce").to_numpy(float)
    underscored = np.array(["_" in text for text in texts], bool)
    return np.where(underscored, np.nan, numbers)


def days_of(texts: Sequence[str], kind: str) -> Array:
    """Dates written in one form as days since 1970, NaN where a text is none."""
    form = kind.removeprefix("date ")
    series = pd.Series(list(texts), dtype=object)
    dates = pd.to_datetime(series, format=form, errors="coerce")
    dates = dates.where(dates.dt.strftime(form) == series)  # so that it comes back as it was
    microseconds = dates.to_numpy().astype("datetime64[us]")
    return np.where(
        np.isnat(microseconds), np.nan, microseconds.astype(np.int64).astype(float) / _DAY
    )


def texts_of(column: Any, missing: Sequence[str]) -> tuple[list[str], Array]:
    """The different values of an Arrow column as stripped text, and which one each row has.

    A missing value has the last place, -1. Whole numbers are written without a point.
    """
    import pyarrow as pa

    if family(column.type) == "text":
        column, _ = cells_of(column, missing) if missing else (column, None)
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if not isinstance(whole, pa.DictionaryArray):
        whole = whole.dictionary_encode()
    values = whole.dictionary.to_pylist()
    texts = [str(int(v)) if isinstance(v, float) and v == int(v) else str(v) for v in values]
    places = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return texts, places


def open_table(
    table: Table,
    *,
    label: str | None,
    drop: Sequence[str],
    categories: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    known: Description | None,
) -> TableRows:
    """Columns of numbers; text becomes categories, dates or flags; a label column the labels.

    Text is passed over first, for what occurs in it. What cannot be learned from is left out,
    with the reason in the facts.

    Raises:
        DataError: If a column named does not exist, or holds what cannot be read.
    """
    origin, present, rules = table.origin, list(table.types), dict(rules or {})
    trained = None if known is None else known.variables["x"]
    notes, left = list(table.facts.notes), {}
    if trained is None:
        refuse_absent(origin, present, [*drop, *categories, *rules, *([label] if label else [])])
        away = {*drop, *[name for name, rule in rules.items() if rule.type == "drop"], label}
        kept = [name for name in present if name not in away]
        left = _nameless(table, kept)
        kept = [name for name in kept if name not in left]
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
    reader = _Understanding(table, label, {*categories}, rules, trained)
    for name in [*kept, *([label] if label else [])]:
        reader.refuse_type(name)
    readings, names_of = reader.readings(kept)
    left |= reader.left
    kept = [name for name in kept if name not in left]
    if not kept:
        raise DataError(f"{origin}: {next(iter(left.values()))}")
    classes = known.classes if known is not None else None
    if label is not None:
        if classes is None:
            classes = tuple(reader.labels(label))
        codes = {text: float(code) for code, text in enumerate(classes)}
        readings[label] = Reading("text", codes, reader.missing(label))
    kinds = {n: r.type for n, r in rules.items() if n in kept and r.type not in ("", "category")}
    kinds |= {name: "ordinal" for name in kept if name in reader.ordered}
    kinds |= {name: "date" for name in kept if is_date(readings[name].type)}
    facts = replace(
        table.facts,
        columns=tuple(kept),
        categories={name: names for name, names in names_of.items() if name in kept},
        kinds={**table.facts.kinds, **kinds},
        types={name: readings[name].type for name in kept},
        likelihoods={n: r.likelihood for n, r in rules.items() if n in kept and r.likelihood},
        left=left,
        classes=classes if label is not None else None,
        notes=(*notes, *reader.notes()),
    )
    return TableRows(table, facts, label, readings)


def is_date(kind: str) -> bool:
    """Whether a type is one of dates."""
    return kind in ("days", "time") or kind.startswith("date")


def _nameless(table: Table, kept: Sequence[str]) -> dict[str, str]:
    """Columns without a name that hold nothing or the rows' numbers, and why they are left out."""
    left = {}
    for name in kept:
        if name and not re.fullmatch(r"Unnamed: \d+", name):
            continue
        numbers, words = [], False
        for _, rows in groups_of(table, [name]):
            column = rows.column(name)
            if family(column.type) == "text":
                cells, _ = cells_of(column, MISSING_WORDS)
                some, bad = _parsed(cells, "float")
                words |= bool(bad.any())
            elif family(column.type) == "number":
                some = numbers_of(column).astype(float)
            else:
                words, some = True, np.zeros(0)
            numbers.append(some)
        found = np.concatenate(numbers)
        found = found[~np.isnan(found)]
        if words:
            continue
        counts = len(np.unique(found)) == table.total and bool((found == np.floor(found)).all())
        if not len(found):
            left[name] = f"column {name!r} has no name and no value; --drop {quote(name)}."
        elif counts and name == next(iter(table.types)):
            left[name] = (
                f"column {name!r}, the first, has no name and another whole number in each row: "
                f"the rows' numbers; --drop {quote(name)}."
            )
    return left


def groups_of(table: Table, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """First row and content of each group, some columns."""
    for group in range(len(table.units) - 1):
        yield int(table.units[group]), table.read(group, names)


class _Understanding:
    """What the cells of columns mean, a column at a time, over all rows.

    Args:
        table: The columns.
        label: Column of labels.
        categories: Columns whose cells are codes, as asked for.
        rules: Of the schema.
        trained: The variable of the training data, where these are other rows.
    """

    def __init__(
        self,
        table: Table,
        label: str | None,
        categories: set[str],
        rules: Mapping[str, Rule],
        trained: Variable | None,
    ) -> None:
        self.table, self.label, self.rules, self.trained = table, label, rules, trained
        self.left: dict[str, str] = {}
        self.words: dict[str, Counter[str]] = {}
        self.asked = {
            *categories, *[n for n, r in rules.items() if r.type in ("category", "ordinal")]
        }  # fmt: skip
        own = {n: k for n, k in table.types.items() if n not in rules or not rules[n].type}
        self.declared = (
            {n for n, k in own.items() if _is_declared(k)} if trained is None else set()
        )
        self.asked |= {n for n in self.declared if own[n].ordered or family(own[n]) != "text"}
        self.ordered = {n for n in self.declared & self.asked if own[n].ordered}
        self.parts = {} if trained is None else trained.by_column

    def refuse_type(self, name: str) -> None:
        """Refuse a column of what is neither numbers, text nor dates."""
        what, kind = family(self.table.types[name]), self.table.types[name]
        if what == "times":
            what = "times of day"
        if what not in ("number", "text", "dates"):
            raise DataError(
                f"{self.table.origin}: column {name!r} holds {what} ({kind}), not numbers; "
                f"--drop {quote(name)}, or turn it into numbers."
            )

    def missing(self, name: str) -> tuple[str, ...]:
        """Words that mean missing in a column."""
        own = self.rules[name].missing if name in self.rules else None
        return MISSING_WORDS if own is None else ("", *own)

    def readings(
        self, names: Sequence[str]
    ) -> tuple[dict[str, Reading], dict[str, tuple[str, ...]]]:
        """How to read each column, and what the codes of categories stand for."""
        if self.trained is not None:
            return {name: self._as_before(name) for name in names}, {
                name: part.categories
                for name, part in self.parts.items()
                if part.categories is not None and part.kind in ("category", "ordinal")
            }
        texts = [name for name in names if family(self.table.types[name]) == "text"]
        numeric = self._numeric([name for name in texts if name not in self.asked])
        coded = [n for n in names if n in self.asked or (n in texts and n not in numeric)]
        days = [n for n in names if family(self.table.types[n]) == "dates" and n not in coded]
        distinct = self._distinct([*coded, *days])
        readings, found = {}, {}
        for name in names:
            if name in numeric:
                readings[name] = Reading(numeric[name], None, self.missing(name))
            elif name in days:
                self._refuse_few_dates(name, distinct[name])
                readings[name] = Reading(type_of(self.table.types[name]))
            elif name not in coded:
                kind = type_of(self.table.types[name])
                readings[name] = Reading(kind, None, self.missing(name))
            else:
                readings[name], categories = self._words(name, distinct[name])
                found |= {name: tuple(categories)} if categories else {}
        return readings, found

    def _as_before(self, name: str) -> Reading:
        """How a column was read in training."""
        part, kind = self.parts[name], self.table.types[name]
        what, given = family(kind), part.types[0] if part.types else ""
        missing = tuple([w for w in self.missing(name) if w not in (part.categories or ())])
        if part.categories is not None and (part.kind != "binary" or what == "text"):
            codes = {text: float(code) for code, text in enumerate(part.categories)}
            return Reading("text", codes, missing)
        if (what == "dates") != (part.kind == "date") and what != "text":
            known = "dates" if part.kind == "date" else "numbers"
            raise DataError(
                f"{self.table.origin}: column {name!r} holds {what} ({kind}), but the model was "
                f"fitted to {known}."
            )
        if what != "text":
            return Reading(type_of(kind), None, missing)
        if part.kind == "date":
            written = given if given.startswith("date ") else ""
            form = written or f"date {self._form_of_dates(name, None) or _FORMS[0]}"
            return Reading(form, None, missing)
        if part.kind == "binary" and not self._numeric([name]):
            return Reading("text", _TRUTH, missing)
        return Reading("float", None, missing)

    def _numeric(self, names: Sequence[str]) -> dict[str, str]:
        """Columns of text whose cells are all numbers: ``"int"`` or ``"float"``."""
        found = dict.fromkeys(names, "int")
        for _, rows in groups_of(self.table, names) if names else ():
            for name in list(found):
                kind, numbers = _numbers_in_cells(rows.column(name), ())
                if not kind:
                    kind, numbers = _numbers_in_cells(rows.column(name), self.missing(name))
                if not kind:
                    del found[name]
                    continue
                found[name] = "float" if kind == "float" else found[name]
                if isinstance(self.table, Frames):  # all of it
                    self.table.keep(name, numbers)
        return found

    def _distinct(self, names: Sequence[str]) -> dict[str, set[str] | None]:
        """The different texts of some columns; ``None`` of one that has very many."""
        found: dict[str, set[str] | None] = {name: set() for name in names}
        for _, rows in groups_of(self.table, names) if names else ():
            for name in names:
                some, column = found[name], rows.column(name)
                if some is None:
                    continue
                if family(column.type) == "text":
                    column, words = cells_of(column, self.missing(name))
                    self.words[name] = self.words.get(name, Counter()) + words
                some |= set(texts_of(column, ())[0])
                if len(some) > _MOST_LABELS and name != self.label:
                    found[name] = None
        return found

    def _refuse_few_dates(self, name: str, dates: set[str] | None) -> None:
        declared = name in self.rules and self.rules[name].type == "date"
        if dates is not None and 1 < len(dates) <= _FEW_DATES and not declared:
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates, {len(dates)} different ones: "
                f"points in time, or names of periods? Say so: --schema FILE with {name} = "
                f'{{type = "date"}}, or --categories {quote(name)}; or --drop {quote(name)}.'
            )

    def _words(self, name: str, texts: set[str] | None) -> tuple[Reading, Sequence[str]]:
        """How to read a column of words, or of numbers that are codes; and the categories."""
        missing, rule, kind = self.missing(name), self.rules.get(name), self.table.types[name]
        if name not in self.asked and (found := self._no_categories(name, texts)):
            return Reading(found, _TRUTH if found.startswith("bool") else None, missing), ()
        if rule is not None and rule.levels:
            names: Sequence[str] = rule.levels
            if unknown := sorted((texts or set()) - set(names)):
                raise DataError(
                    f"{self.table.origin}: column {name!r} has {unknown[0]!r}, which is none of "
                    f"the levels of the schema ({_some(names)}); add it."
                )
        elif name in self.ordered and family(kind) == "text":
            names = self._in_order(name)
        else:
            names = self._categories(name, texts)
        given = "text" if family(kind) == "text" else type_of(kind)
        return Reading(given, {t: float(i) for i, t in enumerate(names)}, missing), names

    def _no_categories(self, name: str, texts: set[str] | None) -> str:
        """The type of flags, numbers or dates written as text; ``""`` of words.

        Raises:
            DataError: If some are numbers and some words, or all are numbers that cannot be read.
        """
        listed = sorted(texts or ())
        words = [t for t, bad in zip(listed, np.isnan(numbers_in(listed)), strict=True) if bad]
        if texts is not None:
            if given := _flags(texts):
                return given
            if not words and not any([re.match(r"[+-]?0\d", text) for text in listed]):
                return "float"
        if form := self._form_of_dates(name, texts):
            self._refuse_few_dates(name, texts)
            return f"date {form}"
        if len(words) > len(listed) // 2:
            self._refuse_dressed(name, words)
        if 0 < len(words) < len(listed):
            self._refuse_words(name, set(words))
        return ""

    def _in_order(self, name: str) -> list[str]:
        """The categories of a declared column in their order."""
        ((_, rows),) = groups_of(self.table, [name])
        column = rows.column(name)
        whole = column.unify_dictionaries().chunk(0)
        used = set(texts_of(column, ())[0])
        return [text for text in whole.dictionary.to_pylist() if text in used]

    def _form_of_dates(self, name: str, texts: set[str] | None) -> str | None:
        """The one form in which all texts of a column are dates."""
        if texts is None:
            texts = set()
            for _, rows in groups_of(self.table, [name]):
                texts |= set(texts_of(rows.column(name), self.missing(name))[0])
        if not texts or not _DATE.fullmatch(next(iter(texts))):
            return None
        listed = sorted(texts)
        forms = [f for f in _FORMS if not np.isnan(days_of(listed, f"date {f}")).any()]
        if len(forms) > 1:
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates that can be read in two ways "
                f"({listed[0]!r}: day or month first?); write them as 2024-01-31, or --drop "
                f"{name}."
            )
        if not forms and all(map(_DATE.fullmatch, listed)):
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates in several forms "
                f"({listed[0]!r}, {listed[-1]!r}); write them as 2024-01-31, or --drop "
                f"{quote(name)}."
            )
        return forms[0] if forms else None

    def _refuse_words(self, name: str, words: set[str]) -> None:
        """Refuse a word among numbers, with its row."""
        for first, rows in groups_of(self.table, [name]):
            said, places = texts_of(rows.column(name), self.missing(name))
            bad = np.array([text in words for text in said] + [False])[places]
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                where = self.table.where(first + row)
                raise DataError(not_of_its_kind(where, name, said[places[row]], "number"))

    def _refuse_dressed(self, name: str, texts: Sequence[str]) -> None:
        """Refuse numbers that are dressed so that they cannot be read as numbers."""
        for pattern, what, remedy in _DRESSES:
            if all([re.fullmatch(pattern, text) for text in texts]):
                raise DataError(self._dressed(name, texts[0], what, remedy))
        units = [found for text in texts if (found := _WITH_UNIT.fullmatch(text))]
        if len(units) == len(texts) > 2 and len({found.group(1) for found in units}) == 1:
            unit = units[0].group(1)
            what = f"numbers with a unit behind them ({unit})"
            raise DataError(self._dressed(name, texts[0], what, "leave the unit out"))

    def _dressed(self, name: str, text: str, what: str, remedy: str) -> str:
        return (
            f"{self.table.origin}: column {name!r} holds {what}, such as {text!r}; {remedy}, or "
            f"--categories {quote(name)} if they are names, or --drop {quote(name)}."
        )

    def _categories(self, name: str, texts: set[str] | None) -> Sequence[str]:
        """Names of the categories; none, and a reason, where these are too many."""
        rows, number = self.table.total, _MOST_LABELS if texts is None else len(texts)
        text = family(self.table.types[name]) == "text"
        few = number <= MOST_CATEGORIES and number <= max(2, rows // 2)
        often = number <= _MOST_FREQUENT and number * _OFTEN <= rows
        if texts is not None and (few or often):
            if number == 1 and not self.table.parts.get("test"):
                self.left[name] = (
                    f"column {name!r} is always {next(iter(texts))!r}: there is nothing to learn "
                    f"from it; --drop {quote(name)}."
                )
            return _ordered(texts, text=text)
        more = "more than " if texts is None else ""
        reason = (
            f"column {name!r} holds text with {more}{number} different values in {rows} rows: an "
            f"identifier, names or free text rather than categories; --drop {quote(name)}, or "
            f"--label {quote(name)} if it is the label."
        )
        if name in self.asked or self.trained is not None:
            raise DataError(f"{self.table.origin}: {reason}")
        self.left[name] = reason
        return ()

    def labels(self, name: str) -> list[str]:
        """The different labels, in order.

        Raises:
            DataError: If a label is missing, or is a quantity.
        """
        found: set[str] = set()
        for first, rows in groups_of(self.table, [name]):
            texts, places = texts_of(rows.column(name), self.missing(name))
            found |= set(texts)
            if len(found) > _MOST_LABELS:
                raise DataError(
                    f"{self.table.origin}: column {name!r} holds text with more than "
                    f"{_MOST_LABELS} different values: names or free text rather than labels; "
                    f"--drop {quote(name)}."
                )
            if (places < 0).any():
                row = first + int(np.flatnonzero(places < 0)[0])
                raise DataError(
                    f"{self.table.where(row)}: the label column {name!r} is empty; give every row "
                    f"a label, or leave those rows out."
                )
        numbers = all(map(is_number, found))
        for each in sorted(found) if numbers else ():
            if float(each) != int(float(each)):
                raise DataError(no_label(f"{self.table.origin}, column {name!r}", each))
        return _ordered(found, text=not numbers)

    def notes(self) -> list[str]:
        """Words that were taken for a missing value, where the column has other words too."""
        zoned = [name for name, kind in self.table.types.items() if getattr(kind, "tz", None)]
        utc = [f"times are read, and come back, in UTC: {_some(zoned)}."] if zoned else []
        said = [
            f"{word!r} in column {name!r} ({count} cells)"
            for name, words in self.words.items()
            for word, count in words.items()
            if word and name not in self.left
        ]
        if not said:
            return utc
        more = f" and {len(said) - 5} more" if len(said) > 5 else ""
        note = f"taken for missing values: {', '.join(said[:5])}{more}; if one is a value, "
        return [*utc, f"{note}--schema FILE with missing = [] for its column."]


_TRUTH = {"False": 0.0, "false": 0.0, "FALSE": 0.0, "True": 1.0, "true": 1.0, "TRUE": 1.0}


def _flags(texts: set[str]) -> str:
    """The type of truth values in one spelling, if all texts are such."""
    spellings = {"bool": ("False", "True"), "bool lower": ("false", "true")}
    spellings["bool upper"] = ("FALSE", "TRUE")
    return next((kind for kind, words in spellings.items() if texts and texts <= {*words}), "")


def _is_declared(kind: Any) -> bool:
    """Whether an Arrow type is one of categories, whatever they are."""
    import pyarrow.types as is_a

    return is_a.is_dictionary(kind)


def _ordered(texts: set[str], *, text: bool) -> list[str]:
    if text:
        return sorted(texts)
    return sorted(texts, key=lambda each: (float(each) if is_number(each) else 0.0, each))


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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
