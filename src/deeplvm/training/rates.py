"""Learning rates by schedule, and the average of the parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deeplvm.training.schedules import BY_NAME, Schedule

RateSchedule = str | Schedule | Callable[[Optimizer], LRScheduler]


class Rates:
    """The learning rates of some optimisers.

    Args:
        schedule: A name, a function of progress, a function of an optimiser that returns a torch
            scheduler, or none.
        optimizers: All that it governs.
        base: The rate of each group of each optimiser, of which a schedule is a factor.
        epochs: Of the run, for schedules given by name.

    Raises:
        ValueError: If the name is unknown.
    """

    def __init__(
        self,
        schedule: RateSchedule | None,
        optimizers: Sequence[Optimizer],
        base: Sequence[Sequence[float]],
        epochs: int,
    ) -> None:
        if isinstance(schedule, str):
            if schedule not in BY_NAME:
                raise ValueError(
                    f"schedule is one of {', '.join(BY_NAME)}, a schedule of "
                    f"deeplvm.training.schedules, or a function of the optimiser; not "
                    f"{schedule!r}."
                )
            schedule = BY_NAME[schedule](epochs)
        self.factor = schedule if isinstance(schedule, Schedule) else None
        self.optimizers = optimizers
        self.base = base
        self.schedulers: list[LRScheduler] = []
        if schedule is not None and not isinstance(schedule, Schedule):
            self.schedulers = [schedule(optimizer) for optimizer in optimizers]

    def at(self, epoch: float) -> None:
        """Set the rates for a step at this progress."""
        if self.factor is None:
            return
        factor = self.factor(epoch)
        for optimizer, rates in zip(self.optimizers, self.base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def after_epoch(self, bound: float) -> None:
        """Let torch's schedulers step; the one that waits for a plateau looks at the bound."""
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(-bound)  # its default is to lower something
                continue
            with warnings.catch_warnings():
                # the optimiser of a phase that waits has not moved yet, and its rate goes along
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                scheduler.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What torch's schedulers remember; ours remember nothing."""
        return [scheduler.state_dict() for scheduler in self.schedulers]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """The inverse of :meth:`state_dict`."""
        for scheduler, kept in zip(self.schedulers, state, strict=True):
            scheduler.load_state_dict(kept)


class Average:
    r"""Moving average of parameters, :math:`\bar\theta \leftarrow d\bar\theta + (1-d)\theta`.

    Acceleration of Stochastic Approximation by Averaging (Polyak & Juditsky, 1992),
    https://doi.org/10.1137/0330046, in its exponential form.

    Args:
        model: Its parameters are averaged; its buffers are taken as they are.
        decay: :math:`d`, reached slowly: at step t it is at most :math:`(1 + t)/(10 + t)`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with its averaged parameters, for a while."""
        kept = [p.detach().clone() for p in self.parameters]
        _copy(self.averages, self.parameters)
        try:
            yield
        finally:
            _copy(kept, self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """Averages and number of steps."""
        return {"averages": self.averages, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        _copy(state["averages"], self.averages)
        self.steps = state["steps"]


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for value, place in zip(source, target, strict=True):
        place.copy_(value)
