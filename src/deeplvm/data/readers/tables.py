"""Tables: .csv and .parquet, and data frames in general -> columns of numbers and categories."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from deeplvm.data.readers.raw import Array, Raw, codes_of, label_codes
from deeplvm.data.records import DataError, Description
from deeplvm.files import WORKING, fits, gunzip, read_whole

# pandas' own list, and the question mark of the UCI repository.
MISSING_WORDS = (
    "", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None", "none", "?",
)  # fmt: skip
MOST_CATEGORIES = 100
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
    cells = content.count(delimiter.encode()) + content.count(b"\n")
    hint = "save it as .npy or .parquet, which are read from disk row by row"
    fits(WORKING * len(content) + _CELL * cells, f"{path}, {cells:,} cells", DataError, hint)
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


def read_parquet(path: Path) -> pd.DataFrame:
    """A parquet file.

    Raises:
        DataError: If it cannot be read.
    """
    import pyarrow  # heavy, and only needed here
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            about = file.metadata
            groups = [about.row_group(place) for place in range(about.num_row_groups)]
            size = sum([max(each.total_byte_size, 0) for each in groups])
            width = max(len(file.schema_arrow), 1)
        hint = "--stream reads it from disk, a row group at a time"
        size = WORKING * max(size, 8 * width * about.num_rows)
        fits(size, f"{path}, unpacked and loaded", DataError, hint)
        frame = pd.read_parquet(path)
    except DataError:
        raise
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,  # a page whose size is a lie
    ) as problem:
        raise DataError(f"{path}: this is no readable parquet file ({_first(problem)}).") from None
    frame.columns = [str(name) for name in frame.columns]
    _refuse_duplicates(path, list(frame.columns))
    return frame


def perhaps_labels(columns: Sequence[str]) -> list[str]:
    """A note for each column that is called as labels often are."""
    return [
        f"column {guess!r} is modelled like any other; --label {guess} would set it aside as the "
        f"label."
        for guess in ("label", "class", "target", "y")
        if guess in columns
    ]


def from_frames(
    name: str,
    frames: Mapping[str, pd.DataFrame],
    *,
    label: str | None,
    drop: Sequence[str],
    categories: Sequence[str],
    like: Description | None,
) -> Raw:
    """Columns of numbers; text becomes categories; a label column becomes ``labels``.

    Raises:
        DataError: If a column named does not exist, or holds what is neither numbers nor
            categories.
    """
    frames = dict(frames)
    present = list(next(iter(frames.values())).columns)
    known = None if like is None else like.variables["x"]
    if like is None or known is None or known.columns is None:
        if like is not None:
            raise DataError(f"{name}: the model was fitted to arrays, not to a table.")
        refuse_absent(name, present, [*drop, *categories, *([label] if label else [])])
        left = {*drop, label}
        kept = [column for column in present if column not in left]
    else:
        kept = list(known.columns)
        if all(column.isdigit() for column in present) and len(present) == len(kept):
            frames = {key: frame.set_axis(kept, axis=1) for key, frame in frames.items()}
            present = kept
        there = set(present)
        absent = [column for column in kept if column not in there]
        if absent:
            raise DataError(
                f"{name}: column {absent[0]!r} of the training data is not there "
                f"({len(absent)} absent in all); the file has {', '.join(present[:10])}."
            )
    if not kept:
        raise DataError(f"{name}: no column is left to be modelled.")
    raw = Raw(name=name, values={}, columns=tuple(kept))
    used = {*kept, label}
    ignored = [column for column in present if column not in used]
    if like is not None and ignored:
        raw.notes.append(f"columns not in the training data are left out: {', '.join(ignored)}.")
    if label is not None and label in present:
        text = {key: _label_array(name, label, frame[label]) for key, frame in frames.items()}
        if like is not None and like.classes is not None:
            raw.labels = {key: label_codes(part, like.classes, name) for key, part in text.items()}
            raw.classes = like.classes
        else:
            raw.labels, raw.classes = codes_of(text, f"{name}, column {label!r}")
    elif label is None and like is None:
        raw.notes += perhaps_labels(kept)
    known_categories = {
        part.name: part.categories
        for part in (known.parts if known is not None else ())
        if part.categories is not None
    }
    columns: dict[str, list[Array]] = {key: [] for key in frames}
    for column in kept:
        series = pd.concat([frame[column] for frame in frames.values()], ignore_index=True)
        names = known_categories.get(column)
        if names is None and (like is not None or column not in categories):
            values, names = _numbers_or_categories(name, column, series, new=like is None)
        else:
            values, names = _codes(name, column, series, names)
        if names is not None:
            raw.categories[column] = names
        start = 0
        for key, frame in frames.items():
            columns[key].append(values[start : start + len(frame)])
            start += len(frame)
    raw.values = {key: np.stack(parts, axis=1) for key, parts in columns.items()}
    return raw


def _numbers_or_categories(
    name: str, column: str, series: pd.Series, *, new: bool
) -> tuple[Array, tuple[str, ...] | None]:
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if pd.api.types.is_bool_dtype(series.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), None
    if pd.api.types.is_complex_dtype(series.dtype):
        raise DataError(
            f"{name}: column {column!r} holds complex numbers; split it into a real and an "
            f"imaginary column, or --drop {column}."
        )
    if pd.api.types.is_numeric_dtype(series.dtype):
        _refuse_huge(name, column, series)
        return series.to_numpy(dtype=np.float64, na_value=np.nan), None
    if pd.api.types.is_datetime64_any_dtype(series.dtype) or pd.api.types.is_timedelta64_dtype(
        series.dtype
    ):
        raise DataError(
            f"{name}: column {column!r} holds dates; turn them into numbers (days since a date, "
            f"say), or --drop {column}."
        )
    missing = series.isna().to_numpy()
    observed = series[~missing]
    nested = [
        value for value in observed.head(1000) if isinstance(value, (list, dict, np.ndarray))
    ]
    if nested:
        raise DataError(
            f"{name}: column {column!r} holds lists, not single values; --drop {column}."
        )
    text = observed.astype(str).str.strip()
    if len(text) and set(text.str.lower().unique()) <= {"true", "false"}:
        values = np.full(len(series), np.nan)
        values[~missing] = (text.str.lower() == "true").to_numpy(dtype=np.float64)
        return values, None
    numbers = pd.to_numeric(text, errors="coerce")
    bad = numbers.isna()
    if not bad.any():
        _refuse_huge(name, column, numbers)
        values = np.full(len(series), np.nan)
        values[~missing] = numbers.to_numpy(dtype=np.float64)
        return values, None
    if not bad.all() or not new:
        row = int(bad.index[bad.to_numpy()][0]) + 1
        raise DataError(
            f"{name}: column {column!r}, row {row}: {text.loc[row - 1]!r} is not a number. "
            "Correct "
            f"the cell, or leave it empty if the value is missing; or --drop {column}, --label "
            f"{column} if it is the label, --categories {column} if its values are codes."
        )
    return _codes(name, column, series, None)


def _codes(
    name: str, column: str, series: pd.Series, names: tuple[str, ...] | None
) -> tuple[Array, tuple[str, ...]]:
    """Codes 0, 1, ... of a category column, NaN where it is missing."""
    missing = series.isna().to_numpy()
    observed = series[~missing]
    if pd.api.types.is_float_dtype(observed.dtype) and (observed == np.floor(observed)).all():
        observed = observed.astype(np.int64)  # holes made floats of whole numbers
    if names is None:
        distinct = sorted(observed.unique(), key=lambda value: (isinstance(value, str), value))
        names = tuple(str(value).strip() for value in distinct)
        names = tuple(dict.fromkeys(names))
        if len(names) > MOST_CATEGORIES or len(names) > max(2, len(observed) // 2):
            raise DataError(
                f"{name}: column {column!r} holds text with {len(names)} different values in "
                f"{len(observed)} rows: names or free text rather than categories. --drop "
                f"{column}, "
                f"or --label {column} if it is the label."
            )
    lookup = {text: code for code, text in enumerate(names)}
    codes = observed.astype(str).str.strip().map(lookup)
    if codes.isna().any():
        row = int(codes.index[codes.isna().to_numpy()][0]) + 1
        raise DataError(
            f"{name}: column {column!r}, row {row}: {str(series.iloc[row - 1])!r} is none of the "
            f"categories of the training data ({', '.join(names[:10])}); correct the cell, or "
            f"leave it empty."
        )
    values = np.full(len(series), np.nan)
    values[~missing] = codes.to_numpy(dtype=np.float64)
    return values, names


def _label_array(name: str, label: str, series: pd.Series) -> Array:
    missing = series.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{name}: row {int(np.flatnonzero(missing)[0]) + 1} of the label column {label!r} is "
            f"empty ({int(missing.sum())} in all); give every row a label, or leave those rows "
            "out."
        )
    if pd.api.types.is_numeric_dtype(series.dtype):
        return series.to_numpy()
    return series.astype(str).str.strip().to_numpy(dtype=str)


def _refuse_huge(name: str, column: str, series: pd.Series) -> None:
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = values[np.isfinite(values)]
    whole = finite.size and np.abs(finite).max() > LARGEST_EXACT and (finite % 1 == 0).all()
    if whole:
        raise DataError(
            f"{name}: column {column!r} holds whole numbers as large as "
            f"{np.abs(finite).max():.4g}, "
            f"more than a float can hold exactly: an identifier? --drop {column}, or rescale it."
        )


def refuse_absent(name: str, present: Sequence[str], asked: Sequence[str]) -> None:
    """Columns that are asked for must be there.

    Raises:
        DataError: If one is not.
    """
    for column in asked:
        if column not in present:
            close = difflib.get_close_matches(column, present, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {_some(present)}."
            raise DataError(f"{name}: there is no column {column!r}; {hint}")


def _refuse_duplicates(path: Path, names: Sequence[str]) -> None:
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


def _first(problem: BaseException) -> str:
    return str(problem).strip().split("\n")[0][:150] or type(problem).__name__
