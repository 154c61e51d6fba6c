"""Measure a model on rows it learns from and rows held out, and say which epoch is best by it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Draw, Suited, as_measured
from deeplvm.objectives import elbo
from deeplvm.parallel.steps import Together
from deeplvm.randomness import own_randomness
from deeplvm.registry import in_snake_case
from deeplvm.training.batches import AnyBatches, TrainingSplit
from deeplvm.training.cells import PARTICLES, predicted
from deeplvm.training.failures import explained, non_finite
from deeplvm.training.options import Stopping
from deeplvm.training.phases import Objective, Phase
from deeplvm.training.schedules import NEAR

_PREDICTED = 2_000  # rows of which hidden elements are predicted, about


def name_of(objective: Callable[..., Any], unnamed: str = "objective") -> str:
    """What the bound is called in the metrics.

    >>> name_of(functools.partial(elbo, form="analytic")), name_of(lambda evidence: elbo(evidence))
    ('elbo', 'objective')
    """
    while isinstance(objective, functools.partial):
        objective = objective.func
    name = getattr(objective, "__name__", in_snake_case(type(objective).__name__))
    return name if name.isidentifier() else unnamed


def filled_in(
    objective: Objective, rows: int, share_given: Callable[[str], float] = lambda _: 1.0
) -> Objective:
    """An objective that is to be told of the data, told.

    Args:
        objective: Of an argument ``rows`` without a default, or ``labelled``.
        rows: Of the data.
        share_given: Name to the share of the rows, those of a split, that have it.
    """
    bare = objective.func if isinstance(objective, functools.partial) else objective
    given = objective.keywords if isinstance(objective, functools.partial) else {}
    asks = inspect.signature(bare).parameters if inspect.isroutine(bare) else {}
    facts: dict[str, Any] = {}
    if "rows" in asks and "rows" not in given and asks["rows"].default is inspect.Parameter.empty:
        facts["rows"] = rows
    if "labelled" in asks and "labelled" not in given:
        label = given.get("label", asks["label"].default)
        facts["labelled"] = share_given(label) or 1.0
    return functools.partial(objective, **facts) if facts else objective


@dataclass(frozen=True)
class Ranking:
    """Which of the epochs is best.

    A bound on held-out rows says so only among epochs that ascended the same objective: under a
    KL weight below its last value a model learns something else, and the bounds of its first
    epochs can be the highest of the run.

    Attributes:
        name: Of the number that is compared.
        higher: Whether more of it is better.
        weight: KL weight of the epochs that can be compared.
        objective: What is ascended; one whose ``settled`` is false still changes.
        why_not: Why no epochs of this run can be compared; empty where they can.
    """

    name: str
    higher: bool = True
    weight: float = 1.0
    objective: Objective | None = None
    why_not: str = ""

    def settled(self, kl_weight: float) -> bool:
        """Whether an epoch that ends now, at this KL weight, can be compared with later ones."""
        near = abs(kl_weight - self.weight) <= NEAR * abs(self.weight)
        return not self.why_not and near and bool(getattr(self.objective, "settled", True))

    def comparable(self, record: Mapping[str, Any]) -> bool:
        """Whether an epoch can be the best one, by its record."""
        near = abs(record["kl_weight"] - self.weight) <= NEAR * abs(self.weight)
        return not self.why_not and near and record.get("comparable", True)

    def better(self, record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether one epoch is better than another, on held-out rows."""
        one, two = record["valid"][self.name], other["valid"][self.name]
        return one > two if self.higher else one < two


def ranking_of(
    stopping: Stopping,
    phases: Sequence[Phase],
    plain: Phase,
    model: LatentVariableModel,
    arrived: tuple[float, str],
    cells: Sequence[str] = (),
) -> Ranking:
    """Which epoch is best, as far as that can be said."""
    measure, objective = stopping.measure, plain.objective
    weight, why_not = arrived
    name, higher = name_of(objective or elbo), stopping.direction == "higher"
    if callable(measure):
        return Ranking(name_of(measure, "measure"), higher, weight, objective, why_not)
    if measure is not None:
        known = dict.fromkeys(["elbo", name, *(["cells"] if cells else []), *model.p.names])
        if measure not in known:
            raise ValueError(
                f"measure is a function of the model and of rows, or one of "
                f"{', '.join(known)}; not {measure!r}."
            )
        return Ranking(measure, higher, weight, objective, why_not)
    own = [each for each in phases if each.objective is not objective or not each.draws]
    unlike = ""
    if own:
        unlike = "the phases ascend objectives of their own, and none of these says which"
    elif getattr(objective, "adapts", False):
        unlike = f"{name} weighs its terms anew in every step"
    if unlike:
        why_not = f"{unlike}; measure='elbo' (--measure elbo), or a function of one's own, would"
    if unlike and stopping.patience is not None:
        raise ValueError(
            f"patience waits for a better epoch, and nothing says which is better: {why_not}."
        )
    name = "cells" if cells and not why_not else name
    return Ranking(name, higher, weight, objective, why_not)


_MEASURED = 5_000  # training rows that are measured after an epoch, at most


def rows_measured(rows: int, held_out: int, seed: int) -> dict[TrainingSplit, Tensor]:
    """Which rows are measured after an epoch: all held out, of those trained on as many."""
    shuffled = torch.randperm(rows, generator=Generator().manual_seed(seed))
    look: dict[TrainingSplit, Tensor] = {
        "train": shuffled[: min(held_out or rows, _MEASURED)].sort().values
    }
    if held_out:
        look["valid"] = torch.arange(held_out)
    return look


@dataclass(frozen=True)
class Measurement:
    r"""Means over rows, in nats: the ELBO, the objective (KL weight 1), the term of each name.

    The draws come from their own seed, the same every time, and the stream of random numbers that
    training reads is not touched. Randomness that is renewed at each visit is not renewed here.
    Several processes share the rows of each batch and add up their sums.
    A function of one's own gets all rows at once, in every process, as it may compare them.
    """

    model: LatentVariableModel
    batches: AnyBatches
    rows: Mapping[TrainingSplit, Tensor]  # of each split, those that are measured
    objectives: Mapping[TrainingSplit, Objective]  # one, told of either split's rows
    own: Callable[[LatentVariableModel, dict[str, Any]], Tensor | float] | None  # in their place
    particles: int | None
    draw: Mapping[str, Draw] | None
    estimator: Draw | None
    batch_size: int
    seed: int
    together: Together
    look: Callable[[], None] = lambda: None  # called before each batch; may end it by raising
    cells: tuple[str, ...] = ()  # names of which hidden elements are predicted as well

    @torch.no_grad()
    def __call__(self, split: TrainingSplit, epoch: int) -> dict[str, float]:
        """Measure the rows of a split after an epoch.

        Raises:
            NonFiniteError: If a number is not finite.
        """
        index, training = self.rows[split], self.model.training
        self.model.eval()
        try:
            with own_randomness(self.batches.device, self.seed):
                if self.own is not None:
                    return self._by_own(self.own, split, index)
                return self._by_ledger(split, index, epoch)
        finally:
            self.model.train(training)

    def _by_own(
        self, own: Callable[..., Tensor | float], split: TrainingSplit, index: Tensor
    ) -> dict[str, float]:
        self.look()
        name, rows = name_of(own, "measure"), self.batches(split, index)
        value = torch.as_tensor(own(self.model, rows), dtype=torch.float64)
        if value.dim() > 1 or (value.dim() and len(value) not in (1, len(index))):
            raise ValueError(
                f"measure={name} is to return a number, or one a row of {len(index)} rows; it "
                f"returned shape {tuple(value.shape)}."
            )
        if not math.isfinite(mean := value.mean().item()):
            raise ValueError(
                f"measure={name} is {mean} on the {split} rows; it is to be a finite number."
            )
        return {name: mean}

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "draw": {name: as_measured(way) for name, way in (self.draw or {}).items()},
            "default": None if self.estimator is None else as_measured(Suited(self.estimator)),
            "missing": self.batches.missing,
            "rows": self.batches.measured_rows,
        }

    def _ledger(self, batch: dict[str, Any]) -> Evidence:
        return self.model.evidence(batch, particles=self.particles, **self._options)

    def _by_ledger(self, split: TrainingSplit, index: Tensor, epoch: int) -> dict[str, float]:
        objective = self.objectives[split]
        bound, sums = name_of(objective), dict[str, Tensor]()
        # some batches stand for all: predicting takes many particles
        every, counted = -(-len(index) // _PREDICTED), 0
        for number, rows in enumerate(index.split(self.batch_size)):
            self.look()
            part = self.together.part(rows)
            batch = self.batches(split, part.index, whole=rows)
            found: dict[str, Any] = {
                "model": self.model,
                "batch": batch,
                "index": part.index,
                "missing": self.batches.missing,
                "epoch": epoch,
                "split": split,
            }
            try:
                with self.together.noise(part, self.particles):
                    evidence = self._ledger(batch)
                    values = {name: term_of(evidence, name) for name in evidence.terms}
                    values |= {"elbo": elbo(evidence), bound: objective(evidence)}
                if self.cells and number % every == 0:
                    counted += part.batch
                    with self.together.noise(part, PARTICLES):
                        values["cells"] = predicted(self.model, batch, self.cells, **self._options)
            except ValueError as error:
                cause = explained(error, functools.partial(self._ledger, batch), **found)
                if cause is error and split == "train":  # steps took these rows, in another way
                    cause = ValueError(
                        f"{error} If the model has no density to measure after an epoch, say what "
                        f"to measure: Stopping(measure=function of model and rows)."
                    )
                raise cause from error
            for name, value in values.items():
                mean = value.mean(dtype=torch.float64)
                sums[name] = sums.get(name, 0.0) + mean * (part.share * part.batch)
            # On a CPU this look is free, and the ledger that shows whom to blame is still there.
            if self.batches.device.type == "cpu" and not math.isfinite(sums[bound].item()):
                raise non_finite(evidence=evidence, **found)
        everything = self.together.world.sum(torch.stack(list(sums.values())))
        means = {
            name: value.item() / (counted if name == "cells" else len(index))
            for name, value in zip(sums, everything, strict=True)
        }
        if not all([math.isfinite(mean) for mean in means.values()]):
            found = {"missing": self.batches.missing, "epoch": epoch, "split": split}
            raise non_finite(self.model, {}, index, None, **found)
        return {name: means[name] for name in dict.fromkeys(["elbo", bound, *means])}


def term_of(evidence: Evidence, name: str) -> Tensor:
    """``log p − log q`` of a name, its mean over particles, shape ``(batch,)``."""
    return evidence.expectation(evidence.terms[name].expand(evidence.batch_shape))
