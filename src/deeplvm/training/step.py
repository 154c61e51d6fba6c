"""Phases: a training step is a list of objectives, the parameters they move, their optimisers."""

from __future__ import annotations

import copy
import inspect
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer

from deeplvm.core.draws import is_estimator
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Suited
from deeplvm.parallel.statistics import refuse_batch_norm
from deeplvm.parallel.steps import Part, Together
from deeplvm.randomness import generator_of, own_randomness
from deeplvm.training.callbacks import flops_of
from deeplvm.training.graph import Graph
from deeplvm.training.schedules import RateSchedule

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
        schedule: Of its learning rate, as the one of
            :class:`~deeplvm.training.Optimization`.
        particles: Draws per row.
        draw: How latents are drawn.
        estimator: How those are drawn that it suits, where ``draw`` does not say.
        evidence: ``(model, batch) -> what the objective reads``, where it is not
            ``model.evidence(batch)``: a dream of the model for the sleep phase, a batch without
            its labels. Ledgers in what it returns (in tuples, lists and mappings too) get the KL
            weight; where there is none, it takes the weight itself, as ``kl_weight=``. It may ask
            for the numbers of the rows, ``index=``.
        update: ``(model, batch, share) -> value of each row`` in place of a gradient step: a
            function that moves the parameters itself, by a closed form say. ``share`` is the part
            of the batch that these rows are, 0 where one stands in for none (see
            :class:`~deeplvm.parallel.steps.Part`).
        repeats: Steps in a row on the same batch.
        when: Asked before the first batch of each epoch whether the phase is done in it; always.
            A module is saved in checkpoints, and may look at the model after each epoch (see
            :class:`~deeplvm.training.state.Companions`). Where no phase is to be done any more,
            training ends.
        stream: Whose rows it is given, where there are several (see
            :class:`~deeplvm.training.Streams`); those of all, by name.

    Of ``parameters``, ``evidence``, ``update`` and ``when`` each is told before training what it
    may want to make room for, where it has a method ``prepare(model, take, rows, missing)``:
    ``take(n)`` are the first n of ``rows`` training rows, ``missing`` the names with NaN elements.
    """

    objective: Objective | None = None
    parameters: Callable[[LatentVariableModel], Iterable[nn.Parameter]] | None = None
    optimizer: OptimizerChoice | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: RateSchedule | None = None
    particles: int | None = None
    draw: Mapping[str, Any] | None = None
    estimator: Any = None
    evidence: Callable[..., Any] | None = None
    update: Callable[..., Tensor] | None = None
    repeats: int = 1
    when: Callable[[], bool] | None = None
    stream: str | None = None

    @property
    def ways(self) -> list[Any]:
        """How its latents are drawn, where that is not by reparameterisation."""
        ways = [*(self.draw or {}).values(), self.estimator]
        return [way for way in ways if way is not None]

    @property
    def draws(self) -> bool:
        """Whether it is drawn for it: it has no function of its own that does."""
        return self.evidence is None and self.update is None

    @property
    def owners(self) -> list[Any]:
        """The functions that it calls, or the objects whose methods they are."""
        return [getattr(each, "__self__", each) for each in self.functions if each is not None]

    @property
    def functions(self) -> list[Any]:
        """What it calls, beside its objective and optimiser."""
        return [self.evidence, self.update, self.parameters, self.when]


@runtime_checkable
class Prepared(Protocol):
    """What a phase calls, and wants to make room before training."""

    def prepare(
        self,
        model: LatentVariableModel,
        take: Callable[[int], dict[str, Any]],
        rows: int,
        missing: frozenset[str],
    ) -> None:
        """Told the first training rows, their number, and the names with NaN elements."""
        ...


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
        own = parameters_of(phase.objective, *phase.ways)
        # A parameter reached by two names is moved once.
        parameters = list(dict.fromkeys([p for p in [*chosen, *own] if p.requires_grad]))
        self.credited = any([is_estimator(way) for way in phase.ways])
        self.default = None if phase.estimator is None else Suited(phase.estimator)
        self.beside = [
            each for each in (phase.objective, *phase.ways) if isinstance(each, nn.Module)
        ]
        if not parameters:
            raise ValueError(
                "There is nothing to learn: no parameter of this phase requires a gradient."
            )
        self.optimizer: Optimizer
        if phase.update is not None:
            self.optimizer = SGD(parameters, lr=0.0)  # never stepped
        elif phase.objective is None or phase.optimizer is None:
            raise ValueError("A phase needs an objective and an optimiser.")
        else:
            self.optimizer = make_optimizer(
                phase.optimizer,
                parameters,
                1e-3 if phase.learning_rate is None else phase.learning_rate,
                phase.weight_decay or 0.0,
            )
        # A function that makes the optimiser may have left some out, or added others.
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        asks = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        self.asks_again = asks is not None and asks.default is asks.empty
        if self.asks_again and skip is not None:
            raise ValueError(
                f"{type(self.optimizer).__name__} looks at several gradients in one step, so none "
                f"of them can be skipped; leave out skip."
            )
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        every = alone and phase.parameters is None and set(self.parameters) == set(parameters)
        self.inputs = None if every else self.parameters
        self.model, self.phase, self.rows, self.missing = model, phase, rows, missing
        self.objective = phase.objective
        self.asks = {"kl_weight", "index"} & asked(phase.evidence)
        self.log_prior, self.clip, self.skip = log_prior, clip, skip
        self.batch_size = batch_size
        if together is not None:
            refuse_batch_norm(model)
        self.together = together
        self.device = self.parameters[0].device.type
        self.bfloat16 = bfloat16
        self.compiled: Callable[..., Tensor] | None = None  # the value of a full batch
        self.graph: Graph | None = None  # or its whole ascent
        self.evidence: Any = None  # of a step whose objective was not finite
        self.skipped = 0

    def compile(self, *, whole: bool = False) -> None:
        """From now on full batches are computed by ``torch.compile(fullgraph=True)``.

        On a GPU its kernels, there and back, are captured in a CUDA graph and replayed.

        Args:
            whole: Compile the ascent with the optimiser in it, where :meth:`Graph.suits`.
        """
        self.compiled = self.graph = None
        if whole and Graph.suits(self):
            self.graph = Graph(self)
            return
        mode = "reduce-overhead" if self.device == "cuda" else None
        self.compiled = torch.compile(self._value, fullgraph=True, dynamic=False, mode=mode)

    def mean(
        self, batch: dict[str, Any], kl_weight: Tensor | float, index: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        r""":math:`\frac1M \sum_i L(x_i) + \frac1N \log p(\theta)`, and the evidence for it.

        A mean per row is the N/M-scaled sum over the minibatch (monograph, eq. 1.11) divided by N:
        in expectation over minibatches its gradient is that of the whole data set's mean.

        Raises:
            ValueError: If a log-density is computed in bfloat16.
        """
        if not self.bfloat16:
            return self._mean(batch, kl_weight, index)
        with torch.autocast(self.device, torch.bfloat16):
            value, evidence = self._mean(batch, kl_weight, index)
        if isinstance(evidence, Evidence):
            for name, term in evidence.terms.items():
                if term.dtype == torch.bfloat16:
                    raise ValueError(
                        f"The log-density of {name!r} is computed in bfloat16, which has three "
                        f"digits: let its conditional make the distribution from float32 (the "
                        f"network's output.float()), or use precision='float32'."
                    )
        return value, evidence

    @torch.no_grad()
    def ledger(self, batch: dict[str, Any], part: Part) -> Any:
        """The evidence drawn again, for a look at its terms, where the phase has some."""
        return None if self.phase.update else self.mean(batch, 1.0, part.index)[1]

    def _mean(
        self, batch: dict[str, Any], kl_weight: Tensor | float, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        phase, evidence = self.phase, None
        weighs = not (isinstance(kl_weight, float) and kl_weight == 1.0)
        options: dict[str, Any] = {
            "particles": phase.particles,
            "draw": phase.draw,
            "default": self.default,
            "missing": self.missing,
            "rows": self.rows,
        }
        if phase.stream is not None:
            batch = batch[phase.stream]
        if phase.evidence is not None:
            told = {"kl_weight": kl_weight, "index": index}
            evidence = phase.evidence(
                self.model, batch, **{name: told[name] for name in self.asks}
            )
            if weighs and "kl_weight" not in self.asks:
                evidence = self._weighed(evidence, kl_weight)
        elif self.credited:
            values, evidence = self.model.estimate(
                self.objective, batch, kl_weight=kl_weight, **options
            )
            return self._with_prior(values.mean()), evidence
        else:
            evidence = self.model.evidence(batch, **options)
            evidence = evidence.temper(kl_weight) if weighs else evidence
        return self._with_prior(self.objective(evidence).mean()), evidence

    def _weighed(self, evidence: Any, kl_weight: Tensor | float) -> Any:
        """What a phase's own function returned, with the KL weight in its ledgers."""
        weighed = tempered(evidence, kl_weight)
        if weighed is evidence:
            raise ValueError(
                f"kl_weight has nothing to weigh in a phase with evidence of its own: that "
                f"function returns {type(evidence).__name__} without a ledger. Let it take an "
                f"argument kl_weight and use it as it should, or leave out kl_weight."
            )
        return weighed

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
        if self.phase.update is not None:
            return self._updated(self.phase.update, batch, part)
        evidence = None
        if self.compiled is not None and len(part.index) == self.batch_size:
            value = self.compiled(batch, kl_weight)
        else:
            value, evidence = self.mean(batch, kl_weight, part.index)
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

    @torch.no_grad()
    def _updated(
        self, update: Callable[..., Tensor], batch: dict[str, Any], part: Part
    ) -> Tensor | float:
        """Let the phase's own function move the parameters."""
        batch = batch if self.phase.stream is None else batch[self.phase.stream]
        value = update(self.model, batch, part.share).mean()
        return value.item() if self.device == "cpu" else value

    def __call__(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Ascend; the mean objective of the whole batch, on a CPU as a number.

        Where that number is not finite, nothing has moved.
        """
        if self.asks_again:
            return self._asked(batch, part, kl_weight)
        if self.graph is not None and len(part.index) == self.batch_size:
            value, taken = self.graph(batch, kl_weight)
            self.skipped += math.isfinite(value) and not taken
            return value
        result = self._summed(batch, part, kl_weight)
        moved = self.phase.update is not None
        if moved or (isinstance(result, float) and not math.isfinite(result)):
            return result
        if self._bounded():
            self.optimizer.step()
        else:
            self.skipped += 1
        return result

    def _bounded(self) -> bool:
        """Shorten a gradient that is too long; whether it is to be followed at all."""
        if self.clip is None and self.skip is None:
            return True
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.skip is not None and not norm <= self.skip:
            return False
        if self.clip is not None:
            clip_grads_with_norm_(self.parameters, self.clip, norm)
        return True

    def _summed(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Value and gradient of the whole batch, of which others may have parts."""
        result = self.gradient(batch, part, kl_weight)
        if self.together is None:
            return result
        own = torch.as_tensor(result, dtype=self.parameters[0].dtype)
        # a stand-in's value counts nothing, even if it is infinite
        own = own * part.share if part.share else torch.zeros_like(own)
        summed = self.together.sum_gradients(self.parameters, own)
        return summed.item() if self.device == "cpu" else summed

    def _asked(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """A step of an optimiser that asks for value and gradient as often as it wants.

        It compares them, so each time the draws are the same.
        """
        device = self.parameters[0].device
        generators = {generator_of(each) for each in (torch.device("cpu"), device)}
        before = [(each, each.get_state()) for each in generators]
        values: list[Tensor | float] = []

        def closure() -> Tensor | float:
            for generator, state in before:
                generator.set_state(state)
            values.append(self._summed(batch, part, kl_weight))
            self._bounded()
            return -values[-1]

        self.optimizer.step(closure)  # type: ignore[arg-type]
        return values[0]


def parameters_of(*candidates: Any) -> list[nn.Parameter]:
    """The parameters that those of them learn which are modules."""
    modules = [each for each in candidates if isinstance(each, nn.Module)]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def asked(function: Callable[..., Any] | None) -> set[str]:
    """The names of what a function, or a module, takes."""
    function = function.forward if isinstance(function, nn.Module) else function
    return set() if function is None else set(inspect.signature(function).parameters)


def tempered(found: Any, kl_weight: Tensor | float) -> Any:
    """Whatever a phase reads, with the KL weight in its ledgers; the same where there are none."""
    if isinstance(found, Evidence):
        return found.temper(kl_weight)
    if not isinstance(found, Mapping | list | tuple):
        return found
    parts = [*found.values()] if isinstance(found, Mapping) else [*found]
    weighed = [tempered(each, kl_weight) for each in parts]
    if all([one is other for one, other in zip(weighed, parts, strict=True)]):
        return found
    if isinstance(found, Mapping):
        return dict(zip(found, weighed, strict=True))
    return type(found)(*weighed) if hasattr(found, "_fields") else type(found)(weighed)


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
    seconds: float = math.inf,
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
        seconds: That training may still take.
        budget: Seconds that compiling may take before ``"auto"`` gives it up.
        say: Told before a long wait.

    Raises:
        ValueError: If compiling was asked for and is not possible here.
    """
    if wanted is False or (wanted == "auto" and left < _FEWEST):
        return Choice(compiled=False)
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
                    return Choice(compiled=False, by_clock=True)
                say(f"compiling the step (at most {budget:.0f} s; --compile no leaves it out)")
            return _tried(steps, once, len(part.index), eager, budget)
    except ValueError:
        if wanted is True:
            raise
        return Choice(compiled=False)  # the batch itself is at fault, and the first step says why


def _tried(
    steps: Sequence[Step], once: Callable[[], None], rows: int, eager: float, budget: float
) -> Choice:
    """Compile the steps; keep that where they are faster than eager, if that was timed."""

    def undone(reason: str) -> Choice:
        for step in steps:
            step.compiled = step.graph = None
        torch.compiler.reset()
        return Choice(compiled=False, reason=reason, by_clock=True)

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
        return Choice(compiled=True, reason=f"the step is compiled, in {took:.1f} s", flops=flops)
    compiled = _seconds(once)
    told = (
        f"{1e3 * compiled:.2f} ms compiled, {1e3 * eager:.2f} ms not; compiling took {took:.1f} s"
    )
    if compiled > _GAIN * eager:
        return undone(f"the step is not compiled, as that is not faster ({told})")
    return Choice(
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
