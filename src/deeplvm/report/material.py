"""What the report shows of a model: draws, reconstructions, traversals, the latent space."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.conditionals import StandardNormal
from deeplvm.core.draws import Sampled
from deeplvm.core.joint import owner_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.distributions.centre import centre, has_centre, typical
from deeplvm.evaluation.latents.aggregate import prior_of
from deeplvm.evaluation.latents.latent_use import flat
from deeplvm.evaluation.latents.posterior_means import is_discrete
from deeplvm.inference.compression import AtCentre
from deeplvm.inference.rows import Rows, inside, lengths_of, rows_of
from deeplvm.likelihood import Forecast, forecast
from deeplvm.randomness import evaluating

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

STEPS = 11
_FEW = 500  # rows; with fewer a scatter shows little
_DRAWS = 32  # for a mean that has no closed form
_PRIOR = 4_000  # draws, by which its quantiles are known to a hundredth
_REACH = 2.5  # standard deviations to each side: 98.8 % of a normal


@dataclass(frozen=True)
class Traversal:
    """x along one dimension of a latent, the others held.

    Attributes:
        name: The latent.
        dimension: Which of its dimensions, counted through.
        positions: Where the dimension was put, shape ``(steps,)``.
        values: Means of x there, shape ``(steps, *event)``.
    """

    name: str
    dimension: int
    positions: Tensor
    values: Tensor


@dataclass(frozen=True)
class LatentPoints:
    """Posterior means of one latent.

    Attributes:
        name: The latent.
        points: Shape ``(rows, dimensions)``, the principal axes where there were more than two.
        shares: Share of the variance that each shown principal axis has; empty where none were
            needed.
        dimensions: How many the latent has.
        labels: Shape ``(rows,)``, or ``None``.
        split: Which rows they are.
    """

    name: str
    points: Tensor
    shares: tuple[float, ...]
    dimensions: int
    labels: Tensor | None
    split: Split


class Material:
    """A model with some rows to show it on.

    Args:
        data: What it was fitted to.
        split: The rows to show.
        seed: Of every draw.
        name: Of the variable that is shown; the first that p scores by default.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        data: Data,
        split: Split = "test",
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.split = split
        self.seed = seed
        self.rows: Rows = rows_of(model, data[split])
        names = [name for name in data.variables if name in model.p.names]
        if not names:
            raise ValueError(
                f"The model scores none of {', '.join(data.variables)}: there is nothing to show."
            )
        self.name = name or names[0]

    def _drawing(self) -> AbstractContextManager[None]:
        return evaluating(self.model, self.seed)

    def data_rows(self, count: int) -> Tensor:
        """The first training rows of what is shown, which draws from the model should resemble."""
        return self.data.batch("train", slice(0, count))[self.name].cpu()

    @property
    def length(self) -> str | None:
        """The name of the lengths, where what is shown is a sequence of steps."""
        variable = self.data.variables[self.name]
        return None if variable.kind == "token" else variable.length

    def steps(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Values of rows as they are compared: of sequences all steps, as if each were a row.

        Args:
            values: Shape ``(rows, *event)``, or ``(rows, steps, *event)``.
            lengths: How many steps each row has; those of the first rows by default.
        """
        if self.length is None:
            return values
        known = self.conditions(len(values)).get(self.length) if lengths is None else lengths
        if known is None:
            raise ValueError("the model says itself where rows end, and steps are not compared")
        return values[inside(known.cpu().flatten(), values.shape[1])]

    def first(self, count: int) -> dict[str, Tensor]:
        """The first rows that the model reads."""
        return self.rows[slice(0, count)]

    def conditions(self, count: int) -> dict[str, Tensor]:
        """Values of the model's inputs to draw with: labels in turn, else those of the rows."""
        inputs = [name for name in self.model.p.inputs if name not in self.model.p.names]
        given: dict[str, Tensor] = {}
        for name in inputs:
            if name == "y" and self.data.classes:
                turns = torch.arange(count, device=self.rows.device) % len(self.data.classes)
                given[name] = turns
            elif name in self.rows.names:
                values = self.first(min(count, self.rows.rows))[name]
                given[name] = values[torch.arange(count) % len(values)]
            else:
                raise ValueError(
                    f"The model needs {name!r} to draw from, which the data do not have."
                )
        return given

    def samples(self, count: int, *, mean: bool = False) -> Tensor:
        """Draws of x, or the means of p(x | z) at draws of z, shape ``(count, *event)``."""
        with self._drawing():
            site = self.model.sample(count, self.conditions(count))[self.name]
            # a draw in place of a mean that is not known is each row's own
            if mean and site.distribution is not None and has_centre(site.distribution):
                return centre(site.distribution).expand(site.value.shape).cpu().clone()
            return site.value.cpu().clone()

    @cached_property
    def pictured(self) -> str:
        """What stands for p(x | z) in a picture; p(x) where there are no latents."""
        of = "p(x | z)" if self.model.q.names else "p(x)"
        with self._drawing():
            site = self.model.sample(1, self.conditions(1))[self.name]
        known = site.distribution is None or has_centre(site.distribution)
        return f"the mean of {of}" if known else f"a draw from {of}, which has no known mean,"

    def reconstructions(self, count: int) -> tuple[Tensor, Tensor]:
        """Rows, and the means of p(x | z) at one draw of z from q(z | x)."""
        with self._drawing():
            given = self.first(count)
            site = self.model.reconstruct(given, missing=self.rows.missing)[self.name]
            value = site.value if site.distribution is None else typical(site.distribution)
            return given[self.name].cpu().clone(), value.expand_as(given[self.name]).cpu().clone()

    def bands(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Some long rows that are sequences, at one draw of z from q(z | x).

        Returns:
            The rows, the means of p(x | z), its standard deviations (NaN where there are none),
            each ``(rows, steps, elements)``, and how many steps each row has.
        """
        given, missing = self.long(count), self.rows.missing
        with self._drawing():
            site = self.model.reconstruct(given, missing=missing)[self.name]
            value, own = given[self.name].flatten(2), site.distribution
            mean = site.value if own is None else typical(own)
            try:
                spread = torch.full_like(mean, float("nan")) if own is None else own.stddev
            except NotImplementedError:
                spread = torch.full_like(mean, float("nan"))
            found = [each.expand(given[self.name].shape).flatten(2) for each in (mean, spread)]
        lengths = given[str(self.length)]
        return value.cpu(), found[0].cpu().clone(), found[1].cpu().clone(), lengths.cpu().long()

    def long(self, count: int) -> dict[str, Tensor]:
        """The longest of some rows that the model reads, which are sequences."""
        given = self.first(min(self.rows.rows, 100))
        order = given[str(self.length)].argsort(descending=True)[:count]
        return {name: value[order] for name, value in given.items()}

    def foreseen(self, count: int) -> tuple[Forecast, int]:
        """The last quarter of the shortest of some long rows, by what comes before it in each."""
        given, length = self.long(count), str(self.length)
        horizon = int(given[length].min()) // 4
        if not horizon:
            raise ValueError("rows are too short for a forecast to be shown")
        ends = (given[length] - horizon).long()
        row = torch.arange(len(ends), device=ends.device)[:, None]
        later = ends[:, None] + torch.arange(horizon, device=ends.device)
        future = {
            name: given[name][row, later]
            for name in self.model.p.inputs
            if name in self.data.variables and name != length
        }
        found = forecast(
            self.model, {**given, length: ends}, horizon, future=future, particles=500,
            seed=self.seed,
        )  # fmt: skip
        return found, horizon

    def traversals(self, use: Mapping[str, Mapping[str, Any]], most: int = 8) -> list[Traversal]:
        """Move along the most used latent dimensions, from the posterior means of the first row.

        Args:
            use: Name of a latent to its ``kl_by_dimension`` and ``variance_of_posterior_mean``.
            most: How many dimensions.

        Returns:
            The most used dimension first. A latent that p draws from
            another one is moved with that one held; what p draws from it follows at its means.
        """
        if self.length is not None:
            raise ValueError("rows are sequences, along which latents are not moved")
        chosen, own = _most_used(use, most), {*self.model.p.names, *self.model.p.inputs}
        found = []
        with self._drawing():
            base, means, spread = self._posterior(self.first(min(self.rows.rows, 500)))
            for name, dimension in chosen:
                if name not in means:
                    continue
                middle = means[name]
                flat = middle.mean(0).flatten()[dimension]
                reach = _REACH * spread[name].flatten()[dimension].clamp(min=1e-6)
                positions = flat + reach * torch.linspace(-1, 1, STEPS).to(flat)
                many = middle[:1].expand(STEPS, *middle.shape[1:])
                moved = many.clone(memory_format=torch.contiguous_format)  # maps may have others
                moved.view(STEPS, -1)[:, dimension] = positions
                given = {name: moved}
                below = {name, *self._descendants(name)}
                for other, value in {**means, **base}.items():
                    if other in own and other not in below:
                        given[other] = value[:1].expand(STEPS, *value.shape[1:])
                site = self.model.p(given, (STEPS,), default=AtCentre())[self.name]
                found.append(
                    Traversal(name, dimension, positions.cpu().clone(), site.value.cpu().clone())
                )
        return found

    def manifold(self, name: str, side: int) -> Tensor:
        """Means of x over the plane of a latent of two dimensions, ``(side * side, *event)``.

        In each direction the steps are equal in the probability of the prior, by draws where it is
        no standard normal.
        """
        with self._drawing():
            _, means, _ = self._posterior(self.first(1))
            levels = torch.linspace(0.02, 0.98, side, dtype=torch.float64)
            steps = torch.special.ndtri(levels)[:, None].expand(-1, 2)
            if not isinstance(owner_of(self.model.p, name), StandardNormal):
                prior = prior_of(self.model, [name])
                given = {n: v for n, v in self.conditions(_PRIOR).items() if n in prior.inputs}
                drawn = prior(given, (_PRIOR,), default=Sampled())[name].value
                steps = drawn.flatten(1).double().cpu().quantile(levels, 0)
            across, up = steps.unbind(1)
            plane = torch.cartesian_prod(up.flip(0), across).flip(1).to(means[name])
            given = self.conditions(len(plane)) | {name: plane.view(-1, *means[name].shape[1:])}
            site = self.model.p(given, (len(plane),), default=AtCentre())[self.name]
            return site.value.cpu().clone()

    def latent_space(
        self, use: Mapping[str, Mapping[str, Any]], most_rows: int = 2_000
    ) -> LatentPoints | None:
        """Posterior means of the latent that says most about a row; ``None`` if there is none.

        Of the training rows, where the others are too few to make a picture.
        """
        split: Split = self.split
        rows = self.rows
        if rows.rows < _FEW and self.data.rows("train") > rows.rows:
            split, rows = "train", rows_of(self.model, self.data.train)
        with self._drawing():
            parts: list[dict[str, Tensor]] = []
            for start in range(0, min(most_rows, rows.rows), 500):
                stop = min(start + 500, most_rows)
                _, means, _ = self._posterior(rows[slice(start, stop)])
                parts.append({n: self._code(n, v, rows, start).cpu() for n, v in means.items()})
            candidates = [name for name in parts[0] if name in use]
            if not candidates:
                return None
            name = max(candidates, key=lambda each: use[each]["kl"])
            points = torch.cat([part[name] for part in parts]).double().clone()
        labels = self.data[split].get("y") if self.data.classes else None
        chosen = None if labels is None else labels[: len(points)].cpu()
        if points.shape[1] <= 2 or len(points) < 3:
            return LatentPoints(name, points[:, :2], (), points.shape[1], chosen, split)
        plane, shares = principal_plane(points)
        return LatentPoints(name, plane, shares, points.shape[1], chosen, split)

    def _code(self, name: str, means: Tensor, rows: Rows, start: int) -> Tensor:
        """Posterior means of rows, ``(rows, dimensions)``; of each step, their mean over steps."""
        length = lengths_of(self.model).get(name)
        if length is None:
            return means.flatten(1)
        lengths = rows[slice(start, start + len(means))][length].to(means.device)
        there = inside(lengths, means.shape[1])
        total = torch.where(there[..., None], means.flatten(2), 0.0).sum(1)
        return total / lengths[:, None]

    def _posterior(
        self, given: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Given values, posterior means of real latents, and the spread of each over the rows.

        What q draws of a given name, where it is missing, is filled in. The mean of a latent that
        q draws from another latent is that given a draw of the other.
        """
        trace = self.model.posterior(given, missing=self.rows.missing)
        given = given | {n: trace[n].value for n in given if n in trace and n in self.rows.missing}
        means, spread = {}, {}
        for name, site in trace.items():
            if name in given:
                continue
            real = isinstance(site.value, Tensor) and site.value.is_floating_point()
            if not site.drawn or not real or name in self.model.q.shared or is_discrete(site):
                continue
            means[name] = mean = _mean(site)
            variance = mean.var(0) if len(mean) > 1 else torch.ones_like(mean[0])
            if site.distribution is not None:
                with contextlib.suppress(NotImplementedError):  # a flow has no variance to tell
                    own = site.distribution.variance.expand(site.value.shape)
                    variance = variance + own.mean(0)
            spread[name] = variance.sqrt()
        return given, means, spread

    def _descendants(self, name: str) -> set[str]:
        """Names of p that are drawn from a name, directly or not."""
        found: set[str] = set()
        for other in self.model.p.names:
            parents = {parent.name for parent in self.model.p.parents(other)}
            if name in parents or parents & found:
                found.add(other)
        return found


def principal_plane(points: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Points ``(rows, dimensions)`` on their first two principal axes, and the shares of these."""
    centred = points - points.mean(0)
    _, scales, axes = torch.linalg.svd(centred, full_matrices=False)
    # the sign of an axis is arbitrary: its largest entry is made positive
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * largest.sign()
    variance = scales.square()
    total = float(variance.sum())
    shares = tuple([float(v) / total if total else 0.0 for v in variance[:2]])
    return centred @ axes[:2].T, shares


def _most_used(use: Mapping[str, Mapping[str, Any]], most: int) -> list[tuple[str, int]]:
    """Names and dimensions by divergence, or by variance where there is no divergence of each."""
    ranked: list[tuple[bool, float, str, int]] = []
    for name, each in use.items():
        variance = flat(each["variance_of_posterior_mean"] or [])
        divergence = flat(each["kl_by_dimension"] or [])
        same = len(divergence) == len(variance)
        for dimension, value in enumerate(divergence if same else variance):
            ranked.append((variance[dimension] > 1e-2, float(value), name, dimension))
    ranked.sort(key=lambda item: (item[0], item[1]), reverse=True)
    active = [item for item in ranked if item[0]] or ranked[:2]
    return [(name, dimension) for _, _, name, dimension in active[:most]]


def _mean(site: Any) -> Tensor:
    """The posterior mean of a latent; of a flow, which has none in closed form, over draws."""
    if site.distribution is None:
        return site.value
    try:
        mean = centre(site.distribution)
    except NotImplementedError:
        mean = site.distribution.sample((_DRAWS,)).mean(0)
    return mean.expand(site.value.shape)
