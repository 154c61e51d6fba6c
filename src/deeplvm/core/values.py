"""Values of any kind: how many rows they have, some of these rows, and the tensors in them.

Most values are tensors whose first axis is the rows. Sparse tensors, tuples of values (a graph:
nodes and edges) and sequences with one entry a row go the same way. A conditional whose values are
something else says so by an attribute ``values``, an object of the form of :class:`Values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

# Values by name, tensors of shape (rows, *event) as a rule, NaN where an element is missing; a
# part of a data set, data.test[:100], is such a mapping.
NamedRows = Mapping[str, Any]


class Values(Protocol):
    """What is asked of values on their way to the conditional that owns them."""

    def count(self, value: Any, /) -> int:
        """Number of rows."""
        ...

    def take(self, value: Any, index: slice | Tensor, /) -> Any:
        """Some rows, by a slice or by their numbers."""
        ...

    def change(self, value: Any, of: Callable[[Tensor], Tensor], /) -> Any:
        """The same value with every tensor in it changed: moved to a device, say."""
        ...


class Stacked:
    """Tensors, dense or sparse, tuples of such values, and sequences with one entry a row."""

    def count(self, value: Any) -> int:
        """Number of rows.

        Raises:
            ValueError: If the parts of a tuple disagree on it.
        """
        if not isinstance(value, tuple):
            return len(value)
        counts = [self.count(part) for part in value]
        if len(set(counts)) != 1:
            raise ValueError(
                f"The parts of a tuple have {', '.join(map(str, counts))} rows; let the first "
                f"axis of each be the rows, or let the conditional that owns the name say by its "
                f"`values` what a row is."
            )
        return counts[0]

    def take(self, value: Any, index: slice | Tensor) -> Any:
        """Some rows, by a slice or by their numbers."""
        if isinstance(value, tuple):
            return _as(value, [self.take(part, index) for part in value])
        if isinstance(value, Tensor) and value.layout != torch.strided:
            rows = torch.arange(len(value), device=value.device)[index]
            taken = value.to_sparse_coo().index_select(0, rows)
            return taken.to_sparse(layout=value.layout)
        if isinstance(index, slice):
            return value[index]
        if isinstance(value, Tensor):
            return value.index_select(0, index)
        return [value[row] for row in index.tolist()]

    def change(self, value: Any, of: Callable[[Tensor], Tensor]) -> Any:
        """The same value with every tensor in it changed."""
        if isinstance(value, Tensor):
            return of(value)
        if isinstance(value, tuple | list):
            return _as(value, [self.change(part, of) for part in value])
        return value


def _as(like: Any, parts: list[Any]) -> Any:
    """Parts as the tuple (perhaps with names) or the list that they came from."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


STACKED = Stacked()


def has_nan(value: Any) -> bool:
    """Whether elements of a dense tensor are missing; other values are left to their owners."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return dense and value.is_floating_point() and bool(torch.isnan(value).any())
