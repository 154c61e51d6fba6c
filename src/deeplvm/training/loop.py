"""Learn the parameters of a model."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.randomness import own_randomness, seed_of
from deeplvm.devices import device_of, dtype_of, keep_freed_memory
from deeplvm.files import alone
from deeplvm.gradients import Draw, Suited, as_measured
from deeplvm.gradients.named import estimator_of
from deeplvm.learning.programs import phases_of
from deeplvm.objectives import elbo
from deeplvm.parallel.processes import apart, processes
from deeplvm.parallel.steps import Part, Together
from deeplvm.training import callbacks as metering
from deeplvm.training.batches import Batches, Rows, Source, Split, Tensors
from deeplvm.training.callbacks import Callback, History, Progress, Record, Signals
from deeplvm.training.checkpoint import CheckpointError, Checkpoints
from deeplvm.training.checks import bfloat16_for, check
from deeplvm.training.failures import NonFiniteError, TrainingInterrupted, explained, non_finite
from deeplvm.training.measure import for_rows, measure, name_of
from deeplvm.training.schedules import Average, KLWeight, Rates, RateSchedule
from deeplvm.training.state import State
from deeplvm.training.step import (
    Choice,
    Companions,
    Compile,
    Objective,
    OptimizerChoice,
    Phase,
    Step,
    choose,
)

_MEASURED = 5_000  # training rows that are measured after an epoch, at most


def fit(
    model: LatentVariableModel,
    data: Source | Rows,
    *,
    valid: Rows | None = None,
    objective: Objective = elbo,
    epochs: int = 100,
    batch_size: int = 100,
    particles: int | None = None,
    draw: Mapping[str, Draw] | None = None,
    estimator: Draw | str | None = None,
    optimizer: OptimizerChoice = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: RateSchedule | None = None,
    kl_weight: float | Callable[[float], float] = 1.0,
    clip: float | None = None,
    skip: float | None = None,
    averaging: float = 0.0,
    patience: int | None = None,
    log_prior: Callable[[LatentVariableModel], Tensor] | None = None,
    phases: Sequence[Phase] | str | None = None,
    missing: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",  # noqa: A002 - torch's own word
    compile_budget: float = 60.0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> History:
    r"""Learn the parameters of a model by stochastic gradient ascent on an objective.

    .. math:: \theta, \phi \leftarrow \theta, \phi + \alpha_t \nabla_{\theta,\phi}
        \frac1M \sum_{x \in M} L_{\theta,\phi}(x)

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019),
    https://arxiv.org/abs/1906.02691, algorithm 1 and appendix A.3.

    The model ends with its best weights: of the epoch with the highest held-out bound, without
    held-out rows of the last. Held-out rows and as many training rows (at most 5,000) are measured
    after each epoch by the same function: the objective with KL weight 1, draws from a fixed seed.

    Several processes (see :func:`deeplvm.parallel.processes.joined`) share each batch: the seed
    and the batch size mean the same with any number of them. The first one writes, and speaks.

    Args:
        model: Its parameters are changed in place.
        data: A data set of :mod:`deeplvm.data`, or named tensors ``{"x": (rows, *event)}``. Names
            the model does not know are left out.
        valid: Held-out rows, where ``data`` are named tensors.
        objective: Evidence to one number per row, nats; higher is better.
        epochs: Passes over the data.
        batch_size: Rows a step; the last of an epoch may have fewer, and its objective too is a
            mean per row.
        particles: Draws per row.
        draw: How latents are drawn, by name, where not by reparameterisation.
        estimator: How those are drawn that it suits and ``draw`` does not name: an estimator of
            :mod:`deeplvm.gradients` for latents without a reparameterised draw, say, or its name
            in :mod:`deeplvm.gradients.named`.
        optimizer: ``"adam"``, ``"adamax"``, ``"adamw"``, a torch optimiser class (called with the
            learning rate and weight decay), or a function of the parameters (which decides both).
        learning_rate: Step size.
        weight_decay: Of the optimiser (an L2 penalty in Adam, decoupled in AdamW).
        schedule: A factor on the learning rate: ``"constant"``, ``"cosine"``, ``"exponential"``
            (both over the epochs of this run), ``"tripling"``, one of
            :mod:`deeplvm.training.schedules`, or a function of the optimiser that returns a torch
            scheduler (stepped once an epoch).
        kl_weight: Weight of the latents' terms in training: a number or a function of progress in
            epochs. Measuring always uses 1.
        clip: Largest norm of the gradient; a longer one is shortened to it.
        skip: A step whose gradient is longer (or not finite) is left out, and counted in the
            metrics.
        averaging: Decay of an exponential moving average of the parameters, 0.999 say; the
            averaged ones are measured and kept. Early on the decay is :math:`(1 + t)/(10 + t)`, so
            that the start is forgotten.
        patience: Stop after so many epochs without a better held-out bound.
        log_prior: Log-density of the parameters, for maximum a posteriori (monograph, A.2.1).
        phases: The parts of a step, where it is not one, or their name in
            :mod:`deeplvm.learning.programs`.
        missing: Names with NaN elements, for named tensors; by default they are looked at once.
        seed: Of the order of rows, all draws, and renewed randomness. Two runs with one seed are
            the same bit for bit on a CPU; torch's own stream of random numbers is left as it was.
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"``; the model moves there.
        compile: Compile the step with ``torch.compile(fullgraph=True)`` (an odd last batch runs
            uncompiled), or not, or ``"auto"``: where training will take more than five times the
            budget, the first batch shows which is faster. The choice is kept for a resumed run.
        compile_budget: Seconds that compiling may take before ``"auto"`` gives it up.
        precision: ``"bfloat16"`` computes matrix products and convolutions of training in
            bfloat16; log-densities, sums, parameters and all that is measured stay in the model's
            own type. ``"auto"`` does so on a GPU that can, ``"float32"`` nowhere.
        folder: Where ``metrics.jsonl`` and ``checkpoint/`` are written; none writes nothing.
        resume: Go on from the folder's checkpoint, if it has one, exactly where it was.
        checkpoint_every: Epochs; by default as often as saving costs at most a twentieth of the
            time.
        checkpoint_seconds: A checkpoint is also written in mid-epoch, when the last is so old.
        callbacks: Told what happens; see :class:`~deeplvm.training.Callback`.
        quiet: Say nothing on standard error.

    Returns:
        What was measured.

    Raises:
        ValueError: If an option makes no sense, or patience has no held-out rows to look at.
        NonFiniteError: If a value becomes NaN or infinite; the model then has the best weights of
            the epochs before.
        CheckpointError: If the folder cannot be written, or its checkpoint is damaged or of
            another run.
        TrainingInterrupted: At SIGINT (a keyboard interrupt) or SIGTERM: the step is finished, the
            state saved, and the model has its best weights so far. A second signal is obeyed at
            once.

    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.core.joint import Joint
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
    >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2, 8))}))
    >>> x = torch.randn(200, 1) @ torch.ones(1, 2) + 0.1 * torch.randn(200, 2)
    >>> history = fit(model, {"x": x}, epochs=30, learning_rate=1e-2, quiet=True)
    >>> history.values()[-1] > history.values()[0]
    True
    """
    check(
        epochs=epochs,
        batch_size=batch_size,
        particles=particles,
        patience=patience,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        compile_budget=compile_budget,
        learning_rate=learning_rate,
        clip=clip,
        skip=skip,
    )
    if not 0.0 <= averaging < 1.0:
        raise ValueError(f"averaging is a decay in [0, 1), such as 0.999, not {averaging}.")
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile is True, False or 'auto', not {compile!r}.")
    target = device_of(device)
    bfloat16 = bfloat16_for(precision, target)
    model.to(target)
    keep_freed_memory(target)
    batches = _batches(model, data, valid, missing, target)
    rows, held_out = batches.rows("train"), batches.rows("valid")
    if patience is not None and not held_out:
        raise ValueError(
            "Early stopping needs held-out rows to look at, and the data have none; split some "
            "off, or leave out patience."
        )
    batch_size = min(batch_size, rows)
    together = Together(processes())
    first = together.world.first

    # A step is a list of phases; the plain one is a list of length one.
    way = None if estimator is None else estimator_of(estimator)
    objective = for_rows(objective, rows)
    plain = Phase(objective, None, optimizer, learning_rate, weight_decay, particles, draw, way)
    listed = [_filled(phase, plain) for phase in phases_of(phases or [plain], model)]
    companions = _companions(model, listed, batches, target, seed)
    compile = _compilable(compile, listed)  # noqa: A001
    steps = [
        Step(
            model,
            phase,
            rows=rows,
            missing=batches.missing,
            log_prior=log_prior,
            clip=clip,
            skip=skip,
            batch_size=len(together.part(torch.arange(batch_size)).index),
            alone=len(listed) == 1,
            bfloat16=bfloat16,
            together=None if together.world.alone else together,
        )
        for phase in listed
    ]
    rates = Rates(
        schedule, [step.optimizer for step in steps], [step.rates for step in steps], epochs
    )
    average = Average(model, averaging) if averaging else None
    bound = name_of(objective)
    weight = KLWeight(kl_weight, model, target)
    state = State(
        model,
        steps,
        rates,
        average,
        companions,
        target,
        {
            "rows": rows,
            "held-out rows": held_out,
            "names": sorted(batches.names),
            "seed": seed,
            "batch_size": batch_size,
            "objective": bound,
            "particles": particles,
            "averaging": averaging,
            "kl_weight": weight.text,
            "clip": clip,
            "skip": skip,
            "schedule": schedule if isinstance(schedule, str) else repr(rates.factor),
            "learning rates": [step.rates for step in steps],
            "optimizers": [type(step.optimizer).__name__ for step in steps],
            "precision": "bfloat16" if bfloat16 else "float32",
            **({} if way is None else {"estimator": type(way).__name__}),
        },
    )
    files = Checkpoints(folder if first else None, checkpoint_every, checkpoint_seconds)
    was_training = model.training
    told = tuple(callbacks) if first else ()
    history: History | None = None
    failure: BaseException | None = None

    with own_randomness(target, seed), ExitStack() as stack:
        stack.enter_context(alone(Path(folder) if folder and first else None, CheckpointError))
        # One process reads, as the others may have no disk in common with it.
        saved, warning = files.open(resume=resume) if first else (None, "")
        saved, warning = together.world.from_first((saved, warning))
        if saved is None:
            state.begin(seed_of(seed, 1))
            files.save(state.tree())
        else:
            state.load(saved, str(folder))
            files.saved = (state.epoch, state.position)
        files.write_metrics(state.history)
        progress = Progress(epochs, state.epoch, bound, quiet=quiet or not first)
        run = Run(
            state=state,
            batches=batches,
            steps=steps,
            rates=rates,
            weight=weight,
            average=average,
            together=together,
            look=_looked_at(rows, held_out, seed),
            objective=objective,
            bound=bound,
            particles=particles,
            draw=None if draw is None else {n: as_measured(way) for n, way in draw.items()},
            default=None if way is None else as_measured(Suited(way)),
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            patience=patience,
            compile=compile,
            compile_budget=compile_budget,
            files=files,
            progress=stack.enter_context(progress),
            signals=stack.enter_context(Signals()),
            callbacks=told,
        )
        progress.say(warning)
        for each in [each for phase in listed for each in _ways(phase)]:
            if not getattr(each, "bound", True):
                progress.say(
                    f"with {type(each).__name__} the objective of training is no bound on "
                    f"log p(x); what is measured is, with plain draws"
                )
        try:
            for callback in told:
                callback.started({**state.run, "epochs": epochs, "epoch": state.epoch})
            stopped = run.go()
            history = History(tuple(state.history), bound, state.best_epoch, stopped)
        except (Stopped, KeyboardInterrupt) as error:
            failure = _interrupted(run)
            raise failure from error
        except BaseException as error:
            failure = error
            raise
        finally:
            state.take_best()
            model.train(was_training)
            for callback in told:
                callback.ended(history, failure)
    return history


def _ways(phase: Phase) -> list[Draw]:
    """How the latents of a phase are drawn, where that is not by reparameterisation."""
    ways = [*(phase.draw or {}).values(), phase.estimator]
    return [way for way in ways if way is not None]


def _companions(
    model: LatentVariableModel,
    phases: Sequence[Phase],
    batches: Batches,
    device: torch.device,
    seed: int,
) -> Companions:
    """What moves beside the model, ready for the optimisers."""
    ways = [way for phase in phases for way in _ways(phase)]
    conditions = [phase.when for phase in phases]
    candidates = [*[phase.objective for phase in phases], *ways, *conditions]
    companions = Companions(candidates, device, dtype_of(model))
    if any([hasattr(way, "prepare") for way in ways]):
        index = torch.arange(min(2, batches.rows("train")))
        with own_randomness(device, seed):
            batch = batches("train", index, Generator().manual_seed(seed))
            for phase in phases:
                if phase.evidence is None:
                    model.prepare(
                        batch,
                        particles=phase.particles,
                        draw=phase.draw,
                        default=None if phase.estimator is None else Suited(phase.estimator),
                        missing=batches.missing,
                        rows=batches.rows("train"),
                    )
    return companions.train()


def _compilable(choice: Compile, phases: Sequence[Phase]) -> Compile:
    """Whether to compile, where a way of drawing says that it cannot be traced."""
    ways = [way for phase in phases for way in _ways(phase)]
    untraceable = [way for way in ways if not getattr(way, "traceable", True)]
    if untraceable and choice is True:
        raise ValueError(
            f"A step with {type(untraceable[0]).__name__} cannot be compiled into one graph; "
            f"leave out compile."
        )
    return False if untraceable else choice


def _looked_at(rows: int, held_out: int, seed: int) -> dict[Split, Tensor]:
    """Which rows are measured after an epoch: all held out, of those trained on as many."""
    shuffled = torch.randperm(rows, generator=Generator().manual_seed(seed))
    look: dict[Split, Tensor] = {
        "train": shuffled[: min(held_out or rows, _MEASURED)].sort().values
    }
    if held_out:
        look["valid"] = torch.arange(held_out)
    return look


def _interrupted(run: Run) -> TrainingInterrupted:
    state, saved = run.state, run.files.saved
    number = run.signals.received or signal.SIGINT
    text = f"Interrupted ({number.name}) in epoch {state.epoch + 1}"
    text += f", after {state.position} of its {run.per_epoch} batches" if state.position else ""
    text += "; the model has its best weights so far"
    text += f" (epoch {state.best_epoch})" if state.best_epoch else " (those it started with)"
    if saved == (state.epoch, state.position):
        text += ". All of it is saved: go on with resume"
    elif saved is not None:
        text += f". Go on after epoch {saved[0]} and {saved[1]} batches with resume"
    return TrainingInterrupted(
        f"{text}.", state.epoch, None if saved is None else saved[0], number
    )


def _batches(
    model: LatentVariableModel,
    data: Source | Rows,
    valid: Rows | None,
    missing: Sequence[str] | None,
    device: torch.device,
) -> Batches:
    if isinstance(data, Mapping):
        source: Source = Tensors(data, valid, missing)
    elif valid is not None or missing is not None:
        raise ValueError(
            "A data set has its own held-out rows and knows what is missing; leave out valid= and "
            "missing=, which belong to named tensors."
        )
    else:
        source = data
    return Batches(source, model.names, device, dtype_of(model))


def _filled(phase: Phase, plain: Phase) -> Phase:
    """A phase with what it leaves open taken from the plain one."""
    check(repeats=phase.repeats, particles=phase.particles, learning_rate=phase.learning_rate)
    kept = {
        field.name: getattr(plain, field.name)
        for field in fields(Phase)
        if getattr(phase, field.name) is None
    }
    return replace(phase, **kept)


class Stopped(BaseException):
    """A signal asked to stop; everything is saved. Not an Exception: nothing may swallow it."""


@dataclass
class Run:
    """Everything that a run of training is made of; put together by ``fit``.

    Attributes:
        state: What changes, and what a checkpoint holds; the rest is fixed.
        batches: Where rows are from.
        steps: One of each phase, in order.
        rates: Learning rates.
        weight: Weight of the latents' terms.
        average: Of the parameters, or none.
        together: The processes that share the work.
        look: Rows of each split that are measured after an epoch.
        objective: What is measured besides the ELBO.
        bound: Its name.
        particles: Draws a row while measuring.
        draw: How latents are drawn while measuring.
        default: How those are that ``draw`` does not name.
        seed: Of everything random.
        epochs: In all.
        batch_size: Rows a batch, of all processes together.
        patience: Epochs without a better held-out bound, or none.
        compile: Whether steps are compiled.
        compile_budget: Seconds for that.
        files: Checkpoints and metrics.
        progress: On standard error.
        signals: Whether somebody asked to stop.
        callbacks: Told what happens.
    """

    state: State
    batches: Batches
    steps: list[Step]
    rates: Rates
    weight: KLWeight
    average: Average | None
    together: Together
    look: Mapping[Split, Tensor]
    objective: Objective
    bound: str
    particles: int | None
    draw: Mapping[str, Draw] | None
    default: Draw | None
    seed: int
    epochs: int
    batch_size: int
    patience: int | None
    compile: Compile
    compile_budget: float
    files: Checkpoints
    progress: Progress
    signals: Signals
    callbacks: tuple[Callback, ...]
    program: list[Step] = field(init=False, default_factory=list)  # of one batch, in this epoch
    tally: Tally = field(init=False)
    per_epoch: int = field(init=False)
    ready: bool = field(init=False, default=False)  # compiled or not, for the first batch

    def __post_init__(self) -> None:
        self.tally = Tally(self.state, self.batches)
        self.per_epoch = -(-self.batches.rows("train") // self.batch_size)
        # a callback that does not listen to steps costs them nothing
        silent = Callback.step_ended
        self.watching = [each for each in self.callbacks if type(each).step_ended is not silent]

    def go(self) -> Literal["epochs", "patience"]:
        """Train to the end; why it ended.

        Raises:
            Stopped: If a signal asked for it.
        """
        state = self.state
        for epoch in range(state.epoch + 1, self.epochs + 1):
            if self.patience is not None and state.epoch - state.best_epoch >= self.patience:
                return "patience"
            self._steps(epoch)
            began = time.perf_counter()
            record: Record = {"epoch": epoch}
            try:
                with self.average.in_place() if self.average is not None else nullcontext():
                    record |= self._measured(epoch)
                    self._judge()
                    better = state.keep_if_better(epoch, record, self.bound)
            except Stopped:
                self.save()
                raise
            self._finish(record, better=better, measuring=time.perf_counter() - began)
        return "epochs"

    def _steps(self, epoch: int) -> None:
        """The batches of an epoch that are not done yet."""
        state, together = self.state, self.together
        self._choose_program(epoch)
        state.model.train()
        began = time.perf_counter() - state.seconds
        for index in self.batches.order(epoch, self.seed, self.batch_size, state.position):
            together.stop = self.signals.received is not None
            self._step(epoch, index)
            state.position += 1
            state.seconds = time.perf_counter() - began
            # others have heard of it by the step itself; one alone need not wait for the next
            stop = together.stop or (together.world.alone and self.signals.received is not None)
            if stop or self.files.stale():
                self.save()
            if stop:
                self.signals.received = together.agreed(self.signals.received)
                raise Stopped
        self.tally.look()
        state.seconds = time.perf_counter() - began

    def _choose_program(self, epoch: int) -> None:
        """The steps of this epoch's batches."""
        wanted = [step for step in self.steps if step.phase.when is None or step.phase.when()]
        program = [step for step in wanted for _ in range(step.phase.repeats)]
        if not program:
            raise ValueError(f"No phase is to be done in epoch {epoch}: each waits for its when.")
        if self.program and program != self.program:
            self.ready, self.state.flops = False, None
        self.program = program

    def _judge(self) -> None:
        """Let companions look at the model: one process does, and the others hear of it."""
        companions, world = self.state.companions, self.together.world
        if not companions.judges:
            return
        split: Split = "valid" if "valid" in self.look else "train"

        def take(rows: int) -> dict[str, Any]:
            return self.batches(split, self.look[split][:rows])

        said = companions.judge(self.state.model, take) if world.first else []
        if not world.alone:
            state = {name: value.cpu() for name, value in companions.state().items()}
            companions.load(world.from_first(state), "")
        for text in said:
            self.progress.say(text)

    def _step(self, epoch: int, index: Tensor) -> None:
        state, done = self.state, epoch - 1 + self.state.position / self.per_epoch
        self.rates.at(done)
        self.weight.at(done)
        state.companions.at(done)
        part = self.together.part(index)
        if not self.ready:
            self._prepare(part, done)
        with self.together.noise(part):
            batch = self.batches("train", part.index, state.generator)
        if state.flops is None:
            count = metering.flops_of(lambda: self._ascend(batch, part))
            state.flops = count / len(part.index)
        else:
            self._ascend(batch, part)
        if self.average is not None:
            self.average.update()
        for callback in self.watching:
            callback.step_ended(round(done * self.per_epoch) + 1, self.tally.last)
        self.progress.step(done + 1 / self.per_epoch)

    def _ascend(self, batch: dict[str, Any], part: Part) -> None:
        for step in self.program:
            self.tally.add(step, batch, part, self.weight.value)

    def _prepare(self, part: Part, done: float) -> None:
        """Compile the steps or not, when the first batch is at hand."""
        state, world = self.state, self.together.world
        decided = state.compiled is not None and self.compile == "auto"
        wanted = bool(state.compiled) if decided else self.compile
        choice = Choice(compiled=False)
        if world.first or wanted is True:
            with apart():  # what is tried here, the others need not try
                choice = choose(
                    self.program,
                    self.batches("train", part.index),
                    part,
                    self.weight.value,
                    wanted=wanted,
                    left=round((self.epochs - done) * self.per_epoch),
                    budget=self.compile_budget,
                    say=self.progress.say,
                )
            self.progress.say(choice.reason)
        compiled, flops, by_clock = world.from_first(
            (choice.compiled, choice.flops, choice.by_clock)
        )
        if compiled and not choice.compiled:
            for step in self.program:
                step.compile()
        self.ready = True
        state.flops = flops if state.flops is None else state.flops
        if not decided:
            state.compiled = compiled
            if by_clock:  # a run that resumes must not choose again
                self.save()

    def _measured(self, epoch: int) -> dict[str, dict[str, float]]:
        """Means over the rows of each split."""
        alone = self.together.world.alone

        def look() -> None:
            if alone and self.signals.received is not None:
                raise Stopped

        self.state.companions.eval()
        found: dict[str, dict[str, float]] = {
            split: measure(
                self.state.model,
                self.batches,
                split,
                index,
                self.objective,
                particles=self.particles,
                draw=self.draw,
                default=self.default,
                batch_size=max(self.batch_size, 500 // (self.particles or 1)),
                rows=self.batches.rows("train"),
                seed=self.seed,
                epoch=epoch,
                together=self.together,
                look=look,
            )
            for split, index in self.look.items()
        }
        self.state.companions.train()
        return found

    def _finish(self, record: Record, *, better: bool, measuring: float) -> None:
        """An epoch is done: write it down, and be ready for the next."""
        state, step = self.state, self.program[0]
        self.rates.after_epoch(record["valid" if "valid" in record else "train"][self.bound])
        record["objective"] = self.tally.mean()
        record["kl_weight"] = float(self.weight.value)
        record["learning_rate"] = float(step.optimizer.param_groups[0]["lr"])
        if step.skip is not None:
            record["skipped"] = sum([each.skipped for each in dict.fromkeys(self.program)])
        record |= self._timings(measuring)
        state.history.append(record)
        state.begin(seed_of(self.seed, state.epoch + 1))
        self.files.add_metrics(record)
        lost = self.patience is not None and state.epoch - state.best_epoch >= self.patience
        if state.epoch == self.epochs or lost or self.files.due(state.epoch):
            self.save()
        self.progress.epoch(record, best=better)
        for callback in self.callbacks:
            callback.epoch_ended(record)

    def _timings(self, measuring: float) -> dict[str, Any]:
        state = self.state
        rate = self.batches.rows("train") / state.seconds if state.seconds else 0.0
        fraction = None
        if state.flops:
            dtype = torch.bfloat16 if self.program[0].bfloat16 else torch.float32
            limit = metering.product_rate(str(state.device), dtype, torch.get_num_threads())
            fraction = round(rate * state.flops / limit / self.together.world.count, 4)
        return {
            "seconds": round(state.seconds + measuring, 4),
            "rows_per_second": round(rate, 1),
            "fraction_of_limit": fraction,
            "peak_memory": metering.peak_memory(state.device),
        }

    def save(self) -> None:
        """Write a checkpoint of where training stands."""
        self.tally.look()
        if not self.files.keeps:
            return
        self.files.save(self.state.tree())
        for callback in self.callbacks:
            callback.saved(self.files.path)


_MOST_WAITING = 10_000


class Tally:
    """Takes the steps of an epoch, and keeps their mean objective in the state.

    A GPU is not waited for at every step: there the look whether values are finite comes at the
    end of an epoch, before a checkpoint, or after ten thousand steps.

    Args:
        state: Its total and number of rows grow.
        batches: Where rows are from.
    """

    def __init__(self, state: State, batches: Batches) -> None:
        self.state, self.batches = state, batches
        self.last: Tensor | float = 0.0  # the latest step's mean objective
        self.waiting: list[tuple[Tensor, Part, Step]] = []

    def add(self, step: Step, batch: dict[str, Any], part: Part, weight: Tensor | float) -> None:
        """Take a step, and take in its mean objective.

        Raises:
            NonFiniteError: If that is not finite.
        """
        try:
            value = step(batch, part, weight)
        except ValueError as error:
            found = self._found(batch, part.index)
            cause = explained(error, lambda: step.mean(batch, 1.0)[1], **found)
            if cause is error:
                raise
            raise cause from error
        self.last = value
        if isinstance(value, Tensor):
            self.waiting.append((value, part, step))
            if len(self.waiting) == _MOST_WAITING:
                self.look()
            return
        if not math.isfinite(value):
            raise self._error(part.index, batch, step)
        self.state.total += value * part.batch
        self.state.rows += part.batch

    def look(self) -> None:
        """Wait for the values of a GPU."""
        for value, part, step in self.waiting:
            number = float(value)
            if not math.isfinite(number):
                raise self._error(part.index, self.batches("train", part.index), step)
            self.state.total += number * part.batch
            self.state.rows += part.batch
        self.waiting.clear()

    def mean(self) -> float:
        """Mean per row; with several phases, over their objectives too."""
        self.look()
        return self.state.total / self.state.rows

    def _error(self, index: Tensor, batch: dict[str, Any], step: Step) -> NonFiniteError:
        evidence = step.evidence
        if evidence is None:  # a compiled step keeps no ledger: draw one again
            with torch.no_grad():
                evidence = step.mean(batch, 1.0)[1]
        evidence = evidence if isinstance(evidence, Evidence) else None
        return non_finite(evidence=evidence, **self._found(batch, index))

    def _found(self, batch: dict[str, Any], index: Tensor) -> dict[str, Any]:
        return {
            "model": self.state.model,
            "batch": batch,
            "index": index,
            "missing": self.batches.missing,
            "epoch": self.state.epoch + 1,
            "split": "train",
        }
