"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from deeplvm.evidence import Evidence
from deeplvm.gradients import Draw
from deeplvm.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.training.batches import Batches, Rows, Source, Split, Tensors
from deeplvm.training.checkpoints import CheckpointError, Checkpoints, restore, unique_state
from deeplvm.training.failures import (
    NonFiniteError,
    TrainingInterrupted,
    explained,
    non_finite,
)
from deeplvm.training.measure import measure, name_of, own_randomness
from deeplvm.training.phases import Objective, OptimizerChoice, Phase, Step
from deeplvm.training.progress import Progress
from deeplvm.training.rates import Average, Rates, RateSchedule
from deeplvm.training.schedules import Schedule

Record = dict[str, Any]


@dataclass(frozen=True)
class History:
    """What training measured, epoch by epoch.

    Attributes:
        epochs: One record an epoch, as in ``metrics.jsonl``: ``epoch``, ``train`` and ``valid``
            (means in nats of the elbo, of the objective under its own name, of each variable's
            term), ``objective`` (what was ascended, mean over the epoch's steps, with the KL
            weight of the time), ``kl_weight`` and ``learning_rate`` at the epoch's last step,
            ``seconds``.
        bound: Name of the bound by which the best epoch was chosen.
        best_epoch: The epoch whose weights the model has: the best held out, without held-out rows
            the last.
        stopped: Why it ended: all epochs done, or patience lost.
    """

    epochs: tuple[Record, ...]
    bound: str
    best_epoch: int
    stopped: Literal["epochs", "patience"]

    def values(self, split: str = "train", name: str | None = None) -> list[float]:
        """One number an epoch; by default of the bound."""
        return [record[split][name or self.bound] for record in self.epochs if split in record]

    @property
    def best(self) -> Record:
        """The record of the best epoch.

        Raises:
            ValueError: If no epoch was trained.
        """
        if not self.epochs:
            raise ValueError("No epoch was trained, so there is no best one.")
        return self.epochs[self.best_epoch - 1]

    def __str__(self) -> str:
        if not self.epochs:
            return "no epoch trained"
        shown = [f"{split} {self.best[split][self.bound]:.2f}" for split in self._splits()]
        return (
            f"{len(self.epochs)} epochs, best {self.best_epoch}: {self.bound} {', '.join(shown)} "
            f"nats a row"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deeplvm.report.tables import html_table

        splits = self._splits()
        rows = [
            [str(record["epoch"]), *[f"{record[split][self.bound]:.2f}" for split in splits]]
            for record in self.epochs
        ]
        heads = [f"{self.bound}, {split} (nats a row)" for split in splits]
        return html_table(["epoch", *heads], rows, str(self))

    def _splits(self) -> list[str]:
        return [split for split in ("train", "valid") if self.epochs and split in self.epochs[-1]]


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
    phases: Sequence[Phase] | None = None,
    missing: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool = False,  # noqa: A002 - torch's own word
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    on_epoch: Sequence[Callable[[Record], None]] = (),
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
        draw: How latents are drawn, where not by reparameterisation.
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
        phases: The parts of a step, where it is not one.
        missing: Names with NaN elements, for named tensors; by default they are looked at once.
        seed: Of the order of rows, all draws, and renewed randomness. Two runs with one seed are
            the same bit for bit on a CPU; torch's own stream of random numbers is left as it was.
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"``; the model moves there.
        compile: Compile the objective with ``torch.compile(fullgraph=True)``; an odd last batch
            runs uncompiled.
        folder: Where ``metrics.jsonl`` and ``checkpoint/`` are written; none writes nothing.
        resume: Go on from the folder's checkpoint, if it has one, exactly where it was.
        checkpoint_every: Epochs; by default as often as saving costs at most a twentieth of the
            time.
        on_epoch: Called with each epoch's record, after it is saved.
        quiet: Say nothing on standard error.

    Returns:
        What was measured.

    Raises:
        ValueError: If an option makes no sense, or patience has no held-out rows to look at.
        NonFiniteError: If a value becomes NaN or infinite; the model then has the best weights of
            the epochs before.
        CheckpointError: If the folder cannot be written, or its checkpoint is damaged or of
            another run.
        TrainingInterrupted: At a keyboard interrupt; the model then has the best weights so far.

    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.joint import Joint
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
    >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2, 8))}))
    >>> x = torch.randn(200, 1) @ torch.ones(1, 2) + 0.1 * torch.randn(200, 2)
    >>> history = fit(model, {"x": x}, epochs=30, learning_rate=1e-2, quiet=True)
    >>> history.values()[-1] > history.values()[0]
    True
    """
    _check(
        epochs=epochs,
        batch_size=batch_size,
        particles=particles,
        patience=patience,
        checkpoint_every=checkpoint_every,
        learning_rate=learning_rate,
        clip=clip,
        skip=skip,
    )
    if not 0.0 <= averaging < 1.0:
        raise ValueError(f"averaging is a decay in [0, 1), such as 0.999, not {averaging}.")
    target = _device(device)
    model.to(target)
    batches = _batches(model, data, valid, missing, target)
    rows, held_out = batches.rows("train"), batches.rows("valid")
    if patience is not None and not held_out:
        raise ValueError(
            "Early stopping needs held-out rows to look at, and the data have none; split some "
            "off, or leave out patience."
        )
    batch_size = min(batch_size, rows)
    per_epoch = -(-rows // batch_size)

    # A step is a list of phases; the plain one is a list of length one.
    plain = Phase(objective, None, optimizer, learning_rate, weight_decay, particles, draw)
    listed = [_filled(phase, plain) for phase in phases or [plain]]
    steps = [
        Step(
            model,
            phase,
            rows=rows,
            missing=batches.missing,
            log_prior=log_prior,
            clip=clip,
            skip=skip,
            compile=compile,
            batch_size=batch_size,
            alone=len(listed) == 1,
        )
        for phase in listed
    ]
    program = [step for step in steps for _ in range(step.phase.repeats)]
    rates = Rates(
        schedule, [step.optimizer for step in steps], [step.rates for step in steps], epochs
    )
    average = Average(model, averaging) if averaging else None
    bound = name_of(objective)

    # One seed: the order of rows and what is renewed at every visit, then torch's own stream.
    generator = Generator().manual_seed(seed)
    shuffled = torch.randperm(rows, generator=Generator().manual_seed(seed))
    look: dict[Split, Tensor] = {"train": shuffled[: min(held_out or rows, 5000)].sort().values}
    if held_out:
        look["valid"] = torch.arange(held_out)
    weight = _Weight(kl_weight, model, target)

    state = _State(
        model,
        steps,
        rates,
        average,
        generator,
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
        },
    )
    files = Checkpoints(folder, checkpoint_every)
    was_training = model.training
    stopped: Literal["epochs", "patience"] = "epochs"

    with own_randomness(target, seed):
        saved, warning = files.open(resume=resume)
        if saved is None:
            files.save(state.tree())
        else:
            state.load(saved, str(folder))
            files.saved = state.epoch
        files.write_metrics(state.history)
        try:
            with Progress(epochs, state.epoch, bound, quiet=quiet) as progress:
                progress.say(warning)
                for epoch in range(state.epoch + 1, epochs + 1):
                    if patience is not None and state.epoch - state.best_epoch >= patience:
                        stopped = "patience"
                        break
                    began = time.perf_counter()
                    model.train()
                    tally = _Tally(model, batches, epoch)
                    order = torch.randperm(rows, generator=generator)
                    for i, index in enumerate(order.split(batch_size)):
                        now = epoch - 1 + i / per_epoch
                        rates.at(now)
                        weight.at(now)
                        batch = batches("train", index, generator)
                        for step in program:
                            tally.add(step, batch, index, weight.value)
                        if average is not None:
                            average.update()
                        progress.step(now + 1 / per_epoch)

                    record: Record = {"epoch": epoch}
                    with average.in_place() if average is not None else nullcontext():
                        for split, index in look.items():
                            record[split] = measure(
                                model,
                                batches,
                                split,
                                index,
                                objective,
                                particles=particles,
                                draw=draw,
                                batch_size=max(batch_size, 500 // (particles or 1)),
                                rows=rows,
                                seed=seed,
                                epoch=epoch,
                            )
                        better = state.keep_if_better(epoch, record, bound)
                    rates.after_epoch(record["valid" if held_out else "train"][bound])
                    record["objective"] = tally.mean()
                    record["kl_weight"] = float(weight.value)
                    record["learning_rate"] = float(steps[0].optimizer.param_groups[0]["lr"])
                    if skip is not None:
                        record["skipped"] = sum([step.skipped for step in steps])
                    record["seconds"] = round(time.perf_counter() - began, 4)

                    state.history.append(record)
                    files.add_metrics(record)
                    last = epoch == epochs or epoch - state.best_epoch >= (patience or epochs + 1)
                    if last or files.due(epoch):
                        files.save(state.tree())
                    progress.epoch(record, best=better)
                    for function in on_epoch:
                        function(record)
        except KeyboardInterrupt as error:
            raise _interrupted(state, files) from error
        finally:
            state.take_best()
            model.train(was_training)
    return History(tuple(state.history), bound, state.best_epoch, stopped)


class _State:
    """Everything that the next step depends on, and the best weights so far."""

    def __init__(
        self,
        model: LatentVariableModel,
        steps: list[Step],
        rates: Rates,
        average: Average | None,
        generator: Generator,
        device: torch.device,
        run: dict[str, Any],
    ) -> None:
        self.model, self.steps, self.rates, self.average = model, steps, rates, average
        self.generator, self.device, self.run = generator, device, run
        self.history: list[Record] = []
        self.best_epoch = 0
        self.best = self._copy()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def keep_if_better(self, epoch: int, record: Record, bound: str) -> bool:
        """Copy the weights if they are the best on held-out rows; without those, always."""
        held_out = "valid" in record
        before = (
            self.history[self.best_epoch - 1]["valid"][bound]
            if held_out and self.best_epoch
            else None
        )
        if before is not None and record["valid"][bound] <= before:
            return False
        self.best_epoch, self.best = epoch, self._copy()
        return held_out

    def take_best(self) -> None:
        """Give the model its best weights."""
        self._fill(self.best)

    def tree(self) -> dict[str, Any]:
        """As nested dicts, for a checkpoint."""
        cuda = self.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "run": self.run,
            "model": unique_state(self.model)[0],
            "best": self.best,
            "best_epoch": self.best_epoch,
            "optimizers": [step.optimizer.state_dict() for step in self.steps],
            "skipped": [step.skipped for step in self.steps],
            "rates": self.rates.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "order": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "history": self.history,
        }

    def load(self, tree: dict[str, Any], folder: str) -> None:
        """The inverse of :meth:`tree`.

        Raises:
            CheckpointError: If the checkpoint is of a run with other options, or of another model.
        """
        for key, value in self.run.items():
            if tree["run"].get(key) != value:
                raise CheckpointError(
                    f"The checkpoint in {folder} is of a run with {key} {tree['run'].get(key)!r}, "
                    f"and this one has {value!r}; go on with the options it was started with, or "
                    "use another folder."
                )
        self._fill(tree["model"])
        self.best_epoch = tree["best_epoch"]
        self.best = {name: value.to(self.device) for name, value in tree["best"].items()}
        for step, kept, skipped in zip(
            self.steps, tree["optimizers"], tree["skipped"], strict=True
        ):
            step.optimizer.load_state_dict(kept)
            step.skipped = skipped
        self.rates.load_state_dict(tree["rates"])
        if self.average is not None:
            self.average.load_state_dict(tree["average"])
        self.generator.set_state(tree["order"])
        torch.set_rng_state(tree["random"])
        if self.device.type == "cuda" and tree["random_cuda"] is not None:
            torch.cuda.set_rng_state(tree["random_cuda"], self.device)
        self.history.extend(tree["history"])

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: value.detach().clone() for name, value in unique_state(self.model)[0].items()
        }

    def _fill(self, weights: dict[str, Tensor]) -> None:
        aliases = unique_state(self.model)[1]
        restore(
            self.model,
            weights | {alias: weights[name] for alias, name in aliases.items() if name in weights},
        )


class _Tally:
    """The objective of an epoch's steps: its mean, and the look whether it is finite.

    A GPU is not waited for at every step, so there the look comes a hundred steps at a time.
    """

    def __init__(self, model: LatentVariableModel, batches: Batches, epoch: int) -> None:
        self.model, self.batches, self.epoch = model, batches, epoch
        self.waiting: list[tuple[Tensor, Tensor, Step]] = []
        self.total, self.rows = 0.0, 0

    def add(
        self, step: Step, batch: dict[str, Any], index: Tensor, weight: Tensor | float
    ) -> None:
        """Take a step, and take in its mean objective."""
        try:
            value = step(batch, len(index), weight)
        except ValueError as error:
            cause = explained(error, lambda: step.mean(batch, 1.0)[1], **self._found(batch, index))
            if cause is error:
                raise
            raise cause from error
        if isinstance(value, Tensor):
            self.waiting.append((value, index, step))
            if len(self.waiting) == 100:
                self._look()
            return
        if not math.isfinite(value):
            raise self._error(index, batch, step)
        self.total += value * len(index)
        self.rows += len(index)

    def mean(self) -> float:
        """Mean per row; with several phases, over their objectives too."""
        self._look()
        return self.total / self.rows

    def _look(self) -> None:
        for value, index, step in self.waiting:
            number = float(value)
            if not math.isfinite(number):
                raise self._error(index, self.batches("train", index), step)
            self.total += number * len(index)
            self.rows += len(index)
        self.waiting.clear()

    def _error(self, index: Tensor, batch: dict[str, Any], step: Step) -> NonFiniteError:
        evidence = step.evidence
        if evidence is None:  # a compiled step keeps no ledger: draw one again
            with torch.no_grad():
                evidence = step.mean(batch, 1.0)[1]
        evidence = evidence if isinstance(evidence, Evidence) else None
        return non_finite(evidence=evidence, **self._found(batch, index))

    def _found(self, batch: dict[str, Any], index: Tensor) -> dict[str, Any]:
        return {
            "model": self.model,
            "batch": batch,
            "index": index,
            "missing": self.batches.missing,
            "epoch": self.epoch,
            "split": "train",
        }


class _Weight:
    """The KL weight: a plain number where it never changes, else a tensor.

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
            self.value = _finite("kl_weight", float(weight))  # type: ignore[arg-type]
            self.text = repr(self.value)
        else:
            self.value = torch.ones((), dtype=_dtype(model), device=device)
            self.text = repr(weight) if isinstance(weight, Schedule) else "a function"

    def at(self, epoch: float) -> None:
        """Set it for a step at this progress."""
        if self.schedule is not None:
            number = _finite("kl_weight", self.schedule(epoch))
            self.value.fill_(number)  # type: ignore[union-attr]


def _interrupted(state: _State, files: Checkpoints) -> TrainingInterrupted:
    text = f"Interrupted in epoch {state.epoch + 1}; the model has its best weights so far"
    text += f" (epoch {state.best_epoch})" if state.best_epoch else " (those it started with)"
    if files.saved is not None:
        text += f". Go on after epoch {files.saved} with resume"
    return TrainingInterrupted(f"{text}.", state.epoch, files.saved)


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
    return Batches(source, model.names, device, _dtype(model))


def _filled(phase: Phase, plain: Phase) -> Phase:
    """A phase with what it leaves open taken from the plain one."""
    _check(repeats=phase.repeats, particles=phase.particles, learning_rate=phase.learning_rate)
    kept = {
        field.name: getattr(plain, field.name)
        for field in fields(Phase)
        if getattr(phase, field.name) is None
    }
    return replace(phase, **kept)


def _dtype(model: LatentVariableModel) -> torch.dtype:
    floating = [p.dtype for p in model.parameters() if p.is_floating_point()]
    return floating[0] if floating else torch.get_default_dtype()


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', not {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch sees no GPU here; use device='auto' or 'cpu'.")
    return found


def _check(**numbers: float | None) -> None:
    """Counts are positive integers, the rest positive numbers."""
    real = ("learning_rate", "clip", "skip")
    for name, number in numbers.items():
        if number is None:
            continue
        if name in real:
            if not (isinstance(number, int | float) and 0 < number < math.inf):
                raise ValueError(f"{name} must be a positive number, not {number!r}.")
        elif isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, not {number!r}.")


def _finite(name: str, number: float) -> float:
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a number of at least 0, not {number}.")
    return float(number)
