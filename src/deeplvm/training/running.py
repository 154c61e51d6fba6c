"""A run of training, from its first batch or where it stopped to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from deeplvm.gradients import Draw
from deeplvm.training import metering
from deeplvm.training.batches import Batches, Split, seed_of
from deeplvm.training.callbacks import Callback
from deeplvm.training.compiling import Choice, Compile, choose
from deeplvm.training.folder import Checkpoints
from deeplvm.training.history import Record
from deeplvm.training.kl_weight import KLWeight
from deeplvm.training.measure import measure
from deeplvm.training.phases import Objective, Step
from deeplvm.training.progress import Progress
from deeplvm.training.rates import Average, Rates
from deeplvm.training.signals import Signals
from deeplvm.training.state import State
from deeplvm.training.tally import Tally
from deeplvm.training.together import Part, Together


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
