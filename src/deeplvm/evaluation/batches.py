"""Rows of a data set, batch by batch, as a model that is being evaluated reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deeplvm.evaluation.likelihood.streams import generator_of
from deeplvm.model import LatentVariableModel

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split


@dataclass(frozen=True, eq=False)
class Batches:
    """The rows of one split, restricted to the names that the model has.

    Attributes:
        data: Data, or named tensors whose first dimension is the rows.
        split: Which split of Data.
        names: The names that are given to the model.
        missing: Those with missing elements (NaN).
        rows: How many rows there are.
        data_rows: How many rows the names shared by all rows belong to: those of the training
            split, where there is one.
        device: Where the model is.
        dtype: The model's floating type.
    """

    data: Data | Mapping[str, Tensor]
    split: Split
    names: tuple[str, ...]
    missing: frozenset[str]
    rows: int
    data_rows: int
    device: torch.device
    dtype: torch.dtype

    def __getitem__(self, index: slice) -> dict[str, Tensor]:
        """Some rows, on the model's device, reals in its floating type."""
        if isinstance(self.data, Mapping):
            taken = {name: self.data[name][index] for name in self.names}
        else:
            batch = self.data.batch(self.split, index)
            taken = {name: batch[name] for name in self.names}
        return {name: self._ready(value) for name, value in taken.items()}

    def each(self, size: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The first row's number and the values of each batch, in order."""
        for start in range(0, self.rows, size):
            yield start, self[slice(start, start + size)]

    def _ready(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # labels are int64 and stay so; bytes and short integers are pixels and counts at rest
        whole = value.dtype == torch.int64 or value.is_complex()
        return value.to(self.device) if whole else value.to(self.device, self.dtype)


def batches_of(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    split: Split = "test",
    omit: Collection[str] = (),
) -> Batches:
    """What of the data the model reads.

    Args:
        model: Its names are taken, the others left.
        data: Data, or named tensors of shape ``(rows, *event)``.
        split: Which split of Data.
        omit: Names that are to be drawn although the data have them.

    Raises:
        ValueError: If nothing that the model knows is in the data, or the split has no rows.
    """
    tensors = data if isinstance(data, Mapping) else getattr(data, split)
    names = tuple([name for name in tensors if name in model.names and name not in omit])
    if not names:
        raise ValueError(
            f"The data have {', '.join(tensors) or 'nothing'}, of which the model reads none; its "
            f"names are {', '.join(sorted(model.names))}: call one of them as the data do."
        )
    rows = len(tensors[names[0]])
    if rows == 0:
        raise ValueError(f"There are no rows to evaluate: {split!r} is empty; name another split.")
    if isinstance(data, Mapping):
        holes = frozenset([name for name in names if _has_nan(data[name])])
        data_rows = rows
    else:
        holes = frozenset(data.missing) & frozenset(names)
        data_rows = data.rows("train") or rows
    like = next(
        (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()),
        torch.zeros(()),
    )
    return Batches(data, split, names, holes, rows, data_rows, like.device, like.dtype)


@contextmanager
def evaluating(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients and a seed inside; modes and random state as before, after."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    generators = [generator_of(device) for device in devices | {torch.device("cpu")}]
    states = [generator.get_state() for generator in generators]
    model.eval()
    try:
        with torch.inference_mode():
            for generator in generators:
                generator.manual_seed(seed)
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for module, training in modes:
            module.training = training


def _has_nan(value: Any) -> bool:
    return (
        isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any())
    )
