"""Whether a step is compiled: by hand, or whichever the first steps show to be faster."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deeplvm.training.measure import own_randomness
from deeplvm.training.metering import flops_of
from deeplvm.training.phases import Step
from deeplvm.training.together import Part

Compile = bool | Literal["auto"]

_FEWEST = 1000  # steps left below which compiling is not even considered
_WORTH = 5  # training must take so many times the budget
_GAIN = 0.98  # a compiled step takes at most this part of the other's time, or is not worth it


@dataclass(frozen=True)
class Choice:
    """Whether steps are compiled.

    Attributes:
        compiled: Whether they are.
        reason: Why, in words; empty where there is nothing to say.
        by_clock: Whether a clock decided, so that the same run may have it otherwise next time.
        flops: Of the matrix products of one row; counted where a compiled step would hide them.
    """

    compiled: bool
    reason: str = ""
    by_clock: bool = False
    flops: float | None = None


def choose(
    steps: Sequence[Step],
    batch: dict[str, Any],
    part: Part,
    kl_weight: Tensor | float,
    *,
    wanted: Compile,
    left: int,
    budget: float,
    say: Callable[[str], None],
) -> Choice:
    """Compile the steps, or not; they are ready for the first batch afterwards.

    Nothing of the run changes: parameters do not move, random states and buffers are put back.

    Args:
        steps: Those of one batch, in order.
        batch: A full batch.
        part: The same rows.
        kl_weight: As the steps get it.
        wanted: ``True``, ``False``, or ``"auto"``: where training would take more than five times
            the budget, both forms are timed and the faster is taken.
        left: Batches still to come.
        budget: Seconds that compiling may take before ``"auto"`` gives it up.
        say: Told before a long wait.

    Raises:
        ValueError: If compiling was asked for and is not possible here.
    """
    if wanted is False or (wanted == "auto" and left < _FEWEST):
        return Choice(compiled=False)
    model, device = steps[0].model, steps[0].parameters[0].device
    try:
        with own_randomness(device, 0), unchanged(model, steps):
            return _tried(steps, batch, part, kl_weight, wanted, left, budget, say)
    except ValueError:
        if wanted is True:
            raise
        return Choice(compiled=False)  # the batch itself is at fault, and the first step says why


def _tried(
    steps: Sequence[Step],
    batch: dict[str, Any],
    part: Part,
    kl_weight: Tensor | float,
    wanted: Compile,
    left: int,
    budget: float,
    say: Callable[[str], None],
) -> Choice:
    eager = 0.0
    if wanted == "auto":
        eager = _seconds(steps, batch, part, kl_weight)
        if eager * left < _WORTH * budget:
            return Choice(compiled=False, by_clock=True)
        say(f"compiling the step (at most {budget:.0f} s; --compile no leaves it out)")
    flops = flops_of(lambda: _once(steps, batch, part, kl_weight)) / len(part.index)
    for step in steps:
        step.compile()
    began = time.perf_counter()
    try:
        with _at_most(budget if wanted == "auto" else None):
            _once(steps, batch, part, kl_weight)
    except _OverBudget:
        return _undone(steps, f"not compiled: it takes more than the {budget:.0f} s allowed")
    except (RuntimeError, OSError, ImportError) as error:  # what torch's compilers raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        cause = lines[0] if lines else type(error).__name__
        if wanted is True:
            _undone(steps, "")
            raise ValueError(
                f"The step cannot be compiled here ({cause}); leave out compile, or see what "
                "torch.compile needs (a C++ compiler on a CPU)."
            ) from error
        return _undone(steps, f"not compiled: torch.compile fails here ({cause})")
    took = time.perf_counter() - began
    if wanted is True:
        return Choice(compiled=True, reason=f"the step is compiled, in {took:.1f} s", flops=flops)
    compiled = _seconds(steps, batch, part, kl_weight)
    told = (
        f"{1e3 * compiled:.2f} ms compiled, {1e3 * eager:.2f} ms not; compiling took {took:.1f} s"
    )
    if compiled > _GAIN * eager:
        return _undone(steps, f"the step is not compiled, as that is not faster ({told})")
    return Choice(
        compiled=True, reason=f"the step is compiled ({told})", by_clock=True, flops=flops
    )


def _undone(steps: Sequence[Step], reason: str) -> Choice:
    for step in steps:
        step.compiled = None
    torch.compiler.reset()
    return Choice(compiled=False, reason=reason, by_clock=True)


def _once(
    steps: Sequence[Step], batch: dict[str, Any], part: Part, kl_weight: Tensor | float
) -> None:
    for step in steps:
        step.gradient(batch, part, kl_weight)
    if steps[0].parameters[0].device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(
    steps: Sequence[Step], batch: dict[str, Any], part: Part, kl_weight: Tensor | float
) -> float:
    """Of value and gradient, the least of a few; the optimiser costs the same either way."""
    _once(steps, batch, part, kl_weight)
    times: list[float] = []
    while len(times) < 10 and sum(times) < 0.5:
        began = time.perf_counter()
        _once(steps, batch, part, kl_weight)
        times.append(time.perf_counter() - began)
    return min(times)


@contextmanager
def unchanged(model: nn.Module, steps: Sequence[Step]) -> Iterator[None]:
    """What steps try inside leaves buffers (running statistics) as before, and no gradient."""
    modules = [model, *[module for step in steps for module in step.beside]]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for step in steps:
            for parameter in step.parameters:
                parameter.grad = None


class _OverBudget(BaseException):
    """Not an Exception: whatever is compiling must let it pass."""


@contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Give up after so many seconds, where a timer can interrupt: the main thread, not Windows."""
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        raise _OverBudget

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
