"""A variable of the data: its kind, likelihood and statistics, and the values it stands for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from deeplvm.files import fits
from deeplvm.registry import Bounds, Positive, Size, suits

Kind = Literal[
    "binary",
    "levels",
    "unit",
    "counts",
    "real",
    "category",
    "ordinal",
    "token",
    "date",
    "mixed",
    "graph",
]
LikelihoodName = Literal[
    "auto",
    "bernoulli",
    "continuous-bernoulli",
    "discretized-logistic",
    "discretized-logistic-mixture",
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
CODED: tuple[Kind, ...] = ("levels", "category", "ordinal", "token")
# Beyond it a float64 no longer holds every level.
Levels = Annotated[int, Bounds(1, 2**53)]


class DataError(ValueError):
    """The data cannot be used as asked; the message says what was found and what to do next."""


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
            (codes of unordered categories), ``"ordinal"`` (codes of ordered ones), ``"token"`` (of
            a text, of which 0 is the end and 1 what is not known), ``"date"`` (days since
            ``origin``), ``"mixed"`` (columns of several kinds) or ``"graph"`` (which pairs of
            ``levels`` nodes, called as ``categories``, are an edge).
        likelihood: The name of the likelihood chosen; ``"columns"`` for a mixed table.
        likelihood_options: What was written with it in parentheses, by name.
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
        origin: The day, counted from 1970, from which the dates of a column are counted: the first
            where all lie within a few weeks, so that single precision has their seconds.
        length: Where a row is a sequence, the name of its number of steps; all else is then said
            of one step, as of a table whose rows are steps.
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
    origin: float = 0.0
    likelihood_options: Mapping[str, str | bool | float] = field(default_factory=dict)
    length: str | None = None

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
        coded = self.likelihood in ("categorical", "ordinal") and self.kind != "levels"
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
            mean: Whether they are means, which of counts and other whole numbers are not whole.

        Returns:
            An array by the name of each column; of what is no table, one by the variable's name.

        >>> from deeplvm.data import load
        >>> rows = load({"grade": ["b", "a"] * 9, "size": [3, -1] * 9}).train
        >>> x = rows.description.variables["x"]
        >>> size = x.restored(rows.exact("x"), exact=True)["size"]  # what rests has noise
        >>> size.dtype, sorted(set(size.tolist()))
        (dtype('int64'), [-1, 3])
        """
        values = _as_array(stored)
        if self.columns is None:
            return {self.name: self._restored(values, exact=exact, keep=mean)}
        return {
            column: part._restored(
                values[:, place],
                exact=exact,
                keep=mean and (part.kind in ("counts", "levels") or part.dequantized),
            )
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
        values = _as_array(stored)
        if self.columns is None:
            return self._settled(values)
        parts = enumerate(self.by_column.values())
        return np.stack([part._settled(values[:, place]) for place, part in parts], 1)

    def _settled(self, values: Any) -> Any:
        if self.dequantized:
            return self._below(values.astype(np.float64) * self.divisor)
        if self.levels is not None and (self.is_whole or self.categories is not None):
            return values.round().clip(0, self.levels - 1).astype(np.float64)
        if self.is_whole:
            return values.round().astype(np.float64)
        if self.kind == "date":
            return np.floor(values.astype(np.float64)) if _of_days(self.types[0]) else values
        if self.digits and self.digits[0] is not None:
            return values.astype(np.float64).round(self.digits[0]) + 0.0  # no -0.0
        return _shortest(values).astype(np.float64)

    def _below(self, values: Any) -> Any:
        """The whole numbers below values, those that there are where they have levels."""
        whole = np.floor(values)
        return whole if self.levels is None else whole.clip(0, self.levels - 1)

    def _restored(self, values: Any, *, exact: bool, keep: bool) -> Any:
        """Values of one type; ``keep`` leaves fractions where there are whole numbers."""
        kind, missing = self.types[0] if self.types else "", np.isnan(values)
        if self.dequantized and not exact:
            values = (_shortest(values) if keep else values.astype(np.float64)) * self.divisor
            values = values - 0.5 if keep else self._below(values)
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
            return _dates(values.astype(np.float64) + self.origin, kind)
        whole = (self.is_whole or self.dequantized) and not keep
        if not whole and not exact and self.digits and self.digits[0] is not None:
            return self._settled(values).astype(_numpy(kind, np.float64))
        if not whole:
            wanted = np.dtype(_numpy(kind, np.float64))
            return _shortest(values).astype(wanted if wanted.kind == "f" else np.float64)
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
        values = known_fields(cls, plain)
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
        if self.kind == "token" and self.length is None:
            return f"{self.name}: a text of up to {self.shape[0]:,} tokens, of {self.levels:,}"
        if self.kind == "token":
            row = f"several texts of up to {self.shape[0]:,} tokens" if self.shape else "texts"
            return f"{self.name}: {row}, of a vocabulary of {self.levels:,}" + (
                "" if self.shape else " tokens"
            )
        shape = "×".join(str(size) for size in self.shape) or "a number"
        shape = f"{self.levels:,} nodes" if self.kind == "graph" else shape
        row = "" if self.length is None else "sequences of "
        what = f"{self.name}: {row}{shape}, {_KIND_WORDS[self.kind]}"
        if self.levels is not None and self.kind in CODED:
            what += f" ({self.levels} values)"
        if self.missing:
            what += ", some missing"
        options = ", ".join([f"{n}={each!r}" for n, each in self.likelihood_options.items()])
        options = f"({options})" if options else ""
        return f"{what}; likelihood {self.likelihood}{options}"


def _shortest(values: Any) -> Any:
    """Numbers in single precision as the shortest decimals that are they, in double precision."""
    return values.astype(str).astype(np.float64) if values.dtype == np.float32 else values


def _as_array(stored: Any) -> Any:
    return stored.detach().cpu().numpy() if isinstance(stored, Tensor) else np.asarray(stored)


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
    unit = 1_000 if "%3f" in form else 1 if not form or "%f" in form else 1_000_000  # microseconds
    ticks = np.nan_to_num(np.floor(days) if whole else days) * (86_400_000_000 // unit)
    dates = (np.round(ticks).astype(np.int64) * unit).astype("datetime64[us]")
    dates[np.isnan(days)] = np.datetime64("NaT")
    if not form:
        return dates.astype("datetime64[D]") if whole else dates
    texts = written_dates(pd.Series(dates), form).to_numpy(object)
    return np.where(np.isnan(days), None, texts)


def written_dates(dates: Any, form: str) -> Any:
    """A pandas series of dates as texts; the form may have milliseconds, %3f."""
    texts = dates.dt.strftime(form.replace("%3f", "%f"))
    return texts.str[:-3] if "%3f" in form else texts


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
    "token": "tokens of a text",
    "date": "dates",
    "mixed": "columns of several kinds",
    "graph": "edges of a graph",
}


def listed(names: Sequence[Any], most: int = 12) -> str:
    """Names in a row; of many the first, and how many there are."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def known_fields(record: type, plain: Mapping[str, Any]) -> dict[str, Any]:
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


def check_variable(found: Variable) -> None:
    """Refuse a stored variable with an entry that could not be, or larger than the memory."""
    at = str(found.name)
    check_types(found, f"{at}: ")
    shape, levels = found.shape, found.levels
    expect(found.likelihood in _LIKELIHOODS, f"{at}: likelihood")
    expect(levels is not None or found.kind not in CODED, f"{at}: levels")
    for name in ("mean", "std"):
        value = getattr(found, name)
        expect(tuple(value.shape) == shape and not value.isinf().any(), f"{at}: {name}")
        if found.likelihood in _IN_UNITS:
            expect(value.float().isfinite().all(), f"{at}: {name}")
    expect(not (found.std < 0).any(), f"{at}: std")
    expect(found.likelihood not in _IN_UNITS or (found.std.float() > 0).all(), f"{at}: std")
    expect(found.columns is None or shape == (len(found.columns),), f"{at}: columns")
    expect(found.categories is None or len(found.categories) == levels, f"{at}: categories")
    expect(len(found.atoms) in (0, found.elements), f"{at}: atoms")
    alike = 1 if found.kind == "token" else 0  # all tokens of a row of several are of one law
    expect(len(found.shares) in (0, alike, found.elements), f"{at}: shares")
    for share, atoms in zip(found.shares, found.atoms or [()] * len(found.shares), strict=True):
        count = len(atoms) if found.atoms else levels
        whole = len(share) == count and min(share, default=0) >= 0 and sum(share) < 1 + 1e-6
        expect(whole, f"{at}: shares")
    if found.knots is not None:
        finite = found.knots.dim() and found.knots.isfinite().all()
        expect(finite and tuple(found.knots.shape[:-1]) == shape, f"{at}: knots")
        expect((found.knots.diff(dim=-1) >= 0).all(), f"{at}: knots")
    if (scores := found.scores) is not None:
        alike = found.knots is not None and scores.shape == found.knots.shape
        expect(alike and scores.isfinite().all(), f"{at}: scores")
        expect((scores.diff(dim=-1) > 0).all(), f"{at}: scores")
    expect(len(found.bounds) in (0, found.elements), f"{at}: bounds")
    for low, high in found.bounds:
        numbers = [-math.inf if low is None else low, math.inf if high is None else high]
        expect(numbers[0] < numbers[1], f"{at}: bounds")
    mixed = found.kind == "mixed"
    expect(mixed == bool(found.parts) == (found.likelihood == "columns"), f"{at}: parts")
    expect(not mixed or shape == (len(found.parts),), f"{at}: parts")
    for part in found.parts:
        check_variable(part)
    fits(8 * found.features, f"a row of {at}", DataError)


def check_types(found: Any, at: str) -> None:
    """Refuse an entry of a stored record that is not of its type."""
    hints = get_type_hints(type(found), include_extras=True)
    for item in dataclasses.fields(found):
        expect(suits(getattr(found, item.name), hints[item.name]), f"{at}{item.name}")


def expect(good: object, what: str) -> None:
    """Refuse a stored record of which something does not hold."""
    if not good:
        raise DataError(f"the stored description of the data is damaged ({what}); fit again.")
