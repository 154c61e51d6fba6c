"""Compress the rows of a file with the model of a run, give them back, and check."""

from __future__ import annotations

import bz2
import json
import lzma
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.compression import tables
from deeplvm.compression.bits_back import Codec, Lattice
from deeplvm.compression.cells import Cells
from deeplvm.compression.coder import Coder, clean_words, coding
from deeplvm.compression.container import Container
from deeplvm.compression.contents import content_of, ending_of, split_off
from deeplvm.compression.exact import CompressionError, digest
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import load
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.files import write_atomically
from deeplvm.objectives import elbo
from deeplvm.results import Record
from deeplvm.runs.run import Run

# Rows of one checksum; those that choose the lattices; values that are coded at once.
_BLOCK, _CALIBRATED, _AT_ONCE = 1000, 256, 1 << 16
_MOST_ROWS = 128
_CODED = (
    "discretized-logistic", "discretized-logistic-mixture", "categorical", "ordinal", "bernoulli"
)  # fmt: skip
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Compression(Record, also="bits_per_dimension"):
    """What a compressed file holds, and what it takes.

    Attributes:
        rows: How many.
        dimensions: Numbers a row.
        bytes: The whole file.
        message: The part of it that holds the rows; the rest is what they do not say.
        bound: What the evidence bound of the rows says that they need, in bytes: a draw of the
            latents a row; of reals, and where values are missing, that of the message itself by
            the probabilities of its cells.
        others: What general coders need of the same values, in bytes.
        identical: Whether the file that is given back has the same bytes; else the same values.
        same: Whether it holds what it was compared with; ``None`` if with nothing.
    """

    rows: int
    dimensions: int
    bytes: int
    message: int
    bound: float
    others: Mapping[str, int]
    identical: bool
    same: bool | None = None

    @property
    def bits_per_dimension(self) -> float:
        """Of the whole file."""
        return 8 * self.bytes / max(1, self.rows * self.dimensions)

    def table(self) -> list[tuple[str, str]]:
        """A line a number."""
        return [
            ("rows", f"{self.rows:,} of {self.dimensions:,} numbers"),
            ("size", f"{self.bytes:,} bytes, {self.bits_per_dimension:.4f} bits a number"),
            ("of it the message", f"{self.message:,} bytes"),
            ("the bound says", f"{self.bound:,.0f} bytes"),
            *[(name, f"{size:,} bytes") for name, size in self.others.items()],
        ]


def compress(
    run: Run,
    source: str | None,
    output: Path,
    *,
    split: str | None = None,
    told: Told = lambda *_: None,
) -> Compression:
    """Write the rows of a file in as few bits as the run's model needs.

    Args:
        run: A finished run of single rows, whose latents are diagonal Gaussians in q, and in p
            these or mixtures of them.
        source: A file or a named data set, read as the run's own; the run's own if ``None``.
        output: Where to write.
        split: Of the run's own data or a named set, which rows; test by default.
        told: Is called with the rows done and their number.

    Raises:
        CompressionError: The model or the values have no form in integers.
    """
    coding()
    variable = _variable(run)
    rows, exact, described, rest = _read(run, variable, source, split)
    cells = _cells(variable, exact)
    places, holes = cells.places(exact), np.isnan(exact).reshape(len(exact), -1)
    given = _given(run.model, rows)
    codec = Codec(run.model, cells)
    some = slice(0, _CALIBRATED)
    codec.calibrate(_some(given, some), places[some], _holes(holes, some))
    words, blocks, sums, ideal = _encoded(codec, given, places, holes, told)
    clean = clean_words(_room(codec))
    kept = int(np.argmin(np.append(words[: len(clean)] == clean[: len(words)], False)))
    header = {
        "model": digest(codec.module).hex()[:32],
        "tables": tables.digest().hex()[:16],
        "recipe": run.config.recipe,
        "rows": len(places),
        "cells": asdict(cells),
        "lattices": {name: asdict(each) for name, each in codec.lattices.items()},
        "clean": kept,
        "blocks": blocks,
        "sums": sums,
        "file": described,
        "side": [],
    }
    side = _packed_side(header, given, holes, cells.negative_zeros(exact))
    header["side"] = [len(rest), len(side)]
    made = Container(header, rest + side, words[kept:])
    size = made.write(output)
    return _summary(made, size, codec, run, given, places, exact, ideal)


def _read(
    run: Run, variable: Variable, source: str | None, split: str | None
) -> tuple[Any, Any, dict[str, Any], bytes]:
    """Rows, their values, and what else the file says."""
    data = _bits(run, variable, source) or run.read(source)
    chosen: Any = split or ("test" if data.rows("test") else "valid")
    if not data.rows(chosen):
        raise CompressionError(
            f"{source or data.name} has no {chosen} rows: a file is compressed whole; leave "
            f"--split out."
        )
    rows = data[chosen]
    exact = np.ascontiguousarray(rows.exact("x").double().numpy())
    path = Path(source).expanduser() if source is not None else None
    path = path if path is not None and path.is_file() else None
    restored = variable.restored(torch.from_numpy(exact), exact=True)
    return rows, exact, *split_off(path, restored)


def _bits(run: Run, variable: Variable, source: str | None) -> Data | None:
    """Data that are bits already, for a run that made bits of grey values by chance."""
    model: Any = run.model
    if variable.grey is None or source is None or "y" in (*model.p.inputs, *model.p.names):
        return None
    found = load(source)
    x = found.variables.get("x")
    if x is None or x.kind != "binary" or x.shape != variable.shape:
        return None
    return load(source, like=found.description)  # all its rows in their order


def decompress(
    run: Run,
    archive: Path,
    output: Path | None = None,
    *,
    like: str | None = None,
    split: str | None = None,
    told: Told = lambda *_: None,
) -> Compression:
    """Give back the file that :func:`compress` took.

    Args:
        run: The run that compressed it.
        archive: The compressed file.
        output: Where to write; ``None`` to check alone.
        like: What it is compared with: the file, or the named data set, of which ``split``.
        split: Of that, which rows; test by default.
        told: Is called with the rows done and their number.

    Raises:
        CompressionError: The file was cut off or changed, or made with another model; or output
            has another ending than the file had.
    """
    coding()
    made = Container.read(archive)
    try:
        return _restored(run, made, archive, output, told, like, split)
    except (KeyError, TypeError, IndexError, OverflowError, lzma.LZMAError) as error:
        raise CompressionError(
            f"{archive} is damaged, or of another version; get it again."
        ) from error


def _restored(
    run: Run,
    made: Container,
    archive: Path,
    output: Path | None,
    told: Told,
    like: str | None,
    split: str | None,
) -> Compression:
    header = made.header
    variable = _variable(run)
    ending = header["file"]["ending"]
    if output is not None and ending_of(output) != ending:
        raise CompressionError(f"{archive} holds a {ending} file; name one that ends so.")
    if header["tables"] != tables.digest().hex()[:16]:
        raise CompressionError(
            f"{archive} was made with other tables of probabilities than this installation "
            f"computes; use the deeplvm, and the processor, that made it."
        )
    cells = Cells(**{name: tuple(each) for name, each in header["cells"].items()})
    lattices = {
        name: Lattice(*[tuple(each[n]) for n in ("shape", "fine", "levels")])
        for name, each in header["lattices"].items()
    }
    codec = Codec(run.model, cells, lattices)
    if digest(codec.module).hex()[:32] != header["model"]:
        raise CompressionError(
            f"{archive} was made with another model (recipe {header['recipe']}) than "
            f"{run.folder} holds; decompress with the RUN that compressed it."
        )
    rest, side = made.rest[: header["side"][0]], made.rest[header["side"][0] :]
    given, holes, negative = _unpacked_side(header, side, cells)
    words = np.concatenate([clean_words(header["clean"]), made.words])
    coder, total = Coder(words, message=True), header["rows"]
    found, end = np.zeros((total, *cells.shape), np.int64), total
    for sizes, checksum in zip(reversed(header["blocks"]), reversed(header["sums"]), strict=True):
        first = end
        for size in reversed(_unfolded(sizes)):
            at = slice(end - size, end)
            values = codec.begin(_some(given, at), size, holes=_holes(holes, at))
            codec.decode(coder, values)
            found[at], end = values.places["x"], end - size
            told(total - end, total)
        if end < 0 or zlib.crc32(found[end:first].astype("<i8").tobytes()) != checksum:
            raise CompressionError(
                f"Rows {end} to {first - 1} of {archive} do not have their checksum: it was "
                f"changed since it was made, or this machine computes otherwise than the one that "
                f"made it. Get it again; if that does not help, decompress it there. Nothing was "
                f"written."
            )
    if end or not coder.holds(clean_words(_room(codec))):
        raise CompressionError(f"{archive} is damaged: its rows are not all. Nothing was written.")
    exact = cells.exact(found)
    if negative is not None:
        exact.reshape(total, -1)[negative] = -0.0
    if output is not None:
        x = variable.restored(torch.from_numpy(exact), exact=True)
        write_atomically(output, content_of(header["file"], rest, x))
    size, ideal = archive.stat().st_size, -coder.ideal
    summary = _summary(made, size, codec, run, given, found, exact, ideal)
    if like is None:
        return summary
    _, own, described, others = _read(run, variable, like, split)
    alike = json.dumps([described, others.hex()]) == json.dumps([header["file"], rest.hex()])
    return replace(summary, same=alike and np.array_equal(own, exact, equal_nan=True))


def _variable(run: Run) -> Variable:
    """What is compressed.

    Raises:
        CompressionError: The run is of sequences, graphs, or several variables.
    """
    description: Description = run.description
    if description.options.get("graph") or [*description.variables] != ["x"]:
        names = ", ".join(description.variables) or "a graph"
        raise CompressionError(f"compress is for runs of one variable, x; this one is of {names}.")
    variable = description.variables["x"]
    if variable.length is not None:
        raise CompressionError(
            "compress is for single rows; a row of this run is a sequence, of which there is no "
            "integer form yet."
        )
    return variable


def _cells(variable: Variable, exact: np.ndarray) -> Cells:
    each = variable.each if variable.parts or variable.columns else (variable,)
    codes = [
        (2 if one.kind == "binary" else one.levels) if one.likelihood in _CODED else None
        for one in each
    ]
    return Cells.of(exact, codes, [one.divisor if one.dequantized else 0.0 for one in each])


def _given(model: LatentVariableModel, rows: Any) -> dict[str, Tensor]:
    """What the model is told of each row beside x: its label."""
    p, q = model.p, model.q
    read = {name for joint in (p, q) for name in (*joint.inputs, *p.names)} - {"x"}
    return {name: rows[name].double() for name in rows if name in read}


def _some(given: Mapping[str, Tensor], at: slice) -> dict[str, Tensor]:
    return {name: each[at] for name, each in given.items()}


def _holes(holes: Any, at: slice) -> Any:
    return None if holes is None or not holes.any() else holes[at]


def _packed_side(
    header: dict[str, Any], given: Mapping[str, Tensor], holes: Any, negative: Any
) -> bytes:
    """Labels, where values are missing, and where zeros have a sign."""
    masks = [("holes", holes), ("negative", negative)]
    header["masks"] = [name for name, mask in masks if mask.any()]
    header["given"] = list(given)
    parts = [np.packbits(mask.T).tobytes() for _, mask in masks if mask.any()]
    parts += [each.numpy().astype("<f8").tobytes() for each in given.values()]
    return lzma.compress(b"".join(parts)) if parts else b""


def _unpacked_side(
    header: Mapping[str, Any], side: bytes, cells: Cells
) -> tuple[dict[str, Tensor], Any, Any]:
    packed, rows = lzma.decompress(side) if side else b"", header["rows"]
    masks, count = {}, header["rows"] * cells.elements
    for name in header["masks"]:
        size = -(-count // 8)
        bits = np.unpackbits(np.frombuffer(packed[:size], np.uint8), count=count)
        masks[name], packed = bits.reshape(cells.elements, rows).T.astype(bool), packed[size:]
    each = np.frombuffer(packed, "<f8").astype(np.float64).reshape(len(header["given"]), rows)
    given = {n: torch.from_numpy(v) for n, v in zip(header["given"], each, strict=True)}
    return given, masks.get("holes"), masks.get("negative")


def _room(codec: Codec) -> int:
    """Clean words that are enough to draw the latents of one row."""
    bits = sum(
        math.prod(each.shape) * (max(each.levels).bit_length() + 1)
        for each in codec.lattices.values()
    )
    return bits // 32 + 64


def _encoded(
    codec: Codec, given: Mapping[str, Tensor], places: Any, holes: Any, told: Told
) -> tuple[Any, list[Any], list[int], float]:
    """The message, of each block the sizes of its groups and its checksum, and its ideal bits.

    The first rows are coded one by one: until there are bits of others to draw latents by, these
    are clean ones, which cost what they hold.
    """
    clean = clean_words(_room(codec))
    coder, start, size = Coder(clean), 0, 1
    most = max(1, min(_MOST_ROWS, _AT_ONCE // codec.cells.elements))
    blocks, sums = [], []
    while start < len(places):
        first, sizes = start, []
        end = min(first + _BLOCK, len(places))
        while start < end:
            at = slice(start, min(start + size, end))
            values = codec.begin(
                _some(given, at), at.stop - at.start, places[at], _holes(holes, at)
            )
            taken = coder.taken
            codec.encode(coder, values)
            sizes.append(values.rows)
            start = at.stop
            told(start, len(places))
            need = (coder.taken - taken) / values.rows
            own = coder.size - 32 * len(clean)
            size = max(1, min(most, 2 * size, int(own / (2 * need + 1))))
        blocks.append(_folded(sizes))
        sums.append(zlib.crc32(places[first:end].astype("<i8").tobytes()))
    return coder.message(), blocks, sums, coder.ideal


def _folded(sizes: list[int]) -> list[list[int]]:
    """Sizes and how often they come one after another."""
    found: list[list[int]] = []
    for size in sizes:
        if found and found[-1][0] == size:
            found[-1][1] += 1
        else:
            found.append([size, 1])
    return found


def _unfolded(sizes: list[list[int]]) -> list[int]:
    return [size for size, times in sizes for _ in range(times)]


def _summary(
    made: Container,
    size: int,
    codec: Codec,
    run: Run,
    given: Mapping[str, Tensor],
    places: Any,
    exact: Any,
    ideal: float,
) -> Compression:
    identical = made.header["file"].get("bytes", False)
    return Compression(
        len(places),
        codec.cells.elements,
        size,
        4 * len(made.words),
        _bound(run, given, exact, ideal),
        _general(places),
        identical,
    )


def _bound(run: Run, given: Mapping[str, Tensor], exact: Any, ideal: float) -> float:
    """What the evidence bound says, in bytes; of reals, which have a density, by their cells."""
    x = run.description.variables["x"]
    if np.isnan(exact).any() or not all([one.is_whole for one in x.each]):
        return ideal / 8
    model, total = run.model, 0.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for start in range(0, len(exact), 500):
            at = slice(start, start + 500)
            rows = {n: v.to(torch.get_default_dtype()) for n, v in _some(given, at).items()}
            x_rows = torch.from_numpy(exact[at]).to(torch.get_default_dtype())
            total -= float(elbo(model.evidence({"x": x_rows, **rows})).double().sum())
    return total / math.log(2) / 8


def _general(places: Any) -> dict[str, int]:
    """What general coders make of the same values, column after column or row after row."""
    rows = places.reshape(len(places), -1)
    rows = rows - rows.min(initial=0)
    kind = np.min_scalar_type(int(rows.max(initial=0)))
    ways = [np.ascontiguousarray(each).astype(kind).tobytes() for each in (rows, rows.T)]
    if kind == np.uint8 and rows.max(initial=0) <= 1:
        ways.append(np.packbits(rows.astype(np.uint8)).tobytes())
    coders: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME),
        "bz2": bz2.compress,
        **_zstandard(),
    }
    return {name: min([len(coder(way)) for way in ways]) for name, coder in coders.items()}


def _zstandard() -> dict[str, Callable[[bytes], bytes]]:
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        return {}
    codec = pa.Codec("zstd", compression_level=19)
    return {"zstd": lambda b: codec.compress(b, asbytes=True)}
