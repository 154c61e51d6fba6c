"""Description, Data: what the data are, apart from how they were read."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self, overload

import torch
from torch import Tensor

from deeplvm.data.ragged import RaggedColumn, stored
from deeplvm.data.variable import (
    DataError,
    Variable,
    check_types,
    check_variable,
    expect,
    known_fields,
    listed,
)
from deeplvm.registry import Bounds

Batch = dict[str, Tensor]


class Column(Protocol):
    """One name's values in the rows of a split: a tensor in memory, or rows read when asked for.

    Its own shape is ``(rows, *shape)``, and an index of rows gives a tensor of those rows.
    """

    @property
    def shape(self) -> torch.Size:
        """``(rows, *shape)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the values rest."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all rows as they rest."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...

    def to(self, device: Any, /) -> Self:
        """The same values, on another device."""
        ...


Columns = Mapping[str, Any]  # of Column; a tensor in memory can do more
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_SOME_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Description:
    """What a run must remember of its data; a plain JSON-able dict and back.

    It has all that a recipe needs to build its model, so a finished run can sample without its
    data, and all that :func:`~deeplvm.data.load` needs to read another file in the same way.

    Attributes:
        name: Short name, for titles.
        source: The data set's name or the file's path.
        options: The arguments that load the same data again: ``load(**options)``.
        variables: The modelled variables by name.
        classes: Names of the labels 0, 1, ... in ``"y"``; ``None`` without labels.
        split: How train, validation and test came about, in words.
        notes: What was chosen and why, and warnings, in words.
        rows: Number of rows of each split.
        fingerprint: SHA-256 of names, shapes and values; empty if not computed.
        left: Columns of a table that are left out because nothing can be learned from them, and
            why.
        unlabelled: How many rows of each split have no label, where some have none; their ``"y"``
            is NaN.
        stream: Of data that are streamed, what saves a second look at all rows: the size and time
            of change of each file, and the form in which the rows rest.
        steps: Where rows are sequences, the number of steps of each split.
        lengths: And the quantiles of the lengths of the training rows, at the levels 0, 1/32, ...,
            1.
    """

    name: str
    source: str
    options: Mapping[str, Any]
    variables: Mapping[str, Variable]
    classes: tuple[str, ...] | None
    split: str
    notes: tuple[str, ...]
    rows: Mapping[str, Annotated[int, Bounds(0)]]
    fingerprint: str = ""
    left: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Mapping[str, Annotated[int, Bounds(0)]] = field(default_factory=dict)
    stream: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Annotated[int, Bounds(0)]] = field(default_factory=dict)
    lengths: tuple[Annotated[int, Bounds(1)], ...] = ()

    @property
    def whole(self) -> frozenset[str]:
        """Names whose values are whole numbers in a batch: the lengths of sequences."""
        return frozenset([v.length for v in self.variables.values() if v.length is not None])

    @property
    def missing(self) -> frozenset[str]:
        """Names of which elements are missing (NaN): variables, and ``"y"``, the labels."""
        holes = {name for name, variable in self.variables.items() if variable.missing}
        return frozenset(holes | {"y"} if self.unlabelled else holes)

    @property
    def columns(self) -> dict[str, Variable]:
        """The variable of each column of a table, whatever name of the model it belongs to."""
        each = [variable.by_column for variable in self.variables.values()]
        return {column: part for columns in each for column, part in columns.items()}

    @property
    def picture(self) -> Variable | None:
        """The first variable of which a row is an image, or a set of images."""
        dims = (3, 4) if self.options.get("members") else (3,)
        return next((e for e in self.variables.values() if len(e.shape) in dims), None)

    @property
    def label(self) -> Variable | None:
        """The labels ``"y"``, called as their column: codes of categories; ``None`` without."""
        if self.classes is None:
            return None
        whole = all(
            [each.lstrip("-").isdecimal() and str(int(each)) == each for each in self.classes]
        )
        return Variable(
            name=self.options.get("label") or "y", shape=(), kind="category",
            likelihood="categorical", mean=torch.tensor(math.nan), std=torch.tensor(math.nan),
            minimum=0, maximum=len(self.classes) - 1, levels=len(self.classes),
            missing=bool(self.unlabelled), categories=self.classes,
            types=("int",) if whole else ("text",),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; :meth:`from_dict` gives the record back."""
        return {
            "name": self.name,
            "source": self.source,
            "options": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.options.items()
            },
            "variables": {name: variable.to_dict() for name, variable in self.variables.items()},
            "classes": None if self.classes is None else list(self.classes),
            "split": self.split,
            "notes": list(self.notes),
            "rows": dict(self.rows),
            "fingerprint": self.fingerprint,
            "left": dict(self.left),
            **({"unlabelled": dict(self.unlabelled)} if self.unlabelled else {}),
            **({"stream": dict(self.stream)} if self.stream else {}),
            **({"steps": dict(self.steps), "lengths": list(self.lengths)} if self.steps else {}),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Description:
        """The description that :meth:`to_dict` wrote.

        Raises:
            DataError: If an entry is missing.
        """
        values = known_fields(cls, plain)
        values["variables"] = {
            name: Variable.from_dict(variable) for name, variable in values["variables"].items()
        }
        values["classes"] = None if values["classes"] is None else tuple(values["classes"])
        values["notes"] = tuple(values["notes"])
        values["lengths"] = tuple(values.get("lengths", ()))
        return cls(**values)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._table())

    def _table(self) -> list[tuple[str, str]]:
        counts = ", ".join(f"{split} {number:,}" for split, number in self.rows.items())
        steps = ", ".join(f"{split} {number:,}" for split, number in self.steps.items())
        table = [("data", self.name), ("source", self.source), ("rows", counts)]
        table += [("steps", steps)] if steps else []
        table += [("split", self.split)]
        table += [("variable", str(variable)) for variable in self.variables.values()]
        if self.classes is not None:
            none = [f"{rows:,} {split}" for split, rows in self.unlabelled.items() if rows]
            said = f"; missing in {' and '.join(none)} rows" if none else ""
            table.append(("labels", listed(self.classes) + said))
        return table + [("note", note) for note in self.notes]

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._table()
        ]
        return f"<table>{''.join(rows)}</table>"


@dataclass(frozen=True, eq=False)
class Renewal:
    r"""Randomness of a variable that is drawn anew at each visit of a training row.

    Dynamic binarization draws :math:`x \sim \text{Bernoulli}(\text{source} / \text{scale})`;
    dequantization gives :math:`(\text{source} + u) / \text{scale}`, :math:`u \sim U[0, 1)`.

    Attributes:
        kind: ``"binarization"`` or ``"dequantization"``.
        source: The training values before the noise, shape ``(rows, *shape)``.
        scale: The divisor, or one for each column, shape ``(D,)``.
        columns: Which columns are dequantized, shape ``(D,)``; ``None`` for all.
    """

    kind: Literal["binarization", "dequantization"]
    source: Column
    scale: float | Tensor = 1.0
    columns: Tensor | None = None

    def draw(
        self, source: Tensor, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """New values for some rows of the source, same shape, in the default floating type."""
        wide = source.to(dtype or torch.get_default_dtype())
        noise = torch.rand(
            wide.shape, generator=generator, dtype=wide.dtype, device=generator.device
        )
        return self.with_noise(wide, noise.to(wide.device))

    def with_noise(self, wide: Tensor, noise: Tensor) -> Tensor:
        """New values from rows of the source, widened, and numbers of U[0, 1) of that shape."""
        if self.kind == "binarization":
            return (noise * self.scale < wide).to(wide.dtype)
        if self.columns is not None:
            noise = noise * self.columns.to(wide)
        scale = self.scale.to(wide) if isinstance(self.scale, Tensor) else self.scale
        return (wide + noise) / scale


@dataclass(frozen=True, eq=False)
class Selection(Mapping[str, Any]):
    """Some rows of a data set: their columns by name, and a slice of itself.

    Attributes:
        columns: All rows of the split by name, at rest.
        description: Of the data set.
        data_rows: How many rows the names shared by all rows belong to: those of training.
        index: Which rows, in their order: row numbers of the split, or ``None`` for all.
        unrounded: Of the names whose columns at rest have noise, or are rounded to single
            precision, the columns without either.
        common: Whether what is estimated of the rows has one noise for all of them; see
            :func:`deeplvm.inference.rows.rows_of`.
        split: Of which split they are.
        contents: All rows of the data set.

    >>> from deeplvm.data import load
    >>> some = load("digits").test[:100]
    >>> some.rows, tuple(some), some["x"].shape
    (100, ('x', 'y'), torch.Size([100, 1, 8, 8]))
    """

    columns: Mapping[str, Any]
    description: Description | None = None
    data_rows: int = 0
    index: range | Tensor | None = None
    split: Split | None = None
    contents: Contents | None = None
    unrounded: Mapping[str, Any] = field(default_factory=dict)
    common: bool = False

    def exact(self, name: str) -> Tensor:
        """A column as it was given, without noise and not rounded; codes of categories.

        :meth:`Variable.restored` makes of it what the source has.
        """
        column = self.unrounded.get(name, self.columns[name])
        return _take(column, slice(None) if self.index is None else _indices(self.index))

    @property
    def missing(self) -> frozenset[str]:
        """Names of which elements are missing (NaN)."""
        return self.description.missing if self.description else frozenset()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and values of the whole data set; empty if it is not known."""
        known = self.description.fingerprint if self.description else ""
        return known or (self.contents.fingerprint if self.contents else "")

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return _length(self.columns) if self.index is None else len(self.index)

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: slice | Tensor | list[int]) -> Self: ...
    def __getitem__(self, key: Any) -> Any:
        """A column at rest by its name, or fewer rows by a slice or by row numbers."""
        if isinstance(key, str):
            column = self.columns[key]
            return column if self.index is None else _take(column, _indices(self.index))
        at = self._at
        if not isinstance(key, slice):
            at, key = torch.as_tensor(at), torch.as_tensor(key)
        return dataclasses.replace(self, index=at[key])

    @property
    def _at(self) -> Any:
        return range(_length(self.columns)) if self.index is None else self.index

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def batch(
        self,
        index: slice | Tensor,
        names: Collection[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Batch:
        """Some of these rows, widened to a floating type; labels are int64."""
        at = _indices(self[index]._at)
        wanted, known = self.columns if names is None else names, self.description
        whole = known.whole if known else frozenset()
        return {n: _wide(n, _take(self.columns[n], at), whole, dtype) for n in wanted}


def _digest_into(digest: Any, column: Column) -> None:
    column = stored(column)
    for start in range(0, len(column), _SOME_ROWS):  # sparse rows are wide here alone
        some = column[start : start + _SOME_ROWS]
        digest.update(some.detach().cpu().contiguous().numpy().data)


@dataclass(frozen=True, eq=False)
class Contents:
    """All rows of a data set, and the digest that tells whether they changed.

    Attributes:
        rows: By split.
        renewals: What is drawn anew at each visit of a training row, by name.
    """

    rows: Mapping[Split, Selection]
    renewals: Mapping[str, Renewal]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and values."""
        digest = hashlib.sha256()
        for split, rows in self.rows.items():
            for name, column in sorted(rows.items()):
                digest.update(f"{split} {name} {column.dtype} {tuple(column.shape)}\n".encode())
                _digest_into(digest, column)
        for name, renewal in sorted(self.renewals.items()):
            digest.update(f"{renewal.kind} {name}\n".encode())
            _digest_into(digest, renewal.source)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """Named columns in three splits, and what they are.

    Values rest in the smallest exact type (bytes for pixels) and :meth:`batch` widens them. The
    columns are tensors in memory; those of :class:`~deeplvm.data.Stream` are read when asked for.

    Attributes:
        description: What the data are, without the data.
        train: Training columns by name, each of shape ``(rows, *shape)``; ``"y"`` are the
            labels, integers, or reals if some are missing (NaN). Each split is a
            :class:`Selection`: ``data.train[:100]``.
        valid: Held-out rows, for choosing and stopping.
        test: Held-out rows, for reporting only.
        renewals: What is drawn anew at each visit of a training row, by name.
    """

    description: Description
    train: Selection
    valid: Selection
    test: Selection
    renewals: Mapping[str, Renewal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found: dict[Split, Any] = {split: getattr(self, split) for split in SPLITS}
        known = {n: s if isinstance(s, Selection) else Selection(s) for n, s in found.items()}
        all_rows: dict[str, Any] = {
            "description": self.description, "data_rows": known["train"].rows,
            "contents": Contents(known, self.renewals),
        }  # fmt: skip
        for split, rows in known.items():
            object.__setattr__(self, split, dataclasses.replace(rows, split=split, **all_rows))

    @property
    def name(self) -> str:
        """Short name, for titles."""
        return self.description.name

    @property
    def source(self) -> str:
        """The data set's name or the file's path."""
        return self.description.source

    @property
    def options(self) -> Mapping[str, Any]:
        """The arguments that load the same data again: ``load(**data.options)``."""
        return self.description.options

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The modelled variables by name."""
        return self.description.variables

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels, or ``None``."""
        return self.description.classes

    @property
    def split(self) -> str:
        """How train, validation and test came about, in words."""
        return self.description.split

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen and why, and warnings, in words."""
        return self.description.notes

    @property
    def missing(self) -> frozenset[str]:
        """Names of which elements are missing (NaN)."""
        return self.description.missing

    def rows(self, split: Split) -> int:
        """Number of rows of a split."""
        return self[split].rows

    def batch(
        self,
        rows: Split | Columns,
        index: slice | Tensor | list[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Some rows, widened to the default floating type; labels are int64.

        Args:
            rows: A split's name, or rows of one's own.
            index: A slice, or integer indices of shape ``(batch,)``.
            generator: Draws what is renewed at each visit of a training row (dynamic
                binarization, dequantization noise). Without it the one fixed draw comes, so that
                an evaluation repeats.

        Returns:
            Tensors of shape ``(batch, *shape)`` by name.

        >>> from deeplvm.data import load
        >>> digits = load("digits")
        >>> {name: tuple(value.shape) for name, value in digits.batch("train", slice(5)).items()}
        {'x': (5, 1, 8, 8), 'y': (5,)}
        """
        columns = self[rows] if isinstance(rows, str) else rows
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        if isinstance(columns, Selection) and columns.index is None:
            columns = columns.columns
        renewed = self.renewals if rows == "train" and generator is not None else {}
        batch: Batch = {}
        for name, column in columns.items():
            if generator is not None and name in renewed:
                renewal = renewed[name]
                batch[name] = renewal.draw(_take(renewal.source, index), generator)
                if isinstance(column, RaggedColumn):  # no noise beyond the end
                    batch[name] = column.cut(batch[name], index)
                continue
            batch[name] = _wide(name, _take(column, index), self.description.whole)
        return batch

    def sampled(self, most: int | Mapping[Split, int], seed: int = 0) -> Self:
        """Rows of each split in a random order, and of a larger one so many: they stand for it.

        The first rows of a file need not: files are sorted by date, by class, by who wrote them.
        Renewed values are those of the one fixed draw. The rows are held in memory.

        Args:
            most: Rows of each split, or of those that are named; others stay as they are.
            seed: Same seed, same rows.

        >>> from deeplvm.data import load
        >>> some = load("digits").sampled({"train": 100})
        >>> some.rows("train"), some.rows("test")
        (100, 180)
        """
        wanted = dict.fromkeys(SPLITS, most) if isinstance(most, int) else most
        generator = torch.Generator().manual_seed(seed)
        chosen: dict[str, Selection] = {}
        for split, count in wanted.items():
            columns = self[split]
            order = torch.randperm(columns.rows, generator=generator)[:count]
            chosen[split] = Selection(
                {name: _some(column, order) for name, column in columns.items()},
                unrounded={
                    name: _some(each, order)
                    if isinstance(each, RaggedColumn) and columns.index is None
                    else columns[order].exact(name)
                    for name, each in columns.unrounded.items()
                },
            )
        return dataclasses.replace(self, **chosen, renewals={})

    def to(self, device: torch.device | str) -> Self:
        """The same data on another device; the generator of :meth:`batch` may stay where it is."""

        def moved(columns: Selection) -> Selection:
            there = {name: column.to(device) for name, column in columns.columns.items()}
            return dataclasses.replace(columns, columns=there)

        renewals = {
            name: dataclasses.replace(
                renewal,
                source=renewal.source.to(device),
                columns=None if renewal.columns is None else renewal.columns.to(device),
            )
            for name, renewal in self.renewals.items()
        }
        return dataclasses.replace(
            self,
            train=moved(self.train),
            valid=moved(self.valid),
            test=moved(self.test),
            renewals=renewals,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all rows as they rest: what they take where they are held."""
        columns = [column for split in SPLITS for column in self[split].values()]
        columns += [renewal.source for renewal in self.renewals.values()]
        return sum([column.nbytes for column in columns])

    def missing_values(self, split: Split) -> int:
        """How many values, and labels, are missing (NaN) in the rows of a split."""
        return sum(
            [int(holes.sum()) for name in self.missing for holes in self._holes(split, name)]
        )

    def titles_with_holes(self, name: str) -> tuple[str, ...]:
        """Which elements of a variable are missing (NaN) in some row, by their titles."""
        found = torch.stack(
            [holes.any(0) for split in SPLITS for holes in self._holes(split, name)]
        ).any(0)
        titles = self.variables[name].titles
        return tuple([titles[at] for at in found.flatten().nonzero().flatten().tolist()])

    def _holes(self, split: Split, name: str) -> Iterator[Tensor]:
        """Which values of some rows after others are missing (NaN)."""
        column = stored(self[split][name])
        for start in range(0, len(column), _SOME_ROWS):
            yield column[start : start + _SOME_ROWS].isnan()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and values, by which a resumed run sees its data changed."""
        return self.train.fingerprint

    def to_dict(self) -> dict[str, Any]:
        """The description with the fingerprint, as a plain JSON-able dict."""
        return dataclasses.replace(self.description, fingerprint=self.fingerprint).to_dict()

    def describe(self) -> str:
        """What was loaded, chosen and warned of, as lines of text."""
        return str(self.description)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}\n{self.describe()}\n>"

    def _repr_html_(self) -> str:
        return self.description._repr_html_()

    def __getitem__(self, split: str) -> Selection:
        """The rows of a split by its name.

        Raises:
            DataError: If there is none of this name.
        """
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        return getattr(self, split)


def _take(column: Column, index: slice | Tensor) -> Tensor:
    if isinstance(column, Tensor) and isinstance(index, Tensor):
        return column.index_select(0, index)  # quicker than column[index]
    return column[index]


def _some(column: Column, order: Tensor) -> Column:
    """Some rows by their numbers, in memory."""
    if isinstance(column, RaggedColumn):
        return column.at(order)
    return _take(column, order.to(getattr(column, "device", "cpu")))


def _wide(
    name: str, values: Tensor, whole: Collection[str], dtype: torch.dtype | None = None
) -> Tensor:
    # labels of which some are missing (NaN) rest as reals
    code = name in whole or (name == "y" and not values.is_floating_point())
    return values.to(torch.int64 if code else dtype or torch.get_default_dtype())


def _indices(index: range | Tensor) -> slice | Tensor:
    """Row numbers as what a column is read by."""
    if isinstance(index, Tensor):
        return index
    if len(index) == 0:
        return slice(0, 0)
    if index.step > 0:
        return slice(index.start, index.stop, index.step)
    return torch.tensor(list(index))


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def check_description(found: Description) -> None:
    """Refuse a description with an entry that :meth:`Description.to_dict` does not write.

    Raises:
        DataError: If it has one, or a row is larger than the memory.
    """
    check_types(found, "")
    for name, variable in found.variables.items():
        check_variable(variable)
        expect(variable.name == name, f"variables, {name}")
        scalars = all([part.shape == () and not part.parts for part in variable.parts])
        expect(scalars, f"{name}: parts")
