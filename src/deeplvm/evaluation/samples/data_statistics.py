"""Statistics of a data set that a good model's draws share: by column, by row, between columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplvm.evaluation.samples.observed_columns import ObservedColumn

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_CORRELATED = 300  # columns; the matrix has their square
_QUANTILES = {
    "minimum": 0.0,
    "5 % quantile": 0.05,
    "25 % quantile": 0.25,
    "median": 0.5,
    "75 % quantile": 0.75,
    "95 % quantile": 0.95,
    "maximum": 1.0,
}
Function = Callable[["NDArray[Any]"], "NDArray[Any]"]


@dataclass(frozen=True)
class Statistics:
    """Several statistics of one matrix of shape ``(rows, columns)``, NaN where missing.

    Attributes:
        titles: What each is a statistic of, and what it is.
        functions: From the matrix to some of the numbers, in the order of the titles.
    """

    titles: tuple[tuple[str, str], ...]
    functions: tuple[Function, ...]

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """All of them, shape ``(statistics,)``."""
        found = [each(values) for each in self.functions]
        return np.concatenate([np.zeros(0), *found])


def standard_statistics(
    columns: Sequence[ObservedColumn], references: Sequence[NDArray[Any]]
) -> Statistics:
    """The statistics that suit the columns' kinds.

    Args:
        columns: What the columns of the matrix are.
        references: Draws whose mean correlations are those that a distance is measured from.
    """
    titles: list[tuple[str, str]] = []
    functions: list[Function] = []
    known: NDArray[Any] = np.any(
        ~np.isnan(references[0]), axis=0
    )  # the draws have the holes of the data

    def add(told: list[tuple[str, str]], function: Function, places: Sequence[int]) -> None:
        chosen = np.array(places)
        titles.extend(told)
        functions.append(lambda values: function(values[:, chosen]).ravel())

    for kind, names, function in (
        ("real", REAL, of_reals),
        ("counts", COUNTS, of_counts),
        ("binary", ("share of ones",), lambda values: np.nanmean(values, 0)),
    ):
        places = [i for i, column in enumerate(columns) if column.kind == kind and known[i]]
        if places:
            told = [(columns[i].title, name) for name in names for i in places]
            add(told, function, places)
        if len(places) > 1 and kind != "real":
            what = "all counts" if kind == "counts" else "all binary columns"
            add([(what, name) for name in BY_ROW], by_row, places)
    for i, column in enumerate(columns):
        if column.kind == "category" and known[i]:
            told = [(column.title, f"share of {each}") for each in column.categories]
            codes = np.arange(len(told))
            add(told, lambda values, codes=codes: shares(values, codes), [i])
    numeric = [i for i, each in enumerate(columns) if each.kind != "category" and known[i]]
    if 1 < len(numeric) <= _MOST_CORRELATED:
        middle = np.mean([correlations(each[:, numeric]) for each in references], 0)
        add(
            [("all columns", CORRELATIONS)],
            lambda values: np.array([np.linalg.norm(correlations(values) - middle)]),
            numeric,
        )
    return Statistics(tuple(titles), tuple(functions))


CORRELATIONS = "distance of the correlations from those of draws"
REAL = ("mean", "standard deviation", "skewness", *_QUANTILES, "share of zeros")
COUNTS = ("mean", "variance-to-mean ratio", "maximum", "share of zeros")
BY_ROW = (
    "standard deviation of a row's total",
    "largest total of a row",
    "standard deviation of a row's zeros",
    "most zeros of a row",
)


def of_reals(values: NDArray[Any]) -> NDArray[Any]:
    """The statistics :data:`REAL` of each column, shape ``(statistics, columns)``."""
    mean = np.nanmean(values, 0)
    centred = values - mean
    spread = np.sqrt(np.nanmean(centred**2, 0))
    cubed = np.nanmean(centred**3, 0)
    flat = spread <= 1e-12 * np.abs(mean)  # a constant has no skew, and rounding none to speak of
    skewness = np.where(flat, 0.0, cubed / np.where(flat, 1.0, spread) ** 3)
    quantiles = _quantiles(values, list(_QUANTILES.values()))
    return np.stack([mean, spread, skewness, *quantiles, _zeros(values)])


def of_counts(values: NDArray[Any]) -> NDArray[Any]:
    """The statistics :data:`COUNTS` of each column; zeros alone have the ratio 1, as Poisson's."""
    mean, variance = np.nanmean(values, 0), np.nanvar(values, 0)
    ratio = np.where(mean > 0, variance / np.where(mean > 0, mean, 1.0), 1.0)
    return np.stack([mean, ratio, np.nanmax(values, 0), _zeros(values)])


def by_row(values: NDArray[Any]) -> NDArray[Any]:
    """The statistics :data:`BY_ROW`; what is missing counts neither as a zero nor in a total."""
    total, zeros = np.nansum(values, 1), (values == 0).sum(1)
    return np.array([total.std(), total.max(), zeros.std(), zeros.max()])


def shares(values: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """The share that each code has in one column, of the values that are known."""
    known = np.count_nonzero(~np.isnan(values))
    return (values == codes).sum(0) / max(known, 1)


def correlations(values: NDArray[Any]) -> NDArray[Any]:
    """Correlations of the columns, over the rows where both are known; 0 of a constant."""
    known = ~np.isnan(values)
    centred = np.where(known, values - np.nanmean(values, 0), 0.0)
    spread = np.sqrt((centred**2).sum(0) / known.sum(0))
    scaled = centred / np.where(spread > 0, spread, 1.0)
    both = known.T.astype(float) @ known.astype(float)
    return scaled.T @ scaled / np.maximum(both, 1.0)


def _quantiles(values: NDArray[Any], shares: Sequence[float]) -> list[NDArray[Any]]:
    """Quantiles of each column's known values, linear between them."""
    ordered = np.sort(values, 0)  # NaN comes last
    known = (~np.isnan(values)).sum(0)
    found = []
    for share in shares:
        at = share * (known - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, known - 1)
        below, above = (np.take_along_axis(ordered, i[None], 0)[0] for i in (low, high))
        found.append(below + (at - low) * (above - below))
    return found


def _zeros(values: NDArray[Any]) -> NDArray[Any]:
    return (values == 0).sum(0) / (~np.isnan(values)).sum(0)
