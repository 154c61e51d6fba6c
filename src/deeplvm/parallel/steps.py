"""Processes that train one model together: each has part of every batch, gradients are summed."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deeplvm.parallel.noise import SharedNoise
from deeplvm.parallel.processes import Processes
from deeplvm.parallel.statistics import sharing


@dataclass(frozen=True)
class Part:
    """This process's part of a batch.

    Attributes:
        index: Its rows, shape ``(rows,)``; never empty: where there are more processes than rows,
            one row stands in and counts nothing.
        start: The first of them among those of the batch.
        batch: Rows of the whole batch.
        share: The part of the batch's mean that is computed here.
    """

    index: Tensor
    start: int
    batch: int
    share: float


def whole(index: Tensor) -> Part:
    """A batch that one process has to itself."""
    return Part(index, 0, len(index), 1.0)


class Together:
    """What the processes of a run tell each other at every step.

    Args:
        world: The processes.

    Attributes:
        stop: Set where this process was asked to stop; after the next step it is set on all.
        statistics: Whether a step has asked for a statistic of the whole batch.
    """

    def __init__(self, world: Processes) -> None:
        self.world = world
        self.stop = False
        self.statistics = False

    def part(self, index: Tensor) -> Part:
        """This process's part of a batch."""
        total = len(index)
        if self.world.alone:
            return whole(index)
        mine = self.world.part(total)
        start, stop, _ = mine.indices(total)
        if start >= stop:
            return Part(index[:1], 0, total, 0.0)
        return Part(index[mine], start, total, (stop - start) / total)

    @contextmanager
    def noise(self, part: Part, particles: int | None = None) -> Iterator[None]:
        """Draws and statistics inside are those of one process, for these rows of the batch."""
        if self.world.alone:
            yield
            return
        noise = SharedNoise(len(part.index), part.batch, part.start, particles)
        with noise, sharing(self.world, part.share) as shared:
            yield
        self.statistics = self.statistics or shared.read

    def agreed(self, heard: signal.Signals | None) -> signal.Signals | None:
        """The signal that stops all, which perhaps not all have heard themselves."""
        if self.world.alone:
            return heard
        told = self.world.gather({"signal": torch.tensor([heard or 0])})["signal"]
        return signal.Signals(number) if (number := int(told.max())) else None

    def sum_gradients(self, parameters: Sequence[nn.Parameter], value: Tensor) -> Tensor:
        """Replace gradients by their sums over processes, in one message; the summed value.

        A parameter has a gradient afterwards if it had one in any process.
        """
        with torch.no_grad():
            parts = [
                torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1)
                for p in parameters
            ]
            told = [float(p.grad is not None) for p in parameters] + [float(self.stop)]
            parts += [value.reshape(1), value.new_tensor(told)]
            message = self.world.sum(torch.cat(parts))
            sizes = [p.numel() for p in parameters]
            *gradients, summed, flags = message.split([*sizes, 1, len(told)])
            *present, stop = flags.tolist()
            self.stop = stop > 0
            for parameter, gradient, there in zip(parameters, gradients, present, strict=True):
                parameter.grad = (
                    gradient.view_as(parameter).to(parameter.dtype, copy=True) if there else None
                )
        return summed[0]
