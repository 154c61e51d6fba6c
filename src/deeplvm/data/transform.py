"""Reader: rows as they are stored -> rows as they are modelled; and a look at all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.likelihood import Choice
from deeplvm.data.readers.images import Layout, laid_out
from deeplvm.data.readers.source import Array, Chosen, Facts, Held, Places, Source
from deeplvm.data.records import SPLITS, Batch, Column, Renewal, Split
from deeplvm.data.statistics import Summary
from deeplvm.data.variable import DataError

# Bytes that are read and brought to their form at a time.
_AT_ONCE = 4 << 20
_ROWS = 1_000  # sparse ones that are looked at at a time


@dataclass(frozen=True, eq=False)
class Reader:
    """Rows of a source in the form in which they are modelled.

    Attributes:
        source: The rows as they are stored.
        name: What the values are called in the model.
        kept: Places of the columns that stay; ``None`` for all.
        layout: How the axes of a row are to be read.
        grey: Whether all three colour channels are equal, and one stays.
        shape: Event shape of the variable; ``None`` as it comes.
        kind: Type in which rows rest.
        choices: Those made for the values.
        noise: What is added or drawn, once for each row where it is not renewed.
        seed: Of that noise.
        labels: Type in which labels rest, reals if some are missing (NaN); ``None`` without any.
        codes: Of the source's codes those that are meant; ``None`` where they are the same.
    """

    source: Source
    name: str = "x"
    kept: Array | None = None
    layout: Layout = "rows"
    grey: bool = False
    shape: tuple[int, ...] | None = None
    kind: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    choices: tuple[Choice, ...] = ()
    noise: Renewal | None = None
    seed: int = 0
    labels: torch.dtype | None = None
    codes: Array | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, as stored or at rest, whichever is more."""
        width = max(self.source.dtype.itemsize, self.kind.itemsize)
        return max(1, math.prod(self.source.shape) * width)

    def stored(self, rows: Array) -> tuple[Array, Array | None]:
        """Values by increasing row numbers, and codes of labels, −1 where one is missing."""
        values, labels = self.source.take(rows)
        if labels is not None and self.codes is not None:
            labels = self.codes[labels]
        if self.kept is not None:
            values = values[:, self.kept]
        values = laid_out(values, self.layout)
        if self.grey:
            values = values[:, :1]
        return (values if self.shape is None else values.reshape(-1, *self.shape)), labels

    def sparse(self, rows: Array) -> Any:
        """Values of a source of sparse rows, as one; by increasing row numbers."""
        values = self.source.values[rows]  # type: ignore[attr-defined]
        return values if self.kept is None else values[:, self.kept]

    def resting(self, rows: Array, order: Array | None = None) -> Batch:
        """The same as tensors, values in the type in which they rest.

        Args:
            rows: Increasing row numbers.
            order: The place of each in what is returned; by default their own order.
        """
        found: Batch = {
            self.name: torch.from_numpy(np.empty((len(rows), *(self.shape or ())), self.kind))
        }
        if self.labels is not None:
            found["y"] = torch.empty(len(rows), dtype=self.labels)
        step = max(1, _AT_ONCE // self.row_bytes)
        for start in range(0, len(rows), step):
            values, labels = self.stored(rows[start : start + step])
            here = slice(start, start + step) if order is None else order[start : start + step]
            found[self.name].numpy()[here] = at_rest(values, self.kind, self.choices)
            if labels is not None and self.labels is not None:
                found["y"].numpy()[here] = self.labelled(labels)
        return found

    def labelled(self, codes: Array) -> Array:
        """Codes of labels as they rest: NaN for a missing one, where some are."""
        if self.labels == torch.int64:
            return codes
        return np.where(codes < 0, np.nan, codes)

    def fixed(self, resting: Tensor, rows: Array) -> Tensor:
        """Values with the one draw of the noise that belongs to each row."""
        if self.noise is None:
            return resting
        noise = noise_of(self.seed, rows, resting[:1].numel()).reshape(resting.shape)
        drawn = self.noise.with_noise(resting.to(torch.float32), noise)
        return drawn.to(torch.uint8) if self.noise.kind == "binarization" else drawn

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values with their noise."""
        if self.noise is None:
            return torch.from_numpy(np.empty(0, self.kind)).dtype
        return torch.uint8 if self.noise.kind == "binarization" else torch.float32

    def chunks(self, places: Mapping[Split, Places]) -> Iterator[Array]:
        """All rows that are in a split, increasing, some at a time."""
        size = max(1, _AT_ONCE // self.row_bytes)
        if sum(map(len, places.values())) == self.source.total:
            yield from Places([(0, self.source.total)]).blocks(size)
            return
        # a limit was asked for: as many row numbers as it leaves
        yield from Chosen(
            np.sort(np.concatenate([part.all() for part in places.values()]))
        ).blocks(size)

    def summaries(self, places: Mapping[Split, Places]) -> dict[Split, Summary]:
        """The summaries of the rows as they are modelled: rounded, or with their noise."""
        like = np.dtype(str(self.dtype).removeprefix("torch."))
        seen: dict[Split, Summary] = {s: Summary(self.shape or (), like) for s in SPLITS}
        for rows in self.chunks(places):
            values = self.fixed(self.resting(rows)[self.name], rows).numpy()
            for split, inside in of_splits(rows, places):
                seen[split].add(values[inside])
        return seen


def of_splits(rows: Array, places: Mapping[Split, Places]) -> Iterator[tuple[Split, Array]]:
    """Which of increasing rows are in each split."""
    for split, part in places.items():
        first, after = part.below(np.array([rows[0], rows[-1] + 1])).tolist()
        if after > first:
            yield split, np.searchsorted(rows, part.rows(np.arange(first, after)))


@dataclass
class Look:
    """What one pass over all rows tells.

    Attributes:
        seen: The summary of each split.
        digest: SHA-256 of all values and labels.
        holes: Where the first missing value is, in words.
        grey: Whether the three colour channels of all images are equal.
        unlabelled: How many rows of each split have no label; empty where the source has none.
    """

    seen: dict[Split, Summary]
    digest: str
    holes: str = ""
    grey: bool = False
    unlabelled: dict[str, int] = field(default_factory=dict)

    @classmethod
    def at(cls, reader: Reader, places: Mapping[Split, Places]) -> Look:
        """Look at the rows as they are stored.

        Raises:
            DataError: If a value is infinite, or beyond single precision.
        """
        source = reader.source
        facts, on_disk = source.facts, not isinstance(source, Held)
        digest = hashlib.sha256(f"{source.shape} {source.dtype} {facts.classes}".encode())
        shape = source.shape if reader.kept is None else (len(reader.kept),)
        seen: dict[Split, Summary] = {split: Summary(shape, source.dtype) for split in SPLITS}
        look = cls(seen, "", grey=facts.coloured)
        if isinstance(source, Held) and source.is_sparse:
            look._sparse(reader, source, places)
            return look
        for rows in reader.chunks(places):
            values, labels = reader.stored(rows)
            if values.dtype.kind == "f" and not (np.abs(values) <= _most(values)).all():
                look._unusual(values, rows, source, facts)
            if on_disk:  # what memory holds has its digest from its tensors
                digest.update(np.ascontiguousarray(values).view(np.uint8).data)
                digest.update(labels.data if labels is not None else b"")
            alike = (values == values[:, :1]) | (values != values)  # a hole has no colour
            look.grey = look.grey and bool(alike.all())
            for split, inside in of_splits(rows, places):
                seen[split].add(values[inside])
                if labels is not None:
                    none = int((labels[inside] < 0).sum())
                    look.unlabelled[split] = look.unlabelled.get(split, 0) + none
        look.digest = digest.hexdigest()
        return look

    def _sparse(self, reader: Reader, source: Held, places: Mapping[Split, Places]) -> None:
        """Look at what is stored of sparse rows."""
        for split, part in places.items():
            for rows in part.blocks(_ROWS):
                taken = reader.sparse(rows)
                if taken.dtype.kind == "f":
                    infinite = np.abs(taken.data) > _most(taken.data)
                    odd = infinite if infinite.any() else np.isnan(taken.data)
                    if odd.any():
                        row = np.searchsorted(taken.indptr, odd.argmax(), "right") - 1
                        values, _ = reader.stored(rows[[row]])
                        self._unusual(values, rows[[row]], source, source.facts)
                self.seen[split].add(taken)
            if source.labels is not None:
                self.unlabelled[split] = int((source.labels[part.all()] < 0).sum())

    def _unusual(self, values: Array, rows: Array, source: Source, facts: Facts) -> None:
        infinite = np.abs(values) > _most(values)
        unusual = infinite if infinite.any() else np.isnan(values)
        if not infinite.any() and self.holes:
            return
        first = np.argwhere(unusual)[0].tolist()
        what = (
            f"column {facts.columns[first[1]]!r}" if facts.columns else f"element {(*first[1:],)}"
        )
        where = source.where(int(rows[first[0]]))
        at = f"{where}, {what}"
        if infinite.any():
            value, found = values[tuple(first)], ": the value is infinite"
            if not np.isinf(value):
                name, _, row = where.rpartition(", row ")
                at, found = f"{name}: {what}, row {row}", f", {value:g}, beyond single precision"
            raise DataError(f"{at}{found}; correct it, or make it missing (NaN, an empty cell).")
        self.holes = f"NaN is a missing value; the first is in {at}."


def _most(values: Array) -> float:
    """The largest number that the values' type and single precision hold."""
    return min(float(np.finfo(np.float32).max), float(np.finfo(values.dtype).max))


def exact_type(seen: Summary, kind: np.dtype) -> np.dtype | None:
    """The type that holds rows as they are, where the one in which they rest does not."""
    if kind.kind != "f" or seen.narrow:
        return None
    return np.dtype(np.float64)


def at_rest(values: Array, kind: np.dtype, choices: Sequence[Choice]) -> Array:
    """Rows in the type they rest in; rounded values as the whole numbers they once were."""
    first = choices[0]
    if len(choices) == 1 and first.step != 1.0:
        values = np.round(values.astype(np.float64) / first.step)
    return np.ascontiguousarray(values.astype(kind, copy=False))


def smallest_type(seen: Summary, choices: Sequence[Choice]) -> np.dtype:
    """The smallest type that holds whole numbers exactly, else float32."""
    reals = any(
        choice.kind in ("real", "unit", "date") and not choice.dequantize for choice in choices
    )
    if not seen.rows or seen.holes or (reals and seen.dtype.kind == "f"):
        return np.dtype(np.float32)
    step = choices[0].step if len(choices) == 1 else 1.0
    low, high = round(float(seen.low.min()) / step), round(float(seen.high.max()) / step)
    for candidate in (np.uint8, np.int16, np.int32):
        if np.iinfo(candidate).min <= low and high <= np.iinfo(candidate).max:
            return np.dtype(candidate)
    return np.dtype(np.int64)


def label_type(unlabelled: Mapping[str, int]) -> torch.dtype:
    """The type of labels: whole numbers, reals if some are missing (NaN)."""
    return torch.float32 if unlabelled else torch.int64


def dequantization(choices: Sequence[Choice], train: Column) -> Renewal | None:
    """The noise that is to be added to the training rows, if any."""
    if not any(choice.dequantize for choice in choices):
        return None
    if len(choices) == 1:
        return Renewal("dequantization", train, choices[0].divisor)
    columns = torch.tensor([float(choice.dequantize) for choice in choices])
    scale = torch.tensor([choice.divisor for choice in choices])
    return Renewal("dequantization", train, scale, columns)


def noise_of(seed: int, rows: Array, elements: int) -> Tensor:
    """Numbers of U[0, 1) that a seed and the number of a row decide, shape ``(rows, elements)``.

    The counter-based generator of *Fast splittable pseudorandom number generators* (Steele et al.,
    2014), applied to row x elements + element; 24 bits of it.

    >>> bool((noise_of(0, np.array([3, 7]), 2)[1] == noise_of(0, np.array([7]), 2)[0]).all())
    True
    """
    start = (seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64
    bits = rows.astype(np.uint64)[:, None] * np.uint64(elements)
    bits = bits + np.arange(elements, dtype=np.uint64)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits += np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(40)
    return torch.from_numpy(bits.astype(np.float32)).mul_(2.0**-24)
