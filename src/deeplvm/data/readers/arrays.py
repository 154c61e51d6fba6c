"""Arrays: .npy, .npz and IDX files -> numbers with the rows first."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import IO, Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, read_array_header_1_0, read_array_header_2_0, read_magic

from deeplvm.data.readers.source import Array, Facts, Held
from deeplvm.data.records import SPLITS, Description
from deeplvm.data.sparse import compressed
from deeplvm.data.variable import DataError
from deeplvm.files import ROW, WORKING, fits, gunzip, read_whole

# Keys of the values and of the labels in an .npz, in the order in which they are looked for.
VALUE_KEYS = ("x", "X", "data")
LABEL_KEYS = ("y", "Y", "label", "labels", "target")
_PER_LINE = 100  # bytes that the statistics of a row or a column of a sparse matrix take
_MOST_AXES = 32  # what every numpy can hold
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_file(path: Path) -> Held:
    """The rows of an .npy or IDX file.

    Raises:
        DataError: If it cannot be read, or holds Python objects.
    """
    is_npy = path.suffix.lower() == ".npy"
    stored = read_arrays(path)[""] if is_npy else read_idx(path)
    values, name = checked(stored, str(path)), path.stem if is_npy else path.name
    return Held(Facts(name, types={"x": str(stored.dtype)}), {"all": values})


def held(parts: Mapping[str, Array], name: str, what: str) -> Held:
    """The rows of an array: all of them, or those of each split.

    Raises:
        DataError: If they are no numbers, or the splits differ in shape.
    """
    alone = parts.keys() == {"all"}
    values = {p: checked(v, what if alone else f"{what}_{p}") for p, v in parts.items()}
    shapes = {part: array.shape[1:] for part, array in values.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{what}: the splits' rows have different shapes: {shapes}.")
    split = f"{' / '.join(values)} as stored in the file" if "train" in values else ""
    types = {"x": str(next(iter(parts.values())).dtype)}
    return Held(Facts(name, split=split, types=types), values)


def parts_of(arrays: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The arrays of each name by part: ``x`` of all rows, or ``x_train``, ``x_valid``, ``x_test``.

    >>> parts_of({"x_test": 0, "x_train": 0, "y": 0})
    {'x': {'train': 'x_train', 'test': 'x_test'}, 'y': {'all': 'y'}}
    """
    found: dict[str, dict[str, str]] = {}
    for key in arrays:
        base, _, part = key.rpartition("_")
        part = "valid" if part == "val" and f"{base}_valid" not in arrays else part
        if part in SPLITS and f"{base}_train" in arrays:
            found.setdefault(base, {})[part] = key
        else:
            found.setdefault(key, {})["all"] = key
    return {
        name: {part: each[part] for part in (SPLITS if "train" in each else each) if part in each}
        for name, each in found.items()
    }


def names_of(
    parts: Mapping[str, Mapping[str, str]],
    groups: Mapping[str, Sequence[str]],
    known: Description | None,
    what: str,
) -> dict[str, tuple[str, ...]]:
    """Which arrays are which name: those asked for; the array ``x`` (or ``X``, ``data``) is x.

    The only array is x too, whatever it is called; of several, of which none is x, each but the
    labels is a name.

    Args:
        parts: Of :func:`parts_of`.
        groups: The arrays of each name, as asked for.
        known: Of the training data, whose names these are then.
        what: What they are called in a message.

    Raises:
        DataError: If an array is not there, or cannot be a name.
    """
    values = [key for key in parts if key not in LABEL_KEYS]
    value = next((key for key in VALUE_KEYS if key in parts), None)
    if value is None and (len(values) == 1 or len(parts) == 1):
        value = (values or [*parts])[0]
    if known is not None:
        asked = known.options.get("group") or {}
        each = {name: tuple(asked.get(name, ())) for name in known.variables}
        found = {n: e for n, e in each.items() if e and {*e} <= parts.keys()}
        found |= {n: (n,) for n in each if n not in found and n in parts}
        used = {key for keys in found.values() for key in keys}
        if "x" in each and "x" not in found and value is not None and value not in used:
            found["x"] = (value,)
        if not found:
            raise DataError(
                f"{what}: the model was fitted to {', '.join(known.variables)}, and none of these "
                f"is here; found {', '.join(parts)}."
            )
        return found
    for name, group in groups.items():
        if lost := [key for key in group if key not in parts]:
            raise DataError(
                f"{what}: --group {name}: there is no array {lost[0]!r}; found {', '.join(parts)}."
            )
    used = {key for group in groups.values() for key in group}
    if value is not None and value not in used and "x" not in groups:
        return {"x": (value,), **{name: tuple(group) for name, group in groups.items()}}
    if groups:
        return {name: tuple(group) for name, group in groups.items()}
    if not values:
        raise DataError(
            f"{what}: which array are the data? Found {', '.join(parts) or 'none'}; name it x "
            f"(and its labels y), or x_train and x_test."
        )
    if odd := [key for key in values if not key.isidentifier()]:
        raise DataError(
            f"{what}: the array {odd[0]!r} cannot be a name of a model; choose one: --group "
            f"{quote(f'x1={odd[0]}')}."
        )
    return {key: (key,) for key in values}


def label_of(
    parts: Mapping[str, Mapping[str, str]], names: Mapping[str, Sequence[str]]
) -> str | None:
    """The name of the labels: ``y`` (or ``labels``, ``target``), if all rows have them."""
    used = {key for keys in names.values() for key in keys}
    needed = parts[next(iter(names.values()))[0]].keys()
    there = [k for k in LABEL_KEYS if k in parts and k not in used and needed <= parts[k].keys()]
    return there[0] if there else None


def labels_of(parts: Mapping[str, Array], rows: Held, what: str, key: str) -> dict[str, Array]:
    """Labels of each part of some rows, one a row.

    Raises:
        DataError: If a row has none or several, or there are not as many as rows.
    """
    alone = rows.parts.keys() == {"all"}
    return {
        part: _labels(parts[part], len(each), f"{what}: {key if alone else f'{key}_{part}'}")
        for part, each in rows.parts.items()
    }


def as_matrix(arrays: Mapping[str, Array], what: str) -> Array | None:
    """The compressed rows of a matrix that scipy stored sparse, if these are its arrays.

    Raises:
        DataError: If they are not those of a matrix.
    """
    if not {"format", "shape", "data"} <= arrays.keys():
        return None
    import scipy.sparse

    kind, shape = bytes(arrays["format"].item()).decode(), tuple(arrays["shape"].tolist())
    names = {
        "csr": ("data", "indices", "indptr"), "csc": ("data", "indices", "indptr"),
        "bsr": ("data", "indices", "indptr"), "dia": ("data", "offsets"),
    }  # fmt: skip
    try:
        if kind == "coo":
            parts: Any = (arrays["data"], (arrays["row"], arrays["col"]))
        else:
            parts = tuple([arrays[name] for name in names[kind]])
        fits(_PER_LINE * sum(shape), f"{what}, a sparse matrix of shape {shape}", DataError)
        matrix = getattr(scipy.sparse, f"{kind}_matrix")(parts, shape=shape)
        if hasattr(matrix, "check_format"):  # a place beyond the shape would be written to
            matrix.check_format(full_check=True)
        return compressed(matrix)
    except (KeyError, ValueError, IndexError, TypeError) as problem:
        raise DataError(f"{what}: the sparse matrix is damaged ({problem}).") from None


def _parts(arrays: Mapping[str, Array], key: str) -> dict[str, str]:
    """The names of the arrays of the splits."""
    names = {split: f"{key}_{split}" for split in SPLITS}
    if names["valid"] not in arrays:
        names["valid"] = f"{key}_val"
    return {split: name for split, name in names.items() if name in arrays}


def _labels(labels: Array, rows: int, what: str) -> Array:
    labels = np.asarray(labels)
    if labels.ndim > 1 and labels.size != len(labels):
        if not ((labels == 0) | (labels == 1)).all() or (labels.sum(1) != 1).any():
            raise DataError(
                f"{what} has labels of shape {labels.shape[1:]} a row, of which a row has none or "
                f"several; give one label a row (y of shape (rows,), or one 1 a row), or leave "
                f"{what.rsplit(' ', 1)[-1]} out."
            )
        labels = labels.argmax(1)  # one-hot
    if len(labels) != rows:
        raise DataError(f"{what} has {len(labels)} labels for {rows} rows.")
    return labels


def read_idx(path: Path) -> Array:
    """An IDX file, the format of MNIST; gzipped or not.

    The magic number is two zero bytes, a type code and the number of axes; then the sizes, big
    endian; then the values.

    Raises:
        DataError: If it is not IDX, or it is cut short.
    """
    content = read_whole(path, DataError)
    if content[:2] == b"\x1f\x8b":
        content = gunzip(content, path, DataError)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise DataError(
            f"{path}: this is no IDX file; it must begin with two zero bytes and a type code."
        )
    kind, axes = np.dtype(_IDX_TYPES[content[2]]), content[3]
    if len(content) < 4 + 4 * axes:
        raise DataError(f"{path}: the IDX file is cut short within its header.")
    if not 0 < axes <= _MOST_AXES:
        raise DataError(f"{path}: an IDX file of {axes} axes; at most {_MOST_AXES} are read.")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    expected = 4 + 4 * axes + math.prod(shape) * kind.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path}: an IDX file of shape {shape} has {expected} bytes, but there are "
            f"{len(content)}; it is cut short or damaged, fetch it again."
        )
    values = np.frombuffer(content, dtype=kind, offset=4 + 4 * axes).reshape(shape)
    return values.astype(kind.newbyteorder("="))


def checked(values: Array, what: str) -> Array:
    """The array, with an axis of rows and at least one number a row.

    Raises:
        DataError: If it holds no numbers.
    """
    if values.dtype.hasobject:
        raise DataError(
            f"{what}: the array holds Python objects, not numbers; save it as one numeric array "
            f"(np.asarray(values, dtype=np.float32))."
        )
    if values.dtype.kind == "c":
        raise DataError(
            f"{what}: the array is complex; save its real and imaginary parts as two columns."
        )
    if values.dtype.kind not in "buif":
        raise DataError(f"{what}: the array has type {values.dtype}, not numbers.")
    if values.ndim == 0:
        raise DataError(f"{what}: the array is a single number; the first axis must be the rows.")
    if values.ndim == 1:
        values = values[:, None]
    if values.shape[0] == 0:
        raise DataError(f"{what}: the array of shape {values.shape} has no rows.")
    if math.prod(values.shape[1:]) == 0:
        raise DataError(f"{what}: the array of shape {values.shape} has no columns.")
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz by name, or the one of an .npy under the empty name; never a pickle.

    Raises:
        DataError: If it cannot be read, or holds Python objects.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    name = path.name
    try:
        with path.open("rb") as file:  # numpy leaves its own open when the archive is damaged
            if (is_npy := file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX) != (
                path.suffix.lower() == ".npy"
            ):
                other = ".npy" if is_npy else ".npz"
                if is_npy or zipfile.is_zipfile(path):
                    raise DataError(
                        f"{path}: the content is that of {other}; rename it to end so."
                    )
                raise ValueError("it does not begin as one")
            file.seek(0)
            if is_npy:
                _refuse_too_large(file, path.stat().st_size, str(path))
                file.seek(0)
                return {"": np.load(file, allow_pickle=False)}
            _refuse_large_members(file, path)
            file.seek(0)
            arrays = {}
            loaded = np.load(file, allow_pickle=False)
            for name in loaded.files:
                arrays[name] = np.asarray(loaded[name])
            return arrays
    except DataError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        KeyError,
        TypeError,
        SyntaxError,  # of the header, which is Python
        tokenize.TokenError,
        RecursionError,
        OverflowError,
        AttributeError,
        IndexError,
        struct.error,
        RuntimeError,  # an encrypted member
    ) as problem:
        if "allow_pickle" in str(problem):
            raise DataError(
                f"{path}: {name} holds Python objects, which are never opened (they could run "
                f"code); save it as a numeric array."
            ) from None
        raise DataError(
            f"{path}: this is no readable {path.suffix} file, or it is damaged ({problem})."
        ) from None


def _refuse_large_members(file: IO[bytes], path: Path) -> None:
    """Of an .npz: what unpacks to more than the memory, or says that it is larger than it is."""
    hint = "save its x as .npy, which is read from disk row by row"
    size = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            size += WORKING * member.file_size
            with archive.open(member) as inside:
                is_array = inside.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
            if is_array:
                with archive.open(member) as inside:
                    what = f"{path}, {member.filename}"
                    size += ROW * _refuse_too_large(inside, member.file_size, what)
    fits(size, f"{path}, unpacked and loaded", DataError, hint)


def _refuse_too_large(file: IO[bytes], size: int, what: str) -> int:
    """An array whose header promises more than there is: numpy would first make room for it.

    Returns:
        How many rows it has.
    """
    version = read_magic(file)
    header = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
    shape, _, kind = header(file)
    expected = math.prod(shape) * kind.itemsize
    if not kind.hasobject and expected > size:
        raise DataError(
            f"{what}: an array of shape {shape} has {expected} bytes, but there are {size}; it is "
            f"cut short or damaged, fetch it again."
        )
    fits(expected, what, DataError)
    return int(shape[0]) if shape else 1
