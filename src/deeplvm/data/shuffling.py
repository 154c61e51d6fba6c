"""The order in which the rows of a stream are visited."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplvm.data.raw import Array

# Bytes of rows that are shuffled together, and of rows that are read together. 256 pieces make a
# pool: a batch of 100 then has 0.4 rows that were read with a given one of it.
POOL = 64 << 20
PIECE = POOL // 256
# A pool of row groups has at least so many of them, however large they are.
_FEWEST = 4


@dataclass(frozen=True)
class Plan:
    """Pieces of neighbouring rows, and how many of them are shuffled together.

    An epoch is a permutation of the pieces; so many in a row are a pool, and the rows of a pool
    are permuted. All depends on the seed and the number of the epoch alone. Pieces of one row make
    it one permutation of all rows.

    Attributes:
        cuts: The row at which each piece begins, and the number of rows.
        most: Rows of a pool, up to the end of a piece.
        fewest: Pieces of a pool, at least.
    """

    cuts: Array
    most: int
    fewest: int = 1

    @classmethod
    def of(cls, rows: int, row_bytes: int, cuts: Array | None) -> Plan:
        """The plan for rows of a size.

        Args:
            rows: How many.
            row_bytes: Bytes of each.
            cuts: Where what is best read at once begins, and the number of rows.
        """
        most = max(1, POOL // row_bytes)
        if cuts is not None:
            return cls(np.unique(cuts), most, _FEWEST)
        piece = max(1, PIECE // row_bytes)
        return cls(np.append(np.arange(0, rows, piece), rows), most)

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return int(self.cuts[-1])

    def pools(self, epoch: int, seed: int) -> Pools:
        """The pools of an epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.cuts) - 1)
        ends = np.cumsum(np.diff(self.cuts)[order])
        begins, begin = [0], 0
        while begin < len(order):
            before = int(ends[begin - 1]) if begin else 0
            end = int(np.searchsorted(ends, before + self.most, "right"))
            begin = min(max(end, begin + self.fewest), len(order))
            begins.append(begin)
        starts = np.concatenate([[0], ends[np.array(begins[1:]) - 1]])
        return Pools(self.cuts, order, np.array(begins), starts, (seed, epoch))


@dataclass(frozen=True)
class Pools:
    """The pools of an epoch, in order.

    Attributes:
        cuts: Those of the plan.
        order: The pieces as they come.
        begins: The piece with which each pool begins, and their number.
        starts: The visits before each pool, and all visits.
        key: Seed and epoch.
    """

    cuts: Array
    order: Array
    begins: Array
    starts: Array
    key: tuple[int, int]

    def __len__(self) -> int:
        return len(self.begins) - 1

    def rows(self, pool: int) -> Array:
        """The rows of a pool, increasing."""
        pieces = np.sort(self.order[self.begins[pool] : self.begins[pool + 1]])
        sizes = self.cuts[pieces + 1] - self.cuts[pieces]
        shift = np.cumsum(sizes) - sizes
        return np.arange(int(sizes.sum())) + np.repeat(self.cuts[pieces] - shift, sizes)

    def visits(self, pool: int) -> Array:
        """The rows of a pool in the order in which they are visited."""
        return np.random.default_rng([*self.key, pool]).permutation(self.rows(pool))
