"""A model under examination: each measurement is made when a rule first asks for it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.conditionals.columns import Columns
from deeplvm.core.joint import Factored, owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked
from deeplvm.core.trace import Trace
from deeplvm.core.values import NamedRows
from deeplvm.data.synthetic.shapes import shapes3d
from deeplvm.data.synthetic.sprites import sprites
from deeplvm.distributions.product import Product
from deeplvm.evaluation.bound.gaps import InferenceGaps
from deeplvm.evaluation.bound.generalisation import GeneralisationGap, generalisation_gap
from deeplvm.evaluation.bound.rate_distortion import RateDistortion, rate_distortion
from deeplvm.evaluation.bound.surgery import ElboSurgery, elbo_surgery
from deeplvm.evaluation.disentanglement.scores import Disentanglement, disentanglement
from deeplvm.evaluation.latents.aggregate import AggregateAgainstPrior, aggregate_against_prior
from deeplvm.evaluation.latents.latent_use import LatentUse, latent_use, read_by_p
from deeplvm.evaluation.latents.prior_holes import Holes, holes
from deeplvm.evaluation.latents.probes import Probes, probes
from deeplvm.evaluation.predictive.calibration import Calibration, calibration
from deeplvm.evaluation.predictive.checks import PredictiveChecks, predictive_checks
from deeplvm.evaluation.predictive.dataset_shift import DatasetShift, dataset_shift
from deeplvm.evaluation.samples.memorisation import Memorisation, memorisation
from deeplvm.evaluation.samples.quality import SampleQuality, draws, sample_quality
from deeplvm.evaluation.summary import FEWEST_ROWS
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows, inside, lengths_of, rows_of
from deeplvm.likelihood.chunks import Plan, plan
from deeplvm.likelihood.convergence import Convergence, convergence, steps_to
from deeplvm.likelihood.importance import ImportanceEstimate, importance_sampling
from deeplvm.likelihood.pilot import level, seconds_a_particle, seconds_each, spoken
from deeplvm.randomness import evaluating, seed_of

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split
    from deeplvm.data.variable import Variable

T = TypeVar("T")
SEARCHED = 20_000  # training rows among which the nearest is looked for


class CannotMeasure(ValueError):
    """A measurement is impossible for this model or these data; the message says why."""


@dataclass(frozen=True)
class Effort:
    """How much is spent on each measurement, at most.

    Attributes:
        rows: Of each split, chosen at random, for likelihoods and latents.
        particles: Draws a row for likelihoods.
        gap_rows: Rows whose q is refined by itself.
        annealed_rows: Rows whose likelihood is annealed too.
        temperatures: Of annealing.
        annealed_particles: Of annealing, a row.
        replicates: Data sets that are drawn for predictive checks.
        minutes: For all together, by a pilot that is timed: what would take more is measured with
            fewer rows and draws, and what takes too long even so is left out; either is said.
            As long as it takes if ``None``.
    """

    rows: int = 500
    particles: int = 500
    gap_rows: int = 50
    annealed_rows: int = 30
    temperatures: int = 100
    annealed_particles: int = 8
    replicates: int = 200
    minutes: float | None = 2.0


Unit = Literal["particle", "draw", "pair"]
_STEPS, _STEP_PARTICLES = 300, 16  # of the refinement of q
_LEAPFROG = 5
_GRADIENT = 3  # passes that a gradient takes
_HOLES = 1_000  # draws
_REFERENCES = 20  # data sets that predictive checks draw beside the replicates


@dataclass(frozen=True)
class Work:
    """What a measurement takes.

    Attributes:
        unit: A particle of a row through q and p, a row drawn from p, or the density of one row's
            latents under the posterior of another.
        count: How many of them.
        least: What of the effort may be less, and down to what, in this order.
        beside: Whether no rule needs it.
    """

    unit: Unit
    count: Callable[[Effort], float]
    least: tuple[tuple[str, int], ...]
    beside: bool = False


def _gaps(effort: Effort) -> float:
    steps = _STEPS * _STEP_PARTICLES * _GRADIENT
    return 2 * effort.gap_rows * (steps + 2 * effort.particles)


def _walk(effort: Effort) -> float:
    walks = effort.annealed_rows * effort.annealed_particles
    return 1.5 * walks * effort.temperatures * _LEAPFROG * _GRADIENT


_ROWS = (("rows", 100), ("rows", 25))
_DRAWS = (("particles", 100), *_ROWS[:1], ("particles", 10), *_ROWS[1:])
_WALK = (("temperatures", 30), ("annealed_particles", 4), ("annealed_rows", 10))
WORK: Mapping[str, Work] = {
    "log p(x)": Work("particle", lambda e: 2 * e.rows * e.particles, _DRAWS),
    "use of latents": Work("particle", lambda e: 32 * e.rows, _ROWS),
    "inference gaps": Work("particle", _gaps, (("particles", 100), ("gap_rows", 10))),
    "convergence": Work(
        "particle", lambda e: _walk(e) + e.annealed_rows * e.particles, (*_DRAWS[:1], *_WALK)
    ),
    "calibration": Work("particle", lambda e: 2 * e.rows * e.particles, _DRAWS),
    "rate and distortion": Work("particle", _walk, _WALK, beside=True),
    "aggregate posterior": Work("particle", lambda e: e.rows, _ROWS, beside=True),
    "probes": Work("particle", lambda e: 5 * e.rows, _ROWS, beside=True),
    "repeated rows": Work("draw", lambda e: e.rows, _ROWS),
    "predictive checks": Work(
        "draw", lambda e: e.rows * (e.replicates + _REFERENCES), (*_ROWS, ("replicates", 199))
    ),
    "memorisation": Work("draw", lambda e: 4 * e.rows, _ROWS),
    "sample quality": Work("draw", lambda e: 2 * e.rows, _ROWS, beside=True),
    "holes": Work("pair", lambda e: 2 * _HOLES * 4 * e.rows, _ROWS),
    "surgery of the bound": Work("pair", lambda e: (2 * e.rows) ** 2, _ROWS),
}
"""Measurements that may take long, by the names under which they are kept."""


class _Measured(Generic[T]):
    """A property of an examination that is measured once, and kept under a name."""

    def __init__(self, name: str, measure: Callable[[Examination], T]) -> None:
        self.name, self.measure, self.__doc__ = name, measure, measure.__doc__

    def __get__(self, seen: Examination | None, _: type) -> T:
        if seen is None:  # asked of the class
            return cast("T", self)
        return seen.once(self.name, lambda: self.measure(seen))


def _measured(name: str) -> Callable[[Callable[[Examination], T]], _Measured[T]]:
    return lambda measure: _Measured(name, measure)


@dataclass(eq=False)
class Examination:
    """A model and its data, and what rules ask of them.

    Attributes:
        data: What it was fitted to, or named tensors for each split.
        held_out: The split of rows that training did not see; see :attr:`unseen`.
        metrics: Records of the epochs, as in ``metrics.jsonl``.
        settings: Options of training and of the recipe, by name.
        effort: How much is spent.
        seed: Of every draw.
        draw: How a latent is drawn where the bound and the likelihood are measured.
        impossible: What could not be measured, and why.
        everything: Whether what no rule needs is to be measured too, and needs time.
        clock: Seconds, by which :attr:`Effort.minutes` are told.
        fewer: What was measured with fewer rows or draws than the effort says, and how few.
    """

    model: LatentVariableModel
    data: Data
    held_out: Split
    metrics: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    effort: Effort = field(default_factory=Effort)
    seed: int = 0
    draw: Mapping[str, Draw] | None = None
    impossible: dict[str, str] = field(default_factory=dict)
    everything: bool = True
    clock: Callable[[], float] = field(default_factory=lambda: time.perf_counter)
    fewer: dict[str, str] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)
    _efforts: dict[str, Effort] = field(default_factory=dict)
    _units: dict[Unit, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def once(self, what: str, measure: Callable[[], T]) -> T:
        """A measurement, made once.

        Raises:
            CannotMeasure: If it is impossible, each time that it is asked for.
        """
        if what in self.impossible:
            raise CannotMeasure(self.impossible[what])
        if what not in self._kept:
            try:
                self._kept[what] = measure()
            except (ValueError, KeyError, NotImplementedError) as error:
                self.impossible[what] = " ".join(str(error).split())
                raise CannotMeasure(self.impossible[what]) from error
        return self._kept[what]

    def within(self, name: str) -> Effort:
        """The effort of a measurement, or as much less as there is time for.

        Raises:
            CannotMeasure: If there is no time for the least that is worth having.
        """
        if self.effort.minutes is None or name in self._efforts:
            return self._efforts.get(name, self.effort)
        seconds = 60 * self.effort.minutes
        left = seconds - (self.clock() - self.began)
        costs = {each: self._seconds(each, self.effort) for each in self._waiting()}
        allowed, effort = level(costs.values(), left), self.effort
        for knob, least in WORK[name].least:
            if (over := self._seconds(name, effort) / max(allowed, 1e-9)) > 1:
                now = getattr(effort, knob)
                effort = replace(effort, **{knob: max(min(least, now), int(now / over))})
        whole = math.ceil((seconds - left + sum(costs.values())) / 60)
        has_time = f"--minutes {whole:,} (Effort(minutes={whole})) has the time for all"
        if (least := self._seconds(name, effort)) > allowed:
            raise CannotMeasure(
                f"It would take {spoken(least)} at the least, and of "
                f"{self.effort.minutes:g} minutes {spoken(allowed)} are left for it: {has_time}."
            )
        if effort != self.effort:
            changed = [
                f"{getattr(effort, knob):,} {knob.replace('_', ' ')} of {now:,}"
                for knob, now in vars(self.effort).items()
                if getattr(effort, knob) != now
            ]
            self.fewer[name] = f"{', '.join(changed)}; {has_time}"
        self._efforts[name] = effort
        return effort

    def _waiting(self) -> list[str]:
        """What there is to measure yet, and may be."""
        done = {*self._kept, *self.impossible, *self._efforts}
        return [n for n, w in WORK.items() if n not in done and (self.everything or not w.beside)]

    def _seconds(self, name: str, effort: Effort) -> float:
        """What a measurement takes, about."""
        work = WORK[name]
        if work.unit not in self._units:
            all_of_it = sum([w.count(self.effort) for w in WORK.values() if w.unit == work.unit])
            small = 60 * (self.effort.minutes or 0.0) / (4 * all_of_it)
            try:
                self._units[work.unit] = _PILOTS[work.unit](self, small)
            except (ValueError, KeyError, NotImplementedError):  # it is said where it is measured
                self._units[work.unit] = 0.0
        return self._units[work.unit] * work.count(replace(effort, particles=self._draws(effort)))

    def _draws(self, effort: Effort) -> int:
        """One particle where nothing is drawn, or the bound is of one."""
        try:
            return min(effort.particles, self._planned.particles)
        except (ValueError, KeyError, NotImplementedError):  # it is said where it is measured
            return effort.particles

    @cached_property
    def _planned(self) -> Plan:
        rows = self.batches(self.held_out)
        with evaluating(self.model, self.seed):
            return plan(self.model, rows, self.effort.particles, draw=self.draw)

    def _a_particle(self, small: float) -> float:
        rows, told = self.batches(self.held_out), {"small": small, "clock": self.clock}
        return seconds_a_particle(self.model, rows, self._planned, self.draw, **told)  # type: ignore[arg-type]

    def _a_draw(self, small: float) -> float:
        if not self.scored:
            raise CannotMeasure(f"The model draws none of {', '.join(self.data.variables)}.")
        train, name = self.first("train", 1_000), self.scored[0].name
        return seconds_each(
            lambda count: draws(self.model, count, train, name, seed=self.seed),
            small=small, clock=self.clock,
        )  # fmt: skip

    def _a_pair(self, small: float) -> float:
        few = 100
        return seconds_each(
            lambda count: holes(
                self.model, self.rows("train", 2 * count), draws=few, seed=self.seed
            ),
            small=4 * few * small, clock=self.clock,
        ) / (4 * few)  # fmt: skip

    @property
    def measured(self) -> Mapping[str, Any]:
        """What has been measured so far, by name."""
        return self._kept

    def takes(self, option: str) -> bool:
        """Whether the recipe has an option, so that a remedy may name its flag.

        Where nothing is known of the settings, it may.
        """
        return not self.settings or option in self.settings

    @cached_property
    def variable(self) -> Variable:
        """What the model scores; several variables side by side as one of several kinds.

        Raises:
            CannotMeasure: If it scores none.
        """
        known = self.scored
        if not known:
            raise CannotMeasure(f"The model scores none of {', '.join(self.data.variables)}.")
        if len(known) == 1:
            return known[0]
        tables = all([each.columns is not None for each in known])
        titles = tuple([title for each in known for title in each.titles])
        return replace(
            known[0],
            name=", ".join([each.name for each in known]),
            shape=(len(titles),),
            kind="mixed",
            likelihood="columns",
            mean=torch.cat([each.mean.flatten() for each in known]),
            std=torch.cat([each.std.flatten() for each in known]),
            dequantized=any([each.dequantized for each in known]),
            columns=titles if tables else None,
            parts=tuple([
                replace(part, name=title)
                for each in known
                for title, part in zip(each.titles, each.each, strict=True)
            ]),
        )  # fmt: skip

    @cached_property
    def scored(self) -> list[Variable]:
        """The variables that the model scores."""
        names = [name for name in self.data.variables if name in self.model.p.names]
        return [self.data.variables[name] for name in names]

    @property
    def numbers_a_row(self) -> int:
        """Elements of the variable that are numbers, and no codes of categories."""
        parts = self.variable.parts
        if not parts:
            return self.variable.elements
        return len([part for part in parts if part.kind not in ("category", "ordinal")])

    def resting(self, split: Split, count: int = SEARCHED) -> Tensor:
        """Values of :attr:`variable`, ``(rows, elements)``, without noise; NaN if missing.

        Of sequences all their steps, one after another: ``(steps, elements)``.
        """
        values, lengths = self._resting(split, count)
        if lengths is not None:
            values = [each[inside(lengths, each.shape[1])] for each in values]
        return torch.cat([each.reshape(len(each), -1) for each in values], 1).contiguous()

    def independent(self, split: Split, count: int) -> Tensor:
        """As :meth:`resting`, but of sequences one step each, as steps of one go together.

        Raises:
            CannotMeasure: If they are texts.
        """
        values, lengths = self._resting(split, count)
        if self.variable.kind == "token":
            raise CannotMeasure("The steps of texts are tokens, which have no columns to compare.")
        if lengths is not None:
            generator = torch.Generator().manual_seed(seed_of(self.seed, f"a step of {split}"))
            step = (torch.rand(len(lengths), generator=generator) * lengths).long()
            values = [each[torch.arange(len(step)), step] for each in values]
        return torch.cat([each.reshape(len(each), -1) for each in values], 1).contiguous()

    def whole(self, split: Split, count: int = SEARCHED) -> list[Tensor]:
        """Rows of :attr:`variable` as they are compared whole, each ``(elements,)``."""
        values, lengths = self._resting(split, count)
        if lengths is None:
            return [*torch.cat([each.flatten(1) for each in values], 1).contiguous()]
        return [
            torch.cat([each[row, :end].flatten() for each in values])
            for row, end in enumerate(lengths.tolist())
        ]

    def _resting(self, split: Split, count: int) -> tuple[list[Tensor], Tensor | None]:
        """Values of what the model scores, without noise; and of sequences their lengths."""
        held, length = self.data[split], self.variable.length  # or an error
        if len({each.length for each in self.scored}) > 1:
            raise CannotMeasure("Rows of steps have numbers beside them, which are no step's.")
        names = [each.name for each in self.scored]
        if any([name not in held or len(held[name]) == 0 for name in names]):
            raise CannotMeasure(f"There are no {split} rows.")
        some = held[0:count]
        lengths = None if length is None else some[length][:].cpu().long()
        return [some.exact(name).cpu() for name in names], lengths

    def steps(self, name: str) -> float:
        """How many values of a latent a row has on average: 1, or one at each of its steps."""
        length, rows = lengths_of(self.model).get(name), self.data[self.unseen]
        if length is None or length not in rows:
            return 1.0
        return float(rows[length][:].double().mean())

    def shift(self, split: Split) -> DatasetShift:
        """Whether the rows of a split come from another source than the training rows."""
        return self.once(
            f"shift of {split} rows",
            lambda: dataset_shift(
                self.independent("train", 4 * self.effort.rows),
                self.independent(split, 4 * self.effort.rows),
                self.variable.columns,
                seed=self.seed,
            ),
        )

    def _alike(self, split: Split) -> bool:
        try:
            return not self.shift(split).found
        except CannotMeasure:
            return True  # nothing speaks against it

    @cached_property
    def unseen(self) -> Split:
        """The rows that the model is judged by: unseen in training, and from the same source.

        They are :attr:`held_out`, or if these are unlike the training rows those of the other
        split, if there are enough that are not: what is strange in rows is no fault of a model.

        Raises:
            CannotMeasure: If there are none.
        """
        splits: tuple[Split, ...] = (self.held_out, "test", "valid")
        for split in dict.fromkeys(splits):
            if self.data.rows(split) >= FEWEST_ROWS and self._alike(split):
                return split
        raise CannotMeasure(
            f"The {self.held_out} rows come from elsewhere than the training rows, so that they "
            f"say nothing against the model; no other rows are left out of training."
        )

    def rows(self, split: Split, count: int) -> NamedRows:
        """Some rows of a split: they come in a random order."""
        return self.data[split][:count]

    def batches(self, split: Split) -> Rows:
        """The rows of a split."""
        return rows_of(self.model, self.data[split])

    def first(self, split: Split, count: int | None = None) -> dict[str, Tensor]:
        """The first rows of a split, as the model reads them."""
        return self.batches(split)[slice(0, count or self.effort.rows)]

    @property
    def _drawn(self) -> dict[str, Any]:
        """Of what measures the bound: how latents are drawn, with which seed."""
        return {"draw": self.draw, "seed": self.seed}

    def estimate(self, split: Split) -> ImportanceEstimate:
        """Likelihood and bound of the first rows of a split."""

        def measure() -> ImportanceEstimate:
            effort = self.within("log p(x)")  # the same for all splits, which are compared
            rows = self.first(split, effort.rows)
            return importance_sampling(self.model, rows, effort.particles, **self._drawn)

        return self.once(f"log p(x) of {split} rows", measure)

    @_measured("use of latents")
    def use(self) -> Mapping[str, LatentUse]:
        """What each latent is used for, on unseen rows, of those that p reads."""
        if not isinstance(self.model.p, Factored):
            raise CannotMeasure("The parents of a name are not known for this kind of p.")
        rows = self.first(self.unseen, self.within("use of latents").rows)
        found = latent_use(self.model, rows, **self._drawn)
        return read_by_p(self.model, found)

    @_measured("inference gaps")
    def generalisation(self) -> GeneralisationGap:
        """What the bound loses on training rows and on held-out rows, and to what."""
        if self.effort.gap_rows < 2:
            raise CannotMeasure("One row has no error to compare with: look at more.")
        splits, effort = ("train", self.unseen), self.within("inference gaps")
        rows = [self.rows(split, effort.gap_rows) for split in splits]  # type: ignore[arg-type]
        return generalisation_gap(
            self.model, *rows, particles=effort.particles, steps=_STEPS, **self._drawn
        )

    @property
    def gaps(self) -> InferenceGaps:
        """What the bound loses to the family of q, and what to the encoder, on held-out rows."""
        return self.generalisation.test

    @_measured("convergence")
    def convergence(self) -> Convergence:
        """Importance sampling beside annealing from q, on a few held-out rows."""
        unseen, effort = self.unseen, self.within("convergence")
        rows = self.first(unseen, effort.annealed_rows)
        numbers = steps_to(effort.particles), steps_to(effort.temperatures)
        particles = effort.annealed_particles
        return convergence(
            self.model, rows, *numbers, annealed_particles=particles, steps=_LEAPFROG,
            start="posterior",
            **self._drawn,
        )  # fmt: skip

    def drawable(self, name: str, times: int = 1) -> int:
        """As many draws for a measurement as rows, or as there is time for."""
        return times * self.within(name).rows

    @_measured("predictive checks")
    def checks(self) -> PredictiveChecks:
        """Statistics of held-out rows against those of draws of p(x)."""
        unseen, effort = self.unseen, self.within("predictive checks")
        rows, replicates = self.rows(unseen, effort.rows), effort.replicates
        return predictive_checks(self.model, rows, replicates=replicates, seed=self.seed)

    @_measured("calibration")
    def calibration(self) -> Calibration:
        """Predictions of values that were hidden, on held-out rows."""
        unseen, effort = self.unseen, self.within("calibration")
        rows = self.rows(unseen, effort.rows)
        return calibration(self.model, rows, particles=effort.particles, seed=self.seed)

    @_measured("holes")
    def holes(self) -> Holes:
        """Prior and aggregate posterior, each scored where the other draws."""
        rows = self.rows("train", 4 * self.within("holes").rows)
        return holes(self.model, rows, draws=_HOLES, seed=self.seed)

    @_measured("surgery of the bound")
    def surgery(self) -> ElboSurgery:
        """The averaged divergence, split into mutual information and marginal divergence."""
        rows = self.rows("train", 2 * self.within("surgery of the bound").rows)
        return elbo_surgery(self.model, rows, **self._drawn)

    @_measured("rate and distortion")
    def rate_distortion(self) -> RateDistortion:
        """Rate and distortion of q, and the curve below which no q is."""
        unseen, effort = self.unseen, self.within("rate and distortion")
        return rate_distortion(
            self.model,
            self.first(unseen, effort.annealed_rows),
            particles=effort.annealed_particles,
            temperatures=effort.temperatures,
            steps=_LEAPFROG,
            **self._drawn,
        )

    @_measured("aggregate posterior")
    def aggregate(self) -> AggregateAgainstPrior:
        """Whether q(z) of all rows is the prior: two-sample tests."""
        rows = self.rows(self.unseen, self.within("aggregate posterior").rows)
        return aggregate_against_prior(self.model, rows, seed=self.seed)

    @_measured("probes")
    def probes(self) -> Probes:
        """How well labels are read from the latents."""
        effort = self.within("probes")
        test, most = self.rows(self.unseen, effort.rows), 4 * effort.rows
        return probes(self.model, self.data.train, test, most=most, seed=self.seed)

    @property
    def disentanglement(self) -> Disentanglement:
        """Whether each latent is about one factor, for data that are drawn from factors."""
        drawn_here = {"sprites": sprites, "shapes3d": shapes3d}
        if self.data.source not in drawn_here:  # of few data it could be expected: no word of it
            raise CannotMeasure("These data come without the factors they were drawn from.")
        rows, factors = self.effort.rows, drawn_here[self.data.source]
        counts = {"rows": max(2_000, 4 * rows), "groups": max(100, rows // 2), "group": 32}
        return self.once(
            "disentanglement",
            lambda: disentanglement(self.model, factors(), **counts, seed=self.seed),
        )

    @_measured("sample quality")
    def quality(self) -> SampleQuality:
        """Draws against training rows, in features of a network that is trained for it."""
        self._refuse_lengths()
        test, most = self.data[self.unseen], self.drawable("sample quality", 2)
        return sample_quality(self.model, self.data.train, test, most=most, seed=self.seed)

    def _refuse_lengths(self) -> None:
        if any([each.length is not None for each in self.scored]):
            raise ValueError("rows of different lengths have no distance")

    @_measured("memorisation")
    def copying(self) -> Memorisation:
        """How near draws lie to training rows, in the values themselves."""
        self._refuse_lengths()
        train = self.first("train", SEARCHED)
        fresh = self.first(self.unseen, self.drawable("memorisation", 4))
        drawn = {
            each.name: draws(self.model, len(fresh[each.name]), train, each.name, seed=self.seed)
            for each in self.scored
        }
        flat = [
            torch.cat([each[v.name].flatten(1) for v in self.scored], 1).cpu()
            for each in (drawn, train, fresh)
        ]
        if any([bool(each.isnan().any()) for each in flat]):
            raise ValueError("rows with holes have no distance")
        spread = flat[1].std(0).clamp(min=1e-6) if not self.variable.is_image else 1.0
        return memorisation(*[each / spread for each in flat], seed=self.seed)

    @contextlib.contextmanager
    def _reconstructed(self) -> Iterator[tuple[dict[str, Tensor], Trace]]:
        """Held-out rows, and p at a draw of z from q given them."""
        given, missing = self.first(self.unseen), self.batches(self.unseen).missing
        with evaluating(self.model, self.seed):
            yield given, self.model.reconstruct(given, missing=missing)

    @_measured("residuals")
    def residuals(self) -> Tensor:
        r"""Standardised residuals :math:`(x - E[x | z]) / sd(x | z)` at a draw of z from q.

        Shape ``(rows, elements)``, held-out rows, of sequences ``(steps, elements)``; NaN where
        the element is missing, or not a number that a residual makes sense for.
        """
        found = []
        with self._reconstructed() as (given, trace):
            for name in [each.name for each in self.scored]:
                own = trace[name].distribution
                if own is None:
                    raise ValueError(f"{name!r} has one distribution a step.")
                residual = (given[name] - own.mean) / own.variance.clamp(min=1e-12).sqrt()
                residual, length = residual.expand(given[name].shape), self.variable.length
                if length is not None:
                    residual = residual[inside(given[length], residual.shape[1])]
                found.append(residual.reshape(len(residual), -1).double())
        return torch.cat(found, 1)

    @_measured("learned scales")
    def scales(self) -> dict[str, tuple[Tensor, float]]:
        r"""Standard deviations of p(x | z) in the network's units, and their lower bound, by name.

        Of conditionals of observed names that learn a scale above a ``minimum``; shape
        ``(rows, elements)``. Of a table of columns of several kinds, by the columns' names.
        """
        found = {}
        with self._reconstructed() as (given, trace):
            for name in [name for name in given if name in self.model.p.names]:
                for label, conditional, distribution in self._parts_of(name, trace[name]):
                    bound = _floor(conditional)
                    if bound is None or distribution is None or _is_mass(distribution):
                        continue
                    units = getattr(conditional, "units", None)
                    scale = distribution.stddev / (1.0 if units is None else units.std)
                    mask = getattr(trace[name].distribution, "mask", None)  # of steps
                    rows = given[name].shape[:1] if mask is None else mask.shape
                    scale = scale.expand(*rows, *distribution.event_shape)
                    scale = scale if mask is None else scale[mask]
                    found[label] = (scale.reshape(len(scale), -1).clone(), bound)
        if not found:
            raise ValueError("No observed name has a scale that is learned above a bound.")
        return found

    def _parts_of(self, name: str, site: Any) -> list[tuple[str, torch.nn.Module, Any]]:
        """What a name is made of: itself, or groups of columns, each with its distribution."""
        distribution: Any = site.distribution
        conditional: Any = owner_of(self.model.p, name)
        distribution = distribution.base if isinstance(distribution, Masked) else distribution
        if not isinstance(conditional, Columns) or not isinstance(distribution, Product):
            return [(name, conditional, distribution)]
        variable = self.data.variables.get(name)
        columns = variable.columns if variable is not None else ()
        parts = []
        places = distribution.order.split(distribution.sizes)
        for group, part, where in zip(conditional.groups, distribution.parts, places, strict=True):
            names = [columns[i] if columns else f"{name}[{i}]" for i in where.tolist()]
            parts.append((listed(names), group, part))
        return parts


_PILOTS: Mapping[Unit, Callable[[Examination, float], float]] = {
    "particle": Examination._a_particle,
    "draw": Examination._a_draw,
    "pair": Examination._a_pair,
}


def listed(names: Any, most: int = 5) -> str:
    """Some names, and how many more there are."""
    shown = [str(name) for name in list(names)[:most]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more columns" if rest else "")


def _is_mass(distribution: Distribution) -> bool:
    """Whether values have probabilities, which are at most 1 however narrow the scale."""
    support = distribution.support
    return support is not None and bool(support.is_discrete)


def _floor(conditional: torch.nn.Module) -> float | None:
    """The lower bound of a conditional's learned scale."""
    scale = getattr(conditional, "scale", None)
    if hasattr(scale, "minimum") and getattr(scale, "source", None) in (
        "network", "dimension", "global",
    ):  # fmt: skip
        return float(scale.minimum)  # type: ignore[union-attr]
    bound = getattr(conditional, "minimum_scale", None)
    return None if bound is None else float(bound)
