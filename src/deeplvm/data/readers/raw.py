"""Raw: what a file or a named set holds, before anything is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplvm.data.records import DataError

Array = NDArray[Any]


@dataclass
class Raw:
    """Arrays as they were read.

    Attributes:
        name: Short name.
        values: ``{"all": array}``, or arrays by split where the source has its own; each of shape
            ``(rows, *event)``. A table's are float64 with codes for categories and NaN for holes.
        labels: Integer codes by the same keys; empty without labels.
        classes: Names of the codes.
        columns: Names of the columns of a table, or ``None`` for arrays and images.
        categories: Columns that hold codes, and what the codes stand for.
        kinds: Kinds that the source itself declares for columns.
        levels: Number of levels that the source itself declares.
        image: Whether the source says that these are images.
        split: The source's own split, in words.
        notes: What was done while reading.
    """

    name: str
    values: dict[str, Array]
    labels: dict[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    levels: int | None = None
    image: bool = False
    split: str = ""
    notes: list[str] = field(default_factory=list)


def codes_of(labels: dict[str, Array], what: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Labels of any type as codes 0, 1, ..., and the names of the codes.

    Raises:
        DataError: If a label is missing, or the labels are reals and so no classes.
    """
    for part in labels.values():
        if part.dtype.kind == "f" and np.isnan(part).any():
            row = int(np.flatnonzero(np.isnan(part))[0]) + 1
            raise DataError(
                f"{what}: row {row} has no label ({int(np.isnan(part).sum())} in all); give every "
                f"row a label, or leave those rows out."
            )
        if part.dtype.kind == "f" and (part != np.floor(part)).any():
            value = part[part != np.floor(part)][0]
            raise DataError(
                f"{what}: labels must be whole numbers or text, but {value:g} is neither; a "
                f"quantity to be modelled belongs among the values, not the labels."
            )
        if part.dtype.kind not in "buifUS":
            raise DataError(
                f"{what}: labels of type {part.dtype} are not supported; use integers."
            )
    joined = np.concatenate([part.reshape(len(part), -1)[:, 0] for part in labels.values()])
    if joined.dtype.kind == "f":
        joined = joined.astype(np.int64)
    names, codes = np.unique(joined, return_inverse=True)
    ends = np.cumsum([len(part) for part in labels.values()])[:-1]
    parts = np.split(codes.astype(np.int64), ends)
    return dict(zip(labels, parts, strict=True)), tuple(str(name) for name in names)


def label_codes(labels: Array, classes: tuple[str, ...], what: str) -> Array:
    """Codes of labels whose classes are already known.

    Raises:
        DataError: If a label is none of the classes.
    """
    codes, names = codes_of({"all": labels}, what)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise DataError(
            f"{what}: {unknown[0]!r} is none of the labels of the training data "
            f"({', '.join(classes[:10])}); correct it, or leave the label column out."
        )
    return np.array([classes.index(name) for name in names], dtype=np.int64)[codes["all"]]
