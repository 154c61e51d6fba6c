r"""Scores: how probable each row is, with holes too, and each cell given the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Draw
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import score
from deeplvm.core.values import STACKED, NamedRows
from deeplvm.inference.completion import Complete, completable, complete, to_complete
from deeplvm.inference.diagnostics import pareto_k, tail_length
from deeplvm.inference.imputation import heavy_rows
from deeplvm.inference.missing import Weights, pieces
from deeplvm.inference.rows import (
    Names,
    OnProgress,
    Rows,
    Tensors,
    for_rows,
    lengths_of,
    redrawn,
    rows_of,
    unsaid,
)
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.randomness import RowNoise

# Where an element alone says what z is, draws of z given it hardly reach the others; k-hat would
# be 1, and is underestimated.
_HEAVY = 0.4
_NUMBERS = 2**21  # in the largest tensor of a batch
_SOME = 20  # held-out rows that lack an element, and that have it, tell what lacking it changes
_EACH = 10  # rows for each number that a regression on holes finds
_TRUTH = "value/"  # beside a row with one element hidden, what the element is


@dataclass(frozen=True, eq=False)
class RowScores:
    r"""Log-likelihoods of rows, of what is observed of each.

    Attributes:
        log_px: :math:`\log \hat p(x_o)`, shape ``(rows,)``, nats.
        log_px_stderr: Its Monte-Carlo standard error.
        pareto_k: Shape of the tail of the weights; the error means little above 0.7.
        holes: Which rows have missing elements.
        particles: Draws of each row.
    """

    log_px: Tensor
    log_px_stderr: Tensor
    pareto_k: Tensor
    holes: Tensor
    particles: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with rows that have holes, in words; empty if nothing is."""
        return heavy_rows(torch.where(self.holes, self.pareto_k, math.nan), self.particles)


def score_rows(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 500,
    *,
    draw: Mapping[str, Draw] | None = None,
    completed: Complete = "auto",
    seed: int = 0,
    progress: OnProgress | None = None,
) -> RowScores:
    r"""Importance-sampled log-likelihood of each row, rows with holes by completion where needed.

    Args:
        model: Left as it was.
        data: Rows: ``data.test``, or named tensors ``(rows, *event)``, NaN where one is missing.
        particles: Draws of each row.
        draw: As for :func:`~deeplvm.likelihood.importance_sampling`.
        completed: As for :func:`~deeplvm.inference.impute`.
        seed: Same seed, same numbers.
        progress: As for :func:`~deeplvm.likelihood.importance_sampling`.

    Raises:
        ValueError: As :func:`~deeplvm.likelihood.importance_sampling`.
    """
    rows = rows_of(model, data, omit=redrawn(draw))
    found = importance_sampling(model, rows, particles, draw=draw, seed=seed, progress=progress)
    numbers = (found.log_px, found.log_px_stderr, found.pareto_k)
    log_px, stderr, k = told = [each.cpu().double().clone() for each in numbers]
    again = to_complete(model, rows, k, completed, draw)
    if len(again):
        some = rows.take(again)
        other = complete(model, some, draw=draw, seed=seed)
        read = other.rows_as(some)
        better = importance_sampling(other.model, read, particles, draw=draw, seed=seed)
        for whole, part in zip(
            told, (better.log_px, better.log_px_stderr, better.pareto_k), strict=True
        ):
            whole[again] = part.cpu().double()
    names = tuple([name for name in rows.names if name in rows.missing])
    return RowScores(log_px, stderr, k, _some_missing(rows, names), found.particles)


@dataclass(frozen=True, eq=False)
class CellScores:
    r"""How improbable each element is given the others that are observed in its row.

    Attributes:
        surprise: By name, :math:`-\log \hat p(x_d | x_{o \setminus d})` in nats, shape
            ``(rows, *event)``, NaN where an element is missing. For reals it is that of a density
            in the data's own units.
        pareto_k: Shape of the tail of the weights behind it, the same shape.
    """

    surprise: dict[str, Tensor]
    pareto_k: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class UsualSurprise:
    """Mean surprise of each element, where values that repeat have one of their own.

    Such a value (a zero, a cap) has a probability, and the others a density: nats of the two do
    not compare, and any payment would be odder than none.

    Attributes:
        means: Of other values and of those that repeat, shape ``(2, elements)``.
        atoms: The values that repeat, of each element.
    """

    means: Tensor
    atoms: Sequence[Sequence[float]]

    @classmethod
    def of(
        cls, surprise: Tensor, values: Tensor, atoms: Sequence[Sequence[float]]
    ) -> UsualSurprise:
        """Of some rows: their surprise and their exact values, both ``(rows, *event)``."""
        surprise, repeats = surprise.flatten(1), _repeats(values, atoms)
        own = [
            surprise.masked_fill(repeats != kind, math.nan).nanmean(0) for kind in (False, True)
        ]
        means = torch.stack(own)  # an element without either kind has one mean
        return cls(torch.where(means.isnan(), surprise.nanmean(0), means), atoms)

    def excess(self, surprise: Tensor, values: Tensor) -> Tensor:
        """Nats above what is usual, shape ``(rows, elements)``; NaN where there is no value."""
        repeats = _repeats(values, self.atoms)
        return surprise.flatten(1) - torch.where(repeats, self.means[1], self.means[0])


def _repeats(values: Tensor, atoms: Sequence[Sequence[float]]) -> Tensor:
    """Which values are atoms, shape ``(rows, elements)``."""
    flat = values.flatten(1).cpu().double()
    found = torch.zeros(flat.shape, dtype=torch.bool)
    for place, each in enumerate(atoms):
        if each:
            found[:, place] = torch.isin(flat[:, place], torch.tensor(each, dtype=torch.float64))
    return found


def score_cells(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 500,
    *,
    draw: Mapping[str, Draw] | None = None,
    completed: Complete = "auto",
    seed: int = 0,
) -> CellScores:
    r"""Which element makes a row odd: :math:`-\log p(x_d | x_{o \setminus d})` of each.

    From the particles of the row, :math:`1 / p(x_d | x_{o \setminus d}) \approx \sum_k w_k /
    p(x_d | z_k)`, where elements are independent given z and these weights have a light tail.
    Elsewhere the element is hidden, and :math:`p(x_d | x_{o \setminus d}) \approx \sum_k
    w_k^{\setminus d} p(x_d | x_{o \setminus d}, z_k)`: as many rows more as there are such
    elements. Of latent classes each element given z and the others is known, and takes the place
    of :math:`p(x_d | z_k)`.

    Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC (Vehtari,
    Gelman & Gabry, 2017), https://arxiv.org/abs/1507.04544

    Args:
        model: Left as it was.
        data: Rows: ``data.test``, or named tensors ``(rows, *event)``, NaN where one is missing.
        particles: Draws of each row, and of each row with an element hidden.
        draw: As for :func:`~deeplvm.likelihood.importance_sampling`.
        completed: Of rows with holes, as for :func:`~deeplvm.inference.impute`.
        seed: Same seed, same numbers.
    """
    if lengths_of(model):
        raise ValueError(
            "Cells are values of a row of a table, and a row is a sequence here: score its steps "
            "(--steps) instead."
        )
    if explained := sorted(model.explains_holes):
        raise ValueError(
            f"p says why elements of {', '.join(explained)} are missing, so that hiding one would "
            f"be another event; cells are scored by models without 'x_observed'."
        )
    rows = rows_of(model, data, omit=redrawn(draw))
    first = rows[slice(0, 1)]
    label = {"y"} if rows.description is not None and rows.description.label else set()
    scored = [n for n in rows.names if n in model.p.names and n not in label]
    names = [n for n in scored if first[n].is_floating_point()]
    size = max(1, _NUMBERS // (particles * max([first[n].numel() for n in names])))
    count = particles if model.q.names else 1

    def at_once(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        evidence = model.evidence(
            given, particles=count, missing=missing, rows=rows.data_rows,
            draw=noise.draws(model.q.names, draw),
        )  # fmt: skip
        weights = Weights.of(evidence)
        found = {}
        for name in names:
            log = _element_densities(evidence.p[name], given[name], weights.shape)
            if log is None or name in evidence.latents:
                found[f"surprise/{name}"] = torch.full_like(given[name], math.nan)
                found[f"pareto_k/{name}"] = torch.full_like(given[name], math.inf)
                continue
            ratio = weights.log.reshape(*weights.log.shape, *[1] * (log.dim() - 2)) - log
            found[f"surprise/{name}"] = ratio.logsumexp(0)
            found[f"pareto_k/{name}"] = _tail(ratio)
        return found

    found = for_rows(model, rows, at_once, batch_size=size, seed=seed, finite=())
    surprise = {n: found[f"surprise/{n}"].cpu().double() for n in names}
    tails = {n: found[f"pareto_k/{n}"].cpu().double() for n in names}
    for name in names:
        value = torch.cat([batch[name].cpu() for _, batch in rows.each(10_000)])
        surprise[name][value.isnan()] = math.nan
        tails[name][value.isnan()] = math.nan
        at = (tails[name].flatten(1) > _HEAVY).nonzero()
        if not len(at):
            continue
        hidden = _with_one_hidden(rows, name, value, at)
        log, k = _predicted(model, hidden, name, particles, draw, completed, seed, size)
        surprise[name].flatten(1)[at[:, 0], at[:, 1]] = -log
        tails[name].flatten(1)[at[:, 0], at[:, 1]] = k
    return CellScores(surprise, tails)


def _element_densities(site: Any, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Of each element given each particle, ``(N, batch, *event)``; 0 where it is missing.

    Where elements depend on each other given z, it is that given the others too.
    """
    if site.distribution is None:
        return None
    right = value.shape[1 : value.dim() - len(site.distribution.event_shape)]
    whole = site.distribution.expand(torch.Size((*shape, *right)))
    parts = pieces(whole, independent=True)
    if not parts:
        left_out = getattr(whole, "left_out", lambda _: None)(value)
        return None if left_out is None else left_out.flatten(0, len(shape) - 2)
    log = value.new_zeros((*shape, *value.shape[1:]))
    for places, elements in parts:
        piece = value if places is None else value[..., places]
        there = ~piece.isnan()
        safe = torch.where(there, piece, elements.sample().to(piece))  # a value of the support
        density = torch.where(there, elements.log_prob(safe), 0.0)
        if places is None:
            log = density.expand(log.shape)
        else:
            log[..., places] = density.to(log)
    return log.flatten(0, len(shape) - 2)


def _tail(log_weights: Tensor) -> Tensor:
    """k-hat of weights ``(N, batch, ...)``, shape ``(batch, ...)``."""
    flat = log_weights.double().flatten(1)
    top = flat.topk(min(tail_length(len(flat)) + 1, len(flat)), 0).values
    k = pareto_k(top, precision=torch.finfo(log_weights.dtype).eps)
    return k.reshape(log_weights.shape[1:])


def _with_one_hidden(rows: Rows, name: str, value: Tensor, at: Tensor) -> Rows:
    """A row for each element hidden, and beside it what the element is."""
    source: dict[str, Any] = dict(rows[at[:, 0]])
    hidden = source[name].clone()
    hidden.flatten(1)[torch.arange(len(at)), at[:, 1].to(hidden.device)] = math.nan
    truth = torch.full_like(hidden, math.nan)
    truth.flatten(1)[torch.arange(len(at)), at[:, 1]] = value.flatten(1)[at[:, 0], at[:, 1]].to(
        truth
    )
    return replace(
        rows,
        source={**source, name: hidden, f"{_TRUTH}{name}": truth},
        names=(*rows.names, f"{_TRUTH}{name}"),
        missing=rows.missing | {name},
        rows=len(at),
        keys=None if rows.keys is None else rows.keys[at[:, 0]],
        values={**rows.values, f"{_TRUTH}{name}": STACKED},
    )


def _predicted(
    model: LatentVariableModel,
    hidden: Rows,
    name: str,
    particles: int,
    draw: Mapping[str, Draw] | None,
    completed: Complete,
    seed: int,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Log-density of the element hidden in each row given what is left, and k-hat."""

    def of(model: LatentVariableModel, rows: Rows) -> tuple[Tensor, Tensor]:
        def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
            given = dict(given)
            truth = given.pop(f"{_TRUTH}{name}")
            evidence = model.evidence(
                given, particles=particles, missing=missing, rows=rows.data_rows,
                draw=noise.draws(model.q.names, draw),
            )  # fmt: skip
            weights = Weights.of(evidence)
            whole = torch.where(truth.isnan(), given[name], truth)
            distribution: Any = evidence.p[name].distribution
            each = [
                score(name, distribution, part, missing=True).expand(weights.shape)
                for part in (whole, given[name])
            ]
            log = (weights.log + (each[0] - each[1]).flatten(0, -2)).logsumexp(0)
            return {"log_px": log, "pareto_k": weights.pareto_k}

        found = for_rows(model, rows, measure, batch_size=size, seed=seed, finite=())
        return found["log_px"].cpu().double(), found["pareto_k"].cpu().double()

    plain = replace(hidden, names=tuple([n for n in hidden.names if not n.startswith(_TRUTH)]))
    if completed is True and not completable(model, plain, draw):
        log = torch.full((hidden.rows,), math.nan, dtype=torch.float64)
        k = log.clone()
    else:
        log, k = of(model, hidden)
    again = to_complete(model, plain, k, completed, draw)
    if len(again):
        some = plain.take(again)
        other = complete(model, some, draw=draw, seed=seed)
        read = other.rows_as(some)
        truth = hidden[again][f"{_TRUTH}{name}"]
        wide = replace(
            read,
            source={**other.data, f"{_TRUTH}{name}": truth},
            names=(*read.names, f"{_TRUTH}{name}"),
            values={**read.values, f"{_TRUTH}{name}": STACKED},
            data_rows=hidden.data_rows,
        )
        log[again], k[again] = of(other.model, wide)
    return log, k


@dataclass(frozen=True, eq=False)
class Reference:
    """How odd held-out rows are, to compare others with.

    Attributes:
        rows: The held-out rows.
        log_px: Their log-likelihoods, shape ``(rows,)``.
        particles: Draws that scored them, and score them again where more of them is hidden.
        draw: How a latent is drawn.
        completed: As for :func:`score_rows`.
        seed: Of the rows chosen, and of the draws.
        rows_each: Held-out rows that stand for all where some of their elements are hidden.
        most: Rows in all that may be scored again; patterns that more rows have come first.
    """

    rows: Rows
    log_px: Tensor
    particles: int
    draw: Mapping[str, Draw] | None = None
    completed: Complete = "auto"
    seed: int = 0
    rows_each: int = 200
    most: int = 20_000

    def compare(
        self, model: LatentVariableModel, data: NamedRows | Rows, log_px: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Share of held-out rows that are less odd, and the probability of so odd a row.

        What little is observed of a row is more probable than all of it, so a row with holes is
        compared with held-out rows of the same holes. What the held-out rows all have and the row
        lacks is hidden in them too. Of holes that they have themselves in many patterns a few
        share one: there all are compared, by how much odder a row is than one with its holes is
        expected to be, in units of how far such rows are from that. Both are regressions on what
        is missing, of a held-out row by all the others; right or wrong, of exchangeable rows about
        a share :math:`\alpha` at most has a tail probability of :math:`\alpha`.

        Sequences are compared so too, by how many values are known of each.

        Distribution-Free Predictive Inference for Regression (Lei et al., 2018), section 5.2,
        https://arxiv.org/abs/1604.04173

        Args:
            model: That scored the rows.
            data: The rows.
            log_px: Their log-likelihoods, shape ``(rows,)``.

        Returns:
            The share of less odd ones, and :func:`tail_probability`, both ``(rows,)``; NaN where
            ``most`` left nothing to compare with, or no held-out row has what is observed.
        """
        rows = rows_of(model, data, omit=redrawn(self.draw))
        if rows.lengths:  # the more steps, the less probable: beside what is expected of so many
            sizes = [_sized(_said(each), _said(self.rows)) for each in (rows, self.rows)]
            odder = _unexpected(log_px.neg().double(), sizes[0], -self.log_px, sizes[1])
            less, tail = _ranked(*odder)
            return less, tail
        holes = rows.missing | self.rows.missing
        names = tuple([n for n in self.rows.names if n in rows.names and n in holes])
        found = torch.full((2, rows.rows), math.nan, dtype=torch.float64)
        own, held = _holes(rows, names), _holes(self.rows, names)
        lacking = held.sum(0)
        varied = (lacking >= _SOME) & (len(held) - lacking >= _SOME)
        ours, theirs = (_places(_keys(each & ~varied)) for each in (own, held))
        wanted = max(self.rows_each, _EACH * int(varied.sum()))
        left, rest = self.most, []
        for key, at in sorted(ours.items(), key=lambda each: len(each[1]), reverse=True):
            hidden = own[at[0]] & ~varied
            chosen = theirs.get(key, at[:0])
            log = self.log_px[chosen]
            if len(chosen) < wanted:
                fit = _rows(~held | varied | hidden) if left or len(chosen) else chosen
                cost = min(wanted, len(fit)) if len(fit) > len(chosen) else 0
                if cost > left or not len(fit):
                    left = 0 if len(fit) else left
                    rest.append(at)
                    continue
                if cost:
                    left, chosen = left - cost, _some(fit, wanted, self.seed)
                    log = self._hidden(model, chosen, names, hidden)
            holes, others = own[at][:, varied], held[chosen][:, varied]
            found[:, at] = self._beside(log_px[at], holes, log, others)
        chosen = _some(_rows(~held | varied), self.most // 2, self.seed)
        if rest and len(chosen) >= max(self.rows_each, _EACH * own.shape[1]):
            # too many patterns for each to be hidden by itself: all sorts of them
            generator = torch.Generator().manual_seed(self.seed)
            share, each = torch.rand(2, len(chosen), own.shape[1], generator=generator)
            hidden = ~varied & (each < share[:, :1])
            at, log = torch.cat(rest), self._hidden(model, chosen, names, hidden)
            found[:, at] = self._beside(log_px[at], own[at], log, held[chosen] | hidden)
        return found[0], found[1]

    def _beside(self, log_px: Tensor, holes: Tensor, reference: Tensor, theirs: Tensor) -> Tensor:
        """Of rows with holes beside others with theirs, both numbers, shape ``(2, rows)``."""
        odd, others = -log_px.double(), -reference.double()
        found = torch.full((2, len(odd)), math.nan, dtype=torch.float64)
        if not len(others):
            return found
        ours = _keys(torch.cat([holes, theirs])).split([len(holes), len(theirs)])
        _, which, counts = ours[1].unique(return_inverse=True, return_counts=True)
        direct = torch.zeros(len(odd), dtype=torch.bool)
        for number in (counts >= min(self.rows_each, len(others))).nonzero().flatten().tolist():
            alike = which == number
            at = ours[0] == ours[1][alike][0]
            found[:, at], direct = _ranked(odd[at], others[alike]), direct | at
        if len(others) >= _SOME and not bool(direct.all()):
            rest = ~direct
            found[:, rest] = _ranked(*_for_their_holes(odd[rest], holes[rest], others, theirs))
        return found

    def _hidden(
        self, model: LatentVariableModel, index: Tensor, names: tuple[str, ...], hidden: Tensor
    ) -> Tensor:
        """Log-likelihoods of held-out rows without some of their elements, or each without its."""
        source: dict[str, Any] = dict(self.rows[index])
        sizes = [source[name][0].numel() for name in names]
        for name, part in zip(names, hidden.split(sizes, -1), strict=True):
            shape = (*part.shape[:-1], *source[name].shape[1:])
            mask = part.reshape(shape).to(source[name].device)
            source[name] = torch.where(mask, math.nan, source[name])
        some = replace(self.rows, source=source, rows=len(index), missing=frozenset(names))
        return score_rows(
            model, some, self.particles, draw=self.draw, completed=self.completed, seed=self.seed
        ).log_px


def _for_their_holes(
    odd: Tensor, holes: Tensor, others: Tensor, theirs: Tensor
) -> tuple[Tensor, Tensor]:
    """How odd some rows and all others are for their holes, in usual deviations."""
    few = len(others) < _EACH * theirs.shape[1]
    return _unexpected(odd, holes, others, theirs, lambda each: _design(each, few=few))


def _unexpected(
    odd: Tensor,
    ours: Tensor,
    others: Tensor,
    theirs: Tensor,
    design_of: Callable[[Tensor], Tensor] = lambda each: each,
) -> tuple[Tensor, Tensor]:
    """How odd some rows and all others are beside what is expected, in usual deviations.

    What is expected, and the deviation, are regressions on what is known of each row, shape
    ``(rows, numbers)``; of another row on all others but itself.
    """
    others, known = others.double(), others.isfinite()
    design = design_of(theirs[known])
    fitted, weights = _regressed(design, others[known])
    off = others[known] - fitted
    scale, spread = _regressed(design, off.abs())
    least = 0.2 * off.abs().mean()
    odder = torch.cat(
        [
            (each - row @ weights) / (row @ spread).clamp(min=least)
            for each, part in zip(odd.split(10_000), ours.split(10_000), strict=True)
            for row in (design_of(part),)
        ]
    )
    reference = torch.full_like(others, math.inf)
    reference[known] = off / scale.clamp(min=least)
    return odder, reference


def _sized(said: Tensor, among: Tensor) -> Tensor:
    """What a regression on the number of known values reads: one, it, and its root."""
    size = said.double() / among.double().mean().clamp(min=1.0)
    return torch.stack([torch.ones_like(size), size, size.sqrt()], 1)


def _design(holes: Tensor, *, few: bool) -> Tensor:
    """What a regression on holes reads: which there are, and how many, its square too."""
    count = holes.double().mean(1, keepdim=True)
    return torch.cat([torch.ones_like(count), count.square(), count if few else holes], 1)


def _regressed(design: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """By ridge regression: what all others say of each row, and the weights of all."""
    penalty = torch.ones(design.shape[1], dtype=design.dtype)
    penalty[0] = 0.0
    root = torch.linalg.solve(design.T @ design + penalty.diag(), design.T)
    weights = root @ value
    own = (design * root.T).sum(1).clamp(max=0.99)
    return (design @ weights - own * value) / (1 - own), weights


def _ranked(odd: Tensor, others: Tensor) -> Tensor:
    """The share of others that are less odd, and the tail probability, ``(2, rows)``."""
    less = torch.searchsorted(others.sort().values, odd).double() / len(others)
    return torch.stack([less, tail_probability(odd, others).double()])


def _some(index: Tensor, count: int, seed: int) -> Tensor:
    """So many of some numbers at random, rising."""
    generator = torch.Generator().manual_seed(seed)
    return index[torch.randperm(len(index), generator=generator)[:count]].sort().values


def _keys(holes: Tensor) -> Tensor:
    """A number for each pattern: a sum of random ones, 64 bits, shape ``(rows,)``."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randint(-(2**63), 2**63 - 1, (holes.shape[1],), generator=generator)
    found = torch.zeros(len(holes), dtype=torch.int64)
    for column, number in zip(holes.unbind(1), each, strict=True):
        found += column * number
    return found


def _rows(kept: Tensor) -> Tensor:
    """Rows of which every element is kept."""
    return kept.all(1).nonzero().squeeze(-1)


def _places(numbers: Tensor) -> dict[int, Tensor]:
    """Where each number stands, rising."""
    found, counts = numbers.unique(return_counts=True)
    places = numbers.argsort(stable=True).split(counts.tolist())
    return dict(zip(found.tolist(), places, strict=True))


def _holes(rows: Rows, names: tuple[str, ...]) -> Tensor:
    """Which elements are missing, side by side, ``(rows, elements)``."""
    if not names:
        return torch.zeros(rows.rows, 1, dtype=torch.bool)
    parts = [
        torch.cat([batch[n].isnan().reshape(len(batch[n]), -1).cpu() for n in names], 1)
        for _, batch in rows.each(10_000)
    ]
    return torch.cat(parts)


def _some_missing(rows: Rows, names: tuple[str, ...]) -> Tensor:
    """Which rows have missing elements."""
    parts = [torch.zeros(0, dtype=torch.bool)]
    for _, batch in rows.each(10_000):
        each = [batch[n].isnan().reshape(len(batch[n]), -1).any(1).cpu() for n in names]
        count = len(next(iter(batch.values())))
        parts.append(torch.stack([torch.zeros(count, dtype=torch.bool), *each]).any(0))
    return torch.cat(parts)


def _said(rows: Rows) -> Tensor:
    """How many elements of each row are known: of steps that it has, and not missing."""
    parts = []
    for _, batch in rows.each(10_000):
        each = [(~unsaid(batch, n, rows.lengths)).sum(1) for n in batch if n in rows.lengths]
        parts.append(torch.stack(each).sum(0).cpu())
    return torch.cat(parts)


def tail_probability(scores: Tensor, reference: Tensor) -> Tensor:
    r"""How probable so high a score is among others, :math:`(1 + \#\{r \ge s\}) / (n + 1)`.

    Where a row is one like those of the reference, it is at most :math:`\alpha` with probability
    at most :math:`\alpha`, whatever the scores are: a threshold with that rate of false alarms.

    Testing for Outliers with Conformal p-values (Bates et al., 2023),
    https://arxiv.org/abs/2104.08279

    Args:
        scores: Higher is odder, shape ``(rows,)``.
        reference: Scores of held-out rows, shape ``(n,)``.

    >>> tail_probability(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 2.0, 3.0]))
    tensor([1.0000, 0.2500])
    """
    ordered = reference.sort().values
    above = len(ordered) - torch.searchsorted(ordered, scores.to(ordered), side="left")
    return (1 + above) / (len(ordered) + 1)


def beside(odd: Tensor, holes: Tensor, others: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Of some steps beside others: the share of less odd ones, and :func:`tail_probability`.

    Where values are missing in some, by how much odder than expected with these holes.

    Args:
        odd: Higher is odder, shape ``(steps,)``.
        holes: What is missing of each, shape ``(steps, elements)``.
        others: As ``odd``, of steps to compare with.
        theirs: Their holes.

    Returns:
        Both of shape ``(steps,)``; NaN for a step of which nothing is known.
    """
    empty, known = holes.all(1), ~theirs.all(1)
    if bool(holes.any() | theirs.any()):
        odd, others = _for_their_holes(odd.double(), holes, others[known].double(), theirs[known])
    found = torch.where(empty, math.nan, _ranked(odd, others))
    return found[0], found[1]
