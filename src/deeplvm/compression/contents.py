"""What a file holds, taken apart into what the model's x makes of it and all the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.compression.exact import CompressionError
from deeplvm.compression.tables import Array
from deeplvm.data.readers.delimited import read_delimited

Restored = Mapping[str, Array]  # what Variable.restored returns
Plain = dict[str, Any]

_TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def ending_of(path: Path) -> str:
    """The ending that says what a file is."""
    name = path.name.lower()
    return next((each for each in (*_TEXT, ".npz", ".npy", ".parquet") if name.endswith(each)), "")


def split_off(path: Path | None, x: Restored) -> tuple[Plain, bytes]:
    """A description of a file, and what its rows do not say, packed.

    Args:
        path: The file; ``None`` for rows of a named data set.
        x: The rows as the source has them.

    Raises:
        CompressionError: The model's values are not those of the file.
    """
    if path is None:
        return {"ending": ".npz", "arrays": [_array(n, v) for n, v in x.items()]}, b""
    ending = ending_of(path)
    if ending == ".npy":
        own = np.load(path, allow_pickle=False)
        return {"ending": ending, "arrays": [_matched("x", own, x, path)]}, b""
    if ending == ".npz":
        return _split_arrays(path, x)
    if ending in _TEXT:
        return _split_text(path, x, ending)
    if ending == ".parquet":
        return _split_parquet(path, x)
    raise CompressionError(
        f"{path}: compress takes .npy, .npz, .csv, .tsv and .parquet files, and named data sets; "
        f"save it as one of these."
    )


def content_of(description: Plain, rest: bytes, x: Restored) -> bytes:
    """The content of the file again: the inverse of :func:`split_off`."""
    ending, stream = description["ending"], io.BytesIO()
    if ending in _TEXT:
        content = _text(description, rest, x)
        return gzip.compress(content, mtime=0) if ending.endswith(".gz") else content
    if ending == ".parquet":
        return _parquet(description, rest, x)
    arrays = {each["name"]: _as_was(each, x) for each in description["arrays"]}
    if rest:
        with np.load(io.BytesIO(lzma.decompress(rest)), allow_pickle=False) as others:
            arrays |= {name: others[name] for name in others.files}
    if ending == ".npy":
        np.save(stream, arrays["x"], allow_pickle=False)
    else:
        arrays = {name: arrays[name] for name in description.get("order", arrays)}
        np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _array(name: str, values: Array, axes: str = "") -> Plain:
    if values.dtype.kind not in "biuf":
        raise CompressionError(f"{name} is no array of numbers; save the rows as a table first.")
    return {"name": name, "type": values.dtype.str, "shape": values.shape[1:], "axes": axes}


def _table(x: Restored) -> Array:
    """One array of all columns."""
    return next(iter(x.values())) if len(x) == 1 else np.stack([*x.values()], 1)


def _matched(name: str, own: Array, x: Restored, path: Path) -> Plain:
    """How an array of a file follows from the rows."""
    for axes in ("", "last"):
        found = {"name": name, "type": own.dtype.str, "shape": own.shape[1:], "axes": axes}
        if own.dtype.kind in "biuf" and np.prod(own.shape) == np.prod(_table(x).shape):
            made = _as_was(found, x)
            if made.shape == own.shape and made.tobytes() == own.tobytes():
                return found
    raise CompressionError(
        f"The values of {path} are not those that the model has (they were binarized, scaled or "
        f"of another precision), so the file would not come back as it is; compress the values "
        f"that the model was trained on."
    )


def _as_was(description: Plain, x: Restored) -> Array:
    values = _table(x) if len(x) == 1 or description["name"] not in x else x[description["name"]]
    if description["axes"] and values.ndim == 4:
        values = np.moveaxis(values, 1, -1)
    shape = (len(values), *description["shape"])
    return np.ascontiguousarray(values.reshape(shape).astype(description["type"]))


def _split_arrays(path: Path, x: Restored) -> tuple[Plain, bytes]:
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    problem: Exception | None = None
    for name, own in arrays.items():
        try:
            known = _matched(name, own, x, path)
        except CompressionError as error:
            problem = problem or error
            continue
        others, packed = {n: a for n, a in arrays.items() if n != name}, io.BytesIO()
        np.savez(packed, allow_pickle=False, **others)
        rest = lzma.compress(packed.getvalue()) if others else b""
        return {"ending": ".npz", "arrays": [known], "order": [*arrays]}, rest
    raise problem or CompressionError(f"{path} holds no array.")


# How cells of text are written.
_FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "whole": lambda v: str(int(v)),
    **{f"{d}": (lambda v, d=d: f"{float(v):.{d}f}") for d in range(10)},
    "short": lambda v: repr(float(v)),
    "least": lambda v: repr(float(v)).removesuffix(".0"),
    "exponent": lambda v: f"{float(v):g}",
}


def _formatted(values: Array, form: str, empty: str) -> list[str]:
    write = _FORMS[form]
    return [empty if v is None or v != v else write(v) for v in values.tolist()]


def _split_text(path: Path, x: Restored, ending: str) -> tuple[Plain, bytes]:
    read = read_delimited(path)
    names = read.cells.column_names
    cells = {n: ["" if c is None else c for c in read.cells.column(n).to_pylist()] for n in names}
    known = (
        dict(zip(names, x.values(), strict=True)) if not read.named and len(x) == len(names) else x
    )
    columns, others = [], {}
    for name in names:
        form, empty, made = "", "", None
        if name in known:
            form, empty, made = _form_of(known[name], cells[name])
        pairs = zip(cells[name], made or cells[name], strict=True)
        wrong: Any = {str(i): own for i, (own, new) in enumerate(pairs) if own != new}
        if made is None or len(wrong) > len(made) // 3:
            form, wrong = "", cells[name]
        columns.append([name, form, empty])
        if wrong:
            others[name] = wrong
    if not any([form for _, form, _ in columns]):
        raise CompressionError(
            f"The values of {path} are not those that the model has, so the file would not come "
            f"back as it is; compress the values that the model was trained on."
        )
    keys = [*x] if known is not x else None
    found: Plain = {"ending": ending, "columns": columns, "named": read.named, "keys": keys}
    rest = lzma.compress(json.dumps(others).encode()) if others else b""
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    for way in [(d, line, end) for d in ",;\t|" for line in ("\n", "\r\n") for end in (1, 0)]:
        found["way"] = list(way)
        if _text(found, rest, x) == content:
            return {**found, "bytes": True}, rest
    return {**found, "way": ["\t" if ".tsv" in ending else ",", "\n", 1], "bytes": False}, rest


def _form_of(values: Array, cells: list[str]) -> tuple[str, str, list[str]]:
    """The form in which most cells are written, what stands for none, and the cells made so."""
    some = values.tolist()
    missing = [own for own, v in zip(cells, some, strict=True) if v is None or v != v]
    empty = max(set(missing), key=missing.count) if missing else ""
    best, most = "text", -1
    for form in _FORMS:
        try:
            made = _formatted(values[:1000], form, empty)
        except (TypeError, ValueError, OverflowError):
            continue
        right = sum([own == new for own, new in zip(cells, made, strict=False)])
        if right > most:
            best, most = form, right
    return best, empty, _formatted(values, best, empty)


def _text(description: Plain, rest: bytes, x: Restored) -> bytes:
    others = json.loads(lzma.decompress(rest)) if rest else {}
    names = [name for name, *_ in description["columns"]]
    keys = description["keys"] or names
    columns = []
    for (name, form, empty), key in zip(description["columns"], keys, strict=True):
        if not form:
            columns.append(others[name])
            continue
        made = _formatted(x[key], form, empty)
        for place, own in others.get(name, {}).items():
            made[int(place)] = own
        columns.append(made)
    delimiter, line, end = description["way"]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=line)
    if description["named"]:
        writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    found = stream.getvalue().encode()
    return found if end else found.removesuffix(line.encode())


def _split_parquet(path: Path, x: Restored) -> tuple[Plain, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = [
        n
        for n in table.column_names
        if n in x and _arrow(x[n], table.schema.field(n)) == table.column(n).combine_chunks()
    ]
    if not names:
        raise CompressionError(
            f"The values of {path} are not those that the model has, so the file would not come "
            f"back as it is; compress the values that the model was trained on."
        )
    packed = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(names), packed, compression="none")
    whole = {
        "schema": table.schema.serialize().to_pybytes().hex(),
        "others": packed.getvalue().to_pybytes().hex() if len(names) < table.num_columns else "",
    }
    return {"ending": ".parquet", "columns": names}, lzma.compress(json.dumps(whole).encode())


def _arrow(values: Array, field: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True).cast(field.type)
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _parquet(description: Plain, rest: bytes, x: Restored) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = json.loads(lzma.decompress(rest))
    schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(whole["schema"])))
    packed = bytes.fromhex(whole["others"])
    others: Any = pq.read_table(pa.BufferReader(packed)) if packed else None
    columns = [
        others.column(f.name) if f.name not in description["columns"] else _arrow(x[f.name], f)
        for f in schema
    ]
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), stream)
    return stream.getvalue().to_pybytes()
