"""Delimited text -> columns of cells as they are written, and their names."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.data.variable import DataError
from deeplvm.files import ROW, WORKING, fits, gunzip, read_whole

# pandas' own list, and the question mark of the UCI repository.
MISSING_WORDS = (
    "", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "?",
)  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# In this order: a comma may also be a decimal one, and a blank lies within words.
_DELIMITERS = (";", "\t", "|", ",")
_CELL = 40  # bytes for a cell while it is parsed and loaded
_LOOKED_AT = 1 << 16  # bytes from the beginning, for the delimiter and the header
# A number this far outside of those below it, in their range, is none of them.
_UNLIKE = 1.0


@dataclass(frozen=True)
class Delimited:
    """The cells of a file.

    Attributes:
        cells: An Arrow table of texts, none where a cell is empty.
        named: Whether the first line named the columns; else they are 0, 1, ...
        notes: What was taken for what, where it was not plain.
    """

    cells: Any
    named: bool
    notes: tuple[str, ...]


def read_delimited(path: Path, *, header: bool | None = None, comments: bool = False) -> Delimited:
    """Cells between commas, semicolons, tabs, bars or blanks; a header or none; gzipped or not.

    The first line names the columns if none of its cells is a number, if it counts 0, 1, 2, ...,
    if a word stands above numbers, or if its numbers increase and are unlike those below.

    Args:
        path: Of the file, UTF-8.
        header: Whether the first line names the columns, where that is known.
        comments: Whether lines that begin with # or % are left out.

    Raises:
        DataError: If the file is empty, ragged, not text, names a column twice, or does not fit
            into the memory.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    content = _read_text(path)
    if comments:
        content = re.sub(rb"(?m)^[ \t]*[#%].*(\n|\Z)", b"", content)
    if not content.strip():
        raise DataError(f"{path}: the file is empty.")
    delimiter, below = _delimiter_of(content)
    if delimiter == " ":
        content = b"\n".join([b" ".join(line.split()) for line in content.splitlines()])
    cells = content.count(delimiter.encode()) + content.count(b"\n")
    hint = "save it as .npy or .parquet, which are read from disk row by row"
    size = WORKING * len(content) + _CELL * cells + ROW * content.count(b"\n")
    fits(size, f"{path}, {cells:,} cells", DataError, hint)
    first, *below = below
    named, notes = _header(first, below) if header is None else (header, ())
    places = [str(place) for place in range(len(first))]
    names = [name or f"Unnamed: {i}" for i, name in enumerate(first)] if named else places
    refuse_duplicates(path, names)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            arrow_csv.ReadOptions(column_names=places, block_size=1 << 26),
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in content),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as problem:
        _refuse_unequal(path, content, delimiter, len(first))
        raise DataError(f"{path}: {str(problem).splitlines()[0]}.") from None
    if named and len(table) < 2:
        raise DataError(f"{path}: there is a header ({', '.join(first[:5])}) but no row below it.")
    return Delimited(table.rename_columns(names).slice(int(named)), named, notes)


def is_number(cell: str) -> bool:
    """Whether a cell is a number as people write them: not ``1_000``, not ``nan``."""
    return NUMBER.fullmatch(cell) is not None


def _delimiter_of(content: bytes) -> tuple[str, list[list[str]]]:
    """What is between the cells, and the cells of the first lines."""
    end = content.find(b"\n", _LOOKED_AT)
    begin = (content if end < 0 else content[:end]).decode(errors="ignore")
    lines = [line for line in begin.splitlines() if line.strip()]
    text, split = "\n".join(lines), {}
    for each in _DELIMITERS:
        try:
            split[each] = [row for row in csv.reader(io.StringIO(text), delimiter=each) if row]
        except csv.Error:  # said with its line later
            split[each] = [[]]
    for each, rows in split.items():
        if {len(row) for row in rows} == {len(rows[0])} and len(rows[0]) > 1:
            return each, _stripped(rows)
    blanks = [line.split() for line in lines]
    if not any(each in lines[0] for each in _DELIMITERS):
        equal = len({len(row) for row in blanks}) == 1 and len(blanks[0]) > 1
        if equal and b'"' not in content:
            return " ", _stripped(blanks)
    chosen = max((",", ";", "\t", "|"), key=lines[0].count)
    return chosen, _stripped(split[chosen])


def _stripped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in rows]


def _header(first: Sequence[str], below: Sequence[Sequence[str]]) -> tuple[bool, tuple[str, ...]]:
    """Whether the first line names the columns; and a note where that is not plain."""
    named = first[1:] if not first[0] else first
    words = [cell for cell in first if cell not in MISSING_WORDS and not is_number(cell)]
    numbers = [float(cell) for cell in first if is_number(cell)]
    if len(named) > 1 and list(named) == [str(number) for number in range(len(named))]:
        return True, ()
    if not numbers:
        return bool(words), ()
    columns = [[row[i] for row in below if i < len(row)] for i in range(len(first))]
    columns = [[cell for cell in column if cell not in MISSING_WORDS] for column in columns]
    if any(
        cell in words and column and all(map(is_number, column))
        for cell, column in zip(first, columns, strict=True)
    ):
        return True, ()
    orderly = all(a < b for a, b in itertools.pairwise(numbers))
    orderly = orderly and all(number == int(number) for number in numbers)
    unlike = all(
        _unlike(cell, column)
        for cell, column in zip(first, columns, strict=True)
        if is_number(cell)
    )
    shown = ", ".join(first[:5]) + (", …" if len(first) > 5 else "")
    if orderly and unlike:
        words_ = f"the first line ({shown}) is taken for the names of the columns"
        return True, (f"{words_}; --no-header reads it as a row.",)
    if orderly and len(numbers) > 1 and len(numbers) == len(named):
        return False, (f"the first line ({shown}) is taken for a row; --header reads names.",)
    return False, ()


def _unlike(cell: str, column: Sequence[str]) -> bool:
    """Whether a number is none of those below it."""
    if not column or not all(map(is_number, column)):
        return bool(column)
    below = np.array(column, float)
    reach = _UNLIKE * (below.max() - below.min())
    outside = not below.min() - reach <= float(cell) <= below.max() + reach
    fractions = "." not in cell and all("." in each for each in column)
    return outside or (fractions and len(column) > 1)


def _refuse_unequal(path: Path, content: bytes, delimiter: str, cells: int) -> None:
    """Refuse a line of another number of cells than the first, by its number."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")
    lines = csv.reader(text, delimiter=delimiter)
    try:
        for row in lines:
            if row and len(row) != cells:
                raise DataError(
                    f"{path}: line {lines.line_num} has {_cells(len(row))} but the first line has "
                    f"{cells}; every line needs the same number (an empty cell is a missing "
                    f"value)."
                )
    except csv.Error as problem:
        raise DataError(f"{path}: line {lines.line_num}: {problem}.") from None


def refuse_duplicates(path: Path | str, names: Sequence[str]) -> None:
    """Every column needs a name of its own.

    Raises:
        DataError: If two have the same.
    """
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


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"
