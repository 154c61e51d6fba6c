"""Batches: named tensors by row numbers, from tensors in memory or from a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from deeplvm.core.randomness import seed_of

Rows = Mapping[str, Any]
Split = Literal["train", "valid"]
# The part of a GPU's free memory that data may take; beyond it, batches are brought one by one.
_MOST_OF_THE_GPU = 0.4


class Source(Protocol):
    """What training needs of a data set: :class:`deeplvm.data.Data` is one."""

    @property
    def missing(self) -> frozenset[str]:
        """Names with NaN elements."""
        ...

    def rows(self, split: Split, /) -> int:
        """Number of rows of ``"train"`` or ``"valid"``."""
        ...

    def batch(
        self, split: Split, index: Tensor, /, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Named values of some rows; the generator draws what is renewed at every visit."""
        ...


class Ordered(Source, Protocol):
    """A source that says in which order its rows are best visited: one that streams from disk."""

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The row numbers of each training batch of an epoch, from batch number ``first`` on.

        A pure function of its arguments, so that a run goes on in the middle of an epoch.
        """
        ...


class Tensors:
    """Tensors in memory as a source.

    Args:
        train: Named tensors of the same number of rows.
        valid: The held-out rows, with the same names; none.
        missing: Names with NaN elements; by default they are looked at, once.

    Raises:
        ValueError: If there are no rows, or names disagree on their number.
    """

    def __init__(
        self, train: Rows, valid: Rows | None = None, missing: Iterable[str] | None = None
    ) -> None:
        self.splits = {"train": _tensors(train, "train"), "valid": _tensors(valid or {}, "valid")}
        if not self.splits["train"]:
            raise ValueError("There is nothing to learn from: give named tensors, {'x': tensor}.")
        if valid is not None and (absent := set(train) - set(valid)):
            raise ValueError(
                f"The held-out rows lack {', '.join(sorted(absent))}, which training has."
            )
        holes = [
            name
            for tensors in self.splits.values()
            for name, value in tensors.items()
            if value.is_floating_point() and bool(torch.isnan(value).any())
        ]
        self.missing = frozenset(holes if missing is None else missing)

    def rows(self, split: Split) -> int:
        """Number of rows; 0 for a split that is not there."""
        return len(next(iter(self.splits[split].values()), ()))

    def batch(
        self, split: Split, index: Tensor, generator: Generator | None = None
    ) -> dict[str, Tensor]:
        """The rows of an index, shape ``(batch,)``."""
        return {name: value.index_select(0, index) for name, value in self.splits[split].items()}

    def to(self, names: Iterable[str], device: torch.device, dtype: torch.dtype) -> Tensors:
        """The same rows where the model is, once and not per batch; only names that it knows."""
        moved = object.__new__(Tensors)
        moved.missing = self.missing
        moved.splits = {
            split: {name: place(tensors[name], device, dtype) for name in tensors if name in names}
            for split, tensors in self.splits.items()
        }
        return moved


class Batches:
    """Batches of a source as the model wants them: its names, its device, its precision.

    Names that the model does not know (labels of a plain VAE) are left out.

    Raises:
        ValueError: If the source has no rows, or no name that the model knows.
    """

    def __init__(
        self, source: Source, names: frozenset[str], device: torch.device, dtype: torch.dtype
    ) -> None:
        if source.rows("train") == 0:
            raise ValueError("The training data have no rows.")
        some = source.batch("train", torch.arange(1))
        self.names = tuple([name for name in some if name in names])
        if not self.names:
            raise ValueError(
                f"The data are called {', '.join(some)}, but the model knows only "
                f"{', '.join(sorted(names))}; rename the data or the model's names."
            )
        self.ready = isinstance(source, Tensors)
        self.place = torch.device("cpu")  # where row numbers are looked up
        self.source: Any = source
        if isinstance(source, Tensors):
            self.source, self.place = source.to(self.names, device, dtype), device
        elif device.type == "cuda" and _fits(source, device):
            self.source, self.place = source.to(device), device  # type: ignore[attr-defined]
        self.device, self.dtype = device, dtype
        self.missing = source.missing & names

    def rows(self, split: Split) -> int:
        """Number of rows of a split."""
        return self.source.rows(split)

    def order(self, epoch: int, seed: int, batch_size: int, first: int = 0) -> Iterator[Tensor]:
        """The row numbers of each training batch of an epoch, from batch number ``first`` on.

        The source's own order, or one permutation of all rows; either depends on the arguments
        alone.
        """
        if hasattr(self.source, "order"):
            return self.source.order(epoch, seed, batch_size, first)
        generator = Generator().manual_seed(seed_of(seed, epoch))
        permutation = torch.randperm(self.rows("train"), generator=generator)
        return iter(permutation.to(self.place).split(batch_size)[first:])

    def __call__(
        self, split: Split, index: Tensor, generator: Generator | None = None
    ) -> dict[str, Any]:
        """Values by name, shape ``(batch, *event)``."""
        if self.ready:
            return self.source.batch(split, index.to(self.device))
        batch = self.source.batch(split, index.to(self.place), generator)
        return {name: place(batch[name], self.device, self.dtype) for name in self.names}


def _fits(source: Source, device: torch.device) -> bool:
    """Whether a data set can lie on the GPU whole, as the bytes it rests in."""
    if hasattr(source, "order") or not (hasattr(source, "to") and hasattr(source, "nbytes")):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return source.nbytes <= _MOST_OF_THE_GPU * free


def place(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A value on the device, floating-point tensors in the model's precision."""
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype, non_blocking=True)


def _tensors(rows: Rows, split: str) -> dict[str, Tensor]:
    tensors = {}
    for name, value in rows.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, Tensor) or value.dim() == 0:
            raise ValueError(
                f"{name!r} of the {split} data must be a tensor whose first axis is the rows, not "
                f"{type(value).__name__}."
            )
        tensors[name] = value
    counts = {name: len(value) for name, value in tensors.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"The {split} data have different numbers of rows: {counts}.")
    return tensors
