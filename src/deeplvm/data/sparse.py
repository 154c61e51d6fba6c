"""Rows of which most elements are zero, dense only in the batches that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseColumn:
    """One name's values, a sparse matrix in memory: a :class:`~deeplvm.data.records.Column`.

    >>> from scipy import sparse
    >>> column = SparseColumn(sparse.csr_array([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]))
    >>> column.shape, column[1:].tolist(), column[torch.tensor([0, 0])].shape
    (torch.Size([3, 2]), [[1.0, 0.0], [0.0, 0.0]], torch.Size([2, 2]))

    Attributes:
        matrix: Compressed rows.
        device: Where batches go.
    """

    matrix: Any
    device: Any = "cpu"

    @property
    def shape(self) -> torch.Size:
        """``(rows, columns)``."""
        return torch.Size(self.matrix.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the values rest."""
        return torch.from_numpy(np.empty(0, self.matrix.dtype)).dtype

    @property
    def nbytes(self) -> int:
        """Bytes as the rows rest."""
        parts = (self.matrix.data, self.matrix.indices, self.matrix.indptr)
        return sum([part.nbytes for part in parts])

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        places = index.cpu().numpy() if isinstance(index, Tensor) else index
        return torch.from_numpy(self.matrix[places].toarray()).to(self.device)

    def to(self, device: Any) -> Self:
        """The same values, for batches on another device."""
        return type(self)(self.matrix, device)


def is_sparse(values: Any) -> bool:
    """Whether these are a sparse matrix or array of scipy."""
    return hasattr(values, "tocsr") and hasattr(values, "nnz")


def compressed(values: Any) -> Any:
    """A matrix as compressed rows, each element that is not zero stored once, in order.

    Raises:
        ValueError: If it is damaged: a place is beyond its shape.
    """
    from scipy import sparse

    rows = sparse.csr_array(values, copy=True)  # what is the user's stays as it is
    rows.check_format(full_check=True)
    rows.sum_duplicates()
    return rows


def vertically(parts: Sequence[Any]) -> Any:
    """Compressed rows of several matrices, one below another."""
    from scipy import sparse

    return sparse.vstack(parts, format="csr")


def blocks(matrix: Any, stored: int) -> Iterator[Any]:
    """All rows of a matrix of compressed rows, with about so many stored elements at a time."""
    rows = matrix.shape[0]
    step = max(1, round(stored * rows / max(1, matrix.nnz)))
    for start in range(0, rows, step):
        yield matrix[start : start + step]
