"""Phases: a training step is a list of objectives, the parameters they move, their optimisers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from deeplvm import registry
from deeplvm.core.draws import Draw, Learner, Suited, said
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients.named import draws_of, estimator_of
from deeplvm.networks.data_dependent_initialisation import starting, waiting
from deeplvm.training.batches import AnyBatches
from deeplvm.training.graph import Compile
from deeplvm.training.options import OptimizerChoice, check
from deeplvm.training.schedules import RateSchedule

Objective = Callable[[Any], Tensor]
# Rows by whose statistics layers start.
START_ROWS = 500
# Options that act where a phase follows a gradient.
OF_GRADIENTS = ("optimizer", "learning_rate", "clip", "skip", "weight_decay", "schedule")


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


def completed(
    phases: Sequence[Phase] | str | None, plain: Phase, model: LatentVariableModel
) -> list[Phase]:
    """The phases of a step, by themselves or by name, with what they leave open as in ``plain``.

    Raises:
        ValueError: If one says what has no part in it.
    """
    if isinstance(phases, str):
        phases = registry.phases_of(phases, model)
    return [_completed(phase, plain) for phase in phases or [plain]]


def _completed(phase: Phase, plain: Phase) -> Phase:
    check(repeats=phase.repeats, particles=phase.particles, learning_rate=phase.learning_rate)
    given = [each.name for each in fields(Phase) if getattr(phase, each.name) is not None]
    free = ("parameters", "update", "when", "stream", "repeats")
    if phase.update is not None and (idle := [name for name in given if name not in free]):
        raise ValueError(
            f"A phase with an update moves its parameters by that alone; leave out its "
            f"{', '.join(idle)}."
        )
    if phase.evidence is not None and (phase.estimator is not None or phase.draw):
        raise ValueError(
            "A phase with an evidence of its own draws its latents there; leave out its estimator "
            "and its draw."
        )
    if phase.update is not None:
        return phase
    open_ = [each.name for each in fields(Phase) if each.name not in given]
    filled = replace(phase, **{name: getattr(plain, name) for name in open_})
    way = None if filled.estimator is None else estimator_of(filled.estimator)
    return replace(filled, draw=draws_of(filled.draw), estimator=way)


def prepare(
    model: LatentVariableModel, phases: Sequence[Phase], batches: AnyBatches, seed: int
) -> None:
    """Let those that learn or remember beside the model make room, by the first training rows.

    Raises:
        ValueError: If an estimator suits no latent of any phase.
    """

    def take(phase: Phase, n: int) -> dict[str, Any]:
        batch = batches("train", batches.first(n), Generator().manual_seed(seed))
        return batch if phase.stream is None else batch[phase.stream]

    owners = {id(each): (each, phase) for phase in phases for each in phase.owners}
    for each, phase in owners.values():
        if isinstance(each, Prepared):
            rows = batches.rows("train", phase.stream)
            each.prepare(model, partial(take, phase), rows, batches.missing)
    _start(model, phases, batches, take)
    own = [p.estimator for p in phases if p.estimator is not None]
    if not own and not any([isinstance(way, Learner) for phase in phases for way in phase.ways]):
        return
    found: list[Draw] = []
    for phase in [phase for phase in phases if phase.draws]:
        drawn = model.prepare(
            take(phase, 2),
            particles=phase.particles,
            draw=phase.draw,
            default=None if phase.estimator is None else Suited(phase.estimator),
            missing=batches.missing,
            rows=batches.rows("train", phase.stream),
        )
        found += drawn.values()
    for way in own:
        if not any([each is way for each in found]):
            raise ValueError(
                f"The estimator {type(way).__name__} would draw nothing: it suits no latent that "
                f"is not drawn otherwise; leave it out, or choose another."
            )


def _start(
    model: LatentVariableModel,
    phases: Sequence[Phase],
    batches: AnyBatches,
    take: Callable[[Phase, int], dict[str, Any]],
) -> None:
    """Let layers that start from data do so, by the first rows of each phase that is drawn for."""
    for phase in phases:
        if phase.draws and waiting(model):
            rows = batches.rows("train", phase.stream)
            with starting(model):
                model.evidence(
                    take(phase, START_ROWS), rows=rows, draw=phase.draw, missing=batches.missing
                )


def asks(phase: Phase, model: LatentVariableModel) -> bool:
    """Whether an estimator has a say in how the latents of a phase are drawn."""
    return phase.draws and bool(set(model.q.names) - set(phase.draw or ()))


def idle_in(phases: Sequence[Phase]) -> tuple[str, ...]:
    """The options that have no part in these phases, as all move parameters by functions."""
    return OF_GRADIENTS if all([phase.update is not None for phase in phases]) else ()


def refuse_idle(
    phases: Sequence[Phase], always: Mapping[str, Any], alone: Mapping[str, Any]
) -> None:
    """Refuse options that do nothing where phases move parameters by functions of their own."""
    by_update = [phase.update is not None for phase in phases]
    idle = {**(always if any(by_update) else {}), **(alone if all(by_update) else {})}
    if given := [name for name, value in idle.items() if value]:
        raise ValueError(
            f"{', '.join(given)} has no part in a phase that moves its parameters by a function "
            f"of its own, in closed form say; leave it out."
        )


def asked(function: Callable[..., Any] | None) -> set[str]:
    """The names of what a function, or a module, takes."""
    function = function.forward if isinstance(function, nn.Module) else function
    return set() if function is None else set(inspect.signature(function).parameters)


def compilable(choice: Compile, phases: Sequence[Phase]) -> Compile:
    """Whether to compile, where a way of drawing says that it cannot be traced."""
    ways = [way for phase in phases for way in phase.ways]
    ways += [owner for phase in phases for owner in phase.owners]
    untraceable = [way for way in ways if not said(way, "traceable", unsaid=True)]
    # a graph is of batches, not of numbers of rows
    untraceable += [p.evidence for p in phases if "index" in asked(p.evidence)]
    if untraceable and choice is True:
        raise ValueError(
            f"A step with {type(untraceable[0]).__name__} cannot be compiled into one graph; "
            f"leave out compile."
        )
    return False if untraceable else choice
