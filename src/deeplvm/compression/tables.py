r"""Tables of functions, the same to the last bit on every machine.

A sum, product, quotient or root of two numbers is rounded as IEEE 754 says, everywhere alike; an
exponential is what a mathematics library makes of it. So the functions that probabilities and
networks need are computed here from these four operations alone, one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Array = Any

# A probability of 1, in tables of cumulative probabilities.
ONE = 1 << 30
# Arguments of these tables are multiples of 2**-30, their entries lie 2**-10 apart.
FINE, _STEP = 30, 10
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10


def exponential(x: Array) -> Array:
    r""":math:`e^x` of an array of float64, 0 below -700.

    >>> round(float(exponential(np.array([1.0]))[0]), 12)
    2.718281828459
    """
    x = np.clip(np.asarray(x, np.float64), -700.0, 700.0)
    power = np.floor(x * 1.4426950408889634 + 0.5)
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    found = np.ones_like(rest)
    for n in range(16, 0, -1):
        found = found * rest / n + 1.0
    return np.where(x <= -700.0, 0.0, np.ldexp(found, power.astype(np.int64)))


def logarithm(x: Array) -> Array:
    r""":math:`\ln x` of positive numbers, by :math:`2\,\mathrm{artanh}((m - 1) / (m + 1))`.

    >>> abs(float(logarithm(np.array([10.0]))[0]) - 2.302585092994046) < 1e-15
    True
    """
    mantissa, power = np.frexp(np.asarray(x, np.float64))
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = np.where(low, power - 1, power).astype(np.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, series = ratio * ratio, np.zeros_like(ratio)
    for n in range(31, 0, -2):
        series = series * square + 1.0 / n
    return power * _LN2_HIGH + (power * _LN2_LOW + 2.0 * ratio * series)


def logistic(x: Array) -> Array:
    r""":math:`1 / (1 + e^{-x})`."""
    small = exponential(-np.abs(x))
    return np.where(np.asarray(x) < 0, small, 1.0) / (1.0 + small)


def softplus(x: Array) -> Array:
    r""":math:`\ln(1 + e^x)`, by a series where the exponential is small."""
    small = exponential(-np.abs(x))
    series = np.zeros_like(small)
    for n in range(12, 0, -1):
        series = small * ((1.0 if n % 2 else -1.0) / n + series)
    return np.maximum(x, 0.0) + np.where(small < 0.01, series, logarithm(1.0 + small))


def normal(x: Array) -> Array:
    r""":math:`\Phi(x)`, by :math:`\tfrac12 + \varphi(x) (x + x^3 / 3 + x^5 / 15 + \dots)`.

    >>> round(float(normal(np.array([1.96]))[0]), 12)
    0.975002104852
    """
    size = np.abs(x)
    term = total = size
    for n in range(3, 300, 2):
        term = term * size * size / n
        total = total + term
    half = total * exponential(-0.5 * size * size) * 0.3989422804014327
    return 0.5 + np.where(np.asarray(x) < 0, -half, half)


class Cumulative:
    """A cumulative probability by interpolation between integers, of integer arguments.

    Args:
        function: It, of arrays.
        reach: Beyond this argument it is 0 or 1.
    """

    def __init__(self, function: Callable[[Array], Array], reach: int) -> None:
        points = np.arange(-reach << _STEP, (reach << _STEP) + 2) / float(1 << _STEP)
        entries = np.floor(function(points) * ONE + 0.5).astype(np.int64)
        entries[0], entries[-2:] = 0, ONE
        self.entries = np.maximum.accumulate(entries)
        self.reach = reach << FINE

    def __call__(self, argument: Array) -> Array:
        """Multiples of 2**-30, of an argument in multiples of 2**-30, both int64."""
        place = np.clip(argument, -self.reach, self.reach) + self.reach
        index, rest = place >> (FINE - _STEP), place & ((1 << (FINE - _STEP)) - 1)
        below = self.entries[index]
        return below + (((self.entries[index + 1] - below) * rest) >> (FINE - _STEP))


@cache
def normal_table() -> Cumulative:
    """The normal distribution's."""
    return Cumulative(normal, 6)


@cache
def logistic_table() -> Cumulative:
    """The logistic distribution's."""
    return Cumulative(logistic, 24)


# Activations by table: the function, and what it is above the table's last argument, 16.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float | None]] = {
    "sigmoid": (logistic, 1.0),
    "tanh": (lambda x: 2.0 * logistic(2.0 * x) - 1.0, 1.0),
    "softplus": (softplus, None),
    "silu": (lambda x: x * logistic(x), None),
    "gelu": (lambda x: x * normal(np.clip(x, -8.0, 8.0)), None),
    "elu": (lambda x: np.where(x < 0, exponential(np.minimum(x, 0.0)) - 1.0, x), None),
    "exp": (exponential, np.inf),
}
ACTIVATION_REACH, ACTIVATION_STEP = 16, 11


@cache
def activation(name: str) -> Array:
    """The values of a function at multiples of 2**-11 between -16 and 16, rounded to 2**-16."""
    points = np.arange(
        -ACTIVATION_REACH << ACTIVATION_STEP, (ACTIVATION_REACH << ACTIVATION_STEP) + 1
    )
    found = ACTIVATIONS[name][0](points / float(1 << ACTIVATION_STEP))
    return np.floor(found * 65536.0 + 0.5) / 65536.0


@cache
def digest() -> bytes:
    """SHA-256 of all tables: a file says by which it was made."""
    found = hashlib.sha256()
    for table in (normal_table().entries, logistic_table().entries):
        found.update(table.astype("<i8").tobytes())
    for name in sorted(ACTIVATIONS):
        found.update(np.minimum(activation(name), 2.0**36).astype("<f8").tobytes())
    return found.digest()
