"""Compiled steps: a whole step as one graph, and whether compiling pays."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, Adamax, AdamW

from deeplvm.parallel.steps import Part
from deeplvm.randomness import own_randomness
from deeplvm.training.callbacks import flops_of

if TYPE_CHECKING:
    from deeplvm.training.step import Step

_SECOND: dict[type, str] = {Adam: "exp_avg_sq", AdamW: "exp_avg_sq", Adamax: "exp_inf"}


class Graph:
    """The ascent of one batch in a single call of compiled code, which Python does not wake.

    Parameters and the optimiser's state are changed in place, so whatever else reads them (a
    checkpoint, an odd last batch that is computed uncompiled) sees the step.

    Args:
        step: A step that :meth:`suits`.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        whole = _Whole(step)
        known = {parameter: name for name, parameter in whole.named_parameters()}
        self.values = {known[p]: p.detach() for p in step.parameters}
        self.kind = type(step.optimizer)
        self.groups = [
            (known[p], index, (*group["betas"], group["eps"], group["weight_decay"]))
            for index, group in enumerate(step.optimizer.param_groups)
            for p in group["params"]
        ]
        like = step.parameters[0]
        self.rates = [like.new_zeros(()) for _ in step.optimizer.param_groups]
        self.whole = whole
        self.compiled = torch.compile(
            self._ascend, fullgraph=True, dynamic=False, options={"cpp_wrapper": True}
        )

    @staticmethod
    def suits(step: Step) -> bool:
        """Whether it is one: on a CPU, one process, Adam, AdamW or Adamax in their usual form."""
        plain = type(step.optimizer) in _SECOND and not any(
            [g.get("amsgrad") or g.get("maximize") for g in step.optimizer.param_groups]
        )
        # running statistics would change inside a function that is differentiated
        plain = plain and not any([isinstance(m, _BatchNorm) for m in step.model.modules()])
        # parameters that no module here has cannot be handed over by name
        known = {p for each in (step.model, *step.beside) for p in each.parameters()}
        named = known.issuperset(step.parameters)
        return plain and named and step.device == "cpu" and step.together is None

    def __call__(self, batch: dict[str, Any], kl_weight: Tensor | float) -> tuple[float, bool]:
        """The mean objective, and whether the step was taken: it was finite and not skipped."""
        for rate, group in zip(self.rates, self.step.optimizer.param_groups, strict=True):
            rate.fill_(float(group["lr"]))
        moments, steps = self._state()
        value, taken = self.compiled(self.values, moments, self.rates, steps, batch, kl_weight)
        return value.item(), bool(taken)

    def _state(self) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """The optimiser's own tensors: two moments by parameter, and the numbers of steps."""
        optimizer, second = self.step.optimizer, _SECOND[self.kind]
        moments, steps = {}, []
        for (name, *_), parameter in zip(self.groups, self.step.parameters, strict=True):
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state[second] = torch.zeros_like(parameter)
            moments[name] = [state["exp_avg"], state[second]]
            steps.append(state["step"])
        return moments, steps

    def _ascend(
        self,
        values: Mapping[str, Tensor],
        moments: Mapping[str, Sequence[Tensor]],
        rates: Sequence[Tensor],
        steps: Sequence[Tensor],
        batch: dict[str, Any],
        kl_weight: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        step = self.step

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return -functional_call(self.whole, parameters, (batch, kl_weight))

        gradients, negative = grad_and_value(loss)(dict(values))
        taken = negative.isfinite()
        if step.clip is not None or step.skip is not None:
            squares = [gradients[name].square().sum() for name, *_ in self.groups]
            norm = torch.stack(squares).sum().sqrt()
            if step.skip is not None:
                taken = taken & (norm <= step.skip)
            if step.clip is not None:
                factor = (step.clip / (norm + 1e-6)).clamp(max=1.0)  # as torch's own clipping
                gradients = {name: factor * each for name, each in gradients.items()}
        count = steps[0].to(negative) + 1.0  # of this step, from 1
        for each in steps:
            each.add_(taken)
        for name, index, numbers in self.groups:
            old = [values[name], *moments[name]]
            new = _updated(self.kind, numbers, rates[index], count, gradients[name], old)
            for place, value in zip(old, new, strict=True):
                place.copy_(torch.where(taken, value, place))
        return -negative, taken


class _Whole(nn.Module):
    """A step's value as a function of all parameters: the model's, and those of what is beside."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.model, self.beside = step.model, nn.ModuleList(step.beside)
        self.step = step

    def forward(self, batch: dict[str, Any], kl_weight: Tensor | float) -> Tensor:
        return self.step.mean(batch, kl_weight)[0]


def _updated(
    kind: type,
    numbers: tuple[float, float, float, float],
    rate: Tensor,
    count: Tensor,
    gradient: Tensor,
    old: Sequence[Tensor],
) -> list[Tensor]:
    r"""Parameter and moments after a step.

    Adam (Kingma & Ba, 2015), https://arxiv.org/abs/1412.6980, with Adamax in its section 7.1;
    AdamW: Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019),
    https://arxiv.org/abs/1711.05101
    """
    value, first, second = old
    b1, b2, eps, decay = numbers
    if kind is AdamW:
        value = value * (1.0 - rate * decay)
    elif decay:
        gradient = gradient + decay * value
    first = torch.lerp(first, gradient, 1.0 - b1)
    rate = rate / (1.0 - b1**count)
    if kind is Adamax:
        second = torch.maximum(b2 * second, gradient.abs() + eps)
        return [value - rate * first / second, first, second]
    second = b2 * second + (1.0 - b2) * gradient.square()
    scale = (second / (1.0 - b2**count)).sqrt() + eps
    return [value - rate * first / scale, first, second]


Compile = bool | Literal["auto"]
_FEWEST = 1000  # steps left below which compiling is not even considered
_WORTH = 5  # training must take so many times the budget
_GAIN = 0.98  # a compiled step takes at most this part of the other's time, or is not worth it


@dataclass(frozen=True)
class Compilation:
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
    seconds: float = math.inf,
    varies: bool = False,
    say: Callable[[str], None],
) -> Compilation:
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
        seconds: That training may still take.
        budget: Seconds that compiling may take before ``"auto"`` gives it up.
        varies: Whether batches differ in shape, each of which would be compiled by itself.
        say: Told before a long wait.

    Raises:
        ValueError: If compiling was asked for and is not possible here.
    """
    if wanted is False or (wanted == "auto" and left < _FEWEST):
        return Compilation(compiled=False)
    if varies:
        why = "rows are sequences of different lengths, each of which would be compiled by itself"
        if wanted is True:
            raise ValueError(f"The step cannot be compiled: {why}; leave out compile.")
        return Compilation(compiled=False, reason=f"not compiled: {why}")
    device = steps[0].parameters[0].device

    def once() -> None:
        for step in steps:
            if step.together is None:
                step(batch, part, kl_weight)
            else:  # without the others
                step.gradient(batch, part, kl_weight)
        if device.type == "cuda":
            torch.cuda.synchronize()

    try:
        with own_randomness(device, 0), unchanged(steps):
            eager = 0.0
            if wanted == "auto":
                eager = _seconds(once)
                if min(eager * left, seconds) < _WORTH * budget:
                    return Compilation(compiled=False, by_clock=True)
                say(f"compiling the step (at most {budget:.0f} s; --compile no leaves it out)")
            return _tried(steps, once, len(part.index), eager, budget)
    except ValueError:
        if wanted is True:
            raise
        return Compilation(compiled=False)  # the batch is at fault, and the first step says why


def _tried(
    steps: Sequence[Step], once: Callable[[], None], rows: int, eager: float, budget: float
) -> Compilation:
    """Compile the steps; keep that where they are faster than eager, if that was timed."""

    def undone(reason: str) -> Compilation:
        for step in steps:
            step.compiled = step.graph = None
        torch.compiler.reset()
        return Compilation(compiled=False, reason=reason, by_clock=True)

    flops = flops_of(once) / rows
    if any([step.together is not None and step.together.statistics for step in steps]):
        if not eager:
            raise ValueError(
                "Several processes tell each other statistics of each batch, which this objective "
                "or estimator reads, so the step cannot be compiled; leave out compile."
            )
        return undone("not compiled: several processes tell each other statistics of each batch")
    began = time.perf_counter()
    try:
        with _at_most(budget if eager else None):
            _compiled(steps, once)
    except _OverBudget:
        return undone(f"not compiled: it takes more than the {budget:.0f} s allowed")
    except (RuntimeError, OSError, ImportError) as error:  # what torch's compilers raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        cause = lines[0] if lines else type(error).__name__
        if not eager:
            undone("")
            raise ValueError(
                f"The step cannot be compiled here ({cause}); leave out compile, or see what "
                "torch.compile needs (a C++ compiler on a CPU)."
            ) from error
        return undone(f"not compiled: torch.compile fails here ({cause})")
    took = time.perf_counter() - began
    if not eager:
        reason = f"the step is compiled, in {took:.1f} s"
        return Compilation(compiled=True, reason=reason, flops=flops)
    compiled = _seconds(once)
    told = (
        f"{1e3 * compiled:.2f} ms compiled, {1e3 * eager:.2f} ms not; compiling took {took:.1f} s"
    )
    if compiled > _GAIN * eager:
        return undone(f"the step is not compiled, as that is not faster ({told})")
    return Compilation(
        compiled=True, reason=f"the step is compiled ({told})", by_clock=True, flops=flops
    )


def _compiled(steps: Sequence[Step], once: Callable[[], None]) -> None:
    """Compile the steps: with their optimisers in one graph, or where that fails without them."""
    try:
        for step in steps:
            step.compile(whole=True)
        once()
    except RuntimeError:
        if not any([step.graph is not None for step in steps]):
            raise
        for step in steps:
            step.compile()
        once()


def _seconds(once: Callable[[], None]) -> float:
    """Of a step, the least of a few."""
    once()
    times: list[float] = []
    while len(times) < 10 and sum(times) < 0.5:
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return min(times)


@contextmanager
def unchanged(steps: Sequence[Step]) -> Iterator[None]:
    """Parameters, optimisers and buffers (running statistics) are afterwards as before."""
    modules = [steps[0].model, *[module for step in steps for module in step.beside]]
    tensors = [tensor for each in modules for tensor in (*each.parameters(), *each.buffers())]
    tensors += [parameter for step in steps for parameter in step.parameters]
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    states = [(copy.deepcopy(step.optimizer.state_dict()), step.skipped) for step in steps]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        for step, (state, skipped) in zip(steps, states, strict=True):
            step.optimizer.load_state_dict(state)
            step.skipped = skipped
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
