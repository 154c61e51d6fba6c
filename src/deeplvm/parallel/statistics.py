"""Statistics of a batch that several processes share: those that one process would compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deeplvm.parallel.processes import Processes, processes


@dataclass
class Sharing:
    """A batch that several processes share.

    Attributes:
        world: The processes.
        share: The part of the batch's mean that is computed here.
        read: Whether a statistic of the whole batch was asked for.
    """

    world: Processes
    share: float
    read: bool = False


_SHARED: ContextVar[Sharing | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(world: Processes, share: float) -> Iterator[Sharing]:
    """Inside, a mean over rows is this process's ``share`` of the whole batch's mean."""
    shared = Sharing(world, share)
    before = _SHARED.set(shared)
    try:
        yield shared
    finally:
        _SHARED.reset(before)


def batch_mean(values: Tensor) -> Tensor:
    r"""The mean over the whole batch, :math:`\sum_p s_p m_p`, of means over each process's rows.

    For objectives that are no sum over rows: a term :math:`f(m)` of the batch's mean has the value
    and the gradient that one process gives it. The values themselves where there is one process.

    Args:
        values: A mean over the rows that are here, any shape; the same on all processes.
    """
    # a step that asks for one is not compiled where several processes share it
    if torch.compiler.is_compiling():
        return values
    shared = _SHARED.get()
    if shared is None:
        return values
    shared.read = True
    return values if processes().alone else _BatchMean.apply(values, shared.world, shared.share)


def refuse_parts(what: str, why: str) -> None:
    """Refuse what needs all rows of a batch at once, where each process has a part of them.

    Raises:
        ValueError: If several processes share this step's batch.
    """
    if not torch.compiler.is_compiling() and _SHARED.get() is not None:
        raise ValueError(
            f"{what} {why}, and each of several processes has only a part of a batch: train with "
            f"one process."
        )


def refuse_batch_norm(model: nn.Module) -> None:
    """Refuse networks that normalise by what each process sees of a batch.

    Raises:
        ValueError: If there is one.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            raise ValueError(
                f"{name} is a {type(module).__name__}, whose statistics are of the rows of a "
                f"batch, and each of several processes has only a part of them: use a LayerNorm "
                f"or GroupNorm, or train with one process."
            )


class _BatchMean(torch.autograd.Function):
    """A weighted sum over processes, there and back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, world: Processes, share: float) -> Tensor:
        ctx.world, ctx.share = world, share
        # a stand-in for a process without rows counts nothing, even if it is infinite
        return world.sum(values * share if share else torch.zeros_like(values))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        # every process holds its share of the objective that reads the mean
        return ctx.world.sum(grad_outputs[0]) * ctx.share, None, None
