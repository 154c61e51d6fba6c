"""What the elements of a row can be, numbered: whole numbers, decimals, or reals of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.compression.exact import CompressionError
from deeplvm.compression.tables import Array

# Digits after the point that are looked for; a real that has more is taken bit by bit.
_MOST_DIGITS = 9
_SINGLE, _DOUBLE = -1, -2
# Between a number of single precision and the next there are so many of double precision.
_BETWEEN = 29


@dataclass(frozen=True)
class Cells:
    """The possible values of the elements of a row, of each element in its order.

    Attributes:
        shape: The event shape.
        digits: Of each element, how many digits after the point its values have; -1 for any number
            of single precision, -2 of double. One entry stands for all elements.
        low: The number of the first: the least value in its last digit, or in the order of reals.
        levels: How many there are.
        noisy: Of each element: the model saw these values and noise of U[0, 1), over this; 0 if
            there was no noise.
    """

    shape: tuple[int, ...]
    digits: tuple[int, ...]
    low: tuple[int, ...]
    levels: tuple[int, ...]
    noisy: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, x: Array, levels: Sequence[int | None], noisy: Sequence[float] = (0.0,)) -> Cells:
        """The cells of some rows.

        Args:
            x: Values, ``(rows, *event)``, float64; NaN where they are missing.
            levels: Of each element how many codes there are, 0 to n - 1; ``None`` for numbers.
                one entry stands for all elements.
            noisy: See the attribute.
        """
        rows = x.reshape(len(x), -1)
        columns = [rows.ravel()] if len(levels) == 1 else list(rows.T)
        found = [_cell(c[~np.isnan(c)], n) for c, n in zip(columns, levels, strict=True)]
        digits, low, count = zip(*found, strict=True)
        return cls(tuple(x.shape[1:]), digits, low, count, tuple(noisy))

    @property
    def elements(self) -> int:
        """How many numbers a row has."""
        return int(np.prod(self.shape, dtype=np.int64))

    def _each(self, numbers: tuple[Any, ...]) -> Array:
        return np.broadcast_to(np.array(numbers), (self.elements,))

    @cached_property
    def each_levels(self) -> Array:
        """How many values each element has."""
        return self._each(self.levels)

    @cached_property
    def each_low(self) -> Array:
        """The number of the first value of each element."""
        return self._each(self.low)

    def negative_zeros(self, x: Array) -> Array:
        """Which zeros have a sign that their number does not say, ``(rows, elements)``."""
        rows = x.reshape(len(x), -1)
        return (rows == 0) & np.signbit(rows) & (self._each(self.digits) >= 0)

    def places(self, x: Array) -> Array:
        """The numbers of values, ``(rows, *event)``, -1 where they are missing.

        Raises:
            CompressionError: A value is none of these.
        """
        found = self.nearest(x.reshape(len(x), -1))
        if (found >= self.each_levels).any() or (found < -1).any():
            raise CompressionError("A value is beyond those that the file was made for.")
        return found.reshape(x.shape)

    def nearest(self, rows: Array) -> Array:
        """The numbers of the cells of any values, ``(rows, elements)``, -1 where missing."""
        found = np.full(rows.shape, -1, np.int64)
        for digits, at in self._kinds():
            known = ~np.isnan(rows[:, at])
            place = _number(np.where(known, rows[:, at], 0.0), digits) - self._each(self.low)[at]
            found[:, at] = np.where(known, place, -1)
        return found

    def exact(self, places: Array) -> Array:
        """The values of numbers, float64, NaN where they are missing."""
        rows = places.reshape(len(places), -1)
        found = self._values(np.maximum(rows, 0), np.arange(self.elements), 0.0)
        return np.where(rows < 0, np.nan, found).reshape(places.shape)

    def value(self, places: Array) -> Tensor:
        """The values as the model has them."""
        found, noisy = self.exact(places), self._each(self.noisy).reshape(self.shape)
        over = np.where(noisy > 0, noisy, 1.0)
        return torch.from_numpy((found + np.where(noisy > 0, 0.5, 0.0)) / over)

    def edges(self, columns: Array) -> Callable[[Array], Array]:
        """Of elements the lower end of each cell, a function of numbers ``(rows, columns)``."""
        noisy = self._each(self.noisy)[columns]
        offset, over = np.where(noisy > 0, 0.0, -0.5), np.where(noisy > 0, noisy, 1.0)
        return lambda k: self._values(k, columns, offset) / over

    def _values(self, k: Array, columns: Array, offset: Any) -> Array:
        low, own = self._each(self.low)[columns], self._each(self.digits)[columns]
        number, whole = k + low, own >= 0
        if whole.all():
            return (number + offset) / 10.0**own
        found = (number + offset) / 10.0 ** np.maximum(own, 0)
        for digits in (_SINGLE, _DOUBLE):
            if (at := own == digits).any():
                found[:, at] = _real(number[:, at], digits)
        return found

    def _kinds(self) -> list[tuple[int, Array]]:
        own = self._each(self.digits)
        return [(int(digits), np.flatnonzero(own == digits)) for digits in np.unique(own)]


def _cell(values: Array, codes: int | None) -> tuple[int, int, int]:
    if codes is not None:
        if (
            values.size
            and not ((values == np.floor(values)) & (values >= 0) & (values < codes)).all()
        ):
            raise CompressionError(
                f"The model knows the values 0 to {codes - 1}, but there are others; compress "
                f"data like those it was trained on."
            )
        return 0, 0, codes
    digits = next((d for d in range(_MOST_DIGITS + 1) if _has_digits(values, d)), None)
    if digits is None:
        single = (values.astype(np.float32) == values).all()
        size = np.abs(values[values != 0])
        if not single and (size.min() < 1e-37 or size.max() > 1e38):
            raise CompressionError("A number is nearer to 0 than 1e-37 or beyond 1e38; scale it.")
        digits = _SINGLE if single else _DOUBLE
    numbers = _number(values, digits)
    low, high = (int(numbers.min()), int(numbers.max())) if values.size else (0, 0)
    return digits, low, high - low + 1


def _has_digits(values: Array, digits: int) -> bool:
    scaled = values * 10.0**digits
    if not (np.abs(scaled) < 2.0**51).all():
        return False
    found = np.floor(scaled + 0.5) / 10.0**digits
    return bool((found == values).all())  # the sign of a zero is kept elsewhere


def _number(values: Array, digits: int) -> Array:
    if digits >= 0:
        return np.floor(values * 10.0**digits + 0.5).astype(np.int64)
    single = values.astype(np.float32)
    if digits == _SINGLE:
        return _ordered(single)
    above = single.astype(np.float64) > values
    single = np.where(above, np.nextafter(single, np.float32(-np.inf)), single)
    rest = _ordered(values) - _ordered(single.astype(np.float64))
    return (_ordered(single) << _BETWEEN) + rest


def _real(number: Array, digits: int) -> Array:
    if digits == _SINGLE:
        return _from_order(number, np.int32, np.float32).astype(np.float64)
    single = _from_order(number >> _BETWEEN, np.int32, np.float32).astype(np.float64)
    rest = number & ((1 << _BETWEEN) - 1)
    return _from_order(_ordered(single) + rest, np.int64, np.float64)


def _ordered(values: Array) -> Array:
    """Reals as whole numbers in the same order; -0.0 is before 0.0."""
    bits = values.view(np.int32 if values.dtype == np.float32 else np.int64).astype(np.int64)
    most = (1 << (31 if values.dtype == np.float32 else 63)) - 1
    return np.where(bits >= 0, bits, ~(bits & most))


def _from_order(number: Array, whole: Any, real: Any) -> Array:
    least = np.iinfo(whole).min
    bits = np.where(number >= 0, number, (~number) | least)
    return bits.astype(whole).view(real)
