"""Schedules: a number as a function of progress, for KL weights and learning rates alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deeplvm.core.model import LatentVariableModel
from deeplvm.devices import dtype_of
from deeplvm.registry import Count, Fraction, Positive

NEAR = 0.01  # a KL weight so near its last value, relative to it, has arrived


@dataclass(frozen=True)
class Schedule:
    """A number that depends on nothing but progress, so that a resumed run meets it again exactly.

    As ``kl_weight`` of :func:`~deeplvm.training.fit` it is the weight itself; as ``schedule`` it
    is a factor on the learning rate of every group of every optimiser. Both are read before each
    step.

    Attributes:
        text: How it was written, ``linear(epochs=10, start=0, end=1)``.
        value: Progress in epochs (1.5 is the middle of the second) to the number.
        end: What it comes to; none where it goes on to change.

    >>> weight = linear(10)
    >>> weight
    linear(epochs=10, start=0.0, end=1.0)
    >>> weight(0.0), weight(5.0), weight(20.0)
    (0.0, 0.5, 1.0)
    """

    text: str
    value: Callable[[float], float] = field(repr=False, compare=False)
    end: float | None = field(default=None, repr=False, compare=False)

    def __call__(self, epoch: float) -> float:
        """The number at a progress of ``epoch`` epochs."""
        return float(self.value(epoch))

    def __repr__(self) -> str:
        return self.text


def constant(weight: float = 1.0) -> Schedule:
    """The same number always."""
    return Schedule(f"constant({weight})", lambda _: weight, weight)


def linear(epochs: Positive, start: float = 0.0, end: float = 1.0) -> Schedule:
    """From ``start`` to ``end`` in so many epochs, then ``end``: KL annealing, or warm-up.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282
    """
    _positive("linear", epochs=epochs)

    def value(epoch: float) -> float:
        return end if epoch >= epochs else start + (end - start) * epoch / epochs

    return Schedule(f"linear(epochs={epochs}, start={start}, end={end})", value, end)


def logistic(midpoint: float, steepness: Positive = 1.0, end: float = 1.0) -> Schedule:
    r"""``end`` times :math:`1 / (1 + e^{-s (t - m)})`.

    Generating Sentences from a Continuous Space (Bowman et al., 2016),
    https://arxiv.org/abs/1511.06349

    Args:
        midpoint: The epoch at which half is reached.
        steepness: Per epoch; 5/steepness epochs after the midpoint it is 0.993.
        end: What it tends to.
    """
    _positive("logistic", steepness=steepness)

    def value(epoch: float) -> float:
        # tanh does not overflow however far the midpoint is
        return end * 0.5 * (1.0 + math.tanh(0.5 * steepness * (epoch - midpoint)))

    text = f"logistic(midpoint={midpoint}, steepness={steepness}, end={end})"
    return Schedule(text, value, end)


def cyclical(period: Positive, ramp: Fraction = 0.5, end: float = 1.0) -> Schedule:
    """0 to ``end`` over the first ``ramp`` of every period, ``end`` over the rest of it.

    Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145
    """
    _positive("cyclical", period=period)
    if not 0.0 < ramp <= 1.0:
        raise ValueError(
            f"cyclical: ramp is the part of a period that rises, in (0, 1], not {ramp}."
        )

    def value(epoch: float) -> float:
        return end * min(1.0, math.fmod(epoch, period) / period / ramp)

    return Schedule(f"cyclical(period={period}, ramp={ramp}, end={end})", value, end)


def cosine(epochs: Positive, end: float = 0.0) -> Schedule:
    """Half a cosine from 1 to ``end`` in so many epochs, then ``end``.

    SGDR (Loshchilov & Hutter, 2017), https://arxiv.org/abs/1608.03983, without its restarts.
    """
    _positive("cosine", epochs=epochs)

    def value(epoch: float) -> float:
        done = min(1.0, epoch / epochs)
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * done))

    return Schedule(f"cosine(epochs={epochs}, end={end})", value, end)


def exponential(epochs: Positive, end: Positive = 0.01) -> Schedule:
    """Geometric decay that passes ``end`` after so many epochs, and goes on."""
    _positive("exponential", epochs=epochs, end=end)
    return Schedule(
        f"exponential(epochs={epochs}, end={end})", lambda epoch: end ** (epoch / epochs)
    )


def tripling(stages: Count = 8) -> Schedule:
    r"""Stage i lasts :math:`3^i` passes over the data at :math:`10^{-i/7}` of the learning rate.

    With a learning rate of 1e-3 and 8 stages (3,280 passes) this is the schedule of Importance
    Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519. The last stage
    goes on for as long as training does.

    >>> [round(tripling()(epoch), 3) for epoch in (0, 1, 3.9, 4, 13)]
    [1.0, 0.72, 0.72, 0.518, 0.373]
    """
    _positive("tripling", stages=stages)

    def value(epoch: float) -> float:
        stage, end = 0, 1
        while epoch >= end and stage < stages - 1:
            stage += 1
            end += 3**stage
        return 10.0 ** (-stage / 7)

    return Schedule(f"tripling(stages={stages})", value)


def warm_up(epochs: Positive, then: Schedule | None = None) -> Schedule:
    """A linear rise from 0 over so many epochs, times another schedule."""
    _positive("warm_up", epochs=epochs)
    after = then or constant()
    text = f"warm_up({epochs})" if then is None else f"warm_up({epochs}, {then})"
    return Schedule(text, lambda epoch: min(1.0, epoch / epochs) * after(epoch), after.end)


# What a learning rate may do, by name, given the number of epochs of the run.
BY_NAME: dict[str, Callable[[int], Schedule]] = {
    "constant": lambda _: constant(),
    "cosine": cosine,
    "exponential": exponential,
    "tripling": lambda _: tripling(),
}


def _positive(name: str, **numbers: float) -> None:
    for argument, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name}: {argument} must be positive, not {number}.")


class KLWeight:
    """The weight of the latents' terms: a plain number where it never changes, else a tensor.

    The tensor is filled before each step, so that a compiled step need not be compiled again.
    """

    def __init__(
        self,
        weight: float | Callable[[float], float],
        model: LatentVariableModel,
        device: torch.device,
    ) -> None:
        self.schedule = weight if callable(weight) else None
        self.value: Tensor | float
        if self.schedule is None:
            self.value = _not_negative(float(weight))  # type: ignore[arg-type]
            self.text = repr(self.value)
        else:
            self.value = torch.ones((), dtype=dtype_of(model), device=device)
            self.text = repr(weight) if isinstance(weight, Schedule) else "a function"

    def at(self, epoch: float) -> None:
        """Set it for a step at this progress."""
        if self.schedule is not None:
            number = _not_negative(self.schedule(epoch))
            self.value.fill_(number)  # type: ignore[union-attr]

    def arrived(self, epochs: int, per_epoch: int) -> tuple[float, str]:
        """The weight that it comes to, and why a run of so many epochs never has it, if so.

        Of a function nothing but its values is known: it has arrived where its last epoch no
        longer changes it.
        """
        if self.schedule is None:
            return float(self.value), ""
        last = self.schedule(epochs - 1 / per_epoch)
        end = getattr(self.schedule, "end", None)
        before = self.schedule(epochs - 1) if end is None else end
        if abs(last - before) <= NEAR * abs(before):
            return (last if end is None else end), ""
        comes_to = "is still changing" if end is None else f"has not come to {end:g}"
        return last, f"kl_weight={self.text} {comes_to} after {epochs} epochs"


def _not_negative(number: float) -> float:
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"kl_weight must be a number of at least 0, not {number}.")
    return float(number)


RateSchedule = str | Schedule | Callable[[Optimizer], LRScheduler]


class Rates:
    """The learning rates of some optimisers.

    Args:
        schedules: Of each optimiser: a name, a function of progress, a function of an optimiser
            that returns a torch scheduler, or none.
        optimizers: All that it governs.
        base: The rate of each group of each optimiser, of which a schedule is a factor.
        epochs: Of the run, for schedules given by name.

    Raises:
        ValueError: If the name is unknown.
    """

    def __init__(
        self,
        schedules: Sequence[RateSchedule | None],
        optimizers: Sequence[Optimizer],
        base: Sequence[Sequence[float]],
        epochs: int,
    ) -> None:
        self.factors: list[tuple[Schedule, bool, Optimizer, Sequence[float]]] = []
        self.schedulers: list[LRScheduler] = []
        for schedule, optimizer, rates in zip(schedules, optimizers, base, strict=True):
            over_the_run = schedule in ("cosine", "exponential")
            if isinstance(schedule, str):
                if schedule not in BY_NAME:
                    raise ValueError(
                        f"schedule is one of {', '.join(BY_NAME)}, a schedule of "
                        f"deeplvm.training.schedules, or a function of the optimiser; not "
                        f"{schedule!r}."
                    )
                schedule = BY_NAME[schedule](epochs)
            if isinstance(schedule, Schedule):
                self.factors.append((schedule, over_the_run, optimizer, rates))
            elif schedule is not None:
                self.schedulers.append(schedule(optimizer))

    def at(self, epoch: float, by_clock: float = 0.0) -> None:
        """Set the rates for a step at this progress, in epochs, by their number and by time."""
        for schedule, over_the_run, optimizer, rates in self.factors:
            factor = schedule(max(epoch, by_clock) if over_the_run else epoch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def after_epoch(self, bound: float | None) -> None:
        """Let torch's schedulers step; the one that waits for a plateau looks at the bound.

        Higher is better. Where there is none to compare with others, it waits.
        """
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                if bound is not None:
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
        without: Parameters that are taken as they are.
    """

    def __init__(
        self, model: nn.Module, decay: float, without: Sequence[nn.Parameter] = ()
    ) -> None:
        kept = {*without}
        self.parameters: list[Tensor] = [
            p for p in model.parameters() if p.requires_grad and p not in kept
        ]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        if self.parameters:
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
