"""Which rows of many train, validate and test, without a list of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.raw import Array
from deeplvm.data.records import SPLITS

_BLOCK = 1000
# So many rows of the smallest split are in a block: its share is within 1 % of what was asked.
_SMALLEST = 100


class Places:
    """The rows of one split, as increasing row numbers of the files; held as ranges.

    Args:
        ranges: First row and row after the last, of each range, increasing.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        joined: list[list[int]] = []
        for begin, end in ranges:
            if joined and joined[-1][1] == begin:
                joined[-1][1] = end
            elif end > begin:
                joined.append([begin, end])
        self._begins = np.array([begin for begin, _ in joined], np.int64)
        sizes = np.array([end - begin for begin, end in joined], np.int64)
        self._ends = self._begins + sizes
        self._sums = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._sums[-1])

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        if not len(places):
            return np.zeros(0, np.int64)
        which = np.searchsorted(self._sums, places, "right") - 1
        return self._begins[which] + places - self._sums[which]

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
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
    """Rows by a list of them: a few of a split.

    Args:
        rows: Increasing row numbers.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        return self._rows[places]

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
        return np.searchsorted(self._rows, rows)


class Carved(Places):
    """One of three parts at random of all rows of a place: so many of each block of it.

    In each block of 1,000 rows (more where a part is smaller than a tenth) the rows of each part
    are drawn anew, from the seed and the number of the block, so that a part has the fraction
    asked for in every block and a row is found without a list.

    Args:
        whole: The rows that are parted.
        fractions: Of training, validation and test rows.
        part: 0, 1 or 2.
        seed: Of the draws.
    """

    def __init__(self, whole: Places, fractions: Sequence[float], part: int, seed: int) -> None:
        self._whole, self._fractions, self._part, self._seed = whole, tuple(fractions), part, seed
        least = min(fraction for fraction in fractions if fraction > 0)
        self._block = max(_BLOCK, round(_SMALLEST / least))
        self._each = self._counts(self._block)[part]
        self._full, rest = divmod(len(whole), self._block)
        self._total = self._full * self._each + (self._counts(rest)[part] if rest else 0)
        self._members = lru_cache(maxsize=64)(self._drawn)

    def __len__(self) -> int:
        return self._total

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        blocks = np.minimum(places // max(self._each, 1), self._full)
        found = np.empty(len(places), np.int64)
        for begin, end in _runs(blocks):
            block = int(blocks[begin])
            inside = places[begin:end] - block * self._each
            found[begin:end] = block * self._block + self._members(block)[inside]
        return self._whole.rows(found)

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
        whole = self._whole.below(rows)
        blocks = whole // self._block
        found = blocks * self._each
        for begin, end in _runs(blocks):
            block = int(blocks[begin])
            inside = whole[begin:end] - block * self._block
            found[begin:end] += np.searchsorted(self._members(block), inside)
        return np.minimum(found, self._total)

    def _counts(self, rows: int) -> tuple[int, int, int]:
        held = [round(rows * fraction) for fraction in self._fractions[1:]]
        if len(self._whole) <= self._block:  # at least one row each
            held = [
                max(1, count) if fraction > 0 else 0
                for count, fraction in zip(held, self._fractions[1:], strict=True)
            ]
            if sum(held) >= rows:
                held[held[1] > held[0]] -= sum(held) - rows + 1
        return rows - sum(held), held[0], held[1]

    def _drawn(self, block: int) -> Array:
        rows = min(self._block, len(self._whole) - block * self._block)
        order = np.random.default_rng([self._seed, block]).permutation(max(rows, 0))
        train, valid, _ = self._counts(rows)
        begin, end = ((0, train), (train, train + valid), (train + valid, rows))[self._part]
        return np.sort(order[begin:end])


def _runs(numbers: Array) -> Iterator[tuple[int, int]]:
    """Of numbers, where each run of equal ones begins and ends."""
    if len(numbers):
        cuts = (np.flatnonzero(np.diff(numbers)) + 1).tolist()
        yield from zip([0, *cuts], [*cuts, len(numbers)], strict=True)


def carved(name: str, whole: Places, fractions: Sequence[float], seed: int) -> list[Places]:
    """The training, validation and test rows of a place.

    Raises:
        DataError: If there are too few rows.
    """
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(whole) < wanted:
        raise DataError(
            f"{name}: {len(whole)} row{'s' if len(whole) != 1 else ''} cannot be split into "
            f"training, validation and test rows; at least {wanted} are needed."
        )
    return [Carved(whole, fractions, part, seed) for part in range(len(SPLITS))]


def limited(places: Places, limit: int, seed: int) -> Places:
    """A random ``limit`` rows of a split, in their order."""
    if len(places) <= limit:
        return places
    rng = np.random.default_rng(seed)
    kept = rng.choice(len(places), limit, replace=False, shuffle=False)
    return Chosen(places.rows(np.sort(kept)))
