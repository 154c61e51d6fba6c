"""Rows that are sequences: their steps one after another, padded only in the batches read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

LENGTH = "n"  # the name of the lengths, of shape (rows,), which all sequences of a row share
INPUTS = "u"  # the name of what is known of every step, and given to a model


@dataclass(frozen=True, eq=False)
class RaggedColumn:
    """One name's values, of which a row is a sequence: a :class:`~deeplvm.data.records.Column`.

    It takes the memory of its steps. An index of rows gives them padded with zeros to the longest
    of them, ``(rows, longest, *event)``.

    >>> column = RaggedColumn(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 3]))
    >>> column[:].tolist(), column[:1].tolist(), column.shape
    ([[1.0, 0.0], [2.0, 3.0]], [[1.0]], torch.Size([2, 2]))

    Attributes:
        values: All steps, a column of shape ``(steps, *event)``.
        offsets: The step at which each row begins, and the number of steps, shape ``(rows + 1,)``.
    """

    values: Any
    offsets: Tensor

    @classmethod
    def of(cls, values: Any, lengths: Any) -> Self:
        """Of all steps, and the number of steps of each row."""
        return cls(values, _offsets(torch.as_tensor(lengths)))

    @property
    def lengths(self) -> Tensor:
        """How many steps each row has, shape ``(rows,)``."""
        return self.offsets.diff()

    @property
    def shape(self) -> torch.Size:
        """``(rows, longest, *event)``."""
        longest = int(self.lengths.max()) if len(self) else 0
        return torch.Size((len(self), longest, *self.values.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the values rest."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes as the steps rest."""
        return self.values.nbytes + self.offsets.nbytes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any, /) -> Tensor:
        starts, inside = self._places(index)
        steps = (starts[:, None] + torch.arange(inside.shape[1]))[inside]
        taken = _taken(self.values, steps)
        found = taken.new_zeros((inside.numel(), *taken.shape[1:]))
        places = inside.flatten().nonzero().squeeze(-1)
        found.index_copy_(0, places.to(taken.device), taken)
        return found.reshape(*inside.shape, *taken.shape[1:])

    def inside(self, index: Any) -> Tensor:
        """Which steps of some rows, padded, are theirs, shape ``(rows, longest)``."""
        return self._places(index)[1]

    def cut(self, padded: Tensor, index: Any) -> Tensor:
        """Padded values of some rows, zeros beyond the end of each."""
        outside = ~self.inside(index).to(padded.device)
        return padded.masked_fill(outside.reshape(*outside.shape, *[1] * (padded.dim() - 2)), 0)

    def at(self, index: Any) -> Self:
        """Some of the rows, by a slice or their numbers; their steps in memory."""
        starts, inside = self._places(index)
        steps = (starts[:, None] + torch.arange(inside.shape[1]))[inside]
        return self.of(_taken(self.values, steps), inside.sum(1))

    def to(self, device: Any) -> Self:
        """The same rows on another device; where they begin stays on the CPU."""
        return replace(self, values=self.values.to(device))

    def _places(self, index: Any) -> tuple[Tensor, Tensor]:
        """The first step of some rows, and which of the padded ones are theirs."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index).cpu()
        starts, lengths = self.offsets[:-1][index], self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        return starts, torch.arange(longest) < lengths[:, None]


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int64)


def _taken(values: Any, steps: Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.index_select(0, steps.to(values.device))
    return values[steps]


def stored(column: Any) -> Any:
    """What a column stores: of sequences their steps, without any padding."""
    return column.values if isinstance(column, RaggedColumn) else column
