"""Source: rows by their number, in memory or in files, and what is said of them there."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np

from deeplvm.data.sparse import compressed, is_sparse, vertically
from deeplvm.data.variable import DataError
from deeplvm.files import ROW, WORKING, fits
from deeplvm.results import Array

NO_LABEL = "-1"  # a label that says that there is none, see stands_for_none


@dataclass(frozen=True)
class Facts:
    """What a source says of its rows.

    Attributes:
        name: Short name.
        classes: Names of the codes of labels.
        columns: Names of the columns of a table, or ``None`` for arrays and images.
        categories: Columns that hold codes, and what the codes stand for.
        kinds: Kinds that the source itself, or the schema, declares for columns.
        types: What the values of each column are in the source, as
            :attr:`~deeplvm.data.Variable.types` says it; of arrays those of ``"x"``.
        likelihoods: Likelihoods that the schema names for columns.
        bounds: The least and the largest possible value that the schema says of columns.
        origins: The days from which dates are counted that are not counted from 1970.
        left: Columns that are left out because nothing can be learned from them, and why.
        levels: Number of levels that the source itself declares.
        vocabulary: Names of the tokens 0, 1, ... of a text; ``None`` for other data.
        tokens: How a text was cut into them.
        image: Whether the source says that these are images.
        coloured: Whether three channels that are equal in all rows are to be one.
        split: The source's own split, in words.
        notes: What was done while reading.
    """

    name: str
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    likelihoods: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    origins: Mapping[str, float] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    levels: int | None = None
    vocabulary: tuple[str, ...] | None = None
    tokens: str = ""
    image: bool = False
    coloured: bool = False
    split: str = ""
    notes: tuple[str, ...] = ()

    def at(self, places: Array) -> Self:
        """The same of some of the columns."""
        known = [] if self.columns is None else [self.columns[place] for place in places]
        columns = None if self.columns is None else tuple(known)
        each = ("categories", "kinds", "types", "likelihoods", "bounds")
        said: dict[str, Any] = {
            entry: {name: value for name, value in getattr(self, entry).items() if name in known}
            for entry in each
        }
        return replace(self, columns=columns, **said)


class Places:
    """Rows of a source, as increasing numbers; held as ranges.

    Args:
        ranges: First row and row after the last, of each range, increasing.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]] | Array) -> None:
        pairs = np.asarray(ranges, np.int64).reshape(-1, 2)
        begins, ends = pairs[pairs[:, 1] > pairs[:, 0]].T
        apart = begins[1:] != ends[:-1]  # the others go on where the one before ends
        self._begins = begins[np.append(True, apart)[: len(begins)]]
        self._ends = ends[np.append(apart, True)[: len(ends)]]
        sizes = self._ends - self._begins
        self._sums = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._sums[-1])

    def rows(self, places: Array) -> Array:
        """Row numbers in the source of the rows 0, 1, ... of these."""
        if not len(places):
            return np.zeros(0, np.int64)
        which = np.searchsorted(self._sums, places, "right") - 1
        return self._begins[which] + places - self._sums[which]

    def all(self) -> Array:
        """All row numbers."""
        return self.rows(np.arange(len(self)))

    def below(self, rows: Array) -> Array:
        """How many of these rows come before each row of the source."""
        if not len(self):
            return np.zeros(len(rows), np.int64)
        which = np.maximum(np.searchsorted(self._begins, rows, "right") - 1, 0)
        inside = np.clip(rows, self._begins[which], self._ends[which]) - self._begins[which]
        return self._sums[which] + inside

    def blocks(self, size: int) -> Iterator[Array]:
        """All row numbers, so many at a time."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))


class Chosen(Places):
    """Rows by a list of them.

    Args:
        rows: Increasing row numbers.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, places: Array) -> Array:
        """Row numbers in the source of the rows 0, 1, ... of these."""
        return self._rows[places]

    def below(self, rows: Array) -> Array:
        """How many of these rows come before each row of the source."""
        return np.searchsorted(self._rows, rows)


class Source(Protocol):
    """Rows, numbered from 0; they are asked for a chunk at a time.

    Attributes:
        facts: What the source says of them.
        parts: The source's own split: the rows of each part, or those of ``"all"``.
        total: How many rows.
        shape: Event shape of a row as it is stored.
        dtype: Type of what :meth:`take` gives.
        units: Numbers of the rows at which what is best read at once begins, and of the last row
            plus 1; ``None`` where any row is read as easily as any other.
        listing: Size and time of change of the files, by name; none for what memory holds.
    """

    facts: Facts
    shape: tuple[int, ...]
    dtype: np.dtype
    units: Array | None

    @property
    def parts(self) -> Mapping[str, Places]: ...
    @property
    def total(self) -> int: ...
    @property
    def listing(self) -> Mapping[str, str]: ...

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values of shape ``(rows, *shape)`` and codes of labels, by increasing row numbers.

        The code of a row without a label is −1.
        """
        ...

    def where(self, row: int) -> str:
        """The file and the number of the row in it, counted from 1: for messages."""
        ...


class Held:
    """Rows that memory holds.

    Args:
        facts: What is said of them.
        values: By part, ``"all"`` where the source has no split of its own; each of shape
            ``(rows, *shape)``. A table's are reals with codes for categories and NaN for holes.
            A sparse matrix of compressed rows stays one.
        labels: Codes by part; none without labels.
        where: A row's place in words; by default its number in its part.
    """

    units = None

    def __init__(
        self,
        facts: Facts,
        values: Mapping[str, Array],
        labels: Mapping[str, Array] | None = None,
        where: Callable[[int], str] | None = None,
    ) -> None:
        self.facts, self._where = facts, where
        if any([is_sparse(each) for each in values.values()]):
            values = {k: v if is_sparse(v) else compressed(v) for k, v in values.items()}
        self.parts = consecutive({key: part.shape[0] for key, part in values.items()})
        self.values: Any
        self.values, *others = values.values()
        self.is_sparse = is_sparse(self.values)
        if others:
            stack = vertically if self.is_sparse else np.concatenate
            self.values = stack([self.values, *others])
        self.total = self.values.shape[0]
        self.labels = np.concatenate([labels[key] for key in values]) if labels else None
        self.shape, self.dtype = self.values.shape[1:], self.values.dtype
        self.listing: Mapping[str, str] = {}

    @classmethod
    def of(cls, source: Source) -> Held:
        """All rows of a source, read into memory."""
        hint = "--stream reads it from disk, some rows at a time"
        fits(room(source), f"{source.facts.name}, unpacked and loaded", DataError, hint)
        rows = {key: part.all() for key, part in source.parts.items()}
        taken = {key: source.take(each) for key, each in rows.items()}
        numbers = np.concatenate(list(rows.values()))
        labels = {key: codes for key, (_, codes) in taken.items() if codes is not None}
        values = {key: values for key, (values, _) in taken.items()}
        where = source.where  # not the source, which may keep what it decoded
        return cls(source.facts, values, labels, lambda row: where(int(numbers[row])))

    def dense(self) -> Held:
        """The same rows, all elements of a sparse matrix written out."""
        size = 8 * math.prod(self.values.shape)
        fits(size, f"{self.facts.name}, a sparse matrix of shape {self.values.shape}", DataError)
        found = copy.copy(self)
        found.values, found.is_sparse = self.values.toarray(), False
        return found

    def at(self, places: Array) -> Held:
        """The same rows, some of their columns."""
        found = copy.copy(self)
        found.values, found.facts = self.values[:, places], self.facts.at(places)
        found.shape = found.values.shape[1:]
        return found

    def told(self, where: Callable[[int], str]) -> Held:
        """The same rows, with other words for their places."""
        found = copy.copy(self)
        found._where = where
        return found

    def labelled(
        self, codes: Array | None, classes: tuple[str, ...] | None, notes: tuple[str, ...] = ()
    ) -> Held:
        """The same rows, with other labels."""
        found = copy.copy(self)
        found.labels = codes
        found.facts = replace(self.facts, classes=classes, notes=(*self.facts.notes, *notes))
        return found

    def take(self, rows: Array) -> tuple[Array, Array | None]:
        """Values and codes of labels, by increasing row numbers."""
        neighbours = len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        index = slice(int(rows[0]), int(rows[-1]) + 1) if neighbours else rows
        found = self.values[index]
        values = found.toarray() if self.is_sparse else found
        return values, None if self.labels is None else self.labels[index]

    def where(self, row: int) -> str:
        """The number of the row in its part, counted from 1."""
        return self._where(row) if self._where else row_of_part(self.facts.name, self.parts, row)


def room(source: Source) -> float:
    """Bytes that holding all rows of a source takes while they are loaded."""
    source = getattr(source, "steps", source)
    size = math.prod(source.shape) * source.dtype.itemsize
    return source.total * (WORKING * size + ROW)


def consecutive(sizes: Mapping[str, int]) -> dict[str, Places]:
    """Parts of so many rows, of which one follows the other."""
    ends = itertools.pairwise(itertools.accumulate(sizes.values(), initial=0))
    return {key: Places([each]) for key, each in zip(sizes, ends, strict=True)}


def row_of_part(name: str, parts: Mapping[str, Places], row: int) -> str:
    """A row in words, by its number in its part, where one part follows the other."""
    for key, part in parts.items():
        if row < len(part):
            rows = "" if key == "all" else f" of the {key} rows"
            return f"{name}, row {row + 1}{rows}"
        row -= len(part)
    raise IndexError(row)


def codes_of(
    labels: Mapping[str, Array], what: str
) -> tuple[dict[str, Array], tuple[str, ...], tuple[str, ...]]:
    """Labels of any type as codes 0, 1, ..., −1 where one is missing.

    Missing are NaN, an empty text, and −1 where :func:`stands_for_none` says so.

    Args:
        labels: By part, of shape ``(rows,)`` or ``(rows, 1)``.
        what: What they are called in a message.

    Returns:
        The codes by part, the names of the codes, and what was understood, in words.

    Raises:
        DataError: If the labels are reals and so no classes.
    """
    for part in labels.values():
        if part.dtype.kind == "f" and (part != np.floor(part))[~np.isnan(part)].any():
            wrong = part[(part != np.floor(part)) & ~np.isnan(part)][0]
            raise DataError(no_label(what, f"{wrong:g}"))
        if part.dtype.kind not in "buifUS":
            raise DataError(
                f"{what}: labels of type {part.dtype} are not supported; use integers."
            )
    joined = np.concatenate([part.reshape(len(part), -1)[:, 0] for part in labels.values()])
    none = np.isnan(joined) if joined.dtype.kind == "f" else np.zeros(len(joined), bool)
    none = joined == joined.dtype.type() if joined.dtype.kind in "US" else none
    if joined.dtype.kind == "f":
        joined = np.where(none, -1, joined).astype(np.int64)
    notes: tuple[str, ...] = ()
    if stands_for_none([str(name) for name in np.unique(joined[~none])]):
        unknown = ~none & (joined.astype(str) == NO_LABEL)
        none, notes = none | unknown, (note_of_none(what, int(unknown.sum())),)
    names, codes = np.unique(joined[~none], return_inverse=True)
    whole = np.full(len(joined), -1, np.int64)
    whole[~none] = codes
    ends = np.cumsum([len(part) for part in labels.values()])[:-1]
    parts = dict(zip(labels, np.split(whole, ends), strict=True))
    return parts, tuple(str(name) for name in names), notes


def stands_for_none(labels: Collection[str]) -> bool:
    """Whether the label −1 among these says that there is none.

    So it does where the other labels are whole numbers from 0 on, two of them or more; −1 beside 1
    alone is a class.

    >>> stands_for_none(["-1", "0", "1"]), stands_for_none(["-1", "1"])
    (True, False)
    """
    others = [name for name in labels if name != NO_LABEL]
    return len(labels) > len(others) > 1 and all([name.isdecimal() for name in others])


def note_of_none(what: str, rows: int) -> str:
    """What is said of labels that are −1."""
    return (
        f"{what}: −1 is taken for a missing label ({rows:,} rows); if it is a class, write it as "
        f"a word."
    )


def recoded(classes: Sequence[str], known: Sequence[str]) -> Array | None:
    """The code among the labels that are known of each of some others, and −1 at the end.

    Whole numbers stand for words in their order. What is no class may be −1, a label that is
    missing.

    Returns:
        ``None`` if one is none of those that are known.

    >>> recoded(["b", "c"], ["a", "b", "c"]).tolist(), recoded(["2"], ["a", "b", "c"]).tolist()
    ([1, 2, -1], [2, -1])
    """
    codes = {NO_LABEL: -1} if stands_for_none({NO_LABEL, *known}) else {}
    codes |= {name: code for code, name in enumerate(known)}
    if not any([name.lstrip("-").isdecimal() for name in known]):
        codes |= {str(code): code for code in range(len(known))}
    if not set(classes) <= set(codes):
        return None
    return np.array([*[codes[name] for name in classes], -1], np.int64)


def no_label(what: str, value: str) -> str:
    """The error of a label that is a quantity."""
    return (
        f"{what}: labels must be whole numbers or text, but {value} is neither; a quantity to be "
        f"modelled belongs among the values, not the labels."
    )
