r"""Probabilities in integers: of each number of a row, how much lies below each of its values.

A :class:`Law` is a cumulative probability :math:`F(k)` in multiples of :math:`2^{-30}` over the
values 0 .. n-1 of each element. A value is coded as a path of halves, the upper half of an
interval having the probability :math:`(F(h) - F(m)) / (F(h) - F(l))`; so F is needed at few places
whatever n is, and the same path serves bits, levels, categories, counts, reals and latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deeplvm.compression.tables import FINE, ONE, Array, Cumulative, exponential, logistic_table

# Below so much of ONE an integer says too little of a probability: the rest is as if uniform.
_LEAST = 64
_SCALE = float(1 << 24)


@dataclass(frozen=True)
class Law:
    """The distribution of the elements of some rows.

    Attributes:
        cumulative: From whole numbers k to F(k), arrays of int64 of one shape; rising in k.
        levels: n, how many values each element has, of the same shape.
    """

    cumulative: Callable[[Array], Array]
    levels: Array

    @property
    def depth(self) -> int:
        """How many halves lead to one value."""
        return max(int(self.levels.max()) - 1, 0).bit_length()

    def below(self, k: Array) -> Array:
        """F(k), 0 at 0 and 1 from n on."""
        inside = self.cumulative(np.minimum(k, self.levels))
        return np.where(k <= 0, 0, np.where(k >= self.levels, ONE, np.clip(inside, 0, ONE)))

    def start(self) -> Interval:
        """All values of each element."""
        whole = np.full(self.levels.shape, 1 << self.depth, np.int64)
        return Interval(self, np.zeros_like(whole), whole, np.zeros_like(whole), whole * 0 + ONE)


@dataclass
class Interval:
    """The values ``low`` to ``high - 1`` of each element, and F at both."""

    law: Law
    low: Array
    high: Array
    below_low: Array
    below_high: Array

    def __post_init__(self) -> None:
        self.middle = (self.low + self.high) >> 1
        self.below_middle = self.law.below(self.middle)

    def upper(self) -> Array:
        """The probability of the upper half, a multiple of 2**-24 that is neither 0 nor 1."""
        levels = self.law.levels
        top = np.minimum(self.high, levels)
        above = np.maximum(top - np.minimum(self.middle, levels), 0)
        share = above / np.maximum(top - np.minimum(self.low, levels), 1)
        mass = (self.below_high - self.below_low).astype(np.float64)
        own = (self.below_high - self.below_middle).astype(np.float64)
        found = np.where(mass < _LEAST, share, (own + share) / (mass + 1.0))
        return np.clip(np.floor(found * _SCALE), 1.0, _SCALE - 1.0) / _SCALE

    def half(self, upper: Array) -> Interval:
        """The upper half where that is 1, else the lower."""
        up = upper.astype(bool)
        return Interval(
            self.law,
            np.where(up, self.middle, self.low),
            np.where(up, self.high, self.middle),
            np.where(up, self.below_middle, self.below_low),
            np.where(up, self.below_high, self.below_middle),
        )


def located(
    table: Cumulative, edge: Callable[[Array], Array], loc: Array, scale: Array, levels: Array
) -> Law:
    r"""A location and a scale: :math:`F(k) = T((e_k - \mu) / s)`, by a table.

    Args:
        table: T.
        edge: The lower end of the cell of each value, rising, float64.
        loc, scale: :math:`\mu` and s, float64.
        levels: How many values.
    """
    return Law(lambda k: table(argument(edge(k), loc, scale)), levels)


def argument(edge: Array, loc: Array, scale: Array) -> Array:
    """The standardised edge, as tables read it."""
    return fixed(np.clip((edge - loc) / scale, -64.0, 64.0))


def fixed(value: Array) -> Array:
    """Numbers as tables read them."""
    return np.floor(value * float(1 << FINE)).astype(np.int64)


def bernoulli(logits: Array) -> Law:
    """Bits."""
    zero = ONE - logistic_table()(fixed(logits))
    return Law(lambda k: np.where(k > 0, zero, 0), np.full(logits.shape, 2, np.int64))


def shares(logits: Array) -> Array:
    r"""Weights :math:`\mathrm{softmax}(\eta)` as integers that sum to 2**30, last axis."""
    raw = np.floor(exponential(logits - logits.max(-1, keepdims=True)) * float(1 << 30))
    total = np.cumsum(raw.astype(np.int64), -1)
    ends = np.floor(total / total[..., -1:] * float(ONE)).astype(np.int64)
    return np.diff(ends, axis=-1, prepend=0)


def categories(weights: Array) -> Law:
    """Categories of given weights, integers that sum to 2**30, last axis."""
    ends = np.concatenate([np.zeros_like(weights[..., :1]), np.cumsum(weights, -1)], -1)
    levels = np.full(weights.shape[:-1], weights.shape[-1], np.int64)
    return Law(lambda k: np.take_along_axis(ends, k[..., None], -1)[..., 0], levels)


def mixture(weights: Array, parts: Callable[[Array], Array], levels: Array) -> Law:
    """A mixture: ``parts`` gives F of each component at k, last axis."""
    return Law(lambda k: ((weights * parts(k)) >> 30).sum(-1), levels)


# Counts from here on are told apart by their size alone.
MOST_COUNTED = 4096


def counts(
    mean: Array, dispersion: Array | None, zero: Array | None, low: Array, levels: Array
) -> Law:
    r"""Poisson or negative binomial counts, by :math:`p_k / p_{k-1}`; beyond a limit a heavy tail.

    Args:
        mean: m.
        dispersion: r of the negative binomial; ``None`` for Poisson.
        zero: The share of zeros that the law does not say, of 2**30; ``None`` for none.
        low: The smallest count of each element.
        levels: How many from there on.
    """
    largest = int((low + levels).max())
    size = min(largest, MOST_COUNTED)
    mass, total = np.ones(mean.shape), np.zeros((size + 1, *mean.shape))
    odds = mean if dispersion is None else mean / (mean + dispersion)
    for k in range(size):
        if k:
            grown = odds if dispersion is None else odds * (dispersion + float(k - 1))
            mass = mass * (grown / float(k))
        total[k + 1] = total[k] + mass
        if k % 16 == 0 and (large := total[k + 1] > 2.0**400).any():
            shrunk = np.where(large, 2.0**-400, 1.0)  # a power of two: exact
            mass, total[: k + 2] = mass * shrunk, total[: k + 2] * shrunk
    rest = mass  # about what lies beyond
    if size < largest:
        rest = np.maximum(mass * float(size), total[-1] * 2.0**-20)
    below = np.floor(total / (total[-1] + rest) * float(ONE)).astype(np.int64)
    if zero is not None:
        below = zero + ((below * (ONE - zero)) >> 30)

    def cumulative(k: Array) -> Array:
        k = k + low
        known = np.take_along_axis(below, np.minimum(k, size)[None], 0)[0]
        tail = (ONE - below[-1]).astype(np.float64) * (1.0 - size / np.maximum(k, 1.0))
        return known + np.where(k > size, np.floor(np.maximum(tail, 0.0)), 0.0).astype(np.int64)

    return Law(cumulative, levels)
