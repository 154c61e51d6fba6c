"""Rows of which most elements are zero, dense only in the batches that are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

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
        """Of the batches."""
        return torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes as the rows rest."""
        parts = (self.matrix.data, self.matrix.indices, self.matrix.indptr)
        return sum([part.nbytes for part in parts])

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        places = index.cpu().numpy() if isinstance(index, Tensor) else index
        dense = torch.from_numpy(self.matrix[places].toarray())
        return dense.to(self.device, self.dtype)

    def to(self, device: Any) -> Self:
        """The same values, for batches on another device."""
        return type(self)(self.matrix, device)
