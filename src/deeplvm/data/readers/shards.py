"""Files of rows on disk, read by row number: .npy, .parquet, and images one file a row."""

from __future__ import annotations

import collections
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from deeplvm.data.readers.arrays import checked
from deeplvm.data.readers.images import (
    ENDINGS,
    GREY_MODES,
    cropping,
    files_below,
    labels_of,
    lost_links,
    read_image,
    refuse_unequal,
    splits_of,
)
from deeplvm.data.readers.raw import Array, Raw, codes_of
from deeplvm.data.records import DataError
from deeplvm.files import WORKING, fits

# Files by name go into a description up to this many; of more, one digest.
_LISTED_FILES = 1000
# Threads that decode images: Pillow lets go of the interpreter meanwhile.
_DECODERS = min(4, os.cpu_count() or 1)
# Rows of a .npy so close to each other, in bytes and in rows, are read at once, up to a length.
_GAP, _GAP_ROWS, _SPAN = 1 << 16, 32, 1 << 20


# What pyarrow raises besides its own, on a damaged file.
_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError, MemoryError,
)  # fmt: skip


class Shards(Protocol):
    """Rows in files, numbered from 0 in the order of the files.

    Attributes:
        files: Which files, and how many rows each.
        shape: Event shape of a row as it is stored.
        dtype: Type of what :meth:`take` gives.
        units: Numbers of the rows at which what is best read at once begins, and of the last row
            plus 1; ``None`` where any row is read as easily as any other.
        raw: What the source says of itself, without values.
    """

    files: Files
    shape: tuple[int, ...]
    dtype: np.dtype
    units: Array | None
    raw: Raw

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values of shape ``(rows, *shape)`` and codes of labels, by increasing row numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Files:
    """Files and the rows in each.

    Attributes:
        folder: What the user named: a folder, or the only file.
        paths: Where they are.
        rows: How many rows each has.
        sizes: Bytes of each when it was first seen.
        times: When each was changed last, nanoseconds.
        keys: The split of each, or ``"all"``.
    """

    folder: Path
    paths: Sequence[Path]
    rows: Array
    sizes: Array
    times: Array
    keys: Array
    starts: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(self.rows)]))

    @classmethod
    def of(
        cls, folder: Path, paths: Sequence[Path], keys: Array, rows_of: Callable[[Path], int]
    ) -> Files:
        """Look at each file, and leave those without rows aside."""
        states = [path.stat() for path in paths]
        for path, state in zip(paths, states, strict=True):
            if state.st_size == 0:
                raise DataError(f"{path}: the file is empty.")
        rows = np.array([rows_of(path) for path in paths], dtype=np.int64)
        kept = np.flatnonzero(rows)
        if not len(kept):
            raise DataError(f"{folder}: no file in it has any rows.")
        sizes = np.array([state.st_size for state in states])
        times = np.array([state.st_mtime_ns for state in states])
        chosen = [paths[place] for place in kept.tolist()]
        return cls(folder, chosen, rows[kept], sizes[kept], times[kept], keys[kept])

    @property
    def total(self) -> int:
        """Rows of all files."""
        return int(self.starts[-1])

    def where(self, row: int) -> str:
        """The file and the number of the row in it, counted from 1: for messages."""
        place = int(np.searchsorted(self.starts, row, "right")) - 1
        return f"{self.paths[place]}, row {row - int(self.starts[place]) + 1}"

    def parts(self, rows: Array) -> Iterator[tuple[int, int, int]]:
        """Of increasing row numbers: a file, and which of them (from, to) are in it."""
        places = np.searchsorted(self.starts, rows, "right") - 1
        cuts = np.flatnonzero(np.diff(places)) + 1
        for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            yield int(places[begin]), int(begin), int(end)

    def check(self, place: int, state: os.stat_result) -> None:
        """Whether a file is what it was when it was first seen.

        Raises:
            DataError: If it is not.
        """
        if (state.st_size, state.st_mtime_ns) != (self.sizes[place], self.times[place]):
            raise DataError(
                f"{self.paths[place]}: the file has changed since it was first read (it had "
                f"{self.sizes[place]} bytes, now {state.st_size}); put the old one back and go on "
                f"with resume, or fit the new data afresh."
            )

    def refuse_gone(self, place: int) -> DataError:
        """The error of a file that is no longer there."""
        return DataError(
            f"{self.paths[place]}: the file was there when the data were first read, and is gone; "
            f"put it back and go on with resume, or fit what is left afresh."
        )

    def listing(self) -> dict[str, str]:
        """Size and time of change of each file by name; of very many, one digest."""
        base = self.folder if self.folder.is_dir() else self.folder.parent
        entries = {
            path.relative_to(base).as_posix(): f"{size} bytes, changed {time}"
            for path, size, time in zip(self.paths, self.sizes, self.times, strict=True)
        }
        if len(entries) <= _LISTED_FILES:
            return entries
        lines = "\n".join(f"{name} {entry}" for name, entry in entries.items())
        return {f"{len(entries)} files": hashlib.sha256(lines.encode()).hexdigest()}


class NpyShards:
    """Arrays of one shape and type, each a ``.npy``; rows are read with no mapping of memory.

    Pages of a mapped file count as the process's own until the system wants them back; what is
    read into a buffer is gone with it.

    Args:
        folder: The folder, or the only file.
        paths: The files.
        keys: The split of each, or ``"all"``.

    Raises:
        DataError: If a file is damaged or cut short, or the files differ in type or shape.
    """

    units = None

    def __init__(self, folder: Path, paths: Sequence[Path], keys: Array) -> None:
        heads = {path: _npy_head(path) for path in paths if path.stat().st_size}
        self.files = Files.of(folder, paths, keys, lambda path: heads[path][0][0])
        self._offsets = np.array([heads[path][2] for path in self.files.paths])
        first = self.files.paths[0]
        self._stored: np.dtype = heads[first][1]
        self._event = heads[first][0][1:]
        for path in self.files.paths:
            shape, dtype, _ = heads[path]
            if (shape[1:], dtype) != (self._event, self._stored):
                raise DataError(
                    f"{path}: its rows are {dtype} of shape {shape[1:]}, but those of "
                    f"{first.name} are {self._stored} of shape {self._event}; all files of a "
                    f"folder need one type and one shape."
                )
        example = checked(np.zeros((1, *self._event), self._stored), str(first))
        self.shape, self.dtype = example.shape[1:], example.dtype.newbyteorder("=")
        name = folder.stem if folder.is_file() else folder.resolve().name
        self.raw = Raw(name=name, values={})

    def take(self, rows: Array) -> tuple[Array, None]:
        """Values by increasing row numbers; runs of neighbours are read at once."""
        values = np.empty((len(rows), *self._event), self._stored)
        for place, begin, end in self.files.parts(rows):
            self._fill(values[begin:end], place, rows[begin:end] - self.files.starts[place])
        return values.astype(self.dtype, copy=False).reshape(len(rows), *self.shape), None

    def _fill(self, values: Array, place: int, rows: Array) -> None:
        files, size = self.files, values[:1].nbytes
        # what lies between close rows is read too, and left: one long read is quicker than many
        far = np.diff(rows) > max(1, min(_GAP // size, _GAP_ROWS))
        full = np.diff(np.arange(len(rows)) // max(1, _SPAN // size)) > 0
        cuts = np.flatnonzero(far | full) + 1
        try:
            with files.paths[place].open("rb", buffering=0) as file:
                files.check(place, os.fstat(file.fileno()))
                for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
                    some, first = rows[begin:end], int(rows[begin])
                    file.seek(int(self._offsets[place]) + first * size)
                    if int(some[-1]) - first + 1 == len(some):
                        _read_into(file, values[begin:end], files.paths[place])
                        continue
                    span = np.empty((int(some[-1]) - first + 1, *self._event), self._stored)
                    _read_into(file, span, files.paths[place])
                    values[begin:end] = span[some - first]
        except FileNotFoundError:
            raise files.refuse_gone(place) from None
        except OSError as problem:
            raise DataError(f"{files.paths[place]}: it cannot be read ({problem}).") from None


def _read_into(file: Any, values: Array, path: Path) -> None:
    buffer = memoryview(values.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise DataError(f"{path}: the file is shorter than its header says; write it again.")
        buffer = buffer[count:]


def _npy_head(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and where the values begin."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"format {version} is for arrays with named fields")
            shape, by_column, dtype = read(file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except Exception as problem:  # noqa: BLE001 - the header is parsed as Python's own text
        raise DataError(
            f"{path}: this is no readable .npy file, or it is damaged ({_first_line(problem)})."
        ) from None
    if not shape:
        checked(np.zeros((), dtype), str(path))
    checked(np.zeros((1, 1), dtype), str(path))
    if any(length < 0 for length in shape):
        raise DataError(f"{path}: an array of shape {shape} cannot be; the header is damaged.")
    if by_column and len(shape) > 1:
        raise DataError(
            f"{path}: the array is stored column by column (Fortran order), so that its rows "
            f"cannot be read one by one; save np.ascontiguousarray of it."
        )
    needed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < needed:
        raise DataError(
            f"{path}: an array of shape {shape} needs {needed} bytes, but there are {size}: it is "
            f"cut short; write it again."
        )
    checked(np.zeros((1, *shape[1:]), dtype), str(path))
    return shape, dtype, offset


class ImageShards:
    """Images, each a file and a row, decoded when they are asked for.

    Their sizes and colours are taken from the files' headers. Sub-folders are labels if every
    image is in one.

    Args:
        folder: The folder.
        paths: The files.
        keys: The split of each, or ``"all"``.
        size: Side of the square to which each is cropped and scaled; ``None`` leaves them.

    Raises:
        DataError: If one cannot be read, or the sizes differ.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], keys: Array, size: int | None) -> None:
        self.raw = Raw(name=folder.resolve().name, values={}, image=True, levels=256)
        self.raw.notes += cropping(size)
        self._size = size
        self.files = Files.of(folder, paths, keys, lambda _: 1)
        heads = [_image_head(path) for path in self.files.paths]
        side = None if size is None else (size, size)
        sizes: collections.Counter[tuple[int, ...]] = collections.Counter(
            side or shape for shape, _ in heads
        )
        refuse_unequal(folder, sizes)
        channels = 1 if all(grey for _, grey in heads) else 3
        (shape,) = sizes
        self.shape, self.dtype = (channels, *shape), np.dtype(np.uint8)
        self.units = self.files.starts
        names = labels_of(folder, self.files.paths, self.files.keys)
        self._labels: Array | None = None
        if names is not None:
            codes, self.raw.classes = codes_of({"all": names}, str(folder))
            self._labels = codes["all"]

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Pixels (rows, channels, height, width), and codes of labels."""
        values = np.empty((len(rows), *self.shape), self.dtype)

        def fill(place: int) -> None:
            values[place] = self._decoded(int(rows[place])).transpose(2, 0, 1)

        if len(rows) < 16 or _DECODERS == 1:
            for place in range(len(rows)):
                fill(place)
        else:
            with ThreadPoolExecutor(_DECODERS) as pool:
                for _ in pool.map(fill, range(len(rows)), chunksize=8):
                    pass
        return values, None if self._labels is None else self._labels[rows]

    def _decoded(self, row: int) -> Array:
        path = self.files.paths[row]
        try:
            self.files.check(row, path.stat())
        except FileNotFoundError:
            raise self.files.refuse_gone(row) from None
        return read_image(path, self._size)


def _image_head(path: Path) -> tuple[tuple[int, int], bool]:
    """(height, width), and whether it is grey; what cannot be read is left to the decoder."""
    try:
        with Image.open(path) as image:
            return (image.height, image.width), image.mode in GREY_MODES
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pixels = read_image(path, None)  # raises, and says why
        return (pixels.shape[0], pixels.shape[1]), pixels.shape[2] == 1


class ParquetShards:
    """Tables of the same columns; a row group is decoded whole, and the last one is kept.

    Args:
        table: The files.
        columns: Names of the columns to be read.
        label: Column of labels, or ``None``.
    """

    def __init__(self, table: ParquetFiles, columns: Sequence[str], label: str | None) -> None:
        self._table, self._columns, self._label = table, list(columns), label
        largest = int(np.diff(table.units).max())
        fits(
            WORKING * 8 * largest * len(self._columns),
            f"{table.files.folder}, a row group of {largest:,} rows, unpacked",
            DataError,
            "write smaller row groups (row_group_size=100_000)",
        )
        self.files = table.files
        self.units: Array | None = table.units
        self.raw = Raw(name=table.name, values={}, columns=tuple(columns), notes=[*table.notes])
        self._codes: dict[str, Mapping[str, float]] = {}
        self.shape: tuple[int, ...] = (len(self._columns),)
        self.dtype = np.dtype(
            np.float32
            if all(table.narrow(name) or name in table.text for name in columns)
            else np.float64
        )
        self._last: tuple[int, Array, Array | None] | None = None
        self._lock = threading.Lock()

    def with_codes(self, codes: Mapping[str, Mapping[str, float]]) -> ParquetShards:
        """What the texts of a column, or of the label, are as numbers."""
        self._codes = dict(codes)
        return self

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values by increasing row numbers, NaN where they are missing; and codes of labels."""
        values = np.empty((len(rows), len(self._columns)), self.dtype)
        labels = None if self._label is None else np.empty(len(rows), np.int64)
        groups = np.searchsorted(self._table.units, rows, "right") - 1
        cuts = np.flatnonzero(np.diff(groups)) + 1
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
                f"{self.files.where(first + row)}: column {name!r}: {texts[places[row]]!r} is "
                f"none of the {what} of the training data ({known}); correct the cell."
            )
        return found


class ParquetFiles:
    """Parquet files with the same columns, and their row groups.

    Args:
        folder: The folder, or the only file.
        paths: The files.
        keys: The split of each, or ``"all"``.

    Raises:
        DataError: If a file is damaged, or the files differ in columns or types.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], keys: Array) -> None:
        heads = {path: _parquet_head(path) for path in paths if path.stat().st_size}
        self.files = Files.of(folder, paths, keys, lambda path: sum(heads[path][1]))
        self.name = folder.stem if folder.is_file() else folder.resolve().name
        self.notes: list[str] = []
        first = self.files.paths[0]
        self.types: dict[str, Any] = heads[first][0]
        for path in self.files.paths:
            types = heads[path][0]
            if list(types) != list(self.types):
                differ = sorted(set(types) ^ set(self.types)) or list(types)
                raise DataError(
                    f"{path}: its columns are not those of {first.name} (they differ in "
                    f"{', '.join(differ[:5])}); all files of a folder need the same columns."
                )
            for name, kind in types.items():
                if _family(kind) != _family(self.types[name]):
                    raise DataError(
                        f"{path}: column {name!r} is {kind}, but {self.types[name]} in "
                        f"{first.name}; all files of a folder need the same types."
                    )
                if not _is_narrow(kind):
                    self.types[name] = kind
        groups = [[size for size in heads[path][1] if size] for path in self.files.paths]
        numbers = [
            [place for place, size in enumerate(heads[path][1]) if size]
            for path in self.files.paths
        ]
        self.units = np.concatenate([[0], np.cumsum(np.concatenate(groups))]).astype(np.int64)
        self._places = np.repeat(np.arange(len(groups)), [len(sizes) for sizes in groups])
        self._numbers = np.concatenate(numbers)
        self._metadata: collections.OrderedDict[int, Any] = collections.OrderedDict()

    @property
    def text(self) -> list[str]:
        """Columns of text."""
        return [name for name, kind in self.types.items() if _family(kind) == "text"]

    def narrow(self, name: str) -> bool:
        """Whether single precision holds all values of a column."""
        return _is_narrow(self.types[name])

    def refuse_columns(self, names: Sequence[str]) -> None:
        """Only numbers, truth values and text can be read.

        Raises:
            DataError: If a column holds dates, lists or the like.
        """
        for name in names:
            family = _family(self.types[name])
            if family not in ("number", "text"):
                raise DataError(
                    f"{self.files.folder.name}: column {name!r} holds {family} "
                    f"({self.types[name]}), not numbers; --drop {name}, or turn it into numbers."
                )

    def read(self, group: int, names: Sequence[str]) -> Any:
        """Some columns of a row group, as an Arrow table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        place = int(self._places[group])
        path = self.files.paths[place]
        try:
            with path.open("rb") as file:
                self.files.check(place, os.fstat(file.fileno()))
                known = self._metadata.pop(place, None)
                parquet = pq.ParquetFile(file, metadata=known, pre_buffer=True)
                self._metadata[place] = parquet.metadata
                while len(self._metadata) > 16:  # a footer grows with columns times groups
                    self._metadata.popitem(last=False)
                number = int(self._numbers[group])
                table = parquet.read_row_group(number, columns=list(names), use_threads=False)
                for name in set(names) & set(self.text):
                    table.column(name).validate(full=True)  # that it is UTF-8
                return table
        except FileNotFoundError:
            raise self.files.refuse_gone(place) from None
        except (pa.ArrowException, *_DAMAGED) as problem:
            if isinstance(problem, DataError):
                raise
            raise DataError(
                f"{path}: the parquet file is damaged ({_first_line(problem)})."
            ) from None

    def tables(self, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """First row and content of each row group, some columns."""
        for group in range(len(self.units) - 1):
            yield int(self.units[group]), self.read(group, names)


def _parquet_head(path: Path) -> tuple[dict[str, Any], list[int]]:
    """Types of the columns, and rows of each row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            schema, metadata = parquet.schema_arrow, parquet.metadata
            index = [
                name
                for name in (schema.pandas_metadata or {}).get("index_columns", [])
                if isinstance(name, str)
            ]
            names = [name for name in schema.names if name not in index]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{path}: two columns are called {twice!r}; rename one of them.")
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            return {name: schema.field(name).type for name in names}, sizes
    except (pa.ArrowException, *_DAMAGED) as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(
            f"{path}: this is no readable parquet file ({_first_line(problem)})."
        ) from None


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:150]


def _family(kind: Any) -> str:
    """What an Arrow type holds, in one word."""
    import pyarrow.types as is_a

    if is_a.is_dictionary(kind):
        return _family(kind.value_type)
    if is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_boolean(kind):
        return "number"
    if is_a.is_decimal(kind) or is_a.is_null(kind):
        return "number"
    if is_a.is_string(kind) or is_a.is_large_string(kind):
        return "text"
    if is_a.is_temporal(kind):
        return "dates"
    return "lists" if is_a.is_nested(kind) else "values"


def _is_narrow(kind: Any) -> bool:
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


def open_shards(path: Path, options: Mapping[str, Any]) -> tuple[str, Files, Any] | None:
    """The files below a path that can be read row by row, by what they are.

    Returns:
        ``"npy"``, ``"parquet"`` or ``"images"`` with the opened shards (of parquet the files);
        ``None`` for anything else.

    Raises:
        DataError: If a file is damaged, files do not go together, or the folder has none.
    """
    if path.is_file():
        if path.stat().st_size == 0:
            return None
        kind = path.suffix.lower()
        paths, keys = [path], np.array(["all"])
        if kind == ".npy":
            npy = NpyShards(path, paths, keys)
            return "npy", npy.files, npy
        if kind == ".parquet":
            parquet = ParquetFiles(path, paths, keys)
            return "parquet", parquet.files, parquet
        return None
    found = {
        "npy": files_below(path, (".npy",)),
        "parquet": files_below(path, (".parquet",)),
        "images": files_below(path, ENDINGS),
    }
    kinds = [kind for kind, paths in found.items() if paths]
    if not kinds:
        return None
    if len(kinds) > 1:
        examples = " and ".join(found[kind][0].name for kind in kinds)
        raise DataError(
            f"{path}: the folder holds files of several kinds ({examples}); give each kind a "
            f"folder of its own."
        )
    (kind,) = kinds
    paths = found[kind]
    keys, _ = splits_of(path, paths)
    lost = lost_links(path, ENDINGS if kind == "images" else (f".{kind}",))
    shards: Any
    if kind == "npy":
        shards = NpyShards(path, paths, keys)
    elif kind == "parquet":
        shards = ParquetFiles(path, paths, keys)
    else:
        shards = ImageShards(path, paths, keys, options["image_size"])
    notes: list[str] = shards.notes if isinstance(shards, ParquetFiles) else shards.raw.notes
    notes += lost
    return kind, shards.files, shards
