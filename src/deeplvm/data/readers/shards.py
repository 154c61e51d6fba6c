"""Files of rows on disk, read by row number: .npy, .parquet, images, and columns of paths."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deeplvm.data.readers.arrays import checked
from deeplvm.data.readers.cells import family, is_narrow, texts_of
from deeplvm.data.readers.delimited import MISSING_WORDS
from deeplvm.data.readers.images import (
    ENDINGS,
    GREY_MODES,
    cropping,
    files_below,
    labels_of,
    lost_links,
    read_image,
    refuse_deep,
    refuse_unequal,
    splits_of,
)
from deeplvm.data.readers.source import Array, Facts, Places, codes_of
from deeplvm.data.readers.tables import Table, TableRows, groups_of
from deeplvm.data.records import SPLITS, Description
from deeplvm.data.variable import DataError

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
        notes: What was left out of the folder.
    """

    folder: Path
    paths: Sequence[Path]
    rows: Array
    sizes: Array
    times: Array
    keys: Array
    notes: tuple[str, ...] = ()
    starts: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(self.rows)]))

    @classmethod
    def of(cls, folder: Path, paths: Sequence[Path], rows_of: Callable[[Path], int]) -> Files:
        """Look at each file, and leave those without rows aside."""
        keys = splits_of(folder, paths)[0] if folder.is_dir() else np.array(["all"])
        kind = paths[0].suffix.lower()
        endings = ENDINGS if kind in ENDINGS else (kind,)
        notes = lost_links(folder, endings) if folder.is_dir() else ()
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
        return cls(folder, chosen, rows[kept], sizes[kept], times[kept], keys[kept], notes)

    @property
    def facts(self) -> Facts:
        """What their names and folders say."""
        if self.folder.is_file():
            return Facts(self.folder.stem)
        _, words = splits_of(self.folder, self.paths)
        return Facts(self.folder.resolve().name, split=words, notes=self.notes)

    @property
    def parts(self) -> dict[str, Places]:
        """The rows of each split, or all."""
        ends = list(zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True))
        keys = self.keys.tolist()
        return {
            key: Places([each for each, other in zip(ends, keys, strict=True) if other == key])
            for key in dict.fromkeys(keys)
        }

    @property
    def total(self) -> int:
        """Rows of all files."""
        return int(self.starts[-1])

    def where(self, row: int) -> str:
        """The file and the number of the row in it, counted from 1: for messages."""
        place = int(np.searchsorted(self.starts, row, "right")) - 1
        return f"{self.paths[place]}, row {row - int(self.starts[place]) + 1}"

    def by_file(self, rows: Array) -> Iterator[tuple[int, int, int]]:
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

    @property
    def listing(self) -> dict[str, str]:
        """Size and time of change of each file by name; of very many, one digest."""
        base = self.folder if self.folder.is_dir() else self.folder.parent
        entries = {
            Path(os.path.relpath(path, base)).as_posix(): f"{size} bytes, changed {time}"
            for path, size, time in zip(self.paths, self.sizes, self.times, strict=True)
        }
        if len(entries) <= _LISTED_FILES:
            return entries
        lines = "\n".join(f"{name} {entry}" for name, entry in entries.items())
        return {f"{len(entries)} files": hashlib.sha256(lines.encode()).hexdigest()}


class InFiles:
    """What all rows that lie in files have of their files."""

    files: Files

    @property
    def parts(self) -> Mapping[str, Places]:
        """The rows of each split, or all."""
        return self.files.parts

    @property
    def total(self) -> int:
        """How many rows."""
        return self.files.total

    @property
    def listing(self) -> Mapping[str, str]:
        """Size and time of change of each file."""
        return self.files.listing

    def where(self, row: int) -> str:
        """The file and the number of the row in it."""
        return self.files.where(row)


class NpyShards(InFiles):
    """Arrays of one shape and type, each a ``.npy``; rows are read with no mapping of memory.

    Pages of a mapped file count as the process's own until the system wants them back; what is
    read into a buffer is gone with it.

    Args:
        folder: The folder, or the only file.
        paths: The files.

    Raises:
        DataError: If a file is damaged or cut short, or the files differ in type or shape.
    """

    units = None

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        heads = {path: _npy_head(path) for path in paths if path.stat().st_size}
        self.files = Files.of(folder, paths, lambda path: heads[path][0][0])
        self.facts = self.files.facts
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
        self.facts = replace(self.facts, types={"x": str(self._stored.newbyteorder("="))})

    def take(self, rows: Array) -> tuple[Array, None]:
        """Values by increasing row numbers; runs of neighbours are read at once."""
        values = np.empty((len(rows), *self._event), self._stored)
        for place, begin, end in self.files.by_file(rows):
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


class Pictures:
    """Image files of one size, decoded when they are asked for.

    Their sizes and colours are taken from the files' headers.

    Args:
        files: Each an image.
        size: Side of the square to which each is cropped and scaled; ``None`` leaves them.
        what: What they are called in a message.
        where: The place of each in words, where that is not its path.

    Raises:
        DataError: If one cannot be read, or the sizes differ.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        files: Files,
        size: int | None,
        what: object,
        where: Callable[[int], str] | None = None,
    ) -> None:
        self.notes, self.files, self._size, self._where = cropping(size), files, size, where
        heads = [self._told(place, _image_head, path) for place, path in enumerate(files.paths)]
        sizes = [shape if size is None else (size, size) for shape, _ in heads]
        refuse_unequal(what, sizes, where)
        channels = 1 if all(mode in GREY_MODES for _, mode in heads) else 3
        if all(mode == "1" for _, mode in heads):
            self.notes += ("every pixel is black or white: --binarize static models bits.",)
        self.shape: tuple[int, ...] = (channels, *sizes[0])

    @property
    def traits(self) -> dict[str, Any]:
        """What is known of the pixels, as :class:`Facts` says it."""
        return {"levels": 256, "image": True, "coloured": self.shape[0] == 3}

    def take(self, places: Array) -> Array:
        """Pixels (rows, channels, height, width) of some files."""
        values = np.empty((len(places), *self.shape), self.dtype)

        def fill(row: int) -> None:
            values[row] = self._decoded(int(places[row])).transpose(2, 0, 1)

        if len(places) < 16 or _DECODERS == 1:
            for row in range(len(places)):
                fill(row)
        else:
            with ThreadPoolExecutor(_DECODERS) as pool:
                for _ in pool.map(fill, range(len(places)), chunksize=8):
                    pass
        return values

    def _decoded(self, place: int) -> Array:
        path = self.files.paths[place]
        try:
            self.files.check(place, path.stat())
        except FileNotFoundError:
            raise self.files.refuse_gone(place) from None
        return self._told(place, read_image, path, self._size)

    def _told(self, place: int, read: Callable[..., Any], *arguments: Any) -> Any:
        """What is read; an error names the place too."""
        try:
            return read(*arguments)
        except DataError as error:
            if self._where is None:
                raise
            raise DataError(f"{self._where(place)}: {error}") from None


class ImageShards(InFiles):
    """Images, each a file and a row; see :class:`Pictures`.

    Sub-folders are labels if every image is in one.

    Args:
        folder: The folder.
        paths: The files.
        size: As of :class:`Pictures`.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], size: int | None) -> None:
        self.files = Files.of(folder, paths, lambda _: 1)
        self._pictures = Pictures(self.files, size, folder)
        self.shape, self.dtype = self._pictures.shape, self._pictures.dtype
        self.units = self.files.starts
        names = labels_of(folder, self.files.paths, self.files.keys)
        codes, classes, said = {}, None, ()
        if names is not None:
            codes, classes, said = codes_of({"all": names}, str(folder))
        self._labels: Array | None = codes.get("all")
        self.facts = replace(
            self.files.facts,
            classes=classes,
            notes=(*self.files.notes, *self._pictures.notes, *said),
            **self._pictures.traits,
        )

    @property
    def parts(self) -> Mapping[str, Places]:
        """The rows of each split, or all; in this order they are put together."""
        parts = self.files.parts
        return {key: parts[key] for key in ("all", *SPLITS) if key in parts}

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Pixels (rows, channels, height, width), and codes of labels."""
        return self._pictures.take(rows), None if self._labels is None else self._labels[rows]


class PictureColumn:
    """Rows of a table of which a column has the paths of image files; a hole is no image.

    Args:
        table: All columns.
        rows: Those that are read; of them the labels, and what is known of the table.
        column: That of the paths.
        folder: From which on the paths are.
        size: As of :class:`Pictures`.

    Raises:
        DataError: If a file is not there or no image, or the sizes differ; with its row.
    """

    def __init__(
        self, table: Table, rows: TableRows, column: str, folder: Path, size: int | None
    ) -> None:
        self._rows = rows.at(np.zeros(0, int))
        self.parts, self.total, self.units = rows.parts, rows.total, rows.units
        self.where = rows.where
        known: dict[str, int] = {}
        first: list[int] = []  # row in which each file is named first
        index = []
        for start, some in groups_of(table, [column]):
            texts, places = texts_of(some.column(column), MISSING_WORDS)
            for place, row in zip(*np.unique(places, return_index=True), strict=True):
                if place >= 0 and texts[place] not in known:
                    known[texts[place]] = len(known)
                    first.append(start + int(row))
            index.append(np.array([*[known.get(text, -1) for text in texts], -1])[places])
        self._index = np.concatenate(index)

        def told(place: int) -> str:
            return f"{rows.where(first[place])}, column {column!r}"

        paths = [folder / Path(text).expanduser() for text in known]
        for place, (text, path) in enumerate(zip(known, paths, strict=True)):
            if not path.is_file():
                raise DataError(
                    f"{told(place)}: {text!r}: there is no such file; correct the path, or leave "
                    f"the cell empty if the image is missing."
                )
        states = [path.stat() for path in paths]
        self._pictures = Pictures(
            Files(
                folder,
                paths,
                np.ones(len(paths), np.int64),
                np.array([state.st_size for state in states]),
                np.array([state.st_mtime_ns for state in states]),
                np.full(len(paths), "all"),
            ),
            size,
            f"{table.origin}, column {column!r}",
            told,
        )
        self.shape = self._pictures.shape
        self.listing: Mapping[str, str] = {**table.listing, **self._pictures.files.listing}
        holes = bool((self._index < 0).any())
        self.dtype = np.dtype(np.float32) if holes else self._pictures.dtype
        facts = Facts(rows.facts.name, classes=rows.facts.classes, split=rows.facts.split)
        self.facts = replace(
            facts, types={"x": "uint8"}, notes=self._pictures.notes, **self._pictures.traits
        )

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Pixels (rows, channels, height, width), NaN where there is no image, and labels."""
        places = self._index[rows]
        there = places >= 0
        values = np.full((len(rows), *self.shape), np.nan if self.dtype.kind == "f" else 0)
        values = values.astype(self.dtype)
        if there.any():
            values[there] = self._pictures.take(places[there])
        return values, self._rows.take(rows)[1]


def pictures_of(
    table: Table, groups: Mapping[str, Sequence[str]], known: Description | None
) -> dict[str, str]:
    """The column of paths of image files of each name that is one."""
    if known is not None:
        asked = known.options.get("group") or {}
        groups = {n: asked.get(n, ()) for n, each in known.variables.items() if each.is_image}
    found = {}
    for name, group in groups.items():
        column, *others = group or [""]
        if others or column not in table.types or family(table.types[column]) != "text":
            continue
        texts = [
            text
            for _, some in groups_of(table, [column])
            for text in texts_of(some.column(column), MISSING_WORDS)[0]
        ]
        if texts and all([text.lower().endswith(ENDINGS) for text in texts]):
            found[name] = column
    return found


def _image_head(path: Path) -> tuple[tuple[int, int], str]:
    """(height, width) as it is to be seen, and its mode; what cannot be read the decoder tells."""
    try:
        with Image.open(path) as image:
            refuse_deep(path, image)
            lying = image.getexif().get(_ORIENTATION, 1) in _LYING
            size = (image.width, image.height) if lying else (image.height, image.width)
            return size, image.mode
    except DataError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise whatever they stumble over
        pixels = read_image(path, None)  # raises, and says why
        return (pixels.shape[0], pixels.shape[1]), "L" if pixels.shape[2] == 1 else "RGB"


# EXIF's tag, and the turns that change width and height.
_ORIENTATION, _LYING = 274, (5, 6, 7, 8)


class ParquetFiles(InFiles):
    """Parquet files with the same columns, and their row groups.

    Args:
        folder: The folder, or the only file.
        paths: The files.

    Raises:
        DataError: If a file is damaged, or the files differ in columns or types.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        heads = {path: _parquet_head(path) for path in paths if path.stat().st_size}
        self.files = Files.of(folder, paths, lambda path: sum(heads[path][1]))
        self.facts, self.origin = self.files.facts, str(folder)
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
                if family(kind) != family(self.types[name]):
                    raise DataError(
                        f"{path}: column {name!r} is {kind}, but {self.types[name]} in "
                        f"{first.name}; all files of a folder need the same types."
                    )
                if not is_narrow(kind):
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
                for name in names:
                    if family(self.types[name]) == "text":
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
            told = (schema.pandas_metadata or {}).get("columns", [])
            categories = {
                each.get("name"): bool((each.get("metadata") or {}).get("ordered"))
                for each in told
                if each.get("pandas_type") == "categorical"
            }
            types = {name: schema.field(name).type for name in names}
            for name, ordered in categories.items():  # numbers: Arrow forgets that they are codes
                if name in types and family(types[name]) == "number":
                    types[name] = pa.dictionary(pa.int32(), types[name], ordered)
                elif name in types and pa.types.is_dictionary(types[name]) and not ordered:
                    types[name] = types[name].value_type
            return types, sizes
    except (pa.ArrowException, *_DAMAGED) as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(
            f"{path}: this is no readable parquet file ({_first_line(problem)})."
        ) from None


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:150]


def open_files(path: Path, *, size: int | None) -> NpyShards | ParquetFiles | ImageShards | None:
    """The files at or below a path that can be read row by row; ``None`` where there are none.

    Args:
        path: An .npy or .parquet file, or a folder of these or of images.
        size: As of :class:`ImageShards`.

    Raises:
        DataError: If a file is damaged, or files do not go together.
    """
    if path.is_file():
        files = [path] if path.stat().st_size else []
        found = {ending: files for ending in (".npy", ".parquet") if ending == path.suffix.lower()}
    else:
        found = {
            endings[0]: files_below(path, endings)
            for endings in ((".npy",), (".parquet",), ENDINGS)
        }
    found = {kind: files for kind, files in found.items() if files}
    if len(found) > 1:
        examples = " and ".join([files[0].name for files in found.values()])
        raise DataError(
            f"{path}: the folder holds files of several kinds ({examples}); give each kind a "
            f"folder of its own."
        )
    for kind, files in found.items():
        if kind not in (".npy", ".parquet"):
            return ImageShards(path, files, size)
        if size is not None:
            raise DataError(f"{path}: --image-size is for folders of images only.")
        return NpyShards(path, files) if kind == ".npy" else ParquetFiles(path, files)
    return None
