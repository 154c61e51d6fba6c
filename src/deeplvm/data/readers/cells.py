"""Cells of a column -> numbers: Arrow types, numbers and dates as text, words for missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deeplvm.data.readers.delimited import MISSING_WORDS, is_number
from deeplvm.data.readers.source import Array
from deeplvm.data.variable import DataError, written_dates

_SOME = 500  # cells that are looked at before all are
_DAY = 86_400_000_000  # microseconds
DATE_FORMS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%3f", "%Y-%m-%dT%H:%M:%S.%3f",
    "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d", "%d.%m.%Y",
    "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y",
)  # fmt: skip
TRUTH = {"False": 0.0, "false": 0.0, "FALSE": 0.0, "True": 1.0, "true": 1.0, "TRUE": 1.0}


@dataclass(frozen=True)
class Reading:
    """How the cells of a column become numbers.

    Attributes:
        type: What they are in the source: ``"int"``, ``"float"``, ``"float32"``, ``"bool"``,
            ``"text"``, ``"days"``, ``"time"``, or ``"date"`` and the form of a date as text;
            ``"bool lower"`` are the words true and false.
        codes: The number of each text; ``None`` of numbers and dates.
        missing: Words that mean that a cell is missing.
        origin: The day from which dates are counted, itself from 1970.
    """

    type: str
    codes: Mapping[str, float] | None = None
    missing: tuple[str, ...] = MISSING_WORDS
    origin: float = 0.0

    def numbers(self, column: Any) -> tuple[Array, Array]:
        """An Arrow column of numbers or dates, NaN where there is none; and which are neither."""
        if family(column.type) != "text":
            numbers, bad = numbers_of(column), np.zeros(len(column), bool)
        else:
            cells, _ = cells_of(column, self.missing)
            numbers, bad = parsed(cells, self.type)
        return (numbers - self.origin if self.origin else self.without_missing(numbers)), bad

    def without_missing(self, numbers: Array) -> Array:
        """Numbers, none where one means missing: -999.0 if -999 does."""
        words = [float(word) for word in self.missing if is_number(word)]
        return np.where(np.isin(numbers, words), np.nan, numbers) if words else numbers


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


def numbers_in_cells(column: Any, missing: Sequence[str]) -> tuple[str, Any]:
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


def parsed(cells: Any, kind: str) -> tuple[Array, Array]:
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
    dates = pd.to_datetime(series, format=form.replace("%3f", "%f"), errors="coerce")
    dates = dates.where(written_dates(dates, form) == series)  # so that it comes back as it was
    microseconds = dates.to_numpy().astype("datetime64[us]")
    return np.where(
        np.isnat(microseconds), np.nan, microseconds.astype(np.int64).astype(float) / _DAY
    )


def texts_of(column: Any, missing: Sequence[str]) -> tuple[list[str], Array]:
    """The different values of an Arrow column as stripped text, and which one each row has.

    A missing value has the last place, -1. Whole numbers are written without a point.
    """
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    if family(column.type) == "text":
        column, _ = cells_of(column, missing) if missing else (column, None)
    elif pa.types.is_floating(column.type):  # NaN is no null there
        column = pc.if_else(pc.is_nan(column), None, column)
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], column.type)
    if not isinstance(whole, pa.DictionaryArray):
        whole = whole.dictionary_encode()
    values = whole.dictionary.to_pylist()
    texts = [str(int(v)) if isinstance(v, float) and v == int(v) else str(v) for v in values]
    places = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return texts, places


def is_date(kind: str) -> bool:
    """Whether a type is one of dates."""
    return kind in ("days", "time") or kind.startswith("date")
