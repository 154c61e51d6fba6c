"""Learn the parameters of a model."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from deeplvm.allocation import keep_freed_memory
from deeplvm.gradients import Draw, Suited, as_measured
from deeplvm.gradients.named import estimator_of
from deeplvm.model import LatentVariableModel
from deeplvm.objectives import elbo
from deeplvm.processes import processes
from deeplvm.training.batches import Batches, Rows, Source, Split, Tensors, seed_of
from deeplvm.training.callbacks import Callback
from deeplvm.training.checkpoints import alone
from deeplvm.training.checks import bfloat16_for, check, device_of, dtype_of
from deeplvm.training.companions import Companions
from deeplvm.training.compiling import Compile
from deeplvm.training.failures import TrainingInterrupted
from deeplvm.training.folder import Checkpoints
from deeplvm.training.history import History
from deeplvm.training.kl_weight import KLWeight
from deeplvm.training.measure import for_rows, name_of, own_randomness
from deeplvm.training.phases import Objective, OptimizerChoice, Phase, Step
from deeplvm.training.programs import phases_of
from deeplvm.training.progress import Progress
from deeplvm.training.rates import Average, Rates, RateSchedule
from deeplvm.training.running import Run, Stopped
from deeplvm.training.signals import Signals
from deeplvm.training.state import State
from deeplvm.training.together import Together

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

    Several processes (see :func:`deeplvm.processes.joined`) share each batch: the seed and the
    batch size mean the same with any number of them. The first one writes, and speaks.

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
            :mod:`deeplvm.training.programs`.
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
    >>> from deeplvm.joint import Joint
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
        stack.enter_context(alone(folder if first else None))
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
