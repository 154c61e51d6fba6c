"""Statistics of rows, element by element, from one pass over them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from deeplvm.data.readers.source import Array
from deeplvm.data.sparse import blocks, is_sparse
from deeplvm.distributions import NegativeBinomial

# Grey values that are whole multiples of one of these steps were whole numbers once; the coarsest
# that fits, or a level would stand for values that never occur.
RECOVERED_STEPS = (2, 4, 8, 15, 16, 32, 64, 128, 255, 256)
# Quantiles of a column at most, those at both ends included.
MOST_KNOTS = 33
# A value carries mass if it has this share of the rows, and stands out among the others; a column
# of so few values has nothing but such.
_SHARE, _TIMES, _LEAST, _FEW = 0.01, 10, 10, 32
# Whole numbers have probabilities anyway: more of them are looked at one by one.
_WHOLE_SHARE, _MOST_WHOLE = 0.0005, 128
# Elements widened to float64 at a time: they stay in cache.
_WIDEST_BLOCK = 1 << 18
# Stored elements of a sparse matrix looked at at a time.
_STORED = 1 << 21


class Summary:
    r"""What a look at all rows tells of each element; exact, from one pass in bounded memory.

    Means and squared deviations are those of a block, joined to those before (Chan et al., 1979,
    *Updating formulae and a pairwise algorithm for computing sample variances*):

    .. math:: M_2 = M_2^a + M_2^b + (\bar x^b - \bar x^a)^2\, n_a n_b / (n_a + n_b)

    in float64, so that a mean far from 0 costs no digits. Holes (NaN) are left out of everything.

    Args:
        shape: Event shape of a row.
        dtype: Type of the rows.

    Attributes:
        rows: How many were seen.
        count: How many values of each element are not missing, shape ``shape``.
        mean: Mean of each element, NaN where all are missing.
        low: Smallest value of each element; infinite where all are missing.
        high: Largest value of each element.
        whole: Whether all values of an element are whole numbers.
        narrow: Whether single precision holds all values as they are.
        steps: Those of 2, 4, 8, ..., 255, 256 of whose reciprocal every value is a multiple, up
            to the rounding of single precision. Looked at only while all values are in [0, 1].

    >>> summary = Summary.of(np.array([[1.0, 0.5], [3.0, np.nan]]))
    >>> summary.mean, summary.std, summary.whole
    (array([2. , 0.5]), array([1., 0.]), array([ True, False]))
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.rows = 0
        self.steps: tuple[int, ...] = RECOVERED_STEPS
        self.narrow = True
        self.count = np.zeros(shape, np.int64)
        self.whole = np.ones(shape, bool)
        self.low = np.full(shape, np.inf)
        self.high = np.full(shape, -np.inf)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)  # sum of squared deviations from the mean

    @classmethod
    def of(cls, values: Any) -> Summary:
        """The summary of an array or a sparse matrix of shape ``(rows, *event)``."""
        found = cls(values.shape[1:], values.dtype)
        found.add(values)
        return found

    @classmethod
    def joined(cls, summaries: Iterable[Summary]) -> Summary:
        """The summary of all rows of several.

        >>> parts = [Summary.of(np.array([[1.0]])), Summary.of(np.array([[3.0]]))]
        >>> Summary.joined(parts).mean
        array([2.])
        """
        first, *others = map(copy.deepcopy, summaries)
        for other in others:
            first._join(other)
        return first

    @property
    def mean(self) -> Array:
        """Mean of each element; NaN where all its values are missing."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def variance(self) -> Array:
        """Mean squared deviation of each element; NaN where all its values are missing."""
        mean = self._squares / np.maximum(self.count, 1)
        # of a constant, the rounding of its mean would be left
        return np.where(self.count > 0, np.where(self.low == self.high, 0.0, mean), np.nan)

    @property
    def std(self) -> Array:
        """Square root of the variance."""
        return np.sqrt(self.variance)

    @property
    def missing(self) -> Array:
        """Whether a value of an element is missing."""
        return self.count < self.rows

    @property
    def holes(self) -> int:
        """How many values are missing."""
        return self.rows * self.count.size - int(self.count.sum())

    def add(self, block: Any) -> None:
        """Take in some more rows, shape ``(rows, *event)``; none of them infinite.

        Of a sparse matrix of compressed rows only what is stored is looked at.
        """
        if is_sparse(block):
            with np.errstate(over="ignore"):
                for some in blocks(block, _STORED):
                    self._join(self._of_sparse(some))
            return
        size = max(1, _WIDEST_BLOCK // max(1, math.prod(self.shape)))
        with np.errstate(over="ignore", invalid="ignore"):  # squares of 1e200 overflow
            for start in range(0, len(block), size):
                self._join(self._of_block(block[start : start + size]))

    def _of_block(self, block: Array) -> Summary:
        other = Summary(self.shape, self.dtype)
        other.rows = len(block)
        if block.dtype.kind != "f":
            other.count[...] = len(block)
            other.low, other.high = block.min(0).astype(float), block.max(0).astype(float)
            wide = block.astype(np.float64)
            other.narrow = bool(max(-other.low.min(), other.high.max()) <= 2.0**24)
            other._mean = wide.mean(0)
            other.steps = self.steps if other.low.min() >= 0 and other.high.max() <= 1 else ()
        else:
            holes = np.isnan(block)
            some = bool(holes.any())
            other.count = len(block) - holes.sum(0) if some else other.count + len(block)
            wide = block.astype(np.float64)
            if some:
                other.low = np.where(holes, np.inf, wide).min(0)
                other.high = np.where(holes, -np.inf, wide).max(0)
                wide[holes] = 0.0
            else:
                other.low, other.high = wide.min(0), wide.max(0)
            other._mean = wide.sum(0) / np.maximum(other.count, 1)
            # beyond, every number is whole: that says nothing
            other.whole = ((wide == np.floor(wide)) & (np.abs(wide) < 2.0**53)).all(0)
            other.narrow = block.dtype.itemsize <= 4 or bool(
                (wide == wide.astype(np.float32)).all()
            )
            other.steps = self._multiples(other, wide)
            if some:
                wide = np.where(holes, other._mean, wide)
        wide -= other._mean
        other._squares = np.einsum("r...,r...->...", wide, wide)
        return other

    def _of_sparse(self, block: Any) -> Summary:
        other, width = Summary(self.shape, self.dtype), self.shape[0]
        other.rows = block.shape[0]
        data, at = block.data.astype(np.float64), block.indices
        if (holes := np.isnan(data)).any():
            other.count -= np.bincount(at[holes], minlength=width)
            data, at = data[~holes], at[~holes]
        other.count += other.rows
        zeros = other.count - np.bincount(at, minlength=width)
        other._mean = np.bincount(at, data, width) / np.maximum(other.count, 1)
        off = data - other._mean[at]
        other._squares = np.bincount(at, off * off, width) + zeros * other._mean**2
        other.low, other.high = np.where(zeros, 0.0, np.inf), np.where(zeros, 0.0, -np.inf)
        np.minimum.at(other.low, at, data)
        np.maximum.at(other.high, at, data)
        other.whole[at[(data != np.floor(data)) | (np.abs(data) >= 2.0**53)]] = False
        largest = np.abs(data).max(initial=0.0)
        narrow = (data == data.astype(np.float32)).all() if block.dtype.kind == "f" else False
        other.narrow = bool(narrow or (block.dtype.kind != "f" and largest <= 2.0**24))
        other.steps = self._multiples(other, data)
        return other

    def _multiples(self, seen: Summary, wide: Array) -> tuple[int, ...]:
        """Which steps remain; those that fail once are not tried again."""
        if (
            not self.steps
            or seen.low.min() < 0
            or (np.isfinite(seen.high) & (seen.high > 1)).any()
        ):
            return ()
        if seen.whole.all():
            return self.steps
        # float32 rounds x / 255 to about 1e-5 of a level, float16 does not keep it
        return tuple(
            steps
            for steps in self.steps
            if (np.abs(wide * steps - np.round(wide * steps)) < 1e-3).all()
        )

    def _join(self, other: Summary) -> None:
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        step = other._mean - self._mean
        self._squares += other._squares + step * step * self.count * share
        self._mean += step * share
        self.count, self.rows = total, self.rows + other.rows
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.whole &= other.whole
        self.narrow = self.narrow and other.narrow
        if other.rows:
            self.steps = tuple(steps for steps in self.steps if steps in other.steps)

    def changed(self, change: Callable[[Array], Array]) -> Summary:
        """The summary of rows whose elements are picked or moved.

        Args:
            change: From an array of shape ``(rows, *event)`` to one of ``(rows, *other)``, by
                moving elements alone.
        """
        found = copy.copy(self)
        for name in ("count", "whole", "low", "high", "_mean", "_squares"):
            setattr(found, name, change(getattr(self, name)[None])[0])
        found.shape = found.count.shape
        return found

    def column(self, place: int) -> Summary:
        """The summary of one column, shape ``(1,)``."""
        return self.changed(lambda values: values[:, place : place + 1])


def repeated(values: Array, *, whole: bool = False) -> Array:
    """The values of a column that repeat so often that they carry mass, increasing.

    Each has a hundredth of the rows, at least ten, and ten times as many as a value has in the
    median; of a column of a few values that repeat, all. Values rounded to a grid carry none.
    Of ``whole`` numbers, which have probabilities anyway, the most frequent, of ten rows each.

    >>> rng = np.random.default_rng(0)
    >>> rain = rng.gamma(2.0, size=1000)
    >>> repeated(np.where(rng.random(1000) < 0.4, 0.0, np.minimum(rain, 4.0))).tolist()
    [0.0, 4.0]
    >>> repeated(rain.round(1)).tolist()
    []
    """
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    if not len(found) or (len(found) <= _FEW and counts.min() > 1):
        return found
    if whole:
        least = max(_LEAST, _WHOLE_SHARE * counts.sum(), np.sort(counts)[-_MOST_WHOLE:][0])
        return found[counts >= least]
    least = max(_LEAST, _SHARE * counts.sum(), _TIMES * float(np.median(counts)))
    return found[counts >= least]


def decimals(values: Array) -> int | None:
    """How many digits after the point all values of a column have; none if these have no end.

    >>> decimals(np.array([3.1, np.nan, 0.25])), decimals(np.array([1 / 3, 0.5]))
    (2, None)
    """
    known = values[~np.isnan(values)]
    wide, largest = known.astype(np.float64), np.abs(known).max(initial=0)
    for digits in range(1, 10):
        if 10.0**-digits < 4 * np.spacing(largest):  # such digits are those of any number
            return None
        if (np.round(wide, digits).astype(known.dtype) == known).all():
            return digits
    return None


def shares_of(values: Array, atoms: Array) -> tuple[float, ...]:
    """The share of a column's known values that each of some rising values has.

    >>> shares_of(np.array([0.0, 0.0, 1.5, 2.0, np.nan]), np.array([0.0, 2.0]))
    (0.5, 0.25)
    """
    known = values[~np.isnan(values)]
    if not len(atoms) or not len(known):
        return (0.0,) * len(atoms)
    place = np.searchsorted(atoms, known).clip(max=len(atoms) - 1)
    counts = np.bincount(place[atoms[place] == known], minlength=len(atoms))
    return tuple((counts / len(known)).tolist())


def knots_of(values: Array, atoms: Array, rows: int) -> tuple[Array, Array]:
    """Points of a column's normal scores: quantiles but for its atoms, and their scores, float64.

    The scores are at equal distances from that of the least value to that of the largest, so that
    tails have knots too; the more rows, the more there are: their number leaves some ten values
    between two of few rows. Of a column that has no other values than atoms, of all; of one of
    which no value was seen, the knots are zeros.

    >>> knots, scores = knots_of(np.arange(240.0), np.zeros(0), 240)
    >>> knots[[0, 6, -1]], np.round(scores[[0, 6, -1]], 2), len(knots)
    (array([  0. , 119.5, 239. ]), array([-2.64,  0.  ,  2.64]), 13)
    """
    known = values[~np.isnan(values)].astype(np.float64)
    others = known[~np.isin(known, atoms)]
    known = others if len(others) else known
    level = torch.tensor(1 - 1 / (len(known) + 2), dtype=torch.float64)
    reach = float(torch.special.ndtri(level))
    count = min(MOST_KNOTS, 1 + 2 * max(1, int(np.cbrt(rows))))
    scores = torch.linspace(-reach, reach, count, dtype=torch.float64)
    if not len(known):
        return np.zeros(count), scores.numpy()
    levels = torch.special.ndtr(scores).numpy()
    return np.quantile(known, levels, method="weibull"), scores.numpy()


def gain_of_mixture(values: Array, *, counts: bool = False) -> tuple[float, float]:
    """How much likelier the values of a column are by their normal scores than by a Gaussian.

    Each half of the values by what the other says, in nats a value, and the standard error; of a
    value at most three, so that no outlier decides. Of ``counts`` than by a negative binomial, and
    the scores are those of x + u, u from U[0, 1), whose density is a bound of the probability.

    >>> rng = np.random.default_rng(0)
    >>> round(gain_of_mixture(rng.lognormal(size=300))[0], 1)
    0.6
    >>> gain_of_mixture(rng.normal(size=300))[0] < 0
    True
    >>> gain_of_mixture(rng.poisson(40, size=300), counts=True)[0] < 0
    True
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if counts:
        known = known + np.random.default_rng(0).random(len(known))
    halves, gains = (known[::2], known[1::2]), []
    for one, other in (halves, halves[::-1]):
        knots, scores = knots_of(one, np.zeros(0), len(one))
        knots, place = np.unique(knots, return_index=True)
        spread = one.std()
        if len(knots) < 2 or not spread > 0:
            return 0.0, 0.0
        slopes = np.diff(scores[place]) / np.diff(knots)
        at = np.clip(np.searchsorted(knots, other, "right") - 1, 0, len(slopes) - 1)
        score = scores[place][at] + slopes[at] * (other - knots[at])
        mixture = -(score**2) / 2 + np.log(slopes[at])
        usual = -(((other - one.mean()) / spread) ** 2) / 2 - np.log(spread)
        if counts:
            usual = _by_counts(np.floor(other), np.floor(one)) + math.log(2 * math.pi) / 2
        gains.append(np.clip(mixture - usual, -3, 3))
    each = np.concatenate(gains)
    return float(each.mean()), float(each.std() / math.sqrt(len(each)))


def _by_counts(values: Array, others: Array) -> Array:
    """Nats of counts under the negative binomial by which others are likeliest; Poisson at most.

    Its mean is theirs; of its dispersions those are tried that are 2^k of the one by moments.
    """
    mean, variance = torch.tensor([others.mean(), others.var()])
    mean = mean.clamp(min=1e-6)
    moment = mean**2 / (variance - mean).clamp(min=1e-4 * mean)
    laws = NegativeBinomial(mean, moment * 2.0 ** torch.arange(-6, 7)[:, None])
    seen, often = (torch.from_numpy(each) for each in np.unique(others, return_counts=True))
    best = int((laws.log_prob(seen) * often).sum(-1).argmax())
    return laws.log_prob(torch.from_numpy(values))[best].numpy()


def bounds_of(values: Array, low: float, high: float, atoms: Array) -> tuple[float, float]:
    """The least and the largest possible value of a column, as far as its values show them.

    0 below, and 1 or 100 above, where values reach up to it and none lies beyond; and a value at
    an end that repeats so often that it is a cap.

    Args:
        values: Some of the column.
        low: The least of all.
        high: The largest of all.
        atoms: Values that repeat, increasing.

    >>> rng = np.random.default_rng(0)
    >>> share, income = rng.beta(0.5, 0.5, 300), rng.lognormal(3, 1, 300)
    >>> bounds_of(share, share.min(), share.max(), np.zeros(0))
    (0.0, 1.0)
    >>> bounds_of(income, income.min(), income.max(), np.zeros(0))
    (0.0, inf)
    >>> bounds_of(income - 5, income.min() - 5, income.max() - 5, np.zeros(0))
    (-inf, inf)
    """
    least, largest = -np.inf, np.inf
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return least, largest
    quarter, nine = np.quantile(known, (0.25, 0.9))
    few = np.isin(known, atoms).all()
    if low >= 0 and (0.0 in atoms or low <= (quarter - low) / 3):
        least = 0.0
    for end, near in ((1.0, 3), (100.0, 10)):
        tail = high - nine
        reached = high in atoms if high == end else end - high <= tail / near
        reached = reached and tail <= (high - low) / 4  # a long tail ends anywhere
        if least == 0 and high <= end and largest == np.inf and reached:
            largest = end
    if not few and len(atoms):  # of a few values any other may come next
        least = low if low == atoms[0] else least
        largest = high if high == atoms[-1] else largest
    return least, largest
