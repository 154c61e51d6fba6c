"""Variable, Description, Data: what the data are, apart from how they were read."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self, get_args, get_type_hints, overload

import numpy as np
import torch
from torch import Tensor

from deeplvm.files import fits
from deeplvm.registry import Bounds, Positive, Size, suits

Rows = dict[str, Tensor]


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
Kind = Literal[
    "binary", "levels", "unit", "counts", "real", "category", "ordinal", "date", "mixed"
]
LikelihoodName = Literal[
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "discretized-logistic",
    "gaussian",
    "laplace",
    "student-t",
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zero-inflated-negative-binomial",
    "multinomial",
    "categorical",
    "ordinal",
    "beta",
    "gamma",
    "mixture",
]
# Kinds whose values are 0 .. levels-1.
CODED: tuple[Kind, ...] = ("levels", "category", "ordinal")
# Beyond it a float64 no longer holds every level.
Levels = Annotated[int, Bounds(1, 2**53)]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_SOME_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Variable:
    """One named variable of the data: its shape, what its values are, and their statistics.

    Attributes:
        name: The name in the model's notation, ``"x"``; in a mixed table's :attr:`parts`, the
            column's.
        shape: Event shape, without the rows. Images are ``(channels, height, width)``, grey ones
            too.
        kind: ``"binary"`` (0 or 1), ``"levels"`` (whole numbers 0 .. levels-1, such as 8-bit
            pixels), ``"unit"`` (grey reals in [0, 1]), ``"counts"``, ``"real"``, ``"category"``
            (codes of unordered categories), ``"ordinal"`` (codes of ordered ones), ``"date"``
            (days since 1970) or ``"mixed"`` (columns of several kinds).
        likelihood: The name of the likelihood chosen; ``"columns"`` for a mixed table.
        levels: How many values an element can take; ``None`` where there is no such number.
        step: One unit of the stored values in the file's own units: 1/255 where reals that are
            multiples of 1/255 were recovered as 8-bit levels, otherwise 1.
        mean: Mean over the training rows, shape ``shape``; holes are left out.
        std: Standard deviation over the training rows, shape ``shape``.
        minimum: Smallest value in any split.
        maximum: Largest value in any split.
        missing: Whether any element in any split is missing (NaN).
        dequantized: Whether uniform noise was added, so that a density is a lower bound of the
            logarithm of the mass of the whole numbers.
        grey: The level that stood for probability 1, where grey values were binarized.
        columns: Names of the columns of a table.
        parts: A mixed table's columns, each a scalar variable.
        categories: What the codes 0, 1, ... of a category or of ordered levels stand for.
        knots: Of the columns of a table that have a density: quantiles of their training values
            but for the atoms, shape ``(*shape, knots)``, float64, never decreasing. A monotone map
            of a density goes through them.
        scores: Their normal scores, the same shape; ``None`` where the knots are the quantiles of
            the levels 0, 1/32, ..., 1, as versions before kept them.
        atoms: Of each of these columns the values that repeat so often that they carry mass, such
            as 0 or a cap, increasing; of a column among a table's :attr:`parts` one entry.
        shares: Of each column with atoms, or with codes among a table's :attr:`parts`: the share
            of the training values that each atom has, or each code.
        bounds: Of each column with knots the least and the largest possible value, ``None`` where
            there is none.
        reason: Why a column has its likelihood, in a few words, where it was chosen by its values.
        types: What the values are in the source, one for each column, or one for an array:
            numpy's name of a type, ``"int"``, ``"float"``, ``"bool"``, ``"text"``, ``"days"`` or
            ``"time"`` (dates), or ``"date %d.%m.%Y"``, a date written so.
        digits: Of each column of a table, how many digits after the point its reals have; ``None``
            where these have no end, or are no reals.
    """

    name: str
    shape: tuple[Size, ...]
    kind: Kind
    likelihood: str
    mean: Tensor
    std: Tensor
    minimum: float
    maximum: float
    levels: Levels | None = None
    step: Positive = 1.0
    missing: bool = False
    dequantized: bool = False
    grey: float | None = None
    columns: tuple[str, ...] | None = None
    parts: tuple[Variable, ...] = ()
    categories: tuple[str, ...] | None = None
    knots: Tensor | None = None
    atoms: tuple[tuple[float, ...], ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()
    scores: Tensor | None = None
    bounds: tuple[tuple[float | None, float | None], ...] = ()
    reason: str = ""
    types: tuple[str, ...] = ()
    digits: tuple[int | None, ...] = ()

    @property
    def repeated(self) -> tuple[tuple[float, ...], ...]:
        """Of each column of a table, the values that repeat so often that they carry mass."""
        parts = self.by_column.values()
        return tuple([p.atoms[0] if p.atoms and p.kind == "real" else () for p in parts])

    @property
    def by_column(self) -> dict[str, Variable]:
        """The variable of each column of a table; where all are alike, as if it were alone."""
        if self.parts or self.columns is None:
            return {part.name: part for part in self.parts}
        types = self.types or ("",) * len(self.columns)
        return {
            column: dataclasses.replace(
                self, name=column, shape=(), columns=None, types=types[i : i + 1],
                mean=self.mean[i], std=self.std[i], atoms=self.atoms[i : i + 1],
                shares=self.shares[i : i + 1], digits=self.digits[i : i + 1],
                bounds=self.bounds[i : i + 1],
                knots=None if self.knots is None else self.knots[i],
                scores=None if self.scores is None else self.scores[i],
            )
            for i, column in enumerate(self.columns)
        }  # fmt: skip

    @property
    def elements(self) -> int:
        """How many numbers one row has."""
        return math.prod(self.shape)

    @property
    def each(self) -> tuple[Variable, ...]:
        """What each element is: a mixed table's columns, or this variable again and again."""
        return self.parts or (self,) * self.elements

    @property
    def titles(self) -> tuple[str, ...]:
        """What each element is called: its column's name, or ``x``, ``x[3]``, ``x[0, 3, 4]``."""
        named = self.columns or tuple([part.name for part in self.parts])
        return named or places(self.name, self.shape)

    @property
    def features(self) -> int:
        """How many numbers a network sees of one row: of a category of L values, L."""
        if self.parts:
            return sum(part.features for part in self.parts)
        if self.likelihood == "mixture":  # a score and, one-hot, which atom it is
            return self.elements + sum(map(len, self.atoms))
        coded = self.likelihood in ("categorical", "ordinal")
        return self.elements * (self.levels or 1 if coded else 1)

    def quantile(self, level: float) -> float:
        """Of the training values of a column with knots that are no atoms, by its knots."""
        assert self.knots is not None
        if self.scores is None:
            return float(np.interp(level, np.linspace(0, 1, len(self.knots)), self.knots))
        score = torch.special.ndtri(torch.tensor(level, dtype=torch.float64))
        return float(np.interp(score, self.scores, self.knots))

    @property
    def divisor(self) -> float:
        """What dequantized values were divided by, to lie in [0, 1)."""
        scaled = self.dequantized and self.likelihood == "continuous-bernoulli"
        return float(self.levels or 1) if scaled else 1.0

    @property
    def is_whole(self) -> bool:
        """Whether the values are whole numbers; under noise they no longer are."""
        density = self.kind in ("real", "unit", "date", "mixed")
        return not density and not self.dequantized

    @property
    def is_image(self) -> bool:
        """Whether the event is (channels, height, width)."""
        return len(self.shape) == 3

    def restored(self, stored: Any, *, exact: bool = False, mean: bool = False) -> dict[str, Any]:
        """Stored values as the source has them: the inverse of what was done to store them.

        Levels in their own unit, whole numbers whole and without noise, reals of a table in as
        many digits after the point as its column has, codes as the text of
        their cells, flags as flags, dates as dates, each in the type of the source; where a value
        is missing (NaN), it stays so.

        Args:
            stored: Values of shape ``(rows, *shape)``: those of the data, or what a model drew or
                filled in.
            exact: Whether they are without noise, as :meth:`Selection.exact` gives them.
            mean: Whether they are means, which of numbers that are no columns are not rounded.

        Returns:
            An array by the name of each column; of what is no table, one by the variable's name.

        >>> from deeplvm.data import load
        >>> rows = load({"grade": ["b", "a"] * 9, "size": [3, -1] * 9}).train
        >>> x = rows.description.variables["x"]
        >>> size = x.restored(rows.exact("x"), exact=True)["size"]  # what rests has noise
        >>> size.dtype, sorted(set(size.tolist()))
        (dtype('int64'), [-1, 3])
        """
        values = (
            stored.detach().cpu().numpy() if isinstance(stored, Tensor) else np.asarray(stored)
        )
        if self.columns is None:
            return {self.name: self._restored(values, exact=exact, keep=mean)}
        return {
            column: part._restored(values[:, place], exact=exact, keep=False)
            for place, (column, part) in enumerate(self.by_column.items())
        }

    def settled(self, stored: Any) -> Any:
        """What a model drew as numbers that the data could hold, as :meth:`Selection.exact` has.

        Codes and whole numbers are whole and without noise, reals of a table have as many digits
        after the point as their column, dates without a time of day are days.

        Args:
            stored: Values of shape ``(rows, *shape)``.

        Returns:
            An array of float64 of the same shape.
        """
        values = (
            stored.detach().cpu().numpy() if isinstance(stored, Tensor) else np.asarray(stored)
        )
        if self.columns is None:
            return self._settled(values)
        parts = enumerate(self.by_column.values())
        return np.stack([part._settled(values[:, place]) for place, part in parts], 1)

    def _settled(self, values: Any) -> Any:
        if self.dequantized:
            return np.floor(values.astype(np.float64) * self.divisor)
        if self.levels is not None and (self.is_whole or self.categories is not None):
            return values.round().clip(0, self.levels - 1).astype(np.float64)
        if self.is_whole:
            return values.round().astype(np.float64)
        if self.kind == "date":
            return np.floor(values.astype(np.float64)) if _of_days(self.types[0]) else values
        if self.digits and self.digits[0] is not None:
            return values.astype(np.float64).round(self.digits[0]) + 0.0  # no -0.0
        return _shortest(values).astype(np.float64)

    def _restored(self, values: Any, *, exact: bool, keep: bool) -> Any:
        """Values of one type; ``keep`` leaves fractions where there are whole numbers."""
        kind, missing = self.types[0] if self.types else "", np.isnan(values)
        if self.dequantized and not exact:
            values = values.astype(np.float64) * self.divisor
            values = values - 0.5 if keep else np.floor(values)
        if self.categories is not None:
            last = len(self.categories) - 1
            codes = np.where(missing, last + 1, np.nan_to_num(values).round().clip(0, last))
            texts = np.array([*self.categories, None], object)[codes.astype(int)]
            return texts if kind in ("", "text") else _of_type(texts, kind, missing)
        if self.step != 1:
            return (values.astype(np.float64) / round(1 / self.step)).astype(
                _numpy(kind, np.float64)
            )
        if self.kind == "date":
            return _dates(values, kind)
        whole = (self.is_whole or self.dequantized) and not keep
        if not whole and not exact and self.digits and self.digits[0] is not None:
            return self._settled(values).astype(_numpy(kind, np.float64))
        if not whole:
            return _shortest(values).astype(_numpy(kind, np.float64))
        values = values.round()
        array = self.shape != () or not self.types
        if not kind.startswith("bool") and array:
            wanted = _numpy(kind, np.float64)
            return values.astype(np.float64 if missing.any() else wanted)
        return _of_type(values, kind if kind.startswith("bool") else "int", missing)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; :meth:`from_dict` gives the variable back."""
        plain: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "parts":
                value = [part.to_dict() for part in value]
            elif isinstance(value, Tensor):
                value = value.tolist()
            elif isinstance(value, tuple):
                value = list(value)
            plain[item.name] = value
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Variable:
        """The variable that :meth:`to_dict` wrote."""
        values = _known_fields(cls, plain)
        for name in ("shape", "columns", "categories", "types", "digits"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        for name in ("mean", "std", "knots", "scores"):
            if values.get(name) is not None:
                values[name] = torch.tensor(values[name], dtype=torch.float64)
        for name in ("atoms", "shares", "bounds"):
            values[name] = tuple(map(tuple, values.get(name, ())))
        values["parts"] = tuple(cls.from_dict(part) for part in values.get("parts", ()))
        return cls(**values)

    def __str__(self) -> str:
        shape = "×".join(str(size) for size in self.shape) or "a number"
        what = f"{self.name}: {shape}, {_KIND_WORDS[self.kind]}"
        if self.levels is not None and self.kind in CODED:
            what += f" ({self.levels} values)"
        if self.missing:
            what += ", some missing"
        return f"{what}; likelihood {self.likelihood}"


def _shortest(values: Any) -> Any:
    """Numbers in single precision as the shortest decimals that are they, in double precision."""
    return values.astype(str).astype(np.float64) if values.dtype == np.float32 else values


def _numpy(kind: str, otherwise: Any) -> Any:
    """Numpy's type of a name, if it is one of numbers."""
    try:
        return np.dtype(kind) if kind not in ("", "int", "float", "text") else otherwise
    except TypeError:
        return otherwise


def _of_type(values: Any, kind: str, missing: Any) -> Any:
    """Values, numbers or texts of them, as flags, whole numbers or reals; None where missing."""
    if kind.startswith("bool"):
        found = values == "True" if values.dtype == object else values >= 0.5
        spelled = {"bool lower": ("true", "false"), "bool upper": ("TRUE", "FALSE")}
        found = np.where(found, *spelled[kind]) if kind in spelled else found
    elif kind == "int":
        found = np.where(missing, 0, values).astype(np.int64)
    else:
        return np.where(missing, np.nan, np.where(missing, 0, values).astype(np.float64))
    if missing.any():
        found = found.astype(object)
        found[missing] = None
    return found


def _dates(days: Any, kind: str) -> Any:
    """Days since 1970 as dates, or as the texts of dates in a form."""
    import pandas as pd

    form, whole = _form(kind), _of_days(kind)
    unit = 1 if not form or "%f" in form else 1_000_000  # microseconds
    ticks = np.nan_to_num(np.floor(days) if whole else days) * (86_400_000_000 // unit)
    dates = (np.round(ticks).astype(np.int64) * unit).astype("datetime64[us]")
    dates[np.isnan(days)] = np.datetime64("NaT")
    if not form:
        return dates.astype("datetime64[D]") if whole else dates
    texts = pd.Series(dates).dt.strftime(form).to_numpy(object)
    return np.where(np.isnan(days), None, texts)


def _form(kind: str) -> str:
    """How a date is written, where that is known."""
    return kind.removeprefix("date ") if kind.startswith("date ") else ""


def _of_days(kind: str) -> bool:
    """Whether dates have no time of day."""
    form = _form(kind)
    return kind == "days" or bool(form and not set("HMSf") & set(form.replace("%", "")))


def places(name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """``x`` of a number, ``x[3]`` of a vector, ``x[0, 3, 4]`` of an image."""
    if not shape:
        return (name,)
    indices = itertools.product(*[range(size) for size in shape])
    return tuple([f"{name}[{', '.join(map(str, index))}]" for index in indices])


_KIND_WORDS: dict[str, str] = {
    "binary": "binary",
    "levels": "whole-number levels",
    "unit": "reals in [0, 1]",
    "counts": "counts",
    "real": "reals",
    "category": "categories",
    "ordinal": "ordered categories",
    "date": "dates",
    "mixed": "columns of several kinds",
}


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

    @property
    def missing(self) -> frozenset[str]:
        """Names of which elements are missing (NaN): variables, and ``"y"``, the labels."""
        holes = {name for name, variable in self.variables.items() if variable.missing}
        return frozenset(holes | {"y"} if self.unlabelled else holes)

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
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Description:
        """The description that :meth:`to_dict` wrote.

        Raises:
            DataError: If an entry is missing.
        """
        values = _known_fields(cls, plain)
        values["variables"] = {
            name: Variable.from_dict(variable) for name, variable in values["variables"].items()
        }
        values["classes"] = None if values["classes"] is None else tuple(values["classes"])
        values["notes"] = tuple(values["notes"])
        return cls(**values)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._table())

    def _table(self) -> list[tuple[str, str]]:
        counts = ", ".join(f"{split} {number:,}" for split, number in self.rows.items())
        table = [("data", self.name), ("source", self.source), ("rows", counts)]
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
    ) -> Rows:
        """Some of these rows, widened to a floating type; labels are int64."""
        at = _indices(self[index]._at)
        wanted = self.columns if names is None else names
        return {name: _wide(name, _take(self.columns[name], at), dtype) for name in wanted}


def _digest_into(digest: Any, column: Column) -> None:
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
        return self._split(split).rows

    def batch(
        self,
        rows: Split | Columns,
        index: slice | Tensor | list[int],
        generator: torch.Generator | None = None,
    ) -> Rows:
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
        columns = self._split(rows) if isinstance(rows, str) else rows
        if isinstance(index, list):
            index = torch.tensor(index, dtype=torch.int64)
        if isinstance(columns, Selection) and columns.index is None:
            columns = columns.columns
        renewed = self.renewals if rows == "train" and generator is not None else {}
        batch: Rows = {}
        for name, column in columns.items():
            if generator is not None and name in renewed:
                renewal = renewed[name]
                batch[name] = renewal.draw(_take(renewal.source, index), generator)
                continue
            batch[name] = _wide(name, _take(column, index))
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
            columns = self._split(split)
            order = torch.randperm(columns.rows, generator=generator)[:count]
            chosen[split] = Selection(
                {
                    name: _take(column, order.to(getattr(column, "device", "cpu")))
                    for name, column in columns.items()
                },
                unrounded={name: columns[order].exact(name) for name in columns.unrounded},
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
        columns = [column for split in SPLITS for column in self._split(split).values()]
        columns += [renewal.source for renewal in self.renewals.values()]
        return sum([column.nbytes for column in columns])

    def missing_values(self, split: Split) -> int:
        """How many values, and labels, are missing (NaN) in the rows of a split."""
        count = 0
        for name in self.missing:
            column = self._split(split)[name]
            for start in range(0, len(column), _SOME_ROWS):
                count += int(column[start : start + _SOME_ROWS].isnan().sum())
        return count

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

    def _split(self, split: str) -> Selection:
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        return getattr(self, split)


def _take(column: Column, index: slice | Tensor) -> Tensor:
    if isinstance(column, Tensor) and isinstance(index, Tensor):
        return column.index_select(0, index)  # quicker than column[index]
    return column[index]


def _wide(name: str, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    # labels of which some are missing (NaN) rest as reals
    label = name == "y" and not values.is_floating_point()
    return values.to(torch.int64 if label else dtype or torch.get_default_dtype())


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


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names in a row; of many the first, and how many there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def _known_fields(record: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the record knows; a newer version's further entries are left aside."""
    fields = {item.name: item for item in dataclasses.fields(record)}
    required = [
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    absent = [name for name in required if name not in plain]
    if absent:
        raise DataError(
            f"a stored {record.__name__.lower()} of the data lacks {', '.join(absent)}: the file "
            f"is damaged or was written by another version of deeplvm; fit again."
        )
    return {name: plain[name] for name in fields if name in plain}


_LIKELIHOODS = {*get_args(LikelihoodName), "columns"} - {"auto"}
_IN_UNITS = ("gaussian", "laplace", "student-t")  # of mean and std


def check_description(found: Description) -> None:
    """Refuse a description with an entry that :meth:`Description.to_dict` does not write.

    Raises:
        DataError: If it has one, or a row is larger than the memory.
    """
    _check_types(found, "")
    for name, variable in found.variables.items():
        _check_variable(variable)
        _expect(variable.name == name, f"variables, {name}")
        scalars = all([part.shape == () and not part.parts for part in variable.parts])
        _expect(scalars, f"{name}: parts")


def _check_variable(found: Variable) -> None:
    at = str(found.name)
    _check_types(found, f"{at}: ")
    shape, levels = found.shape, found.levels
    _expect(found.likelihood in _LIKELIHOODS, f"{at}: likelihood")
    _expect(levels is not None or found.kind not in CODED, f"{at}: levels")
    for name in ("mean", "std"):
        value = getattr(found, name)
        _expect(tuple(value.shape) == shape and not value.isinf().any(), f"{at}: {name}")
        if found.likelihood in _IN_UNITS:
            _expect(value.float().isfinite().all(), f"{at}: {name}")
    _expect(not (found.std < 0).any(), f"{at}: std")
    _expect(found.likelihood not in _IN_UNITS or (found.std.float() > 0).all(), f"{at}: std")
    _expect(found.columns is None or shape == (len(found.columns),), f"{at}: columns")
    _expect(found.categories is None or len(found.categories) == levels, f"{at}: categories")
    _expect(len(found.atoms) in (0, found.elements), f"{at}: atoms")
    _expect(len(found.shares) in (0, found.elements), f"{at}: shares")
    for share, atoms in zip(found.shares, found.atoms or [()] * len(found.shares), strict=True):
        count = len(atoms) if found.atoms else levels
        whole = len(share) == count and min(share, default=0) >= 0 and sum(share) < 1 + 1e-6
        _expect(whole, f"{at}: shares")
    if found.knots is not None:
        finite = found.knots.dim() and found.knots.isfinite().all()
        _expect(finite and tuple(found.knots.shape[:-1]) == shape, f"{at}: knots")
        _expect((found.knots.diff(dim=-1) >= 0).all(), f"{at}: knots")
    if (scores := found.scores) is not None:
        alike = found.knots is not None and scores.shape == found.knots.shape
        _expect(alike and scores.isfinite().all(), f"{at}: scores")
        _expect((scores.diff(dim=-1) > 0).all(), f"{at}: scores")
    _expect(len(found.bounds) in (0, found.elements), f"{at}: bounds")
    for low, high in found.bounds:
        numbers = [-math.inf if low is None else low, math.inf if high is None else high]
        _expect(numbers[0] < numbers[1], f"{at}: bounds")
    mixed = found.kind == "mixed"
    _expect(mixed == bool(found.parts) == (found.likelihood == "columns"), f"{at}: parts")
    _expect(not mixed or shape == (len(found.parts),), f"{at}: parts")
    for part in found.parts:
        _check_variable(part)
    fits(8 * found.features, f"a row of {at}", DataError)


def _check_types(found: Variable | Description, at: str) -> None:
    hints = get_type_hints(type(found), include_extras=True)
    for item in dataclasses.fields(found):
        _expect(suits(getattr(found, item.name), hints[item.name]), f"{at}{item.name}")


def _expect(good: object, what: str) -> None:
    if not good:
        raise DataError(f"the stored description of the data is damaged ({what}); fit again.")


class DataError(ValueError):
    """The data cannot be used as asked; the message says what was found and what to do next."""
