r"""Draws of a model against data, as one record, each number beside that of fresh data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre
from deeplvm.distributions.counts import Multinomial, OfTotal
from deeplvm.evaluation.samples.distances import (
    FrechetEstimate,
    KernelEstimate,
    frechet_distance,
    kernel_distance,
)
from deeplvm.evaluation.samples.features import (
    FeatureMap,
    complete,
    features_of,
    standardised_columns,
    variables_of,
)
from deeplvm.evaluation.samples.memorisation import CLOSE, Memorisation, memorisation
from deeplvm.evaluation.samples.precision_recall import (
    MEASURES,
    ManifoldEstimate,
    manifold_estimate,
)
from deeplvm.inference.rows import Rows, rows_of
from deeplvm.randomness import evaluating
from deeplvm.results import Estimate, Record, number

_SEARCHED = 1_000  # rows whose nearest training row is looked for
_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Comparison(Record):
    """Two clouds of features, compared in all ways.

    Attributes:
        manifold: Precision, recall, density, coverage.
        frechet: Fréchet distance.
        kernel: Kernel distance.
    """

    manifold: ManifoldEstimate
    frechet: FrechetEstimate
    kernel: KernelEstimate


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Some samples and their nearest training rows.

    Attributes:
        samples: The first twelve, then the twelve that are nearest to a training row in the
            features, shape ``(24, *event)``, or as many as there are.
        nearest: The nearest training rows in each space, of the same shape.
        first: How many of them are the first ones.
    """

    samples: Tensor
    nearest: Mapping[str, Tensor]
    first: int


@dataclass(frozen=True, eq=False)
class SampleQuality(Record, without="neighbours"):
    """Draws of a model against training rows, and fresh rows against the same training rows.

    Fresh rows are the floor: a model that draws from the distribution of the data has their
    numbers, so read each number against theirs. None is comparable between different features
    (see the fingerprint), or between different numbers of rows.

    Attributes:
        name: The variable.
        drawn: What the samples are, in words.
        features: What they are compared in.
        samples: Samples against training rows.
        fresh: Held-out rows against the same training rows.
        copying: The test of data-copying by space: ``"pixels"`` (of images) or ``"columns"``, and
            ``"features"`` where a network was trained.
        neighbours: Samples with their nearest training rows, to look at.
        rows: Rows of each cloud.
        split: Which rows the fresh ones are.
        seed: Of all draws, choices and the features.
    """

    name: str
    drawn: str
    features: FeatureMap
    samples: Comparison
    fresh: Comparison
    copying: Mapping[str, Memorisation]
    neighbours: Neighbours
    rows: int
    split: str
    seed: int

    @property
    def header(self) -> tuple[str, ...]:  # type: ignore[override]
        """Titles of the table."""
        return ("", "samples", f"{self.split} rows", "what it means")

    def table(self) -> list[tuple[str, ...]]:
        pair = (self.samples, self.fresh)
        meaning = {
            "precision": "share of the samples that lie where training rows lie",
            "recall": "share of the training rows that lie where samples lie",
            "density": "how many training rows' neighbourhoods a sample lies in, over k; 1 if "
            "equal",
            "coverage": "share of the training rows with a sample in their neighbourhood; "
            f"{self.samples.manifold.coverage_if_equal:.3f} if equal",
        }
        table: list[tuple[str, ...]] = [
            (name, *[_shown(getattr(each.manifold, name), 3) for each in pair], meaning[name])
            for name in MEASURES
        ]
        distances = [each.frechet for each in pair]
        at, beyond = f"at {self.rows:,} rows of each", "at infinitely many rows; 0 if equal"
        table.append(("Fréchet distance", *map(_shown, distances), at))
        if not math.isnan(distances[0].extrapolated):
            ends = [Estimate(d.extrapolated, d.extrapolated_stderr) for d in distances]
            table.append(("Fréchet distance, N → ∞", *map(_shown, ends), f"the same {beyond}"))
        kernels = [_shown(each.kernel) for each in pair]
        table.append(("kernel distance", *kernels, "unbiased; 0 if equal"))
        for space, each in self.copying.items():
            searched = f"of {each.samples:,} samples to the nearest of {each.train_rows:,}"
            nearness = f"median distance {searched} training rows, over that of fresh rows"
            close = "share as near to a training row as the nearest 5 % of fresh rows"
            low = f"below 0 is copying: p = {each.p_value:.2g} if there is none"
            statistic = "–" if math.isnan(each.statistic) else f"{each.statistic:.2f}"
            table += [
                (f"nearness in {space}", _shown(each.ratio), "1", nearness),
                (f"close in {space}", _shown(each.close, 3), f"{CLOSE:.3f}", close),
                (f"copying in {space}, C_T", statistic, "0", low),
            ]
        return table

    def notes(self) -> list[str]:
        notes = [
            f"{self.drawn}; ± one standard error",
            str(self.features),
            "Compare these numbers only with numbers of the same fingerprint and as many rows.",
        ]
        if math.isnan(self.samples.manifold.precision.stderr):
            notes.append(f"{self.rows} rows are too few for the errors that are left out.")
        for space, each in self.copying.items():
            if each.exact > each.exact_fresh:
                notes.append(
                    f"! {100 * each.exact:.1f} % of the samples are equal to a training row in "
                    f"{space}; of fresh rows {100 * each.exact_fresh:.1f} %."
                )
            elif each.p_value < 1e-3:
                notes.append(
                    f"! In {space} the samples are nearer to training rows than fresh rows are "
                    f"(p = {each.p_value:.1g}): the model may copy. Look at the neighbours."
                )
        return notes


def sample_quality(
    model: LatentVariableModel,
    train: NamedRows,
    test: NamedRows,
    *,
    name: str | None = None,
    most: int = 2_000,
    mean: bool = False,
    features: FeatureMap | None = None,
    neighbours: int = 5,
    seed: int = 0,
) -> SampleQuality:
    r"""Draws x ~ p(x) against training rows, with held-out rows against the same as the floor.

    Samples are draws :math:`z \sim p(z), x \sim p(x \mid z)`, noise of the likelihood included,
    for that is what the model says the data are. ``mean=True`` takes the means of
    :math:`p(x \mid z)`, which look better and are no draws: where pixels are drawn as 0 or 1, or
    with the noise of a Gaussian, the two differ much. What a model of x needs to draw from (a
    label) is taken from training rows, chosen at random.

    Args:
        model: Its x is drawn in ``eval()`` mode; left as it was.
        train: The training rows: ``data.train``, or named tensors of shape ``(rows, *event)``.
        test: The fresh rows; they must not have been trained on.
        name: The variable; the first that p draws by default.
        most: Samples, training rows and fresh rows to compare, at most, as many of each; fewer if
            there are fewer. 1,000 of them are looked up among all training rows.
        mean: Whether means of p(x | z) are taken for draws.
        features: What to compare in; of :func:`features_of` by default.
        neighbours: k of :func:`manifold_estimate`.

    Raises:
        ValueError: If p draws no variable of the data, values are missing, or there are fewer
            rows than k + 2.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> train, test = [{"x": model.sample(300)["x"].value} for _ in range(2)]
        >>> quality = sample_quality(model, train, test)
        >>> samples, fresh = quality.samples.manifold, quality.fresh.manifold
        >>> abs(samples.density.value - fresh.density.value) < 0.3
        True
        >>> quality.copying["columns"].p_value > 0.001
        True
    """
    held, known = rows_of(model, test), rows_of(model, train)
    name = _variable(model, held, known, name)
    count = min(most, held.rows, known.rows)
    if count < neighbours + 2:
        raise ValueError(
            f"{count} rows are too few for {neighbours} neighbours; give more rows, or fewer "
            "neighbours."
        )
    generator = torch.Generator().manual_seed(seed)
    everything = known[slice(None)]
    chosen = torch.randperm(known.rows, generator=generator)[:count]
    other = torch.randperm(held.rows, generator=generator)[:count]
    reference = everything[name].cpu()
    fresh = held[slice(None)][name].cpu()[other]
    complete(reference, "the training rows")
    kept = held.split or "held-out"
    complete(fresh, f"the {kept} rows")
    if features is None:
        features = features_of(train, name, held_out=test, seed=seed)
    drawn = draws(model, count, everything, name, mean=mean, seed=seed)
    complete(drawn, "the samples")

    at = features(reference[chosen])
    of_samples, of_fresh = [
        Comparison(
            manifold_estimate(at, each, neighbours=neighbours, seed=seed),
            frechet_distance(at, each, seed=seed),
            kernel_distance(at, each),
        )
        for each in (features(drawn), features(fresh))
    ]
    copying = {
        space: memorisation(
            seen(drawn[:_SEARCHED]), seen(reference), seen(fresh[:_SEARCHED]), seed=seed
        )
        for space, seen in _spaces(features, reference, train, name).items()
    }
    words = f"means of p({name} | …), which are no draws" if mean else f"draws {name} ~ p({name})"
    return SampleQuality(
        name=name,
        drawn=f"{words}, {count:,} of them",
        features=features,
        samples=of_samples,
        fresh=of_fresh,
        copying=copying,
        neighbours=_shown_neighbours(drawn, reference, copying),
        rows=count,
        split=kept,
        seed=seed,
    )


def _variable(model: LatentVariableModel, held: Rows, known: Rows, name: str | None) -> str:
    drawn = [each for each in held.names if each in model.p.names and each in known.names]
    if name is not None and name not in drawn:
        raise ValueError(
            f"There is no {name!r} that p draws and both training and held-out rows have; there "
            f"are {', '.join(drawn) or 'none'}."
        )
    if not drawn:
        raise ValueError(f"p draws none of {', '.join(held.names)}: there is nothing to compare.")
    # a label that p draws too is not what samples are judged by
    return name or next((each for each in drawn if each != "y"), drawn[0])


def _spaces(
    features: FeatureMap, reference: Tensor, train: NamedRows, name: str
) -> dict[str, Any]:
    """The spaces in which neighbours are looked for, by name."""
    if features.kind == "columns":
        return {"columns": features}
    if reference.dim() == 4:
        return {"pixels": lambda x: x.flatten(1).double(), "features": features}
    variable = variables_of(train).get(name)
    return {"columns": standardised_columns(reference, variable), "features": features}


def _shown_neighbours(
    drawn: Tensor, reference: Tensor, copying: Mapping[str, Memorisation]
) -> Neighbours:
    last = list(copying.values())[-1]
    first = torch.arange(min(_SHOWN, len(last.distance)))
    chosen = torch.cat([first, last.distance.argsort()[:_SHOWN]])
    nearest = {space: reference[each.nearest[chosen]] for space, each in copying.items()}
    return Neighbours(drawn[chosen].clone(), nearest, len(first))


def _shown(estimate: Estimate, least: int = 2) -> str:
    return (
        "–" if math.isnan(estimate.value) else number(estimate.value, estimate.stderr, (least, 6))
    )


_CHUNK = 500  # rows at a time


def draws(
    model: LatentVariableModel,
    rows: int,
    train: Mapping[str, Tensor],
    name: str,
    *,
    mean: bool = False,
    seed: int = 0,
) -> Tensor:
    """Draws of a variable, or the means of its distribution, as :func:`draws_of` has them."""
    return draws_of(model, rows, train, (name,), mean=mean, seed=seed)[name]


def draws_of(
    model: LatentVariableModel,
    rows: int,
    train: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    mean: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draws of some names together on the CPU, each of shape ``(rows, *event)``.

    Args:
        rows: How many.
        train: Training rows, of which the inputs of p are taken, chosen at random.
        names: Names that p draws, or inputs of it.
        mean: Whether the means of their distributions are taken.
        seed: Same seed, same draws.

    Raises:
        ValueError: If p has inputs that the training rows have not.
    """
    inputs = [each for each in model.p.inputs if each not in model.p.names]
    if absent := [each for each in inputs if each not in train]:
        raise ValueError(
            f"The model needs {', '.join(absent)} to draw {', '.join(names)} from, which the "
            "training rows do not have; add it to them."
        )
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with evaluating(model, seed):
        for start in range(0, rows, _CHUNK):
            size = min(_CHUNK, rows - start)
            given = {}
            for each in inputs:
                index = torch.randint(len(train[each]), (size,), generator=generator)
                given[each] = train[each][index.to(train[each].device)]
            trace = model.sample(size, given)
            for name in names:
                site = None if name in given else trace[name]
                value = given[name] if site is None else site.value
                own = None if site is None else site.distribution
                if isinstance(own, Multinomial | OfTotal):  # as much is counted as in the rows
                    index = torch.randint(len(train[name]), (size,), generator=generator)
                    own = own.given_total(train[name][index].to(value).sum(-1))
                    value = value if mean else own.sample()
                if mean and own is not None:
                    value = centre(own).expand(value.shape)
                parts[name].append(value.cpu())
    return {name: torch.cat(each).clone() for name, each in parts.items()}
