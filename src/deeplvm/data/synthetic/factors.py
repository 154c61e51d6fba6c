r"""Factors: data whose every row is made from known causes, and can be made for chosen ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_AT_A_TIME = 512  # rows that are drawn in one call: bounds the memory, changes no value


@dataclass(frozen=True, eq=False)
class Factors:
    r"""A set in which every combination of factor values is one row, :math:`x = g(v_1, .., v_K)`.

    The factors are independent, each uniform over its values. Rows are made when asked for; the
    set as a whole is never stored.

    Attributes:
        names: One name a factor.
        sizes: How many values each factor has; value k of a factor is the number k.
        shape: Shape of one row, ``(*event)``.
        make: From values of shape ``(rows, K)``, int64, to rows of shape ``(rows, *event)``.
        unordered: Names of the factors whose values have no order, such as a shape.
        values: What the values stand for, by name, for those that have names.

    Raises:
        ValueError: If names and sizes do not fit together.

    Examples:
        >>> grid = Factors(("row", "column"), (2, 3), (2,), lambda v: v.double())
        >>> grid.combinations
        6
        >>> grid.draw([[1, 2], [0, 0]])
        tensor([[1., 2.],
                [0., 0.]], dtype=torch.float64)
        >>> drawn = grid.sample(4, torch.Generator().manual_seed(0), fixed={"column": 2})
        >>> drawn[:, 1]
        tensor([2, 2, 2, 2])
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    make: Callable[[Tensor], Tensor]
    unordered: frozenset[str] = frozenset()
    values: Mapping[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.sizes) or min(self.sizes) < 1:
            raise ValueError(
                f"Each factor has a name and at least one value; found the names {self.names} "
                f"and the sizes {self.sizes}."
            )
        if len(set(self.names)) < len(self.names) or not self.unordered <= set(self.names):
            raise ValueError(
                f"Factors have names of their own, and those without order are among them; found "
                f"{self.names} and {sorted(self.unordered)}."
            )

    @property
    def combinations(self) -> int:
        """Number of combinations of values, which is the number of different rows at most."""
        return math.prod(self.sizes)

    def number(self, name: str) -> int:
        """Which factor has this name.

        Raises:
            ValueError: If none has.
        """
        if name not in self.names:
            raise ValueError(f"No factor is called {name!r}; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def combination(self, index: Tensor) -> Tensor:
        """The values of combination 0, 1, .., the last factor fastest: shape ``(rows, K)``."""
        index = torch.as_tensor(index, dtype=torch.int64)
        if bool(((index < 0) | (index >= self.combinations)).any()):
            raise ValueError(f"There are combinations 0 .. {self.combinations - 1:,} only.")
        return torch.stack(torch.unravel_index(index, self.sizes), -1)

    def draw(self, values: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """The rows of given factor values.

        Args:
            values: Shape ``(rows, K)``, whole numbers.

        Returns:
            Shape ``(rows, *event)``; the same values give the same row.

        Raises:
            ValueError: If the shape is another, or a value is not among the factor's.
        """
        values = torch.as_tensor(values).cpu()
        if values.dim() != 2 or values.shape[1] != len(self.names) or values.is_floating_point():
            raise ValueError(
                f"Factor values are whole numbers of shape (rows, {len(self.names)}), for "
                f"{', '.join(self.names)}; found {values.dtype} of {tuple(values.shape)}."
            )
        wrong = (values < 0) | (values >= torch.tensor(self.sizes))
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{self.names[column]} has the values 0 .. {self.sizes[column] - 1}; row {row} "
                f"asks for {int(values[row, column])}."
            )
        parts = [self.make(part) for part in values.to(torch.int64).split(_AT_A_TIME)]
        return torch.cat(parts)

    def sample(
        self,
        rows: int,
        generator: torch.Generator | None = None,
        fixed: Mapping[str, int | Tensor] | None = None,
    ) -> Tensor:
        """Factor values drawn uniformly.

        Args:
            rows: How many.
            generator: A random stream on the CPU; torch's own by default.
            fixed: Values that are not drawn, by the factor's name: one for all rows, or one a
                row.

        Returns:
            Shape ``(rows, K)``, int64.
        """
        drawn = [torch.randint(size, (rows,), generator=generator) for size in self.sizes]
        for name, value in (fixed or {}).items():
            drawn[self.number(name)] = torch.as_tensor(value, dtype=torch.int64).expand(rows)
        return torch.stack(drawn, -1)


def tabulated(
    rows: Tensor, values: Tensor, names: Sequence[str], unordered: Sequence[str] = ()
) -> Factors:
    """A stored set with every combination of its factors' values exactly once.

    Args:
        rows: Shape ``(rows, *event)``.
        values: Factor values of each row, whole numbers, shape ``(rows, K)``, in any order. They
            are numbered anew, 0 the smallest.
        names: One a factor.
        unordered: Which of them have no order.

    Raises:
        ValueError: If combinations are missing or double. The metrics that take codes and
            factors as arrays can do without a complete set.

    Examples:
        >>> values = torch.tensor([[0, 10], [0, 20], [1, 10], [1, 20]])
        >>> tabulated(torch.arange(4.0), values, ("a", "b")).draw([[1, 0]])
        tensor([2.])
    """
    values = torch.as_tensor(values)
    if values.dim() != 2 or len(values) != len(rows) or values.shape[1] != len(names):
        raise ValueError(
            f"Factor values have shape (rows, factors): ({len(rows)}, {len(names)}) is expected, "
            f"found {tuple(values.shape)}."
        )
    each = [torch.unique(column, return_inverse=True) for column in values.unbind(1)]
    sizes = tuple(len(known) for known, _ in each)
    flat = np.ravel_multi_index([codes.numpy() for _, codes in each], sizes)
    order = np.argsort(flat, kind="stable")
    if not np.array_equal(flat[order], np.arange(math.prod(sizes))):
        raise ValueError(
            f"The factors have {' × '.join(map(str, sizes))} = {math.prod(sizes):,} combinations, "
            f"each of which must be one row; there are {len(rows):,} rows, "
            f"{len(np.unique(flat)):,} of them different. Use the metrics on arrays, which take "
            f"any rows."
        )
    place = torch.from_numpy(order)

    def make(wanted: Tensor) -> Tensor:
        return rows[place[torch.from_numpy(np.ravel_multi_index(wanted.T.numpy(), sizes))]]

    return Factors(tuple(names), sizes, tuple(rows.shape[1:]), make, frozenset(unordered))
