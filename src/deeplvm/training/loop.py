"""Learn the parameters of a model: draw a batch, step, measure, save."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import said
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.devices import device_of, dtype_of, keep_freed_memory
from deeplvm.files import alone
from deeplvm.gradients import Draw
from deeplvm.gradients.named import draws_of, estimator_of
from deeplvm.objectives import elbo
from deeplvm.objectives.bounds import of_one_particle
from deeplvm.parallel.processes import apart, processes
from deeplvm.parallel.steps import Part, Together
from deeplvm.randomness import own_randomness, seed_of
from deeplvm.training import callbacks as metering
from deeplvm.training.batches import AnyBatches, Dataset, Streams, TrainingSplit, batches_of
from deeplvm.training.callbacks import (
    Callback,
    Ending,
    History,
    Progress,
    Record,
    Signals,
    in_words,
)
from deeplvm.training.cells import predictable
from deeplvm.training.checkpoint import CheckpointError, Checkpoints
from deeplvm.training.failures import TrainingInterrupted, explained, non_finite
from deeplvm.training.graph import Compilation, choose, unchanged
from deeplvm.training.measure import (
    Measurement,
    Ranking,
    filled_in,
    name_of,
    ranking_of,
    rows_measured,
)
from deeplvm.training.options import Machine, Optimization, Saving, Stopping, check
from deeplvm.training.phases import (
    OF_GRADIENTS,
    Objective,
    Phase,
    asks,
    compilable,
    completed,
    prepare,
    refuse_idle,
)
from deeplvm.training.schedules import Average, KLWeight, Rates, Schedule
from deeplvm.training.state import Companions, State
from deeplvm.training.step import Step
from deeplvm.training.threads import Threads


def fit(
    model: LatentVariableModel,
    data: Dataset | Streams | NamedRows,
    *,
    valid: NamedRows | None = None,
    missing: Sequence[str] | None = None,
    objective: Objective = elbo,
    epochs: int = 100,
    batch_size: int = 100,
    particles: int | None = None,
    draw: Mapping[str, Draw | str] | None = None,
    estimator: Draw | str | None = None,
    kl_weight: float | Callable[[float], float] = 1.0,
    log_prior: Callable[[LatentVariableModel], Tensor] | None = None,
    phases: Sequence[Phase] | str | None = None,
    hide: float = 0.0,
    hide_names: float = 0.0,
    labelled: float = 0.0,
    optimization: Optimization = Optimization(),
    stopping: Stopping = Stopping(),
    saving: Saving = Saving(),
    machine: Machine = Machine(),
    seed: int = 0,
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
    Epochs under another KL weight than the last one are not compared, nor are those of phases with
    objectives of their own, unless ``stopping`` says what to measure. Where values are missing, or
    hidden, the best epoch is the one that predicts hidden values of held-out rows best
    (``"cells"``): the bound does not tell what an encoder makes of holes.

    Several processes (see :func:`deeplvm.parallel.processes.joined`) share each batch: the seed
    and the batch size mean the same with any number of them. The first one writes, and speaks.

    Args:
        model: Its parameters are changed in place.
        data: A data set of :mod:`deeplvm.data`, named tensors ``{"x": (rows, *event)}``, or
            another way of batching (:class:`~deeplvm.training.Streams`,
            :class:`~deeplvm.training.ByFactor`). Names the model does not know are left out.
        valid: Held-out rows, where ``data`` are named tensors.
        missing: Names with NaN elements, for named tensors; by default they are looked at once.
        objective: Evidence to one number per row, nats; higher is better.
        epochs: Passes over the data.
        batch_size: Rows a step; the last of an epoch may have fewer, and its objective too is a
            mean per row.
        particles: Draws per row.
        draw: How latents are drawn, by their names, where not by reparameterisation; a way of
            drawing may be said by its own name, as ``estimator`` is.
        estimator: How those are drawn that it suits and ``draw`` does not name: an estimator of
            :mod:`deeplvm.gradients` for latents without a reparameterised draw, say, or its name
            in :mod:`deeplvm.gradients.named`.
        kl_weight: Weight of the latents' terms in training: a number or a function of progress in
            epochs. Measuring always uses 1.
        log_prior: Log-density of the parameters, for maximum a posteriori (monograph, A.2.1).
        phases: The parts of a step, where it is not one, or their name in
            :mod:`deeplvm.learning.programs`.
        hide: Train under many masks: at each visit of a row a share drawn from U(0, hide) of its
            observed values is hidden, so that q learns what missing values mean; the bound is
            that of the rest.
        hide_names: Of data of several names, the share of the rows that show only some of them at
            a visit, one at least, at random: so q learns what each says by itself.
        labelled: Where some rows lack their label y, the share of each batch that has one: few
            are seen as often as that, and count less accordingly, so that what is ascended is the
            same. 0 takes rows as they come.
        optimization: How parameters move.
        stopping: Which epoch is best, and when to look no further.
        saving: What is written, where and when.
        machine: Where and how is computed.
        seed: Of the order of rows, all draws, and renewed randomness. Two runs with one seed are
            the same bit for bit on a CPU; torch's own stream of random numbers is left as it was.
        callbacks: Told what happens; see :class:`~deeplvm.training.Callback`.
        quiet: Say nothing on standard error.

    Returns:
        What was measured.

    Raises:
        ValueError: If an option makes no sense, or patience has nothing to look at.
        NonFiniteError: If a value becomes NaN or infinite; the model then has the best weights of
            the epochs before.
        CheckpointError: If the folder cannot be written, or its checkpoint is damaged or of
            another run, or something learns that it cannot hold.
        TrainingInterrupted: At SIGINT (a keyboard interrupt), SIGTERM, or a signal such as SIGHUP
            that would end the process: the step is finished, the state saved, and the model has
            its best weights so far. A second SIGINT or SIGTERM is obeyed at once.

    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.core.joint import Joint
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
    >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2, 8))}))
    >>> x = torch.randn(200, 1) @ torch.ones(1, 2) + 0.1 * torch.randn(200, 2)
    >>> faster = Optimization(learning_rate=1e-2)
    >>> history = fit(model, {"x": x}, epochs=30, optimization=faster, quiet=True)
    >>> history.values()[-1] > history.values()[0]
    True
    """
    check(epochs=epochs, batch_size=batch_size, particles=particles)
    target = device_of(machine.device)
    all_threads = torch.get_num_threads()
    model.to(target)
    keep_freed_memory(target)
    batches = batches_of(model, data, valid, missing, target, hide, labelled, hide_names)
    rows, held_out = batches.rows("train"), batches.rows("valid")
    batch_size = min(batch_size, rows)
    together = Together(processes())
    measured = machine.threads == "auto" and target.type == "cpu" and together.world.alone
    threads = Threads(all_threads if measured else 1)
    if machine.threads != "auto":
        torch.set_num_threads(min(machine.threads, all_threads))
    first = together.world.first
    bfloat16 = machine.bfloat16(target)

    # A step is a list of phases; the plain one is a list of length one.
    way = None if estimator is None else estimator_of(estimator)
    splits: tuple[TrainingSplit, ...] = ("train", "valid")
    told_of = {
        each: filled_in(objective, rows, partial(batches.share_given, each)) for each in splits
    }
    objective = told_of["train"]
    plain = Phase(
        objective, None, optimization.optimizer, optimization.learning_rate,
        optimization.weight_decay, optimization.schedule, particles, (draw := draws_of(draw)), way,
    )  # fmt: skip
    listed = completed(phases, plain, model)
    if of_one_particle(model) and any([(each.particles or 1) > 1 for each in listed]):
        raise ValueError(
            "Of this model only the bound of one particle is one, as the terms of its chain are "
            "drawn; leave out particles (a recipe such as diffusion takes more times a row)."
        )
    if isinstance(data, Streams):
        data.refuse([phase.stream or phase.evidence or phase.update for phase in listed])
    if way is not None and not any([asks(phase, model) for phase in listed]):
        raise ValueError(
            f"The estimator {type(way).__name__} would draw nothing: every phase says itself how "
            f"its latents are drawn; leave it out."
        )
    weight = KLWeight(kl_weight, model, target)
    refuse_idle(
        listed,
        always={"kl_weight": kl_weight != 1.0, "log_prior": log_prior},
        alone={
            **{n: getattr(optimization, n) != getattr(Optimization, n) for n in OF_GRADIENTS},
            "compile=True": machine.compile is True,
            "precision='bfloat16'": machine.precision == "bfloat16",
        },
    )
    functions = [log_prior, kl_weight, stopping.measure]
    companions = Companions(listed, functions, model, target, dtype_of(model))
    with own_randomness(target, seed):
        prepare(model, listed, batches, seed)
    steps = [
        Step(
            model,
            phase,
            rows=batches.rows("train", phase.stream),
            missing=batches.missing,
            log_prior=log_prior,
            clip=optimization.clip,
            skip=optimization.skip,
            batch_size=len(together.part(torch.arange(batch_size)).index),
            alone=len(listed) == 1,
            bfloat16=bfloat16,
            together=None if together.world.alone else together,
            balance=batches.balance,
        )
        for phase in listed
    ]
    companions.train().add(model, steps)
    for step in steps:
        step.beside += companions.held
    if saving.folder is not None and companions.optimizers:
        raise CheckpointError(
            f"A function of this training holds an optimiser of its own "
            f"({type(companions.optimizers[0]).__name__}), whose memory no checkpoint would have; "
            f"give what it moves to a phase of its own, or train without a folder."
        )
    schedule = optimization.schedule
    rates = Rates(
        [phase.schedule for phase in listed],
        [step.optimizer for step in steps],
        [step.rates for step in steps],
        epochs,
    )
    updated = [p for step in steps if step.phase.update is not None for p in step.parameters]
    average = Average(model, optimization.averaging, updated) if optimization.averaging else None
    arrived = weight.arrived(epochs, -(-rows // batch_size))
    holes = [name for name in batches.real if name in batches.missing]
    wanted = batches.real if stopping.measure == "cells" else holes if held_out else ()
    cells = predictable(model, wanted)
    ranking = ranking_of(stopping, listed, plain, model, arrived, cells)
    if stopping.patience is not None and not held_out:
        raise ValueError(
            "Early stopping needs held-out rows to look at, and the data have none; split some "
            "off, or leave out patience."
        )
    state = State(
        model, steps, rates, average, companions, ranking, target, {
            "rows": rows,
            "held-out rows": held_out,
            "names": sorted(batches.names),
            "seed": seed,
            "batch_size": batch_size,
            "objective": name_of(objective),
            "particles": particles,
            "kl_weight": weight.text,
            **{name: getattr(optimization, name) for name in ("averaging", "clip", "skip")},
            "schedule": str(schedule) if isinstance(schedule, str | Schedule) else "None",
            "learning rates": [step.rates for step in steps],
            "optimizers": [type(step.optimizer).__name__ for step in steps],
            "precision": "bfloat16" if bfloat16 else "float32",
            **({"hide": hide} if hide else {}),
            **({"hide_names": hide_names} if hide_names else {}),
            **({"labelled": labelled} if labelled else {}),
            **({} if way is None else {"estimator": type(way).__name__}),
            **({} if stopping.measure is None else {"measure": ranking.name}),
        },
    )  # fmt: skip
    files = Checkpoints(
        saving.folder if first else None, saving.checkpoint_every, saving.checkpoint_seconds
    )
    was_training = model.training
    told = tuple(callbacks) if first else ()
    history: History | None = None
    failure: BaseException | None = None

    with own_randomness(target, seed), ExitStack() as stack:
        folder = Path(saving.folder) if saving.folder and first else None
        stack.enter_context(alone(folder, CheckpointError))
        # One process reads, as the others may have no disk in common with it.
        saved, warning = files.open(resume=saving.resume) if first else (None, "")
        saved, warning = together.world.from_first((saved, warning))
        if saved is None:
            state.begin(seed_of(seed, 1))
            files.save(state.tree())
        else:
            state.load(saved, str(saving.folder))
            if state.history and ranking.name not in state.history[0].get("valid", {}):
                # begun by a version that measured the bound alone
                ranking = state.ranking = ranking_of(stopping, listed, plain, model, arrived)
                cells = ()
            files.saved = (state.epoch, state.position)
        files.write_metrics(state.history)
        progress = Progress(
            epochs, state.epoch, ranking.name, quiet=quiet or not first,
            seconds=stopping.seconds - state.spent, exact=not model.q.names,
        )  # fmt: skip
        signals = stack.enter_context(Signals())
        measure = Measurement(
            model, batches, rows_measured(batches.measured_rows, held_out, seed), told_of,
            stopping.measure if callable(stopping.measure) else None, particles, draw, way,
            max(batch_size, 500 // (particles or 1)), seed, together,
            lambda: _heard(signals, together), cells,
        )  # fmt: skip
        loop = Loop(
            state, batches, weight, together, measure, seed, epochs, batch_size, stopping,
            replace(machine, compile=compilable(machine.compile, listed)), threads, files,
            stack.enter_context(progress), signals, told,
        )  # fmt: skip
        for line in [warning, *_notes(ranking, listed, held_out)]:
            progress.say(line)
        try:
            for callback in told:
                done = {"epoch": state.epoch, "seconds": state.spent}
                ranked = {"ranking": ranking}
                callback.started({**state.run, "epochs": epochs, **done, **ranked})
            stopped = loop.go()
            history = History(tuple(state.history), ranking.name, state.best_epoch, stopped)
        except (Stopped, KeyboardInterrupt) as error:
            failure = loop.interrupted()
            raise failure from error
        except BaseException as error:
            failure = error
            raise
        finally:
            state.take_best()
            model.train(was_training)
            torch.set_num_threads(all_threads)
            for callback in told:
                callback.ended(history, failure)
    return history


class Stopped(BaseException):
    """A signal asked to stop; everything is saved. Not an Exception: nothing may swallow it."""


@dataclass
class Loop:
    """Everything that a run of training is made of; put together by :func:`fit`."""

    state: State  # what changes, and what a checkpoint holds; the rest is fixed
    batches: AnyBatches
    weight: KLWeight
    together: Together
    measure: Measurement
    seed: int
    epochs: int
    batch_size: int  # of all processes together
    stopping: Stopping
    machine: Machine
    threads: Threads
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

    def go(self) -> Ending:
        """Train to the end; why it ended.

        Raises:
            Stopped: If a signal asked for it.
        """
        state = self.state
        for epoch in range(state.epoch + 1, self.epochs + 1):
            if self.patience_lost:
                return "patience"
            if self.late:
                self.progress.say(f"the time is over, after {in_words(state.spent)} of training")
                return "minutes"
            if not self.begin(epoch):
                self.save()
                return "phases"
            for index in self.batches.order(epoch, self.seed, self.batch_size, state.position):
                self.step(epoch, index)
                if self.ends_here():
                    break
            self.finish(*self.measured(epoch))
        return "epochs"

    @property
    def patience_lost(self) -> bool:
        """Whether so many epochs were no better than the best."""
        patience = self.stopping.patience
        return patience is not None and self.state.waited >= patience

    @property
    def late(self) -> bool:
        """Whether the time is over, by the clock of the first process."""
        bounded = math.isfinite(self.stopping.seconds)
        return self.together.world.from_first(self._over) if bounded else False

    @property
    def _over(self) -> bool:
        return self.state.spent >= self.stopping.seconds

    def begin(self, epoch: int) -> bool:
        """Choose the steps of this epoch's batches; whether there are any."""
        state = self.state
        wanted = [step for step in state.steps if step.phase.when is None or step.phase.when()]
        program = [step for step in wanted for _ in range(step.phase.repeats)]
        if not program and epoch == 1:
            raise ValueError("No phase is to be done in epoch 1: each waits for its when.")
        if not program:
            self.progress.say(f"no phase is to be done after epoch {epoch - 1}: training ends")
            return False
        if self.program and program != self.program:
            self.ready, state.flops = False, None
        self.program = program
        state.model.train()
        self.began = time.perf_counter() - state.seconds
        return True

    def step(self, epoch: int, index: Tensor) -> None:
        """Ascend the objectives of a batch."""
        state, together = self.state, self.together
        together.stop = self.signals.received is not None or self._over
        done = epoch - 1 + state.position / self.per_epoch
        state.rates.at(done, by_clock=self.epochs * state.spent / self.stopping.seconds)
        for each in (self.weight, state.companions):
            each.at(done)
        part = together.part(index)
        if not self.ready:
            self._prepare(part, done)
        with together.noise(part):
            batch = self.batches("train", part.index, state.generator, whole=index)
        counted: dict[Step, int] = {}  # once each: counting makes a step slow
        for each in self.program:
            ascend = partial(self.tally.add, each, batch, part, self.weight.value)
            if state.flops is None and each not in counted:
                counted[each] = metering.flops_of(ascend)
            else:
                ascend()
        if state.flops is None:
            state.flops = sum([counted[each] for each in self.program]) / len(part.index)
        if state.average is not None:
            state.average.update()
        for callback in self.watching:
            callback.step_ended(round(done * self.per_epoch) + 1, self.tally.last)
        self.progress.step(done + 1 / self.per_epoch)
        state.position += 1
        state.seconds = time.perf_counter() - self.began
        if self.threads.open and self.threads.slowed():
            self._share_cores(batch, part)

    def ends_here(self) -> bool:
        """Whether the time is over; a checkpoint is written where the last is old.

        Raises:
            Stopped: If a signal was heard; all is saved.
        """
        # others have heard of it by the step itself; one alone need not wait for the next
        alone, heard = self.together.world.alone, self.signals.received is not None
        stop = self.together.stop or (alone and (heard or self._over))
        if stop:
            self.signals.received = self.together.agreed(self.signals.received)
        asked = stop and self.signals.received is not None
        if asked or self.files.stale():
            self.save()
        if asked:
            raise Stopped
        return stop

    def measured(self, epoch: int) -> tuple[Record, bool, float]:
        """The record of an epoch, whether it is the best one, and the seconds that took."""
        state = self.state
        self.tally.look()
        state.seconds = time.perf_counter() - self.began
        began = time.perf_counter()
        record: Record = {"epoch": epoch}
        try:
            with state.average.in_place() if state.average is not None else nullcontext():
                state.companions.eval()
                for split in self.measure.rows:
                    record[split] = self.measure(split, epoch)
                state.companions.train()
                record["kl_weight"] = float(self.weight.value)
                if not state.ranking.settled(record["kl_weight"]):
                    record["comparable"] = False
                self._judge()
                better = state.keep_if_better(record)
        except Stopped:
            self.save()
            raise
        return record, better, time.perf_counter() - began

    def _judge(self) -> None:
        """Let companions look at the model: one process does, and the others hear of it."""
        companions, world = self.state.companions, self.together.world
        if not companions.judges:
            return
        split: TrainingSplit = "valid" if "valid" in self.measure.rows else "train"

        def take(rows: int) -> dict[str, Any]:
            return self.batches(split, self.measure.rows[split][:rows])

        said = companions.judge(self.state.model, take) if world.first else []
        if not world.alone:
            state = {name: value.cpu() for name, value in companions.state().items()}
            companions.load(world.from_first(state))
        for text in said:
            self.progress.say(text)

    def finish(self, record: Record, better: bool, measuring: float) -> None:  # noqa: FBT001
        """An epoch is done: write it down, and be ready for the next."""
        state, step = self.state, self.program[0]
        split: TrainingSplit = "valid" if "valid" in record else "train"
        bound = record[split][state.ranking.name] * (1 if state.ranking.higher else -1)
        state.rates.after_epoch(bound if record.get("comparable", True) else None)
        record["objective"] = self.tally.mean()
        record["learning_rate"] = float(step.optimizer.param_groups[0]["lr"])
        if step.skip is not None:
            record["skipped"] = sum([each.skipped for each in dict.fromkeys(self.program)])
            before = state.history[-1].get("skipped", 0) if state.history else 0
            if record["skipped"] - before == state.position * len(self.program):
                self.progress.say(
                    f"no step of epoch {state.epoch + 1} was taken: every gradient is longer than "
                    f"skip={step.skip:g}, or not finite; raise it, or use clip instead"
                )
        if state.position < self.per_epoch:  # the time was over
            record["part"] = round(state.position / self.per_epoch, 4)
        record |= self._timings(measuring)
        state.history.append(record)
        state.begin(seed_of(self.seed, state.epoch + 1))
        self.files.add_metrics(record)
        last = state.epoch == self.epochs or self.patience_lost or self.late
        if last or self.files.due(state.epoch):
            self.save()
        self.progress.epoch(record, best=better)
        for callback in self.callbacks:
            callback.epoch_ended(record)

    def _timings(self, measuring: float) -> dict[str, Any]:
        state = self.state
        rows = min(state.position * self.batch_size, self.batches.rows("train"))
        rate = rows / state.seconds if state.seconds else 0.0
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

    def _prepare(self, part: Part, done: float) -> None:
        """Compile the steps or not, when the first batch is at hand."""
        state, world = self.state, self.together.world
        if state.threads and self.threads.open and state.threads <= self.threads.candidates[-1]:
            torch.set_num_threads(state.threads)
        elif self.threads.open:  # not for a number that was asked for, nor on a smaller machine
            self._share_cores(self.batches("train", part.index), part)
        decided = state.compiled is not None and self.machine.compile == "auto"
        wanted = bool(state.compiled) if decided else self.machine.compile
        choice = Compilation(compiled=False)
        if world.first or wanted is True:
            with apart():  # what is tried here, the others need not try
                choice = choose(
                    self.program,
                    self.batches("train", part.index),
                    part,
                    self.weight.value,
                    wanted=wanted,
                    left=round((self.epochs - done) * self.per_epoch),
                    budget=self.machine.compile_budget,
                    seconds=self.stopping.seconds - self.state.spent,
                    varies=self.batches.varies,
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

    def _share_cores(self, batch: dict[str, Any], part: Part) -> None:
        """Take as many threads as are fastest now; nothing of the run changes."""
        steps, before = self.program, self.state.threads
        forms = [(step.compiled, step.graph) for step in steps]
        try:
            for step in steps:  # compiled code is made for one number of threads
                step.compiled = step.graph = None
            with own_randomness(self.state.device, 0), unchanged(steps):
                ascend = [partial(step, batch, part, self.weight.value) for step in steps]
                self.state.threads = self.threads.choose(lambda: [each() for each in ascend])
        finally:
            for step, (compiled, graph) in zip(steps, forms, strict=True):
                step.compiled, step.graph = compiled, graph
        if before not in (None, self.state.threads):
            self.progress.say(f"steps became slow: {self.state.threads} threads, not {before}")

    def interrupted(self) -> TrainingInterrupted:
        """What a signal ended, and how to go on."""
        state, saved = self.state, self.files.saved
        number = self.signals.received or signal.SIGINT
        text = f"Interrupted ({number.name}) in epoch {state.epoch + 1}"
        if state.position:
            text += f", after {state.position} of its {self.per_epoch} batches"
        text += "; the model has its best weights so far"
        text += f" (epoch {state.best_epoch})" if state.best_epoch else " (those it started with)"
        if saved == (state.epoch, state.position):
            text += ". All of it is saved: go on with resume"
        elif saved is not None:
            text += f". Go on after epoch {saved[0]} and {saved[1]} batches with resume"
        return TrainingInterrupted(
            f"{text}.", state.epoch, None if saved is None else saved[0], number
        )

    def save(self) -> None:
        """Write a checkpoint of where training stands."""
        self.tally.look()
        if not self.files.keeps:
            return
        self.files.save(self.state.tree())
        for callback in self.callbacks:
            callback.saved(self.files.path)


def _notes(ranking: Ranking, phases: Sequence[Phase], held_out: int) -> Iterator[str]:
    """What a user should know before training begins."""
    if held_out and ranking.why_not:
        yield f"no epoch is called the best, and the last is kept: {ranking.why_not}"
    for way in [way for phase in phases for way in phase.ways]:
        if not said(way, "bound", unsaid=True):
            yield (
                f"with {type(way).__name__} the objective of training is no bound on log p(x); "
                f"what is measured is, with plain draws"
            )


def _heard(signals: Signals, together: Together) -> None:
    """Stop measuring, where that does not leave others waiting."""
    if together.world.alone and signals.received is not None:
        raise Stopped


_MOST_WAITING = 10_000


class Tally:
    """Takes the steps of an epoch, and keeps their mean objective in the state.

    A GPU is not waited for at every step: there the look whether values are finite comes at the
    end of an epoch, before a checkpoint, or after ten thousand steps.
    """

    def __init__(self, state: State, batches: AnyBatches) -> None:
        self.state, self.batches = state, batches
        self.last: Tensor | float = 0.0  # the latest step's mean objective
        self.waiting: list[tuple[Tensor, Part, Step]] = []

    def add(self, step: Step, batch: dict[str, Any], part: Part, weight: Tensor | float) -> None:
        """Take a step, and take in its mean objective.

        Raises:
            NonFiniteError: If that is not finite.
        """
        try:
            self.last = step(batch, part, weight)
        except ValueError as error:
            found = self._found(step, batch, part.index)
            cause = explained(error, lambda: step.ledger(batch, part), **found)
            if cause is error:
                raise
            raise cause from error
        if not isinstance(self.last, Tensor):
            self._count(self.last, step, part, batch)
            return
        self.waiting.append((self.last, part, step))
        if len(self.waiting) == _MOST_WAITING:
            self.look()

    def look(self) -> None:
        """Wait for the values of a GPU."""
        for value, part, step in self.waiting:
            self._count(float(value), step, part, None)
        self.waiting.clear()

    def mean(self) -> float:
        """Mean per row; with several phases, over their objectives too."""
        self.look()
        return self.state.total / self.state.rows

    def _count(self, value: float, step: Step, part: Part, batch: dict[str, Any] | None) -> None:
        if math.isfinite(value):
            self.state.total += value * part.batch
            self.state.rows += part.batch
            return
        batch = self.batches("train", part.index) if batch is None else batch
        evidence = step.evidence
        if evidence is None:  # a compiled step keeps no ledger: draw one again
            evidence = step.ledger(batch, part)
        evidence = evidence if isinstance(evidence, Evidence) else None
        raise non_finite(evidence=evidence, **self._found(step, batch, part.index))

    def _found(self, step: Step, batch: dict[str, Any], index: Tensor) -> dict[str, Any]:
        batch, index = self.batches.of_stream(step.phase.stream, batch, index)
        return {
            "model": self.state.model,
            "batch": batch,
            "index": index,
            "missing": self.batches.missing,
            "epoch": self.state.epoch + 1,
            "split": "train",
        }
