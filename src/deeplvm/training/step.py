"""Phases: a training step is a list of objectives, the parameters they move, their optimisers."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, Adamax, AdamW, Optimizer

from deeplvm.core.draws import is_estimator
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.randomness import own_randomness
from deeplvm.gradients import Draw, Suited
from deeplvm.parallel.statistics import refuse_batch_norm
from deeplvm.parallel.steps import Part, Together
from deeplvm.training.callbacks import flops_of
from deeplvm.training.checkpoint import CheckpointError, restore

Objective = Callable[[Any], Tensor]
OptimizerChoice = (
    Literal["adam", "adamax", "adamw"]
    | type[Optimizer]
    | Callable[[list[nn.Parameter]], Optimizer]
)


@dataclass(frozen=True)
class Phase:
    """One part of a training step; what is ``None`` is as :func:`~deeplvm.training.fit` was told.

    The plain fit is a list of one. Two phases that move different parameters are wake and sleep, a
    model and its critic, E and M steps; each sees the parameters that the one before it left.

    Attributes:
        objective: Evidence to one number per row, shape ``(batch,)``; higher is better.
        parameters: Those of the model that it moves, ``lambda model: model.q.parameters()``; all.
        optimizer: Name, class, or function of the parameters.
        learning_rate: For an optimiser given by name or class.
        weight_decay: For an optimiser given by name or class.
        particles: Draws per row.
        draw: How latents are drawn.
        estimator: How those are drawn that it suits, where ``draw`` does not say.
        evidence: ``(model, batch) -> what the objective reads``, where it is not
            ``model.evidence(batch)``: a dream of the model for the sleep phase, a batch without
            its labels.
        repeats: Steps in a row on the same batch.
        when: Asked before the first batch of each epoch whether the phase is done in it; always.
            A module is saved in checkpoints, and may look at the model after each epoch (see
            :class:`~deeplvm.training.step.Companions`).
    """

    objective: Objective | None = None
    parameters: Callable[[LatentVariableModel], Iterable[nn.Parameter]] | None = None
    optimizer: OptimizerChoice | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    particles: int | None = None
    draw: Mapping[str, Draw] | None = None
    estimator: Draw | None = None
    evidence: Callable[[LatentVariableModel, dict[str, Any]], Any] | None = None
    repeats: int = 1
    when: Callable[[], bool] | None = None


def make_optimizer(
    choice: OptimizerChoice,
    parameters: list[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> Optimizer:
    """The optimiser of some parameters; a function of the parameters decides everything itself.

    Adam (Kingma & Ba, 2015), https://arxiv.org/abs/1412.6980; AdamW: Decoupled Weight Decay
    Regularization (Loshchilov & Hutter, 2019), https://arxiv.org/abs/1711.05101

    Raises:
        ValueError: If the name is none of adam, adamax, adamw.
    """
    options: dict[str, Any] = {"lr": learning_rate}
    if weight_decay or choice == "adamw":  # torch's AdamW has a weight decay of its own by default
        options["weight_decay"] = weight_decay
    if isinstance(choice, type):
        return choice(parameters, **options)
    if callable(choice):
        return choice(parameters)
    if choice == "adamax":
        return Adamax(parameters, **options)
    classes: dict[Any, type[Adam]] = {"adam": Adam, "adamw": AdamW}
    if choice not in classes:
        raise ValueError(
            f"optimizer is 'adam', 'adamax', 'adamw', a torch optimiser class, or a function of "
            f"the parameters; not {choice!r}."
        )
    # One kernel for all elements: on a CPU two to three times faster than a loop over operations.
    fused = all([p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters])
    return classes[choice](parameters, fused=fused, **options)


class Step:
    """A phase bound to a model: one call is one ascent of the mean objective of a batch.

    Args:
        model: The model.
        phase: With nothing left at ``None`` but parameters, particles, draw and evidence.
        rows: Rows of the training data, N.
        missing: Names with NaN elements.
        log_prior: Log-density of the parameters; counts 1/N per row.
        clip: Largest norm of the gradient; a longer one is shortened.
        skip: A gradient longer than this is not followed.
        batch_size: Rows of a full batch (of this process): the only ones that are computed by
            compiled code, as an odd last one would compile again.
        alone: Whether no other phase moves parameters, so that ``backward`` need not be told
            which.
        bfloat16: Whether matrix products and convolutions are computed in bfloat16; log-densities
            and sums are not.
        together: The processes that share each batch; none where there is one.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        phase: Phase,
        *,
        rows: int,
        missing: frozenset[str],
        log_prior: Callable[[LatentVariableModel], Tensor] | None,
        clip: float | None,
        skip: float | None,
        batch_size: int,
        alone: bool,
        bfloat16: bool = False,
        together: Together | None = None,
    ) -> None:
        chosen = model.parameters() if phase.parameters is None else phase.parameters(model)
        ways = [*(phase.draw or {}).values(), phase.estimator]
        own = parameters_of(phase.objective, *ways)
        # A parameter reached by two names is moved once.
        self.parameters = list(dict.fromkeys([p for p in [*chosen, *own] if p.requires_grad]))
        self.credited = any([is_estimator(way) for way in ways if way is not None])
        self.default = None if phase.estimator is None else Suited(phase.estimator)
        self.beside = [each for each in (phase.objective, *ways) if isinstance(each, nn.Module)]
        if not self.parameters:
            raise ValueError(
                "There is nothing to learn: no parameter of this phase requires a gradient."
            )
        if phase.objective is None or phase.optimizer is None:
            raise ValueError("A phase needs an objective and an optimiser.")
        self.optimizer = make_optimizer(
            phase.optimizer,
            self.parameters,
            phase.learning_rate or 1e-3,
            phase.weight_decay or 0.0,
        )
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.inputs = None if alone and phase.parameters is None else self.parameters
        self.model, self.phase, self.rows, self.missing = model, phase, rows, missing
        self.objective = phase.objective
        self.log_prior, self.clip, self.skip = log_prior, clip, skip
        self.batch_size = batch_size
        if together is not None:
            refuse_batch_norm(model)
        self.together = together
        self.device = self.parameters[0].device.type
        self.bfloat16 = bfloat16
        self.compiled: Callable[..., Tensor] | None = None
        self.evidence: Any = None  # of a step whose objective was not finite
        self.skipped = 0

    def compile(self) -> None:
        """From now on full batches are computed by ``torch.compile(fullgraph=True)``.

        On a GPU its kernels, there and back, are captured in a CUDA graph and replayed.
        """
        mode = "reduce-overhead" if self.device == "cuda" else None
        self.compiled = torch.compile(self._value, fullgraph=True, dynamic=False, mode=mode)

    def mean(self, batch: dict[str, Any], kl_weight: Tensor | float) -> tuple[Tensor, Any]:
        r""":math:`\frac1M \sum_i L(x_i) + \frac1N \log p(\theta)`, and the evidence for it.

        A mean per row is the N/M-scaled sum over the minibatch (monograph, eq. 1.11) divided by N:
        in expectation over minibatches its gradient is that of the whole data set's mean.

        Raises:
            ValueError: If a log-density is computed in bfloat16.
        """
        if not self.bfloat16:
            return self._mean(batch, kl_weight)
        with torch.autocast(self.device, torch.bfloat16):
            value, evidence = self._mean(batch, kl_weight)
        if isinstance(evidence, Evidence):
            for name, term in evidence.terms.items():
                if term.dtype == torch.bfloat16:
                    raise ValueError(
                        f"The log-density of {name!r} is computed in bfloat16, which has three "
                        f"digits: let its conditional make the distribution from float32 (the "
                        f"network's output.float()), or use precision='float32'."
                    )
        return value, evidence

    def _mean(self, batch: dict[str, Any], kl_weight: Tensor | float) -> tuple[Tensor, Any]:
        evidence: Any
        if self.phase.evidence is not None:
            evidence = self.phase.evidence(self.model, batch)
        elif self.credited:
            values, evidence = self.model.estimate(
                self.objective,
                batch,
                particles=self.phase.particles,
                draw=self.phase.draw,
                default=self.default,
                missing=self.missing,
                rows=self.rows,
                kl_weight=kl_weight,
            )
            return self._with_prior(values.mean()), evidence
        else:
            evidence = self.model.evidence(
                batch,
                particles=self.phase.particles,
                draw=self.phase.draw,
                default=self.default,
                missing=self.missing,
                rows=self.rows,
            )
        if isinstance(evidence, Evidence) and not (
            isinstance(kl_weight, float) and kl_weight == 1.0
        ):
            evidence = evidence.temper(kl_weight)
        return self._with_prior(self.objective(evidence).mean()), evidence

    def _with_prior(self, value: Tensor) -> Tensor:
        if self.log_prior is None:
            return value
        return value + self.log_prior(self.model) / self.rows

    def _value(self, batch: dict[str, Any], kl_weight: Tensor | float) -> Tensor:
        return self.mean(batch, kl_weight)[0]

    def gradient(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Leave the gradient of the loss in the parameters.

        Args:
            batch: The rows of this process.
            part: Which of the whole batch these are; the gradient is of their share of its mean.
            kl_weight: Weight of the latents' terms.

        Returns:
            The mean objective of these rows, on a CPU as a number; where that is not finite, and
            there is one process, there is no gradient.
        """
        if self.together is None:
            return self._gradient(batch, part, kl_weight)
        with self.together.noise(part, self.phase.particles):
            return self._gradient(batch, part, kl_weight)

    def _gradient(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        evidence = None
        if self.compiled is not None and len(part.index) == self.batch_size:
            value = self.compiled(batch, kl_weight)
        else:
            value, evidence = self.mean(batch, kl_weight)
        result: Tensor | float
        if self.device == "cpu":
            result = value.item()
            if not math.isfinite(result) and self.together is None:
                self.evidence = evidence
                return result
        else:  # a replayed graph writes its result to the same place every time
            result = value.detach().clone()
        del evidence  # its memory is what the backward pass needs next
        for parameter in self.parameters:
            parameter.grad = None
        (value.neg() if part.share == 1.0 else value * -part.share).backward(inputs=self.inputs)
        return result

    def __call__(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Ascend; the mean objective of the whole batch, on a CPU as a number.

        Where that number is not finite, nothing has moved.
        """
        result = self.gradient(batch, part, kl_weight)
        if self.together is not None:
            own = torch.as_tensor(result, dtype=self.parameters[0].dtype)
            # a stand-in's value counts nothing, even if it is infinite
            own = own * part.share if part.share else torch.zeros_like(own)
            summed = self.together.sum_gradients(self.parameters, own)
            result = summed.item() if self.device == "cpu" else summed
        if isinstance(result, float) and not math.isfinite(result):
            return result
        if self.clip is not None or self.skip is not None:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            norm = get_total_norm(gradients)
            if self.skip is not None and not norm <= self.skip:
                self.skipped += 1
                return result
            if self.clip is not None:
                clip_grads_with_norm_(self.parameters, self.clip, norm)
        self.optimizer.step()
        return result


class Companions(nn.Module):
    """The baselines of estimators, the multipliers of objectives: trained, moved and saved along.

    A companion that has a method ``at(epoch)`` is told the progress before each step. One with
    ``judge(model, take)`` is shown the model after each epoch, with ``take(n)`` the first n rows
    that are held out (where none are, of those measured); what it returns is told to the user.

    Args:
        candidates: Objectives, ways of drawing, conditions of phases; those that are modules are
            companions.
        device: Where they go.
        dtype: Of their numbers.
    """

    def __init__(
        self, candidates: Iterable[Any], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        found = [each for each in candidates if isinstance(each, nn.Module)]
        self.members = nn.ModuleList(dict.fromkeys(found)).to(device=device, dtype=dtype)
        self.told = [each for each in self.members.modules() if hasattr(each, "at")]
        self.judges = [each for each in self.members.modules() if hasattr(each, "judge")]

    def __len__(self) -> int:
        return len(self.members)

    def at(self, epoch: float) -> None:
        """Tell those that anneal the progress of training."""
        for each in self.told:
            each.at(epoch)  # type: ignore[operator]

    def judge(self, model: nn.Module, take: Callable[[int], dict[str, Any]]) -> list[str]:
        """Let those look that do; what they say, if anything."""
        said = [each.judge(model, take) for each in self.judges]  # type: ignore[operator]
        return [text for text in said if text]

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def load(self, state: Any, folder: str) -> None:
        """The inverse of :meth:`state`.

        Raises:
            CheckpointError: If the checkpoint is of other companions.
        """
        try:
            restore(self, state)
        except CheckpointError as error:
            raise CheckpointError(
                f"The checkpoint in {folder} is of a run with another objective or estimator. "
                f"{error}"
            ) from error


def parameters_of(*candidates: Any) -> list[nn.Parameter]:
    """The parameters that those of them learn which are modules."""
    modules = [each for each in candidates if isinstance(each, nn.Module)]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


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
    if any([step.together is not None and step.together.statistics for step in steps]):
        reason = "not compiled: several processes tell each other statistics of each batch"
        if wanted is True:
            raise ValueError(
                "Several processes tell each other statistics of each batch, which this objective "
                "or estimator reads, so the step cannot be compiled; leave out compile."
            )
        return Choice(compiled=False, reason=reason)
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
