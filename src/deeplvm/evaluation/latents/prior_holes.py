r"""Holes: where p(z) draws and no posterior has been; and the reverse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence, density, elementwise
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace, sum_right
from deeplvm.evaluation.latents.aggregate import (
    ancestors_of,
    latents_of,
    prior_of,
    prior_trace,
    several,
)
from deeplvm.gradients import Draw, Sampled
from deeplvm.inference.rows import Rows, Source, at_least, rows_of
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Estimate, Record, number, shown_mean

_NUMBERS = 2**21  # in the largest tensor of a chunk: 16 MB in float64
_RESAMPLES = 200


@dataclass(frozen=True)
class Share(Estimate):
    """A share of draws beyond a quantile of other draws, which is ``expected`` if laws agree.

    Attributes:
        value: The share.
        stderr: Its standard error: of the share (binomial) and of the quantile (bootstrap).
        expected: The level of the quantile.
        threshold: The quantile, nats.
    """

    expected: float
    threshold: float

    def __str__(self) -> str:
        shown = number(100 * self.value, 100 * self.stderr, (1, 6))
        return f"{shown} %"


@dataclass(frozen=True, eq=False)
class Holes(
    Record,
    also="prior_ratio posterior_ratio draws",
    without="aggregate_at_prior aggregate_at_posterior prior_at_prior prior_at_posterior level "
    "worst worst_log_density",
    keys={
        "prior_ratio": "log_prior_less_aggregate",
        "posterior_ratio": "log_aggregate_less_prior",
    },
):
    r"""Prior and aggregate posterior, each scored where the other draws.

    With :math:`\hat q(z) = \frac{1}{N} \sum_n q(z | x_n)`, all latents together, nats.

    Attributes:
        aggregate_at_prior: :math:`\log \hat q(z)` at draws of p(z), shape ``(draws,)``.
        aggregate_at_posterior: The same at draws of :math:`\hat q`, without the row that each was
            drawn from, shape ``(draws,)``.
        prior_at_prior: log p(z) at the draws of p(z), shape ``(draws,)``; ``None`` where p draws
            the latents from a variable that is no latent, so that p(z) is an integral.
        prior_at_posterior: log p(z) at the draws of :math:`\hat q`; or ``None``.
        level: Level of the quantiles.
        hole: Share of the prior where :math:`\hat q` is lower than at all but a share ``level``
            of its own draws.
        uncovered: Share of the prior where :math:`\log p(z) - \log \hat q(z)` is higher than at
            all but a share ``level`` of the draws of :math:`\hat q`; it also finds a hole in the
            middle of the prior, where densities are high; or ``None``.
        outside: The reverse: share of :math:`\hat q` where p(z) is lower than at all but a share
            ``level`` of its own draws; or ``None``.
        worst: The prior draws of lowest :math:`\hat q`, the lowest first, by latent and with the
            inputs of p, shape ``(k, *event)``: ``model.sample(given=holes.worst)`` decodes them.
        worst_log_density: Their :math:`\log \hat q(z)`, shape ``(k,)``.
        rows: N.
    """

    aggregate_at_prior: Tensor
    aggregate_at_posterior: Tensor
    prior_at_prior: Tensor | None
    prior_at_posterior: Tensor | None
    level: float
    hole: Share
    uncovered: Share | None
    outside: Share | None
    worst: dict[str, Tensor]
    worst_log_density: Tensor
    rows: int

    @property
    def draws(self) -> int:
        """Draws of each side."""
        return len(self.aggregate_at_prior)

    @property
    def prior_ratio(self) -> Tensor | None:
        r""":math:`\log p(z) - \log \hat q(z)` at draws of p; its mean is KL(p || q̂)."""
        at = self.prior_at_prior
        return None if at is None else at - self.aggregate_at_prior

    @property
    def posterior_ratio(self) -> Tensor | None:
        r""":math:`\log \hat q(z) - \log p(z)` at draws of q̂; its mean is KL(q̂ || p)."""
        at = self.prior_at_posterior
        return None if at is None else self.aggregate_at_posterior - at

    def table(self) -> list[tuple[str, str, str]]:
        """Rows of name, value with its error, and what the number means."""
        expected = f"{100 * self.level:g} % if q(z) = p(z)"
        rows = [("hole", str(self.hole), f"of p(z) where q(z) hardly is; {expected}")]
        if self.uncovered is not None and self.outside is not None:
            rows += [
                ("uncovered", str(self.uncovered), f"of p(z) by log p − log q; {expected}"),
                ("outside", str(self.outside), f"of q(z) where p(z) hardly is; {expected}"),
            ]
        for name, ratio in (
            ("log p − log q under p", self.prior_ratio),
            ("log q − log p under q", self.posterior_ratio),
        ):
            if ratio is not None:
                rows.append(
                    (name, shown_mean(ratio), "nats, mean; 0 if q(z) = p(z) and rows are many")
                )
        return rows

    def notes(self) -> list[str]:
        """What the numbers are of."""
        return [f"{self.draws:,} draws of each, q(z) of {self.rows:,} rows"]


def holes(
    model: LatentVariableModel,
    data: Source | Rows,
    *,
    draws: int = 1_000,
    level: float = 0.01,
    worst: int = 16,
    batch_size: int = 256,
    seed: int = 0,
) -> Holes:
    r"""How much of the prior is far from every posterior, so that p decodes there unseen.

    A prior draw is in a hole where the density
    :math:`\hat q(z) = \frac{1}{N} \sum_n q(z | x_n)` of the aggregate posterior is below the 1 %
    quantile of that density at draws of :math:`\hat q` itself. For a draw of
    :math:`q(z | x_n)` row n is left out of the sum, otherwise every draw would be near a
    posterior, its own. So, if the aggregate posterior of the data's law is the prior, prior draws
    and these are scored alike, and the share is 1 % on average however few the rows are: but few
    rows, or narrow posteriors in many dimensions, blur :math:`\hat q` and hide holes. The mean
    log-ratios suffer in another way: :math:`\log \hat q` is too low on average, so both are too
    high under p and too low under q, unless rows are many.

    A share far above 1 % says that samples of the model are drawn where it was not trained; a
    learned prior, or one fitted afterwards, cures it. Taming VAEs (Rezende & Viola, 2018),
    section 4, https://arxiv.org/abs/1810.00597; Resampled Priors for Variational Autoencoders
    (Bauer & Mnih, 2019), https://arxiv.org/abs/1810.11428

    Every draw is scored by the posterior of every row: ``2 * draws * rows`` densities. Where q
    draws a latent from another its networks run that often too. All latents are taken together.

    Args:
        model: Evaluated in ``eval()`` mode, left as it was.
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, *event)``, NaN where missing.
        draws: Of the prior, and of the aggregate posterior.
        level: Of the quantiles.
        worst: How many of the prior draws with the lowest density are kept.
        batch_size: Rows at a time.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If there are fewer than two rows, the draws are too few for a quantile of that
            level, or q draws nothing for a row.

    Examples:
        >>> from deeplvm import Joint, LatentVariableModel
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, MLP(1))})
        >>> model = LatentVariableModel(p, Joint({"z": Gaussian(1, scale=0.5)}))
        >>> found = holes(model, {"x": torch.zeros(50, 1)})
        >>> round(found.hole.value, 1)  # of N(0, 1), 19.8 % are beyond 2.576 * 0.5
        0.2
    """
    if not 0.0 < level < 0.5 or draws * level < 1.0 or min(worst, batch_size) < 1:
        raise ValueError(
            f"level is between 0 and 0.5 and draws at least 1 / level, worst and batch_size at "
            f"least 1; found {level}, {draws}, {worst}, {batch_size}."
        )
    _refuse_refining(model.q)
    with evaluating(model, seed_of(seed, "holes")):
        taken = several(model, data)
        count = taken.rows
        ends = _draw(model, taken, count, draws, batch_size)
        at_prior, at_posterior = [
            _aggregate(model, taken, count, each, own, batch_size)
            for each, own in ((ends.prior, None), (ends.posterior, ends.own))
        ]
    order = at_prior.argsort()[:worst]
    kept = {name: value.cpu()[order].clone() for name, value in ends.prior.items()}
    kept |= {name: value.cpu()[order].clone() for name, value in ends.inputs.items()}
    return Holes(
        at_prior,
        at_posterior,
        ends.prior_at_prior,
        ends.prior_at_posterior,
        level,
        share_below(at_prior, at_posterior, level, seed),
        None
        if ends.prior_at_prior is None or ends.prior_at_posterior is None
        else share_below(
            at_prior - ends.prior_at_prior,
            at_posterior - ends.prior_at_posterior,
            level,
            seed,
        ),
        None
        if ends.prior_at_prior is None or ends.prior_at_posterior is None
        else share_below(ends.prior_at_posterior, ends.prior_at_prior, level, seed),
        kept,
        at_prior[order].clone(),
        count,
    )


def share_below(values: Tensor, reference: Tensor, level: float, seed: int = 0) -> Share:
    """Share of the values below the quantile of a reference, shapes ``(n,)`` and ``(m,)``.

    >>> float(share_below(torch.arange(100.0), torch.arange(50.0, 150.0), 0.1).value)
    0.591
    """
    ordered = values.sort().values
    value = float(_below(ordered, reference[None], level))
    generator = torch.Generator().manual_seed(seed)
    shape = (_RESAMPLES, len(reference))
    again = reference[torch.randint(len(reference), shape, generator=generator)]
    moved = _below(ordered, again, level)
    # half a draw to each side: a share of none is not known exactly
    binomial = (value * len(values) + 0.5) / (len(values) + 1.0)
    variance = binomial * (1.0 - binomial) / len(values) + float(moved.var())
    threshold = reference.sort().values[max(0, math.floor(level * (len(reference) + 1)) - 1)]
    return Share(value, math.sqrt(variance), level, float(threshold))


def _below(ordered: Tensor, reference: Tensor, level: float) -> Tensor:
    """Share of values below the quantile of each line of draws; ``level`` on average if alike.

    Of n draws the k-th smallest has k / (n + 1) of their law below it on average, so the shares
    below the two next to :math:`k = level (n + 1)` are weighted; and not the draws themselves, of
    which one may be minus infinity.
    """
    place = level * (reference.shape[-1] + 1)
    k = math.floor(place)
    lines = torch.cat(
        [torch.full_like(reference[..., :1], -math.inf), reference.sort(-1).values], -1
    )
    ends = lines[..., k : k + 2].contiguous()
    low, high = torch.searchsorted(ordered, ends).double().div(len(ordered)).unbind(-1)
    return low + (place - k) * (high - low)


@dataclass(frozen=True, eq=False)
class _Ends:
    """Draws of both sides, ``(draws, *event)`` by name, and log p(z) at them."""

    prior: dict[str, Tensor]
    posterior: dict[str, Tensor]
    own: Tensor  # the row of each posterior draw, shape (draws,)
    inputs: dict[str, Tensor]
    prior_at_prior: Tensor | None
    prior_at_posterior: Tensor | None


def _draw(
    model: LatentVariableModel, taken: Rows, count: int, draws: int, batch_size: int
) -> _Ends:
    """Draws that are spread over the rows as evenly as can be."""
    order = torch.cat([torch.randperm(count) for _ in range(-(-draws // count))])[:draws]
    own = order.sort().values
    sides: dict[str, list[dict[str, Tensor]]] = {"p": [], "q": [], "inputs": [], "log": []}
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        inside = own[(own >= start) & (own < stop)] - start
        if not len(inside):
            continue
        batch = taken[slice(start, stop)]
        given = {name: value[inside.to(value.device)] for name, value in batch.items()}
        posterior = model.posterior(given, missing=taken.missing)
        names = latents_of(model, posterior)
        prior = prior_of(model, names)
        ancestral = prior_trace(model, prior, given, posterior, taken.missing)
        known = {name: given[name] for name in prior.inputs if name in given}
        sides["q"].append({name: posterior[name].value for name in names})
        sides["p"].append({name: ancestral[name].value for name in names})
        sides["inputs"].append(known)
        shared = model.shared
        open_names = [
            name
            for name in ancestors_of(prior, names) - {*names, *shared}
            if name in ancestral and ancestral[name].drawn
        ]
        if open_names:
            continue
        held = {name: posterior[name] for name in (*names, *shared) if name in prior.names}
        scored = prior(known | held, (len(inside),), missing=taken.missing & set(known))
        sides["log"].append(
            {
                key: _total([trace[name].log_prob for name in names], len(inside))
                for key, trace in (("p", ancestral), ("q", scored))
            }
        )
    joined = {key: _cat(parts) for key, parts in sides.items()}
    logs = {key: value.double().cpu().clone() for key, value in joined["log"].items()}
    return _Ends(joined["p"], joined["q"], own, joined["inputs"], logs.get("p"), logs.get("q"))


def _aggregate(
    model: LatentVariableModel,
    taken: Rows,
    count: int,
    draws: Mapping[str, Tensor],
    own: Tensor | None,
    batch_size: int,
) -> Tensor:
    r""":math:`\log \frac{1}{N} \sum_n q(z | x_n)` of each draw, its own row left out."""
    number_of_draws = len(next(iter(draws.values())))
    dimensions = sum([value[0].numel() for value in draws.values()])
    total = torch.full((number_of_draws,), -math.inf, dtype=torch.float64, device=taken.device)
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        given = taken[slice(start, stop)]
        ready = model.encode(given, missing=taken.missing)
        chunk = max(1, _NUMBERS // ((stop - start) * dimensions))
        for first in range(0, number_of_draws, chunk):
            some = slice(first, min(first + chunk, number_of_draws))
            held = {name: value[some] for name, value in draws.items()}
            log_q = _log_posterior(model, given, held, taken, ready)
            if own is not None:
                column = (own[some] - start).to(log_q.device)
                mine = column[:, None] == torch.arange(stop - start, device=log_q.device)
                log_q = log_q.masked_fill(mine, -math.inf)
            total[some] = torch.logaddexp(total[some], log_q.logsumexp(1))
    return (total - math.log(count - (own is not None))).cpu().clone()


def _log_posterior(
    model: LatentVariableModel,
    given: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    taken: Rows,
    ready: Mapping[str, Any],
) -> Tensor:
    """The log-density q(z | x) of each draw and row, shape ``(draws, rows)``."""
    wide = _every_pair(held, len(next(iter(given.values()))))
    trace = _posterior_at(model, given, wide, taken.missing, ready)
    shape = (len(next(iter(held.values()))), len(next(iter(given.values()))))
    return _total([trace[name].log_prob for name in held], *shape).double()


def _every_pair(held: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Draws ``(c, *event)`` beside each row, ``(c, rows, *event)``."""
    return {
        name: value.unsqueeze(1).expand(-1, rows, *value.shape[1:]) for name, value in held.items()
    }


def _posterior_at(
    model: LatentVariableModel,
    given: Mapping[str, Any],
    wide: Mapping[str, Tensor],
    missing: frozenset[str],
    ready: Mapping[str, Any],
) -> Trace:
    """The trace of q at given latents, each ``(c, rows, *event)``: some read others."""
    q = model.q
    sites = {
        name: model.site(name, value, missing)
        for name, value in given.items()
        if name in q.names or name in q.inputs
    }
    for name, value in wide.items():
        sites[name] = replace(model.site(name, value, batch_dims=2), drawn=True)
    shape = tuple(next(iter(wide.values())).shape[:2])
    return q(sites, shape, missing=missing, **({"ready": ready} if ready else {}))


def _total(terms: Sequence[Tensor | None], *shape: int) -> Tensor:
    """Sum of log-densities of latents, expanded to ``shape``.

    Raises:
        ValueError: If a latent has none.
    """
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        raise ValueError(
            "A latent has no density under q or p, so its aggregate posterior has none to compare."
        )
    return sum(known[1:], known[0]).expand(shape)


def _cat(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


_ELEMENTS = 500_000  # of scores at a time: few enough to stay in the caches
_BATCH = 256


@dataclass(eq=False)
class Group:
    r"""The log-densities of one latent, or of several together, at the draws of every row.

    Attributes:
        latents: The latents.
        own: :math:`\log q(z | x_n)` of the row that z was drawn for, shape ``(P, N)``.
        prior: :math:`\log p(z)`; ``None`` where p's density reads more than these latents.
        others: :math:`\log \sum_{m \ne n} q(z | x_m)` over all rows.
        near: The same over the rows of the minibatch.
        reads: What p's density of them reads beside them.
    """

    latents: tuple[str, ...]
    own: Tensor
    prior: Tensor | None
    others: Tensor
    near: Tensor
    reads: frozenset[str] = frozenset()

    @property
    def aggregate(self) -> Tensor:
        r""":math:`\log \frac1N \sum_m q(z | x_m)`, shape ``(P, N)``."""
        return torch.logaddexp(self.own, self.others) - math.log(self.own.shape[1])


@dataclass(eq=False)
class Dimensions:
    r"""The same for every dimension of a latent that factorises, each ``(P, N, D)``.

    Attributes:
        own: :math:`\log q(z_j | x_n)`.
        prior: :math:`\log p(z_j)`; ``None`` where p does not factorise.
        total: :math:`\log \sum_m q(z_j | x_m)`.
    """

    own: Tensor
    prior: Tensor | None
    total: Tensor

    @property
    def aggregate(self) -> Tensor:
        r""":math:`\log \frac1N \sum_m q(z_j | x_m)`, shape ``(P, N, D)``."""
        return self.total - math.log(self.own.shape[1])


@dataclass(frozen=True, eq=False)
class Scores:
    """Every draw of every row, under q of all rows.

    Attributes:
        groups: Each latent that has a q(z|x) of its own, and all latents together.
        dimensions: Latents of those that factorise under q, by name.
        weight: Of each draw, summing to one over the first dimension, shape ``(P, N)``.
        sizes: Rows of the minibatch that each row is in, shape ``(N,)``.
        particles: Draws a row that were asked for.
    """

    groups: dict[str, Group]
    dimensions: dict[str, Dimensions]
    weight: Tensor
    sizes: Tensor
    particles: int

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[1]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the draws of each row: ``(P, N, ...)`` to ``(N, ...)``."""
        weight = self.weight.reshape(*self.weight.shape, *[1] * (values.dim() - 2))
        return torch.where(weight == 0, 0.0, weight * values).sum(0)


def scores_of(
    model: LatentVariableModel,
    data: Source | Rows,
    *,
    particles: int,
    minibatch: int,
    draw: Mapping[str, Draw] | None,
    seed: int,
    by_dimension: bool = False,
) -> Scores:
    """Draw for every row, and sum the density of each draw over all rows and its minibatch.

    Memory holds the draws, and of the scores a part at a time. The dimensions by themselves
    multiply the time.

    Raises:
        ValueError: If there are fewer than two rows, no latents, a latent that all rows share, a
            q that refines itself as it draws, or a number below its least.
    """
    at_least(1, particles=particles)
    at_least(2, minibatch=minibatch)
    _refuse_refining(model.q)
    taken = rows_of(model, data, omit=tuple(draw or ()))
    count = taken.rows
    if count < 2:
        raise ValueError("One row has no aggregate over rows; give two rows or more.")
    with evaluating(model, seed):
        batch_of = torch.empty(count, dtype=torch.long)
        batch_of[torch.randperm(count)] = torch.arange(count) % max(1, count // minibatch)
        drawn = _Drawn(model, taken, count, by_dimension=by_dimension)
        drawn.draw(particles, draw)
        drawn.score(batch_of.to(taken.device))
        weight, groups, dimensions = drawn.result()
        sizes = torch.bincount(batch_of)[batch_of]
    return Scores(groups, dimensions, weight, sizes, particles)


def reads_of(joint: Any, evidence: Evidence, name: str) -> set[str]:
    """Random names and inputs that a name's density in p reads, seen through computed nodes."""
    found: set[str] = set()
    waiting, seen = [name], {name}
    while waiting:
        for parent in joint.parents(waiting.pop()):
            site = evidence.p.get(parent.name)
            if site is None or site.log_prob is not None:
                found.add(parent.name)
            elif parent.name not in seen:
                seen.add(parent.name)
                waiting.append(parent.name)
    return found


class _Drawn:
    """The draws of every row, and what has been summed over other rows so far."""

    def __init__(
        self, model: LatentVariableModel, taken: Rows, count: int, *, by_dimension: bool
    ) -> None:
        self.model, self.taken, self.count = model, taken, count
        self.by_dimension = by_dimension
        self.latents: tuple[str, ...] = ()
        self.values: dict[str, Tensor] = {}  # (P * N, *event)
        self.weight = torch.zeros(())
        self.groups: dict[str, Group] = {}
        self.dimensions: dict[str, Dimensions] = {}

    def draw(self, particles: int, draw: Mapping[str, Draw] | None) -> None:
        """Draws and their own densities."""
        parts: dict[str, list[Tensor]] = {}
        single: list[str] = []
        reads: dict[str, set[str]] = {}
        for given in self._given():
            evidence = self.model.evidence(
                given,
                particles=particles,
                draw=draw,
                default=Sampled(),
                missing=self.taken.missing,
                rows=self.taken.data_rows,
            )
            _check(evidence)
            self.latents = evidence.latents
            ready = self.model.encode(given, missing=self.taken.missing)
            single = [n for n in self.latents if n in ready and ready[n].distribution is not None]
            reads = {n: reads_of(self.model.p, evidence, n) for n in self.latents}
            dimensions = single if self.by_dimension else []
            for key, value in _quantities(evidence, dimensions).items():
                parts.setdefault(key, []).append(value)
        joined = {key: torch.cat(each, 1) for key, each in parts.items()}
        self.weight = joined["weight"]
        self.values = {n: joined[f"value/{n}"].flatten(0, 1) for n in self.latents}
        for names in dict.fromkeys([*[(n,) for n in single], self.latents]):
            own, prior = (_sum([joined[f"{key}/{n}"] for n in names]) for key in ("own", "prior"))
            beside = frozenset().union(*[reads[n] for n in names]) - set(names)
            others, near = (torch.full_like(own, -math.inf) for _ in range(2))
            group = Group(names, own, None if beside else prior, others, near, beside)
            self.groups[", ".join(names)] = group
        for name in single:
            own = joined.get(f"each_q/{name}")
            if own is not None:
                total = torch.full_like(own, -math.inf)
                prior = None if reads[name] else joined.get(f"each_p/{name}")
                self.dimensions[name] = Dimensions(own, prior, total)

    def score(self, batch_of: Tensor) -> None:
        """Sum the density of every draw over all rows, and over those of its minibatch."""
        draws = self.weight.numel()
        size = sum([value[0].numel() for value in self.values.values()])
        chunk = max(1, _ELEMENTS // (_BATCH * size))
        row_of = torch.arange(draws, device=batch_of.device) % self.count
        first = 0
        for given in self._given():
            rows = len(next(iter(given.values())))
            scored = torch.arange(first, first + rows, device=batch_of.device)
            ready = self.model.encode(given, missing=self.taken.missing)
            for start in range(0, draws, chunk):
                part = slice(start, start + chunk)
                own = row_of[part, None] == scored
                apart = batch_of[row_of[part], None] != batch_of[scored]
                each, total = self._under(given, ready, part, rows)
                for group in self.groups.values():
                    score = _sum([total[n] for n in group.latents])
                    score = score.masked_fill(own, -math.inf)
                    _add(group.others, part, score)
                    _add(group.near, part, score.masked_fill(apart, -math.inf))
                for name, dimensions in self.dimensions.items():
                    _add(dimensions.total, part, each[name])
            first += rows

    def result(self) -> tuple[Tensor, dict[str, Group], dict[str, Dimensions]]:
        """Weights, groups and dimensions on the host."""
        groups = {
            key: replace(
                g, own=g.own.cpu(), prior=_host(g.prior), others=g.others.cpu(), near=g.near.cpu()
            )
            for key, g in self.groups.items()
        }
        dimensions = {
            name: Dimensions(d.own.cpu(), _host(d.prior), d.total.cpu())
            for name, d in self.dimensions.items()
        }
        return self.weight.cpu(), groups, dimensions

    def _under(
        self, given: Mapping[str, Any], ready: Mapping[str, Site], part: slice, rows: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of some draws under some rows: by dimension ``(c, m, D)``, and in all ``(c, m)``."""
        wide = _every_pair({n: value[part] for n, value in self.values.items()}, rows)
        shape = next(iter(wide.values())).shape[:2]
        each: dict[str, Tensor] = {}
        total: dict[str, Tensor] = {}
        for name in self.latents:
            distribution: Any = ready[name].distribution if name in ready else None
            if name in self.dimensions:
                score = elementwise(distribution).log_prob(wide[name])  # type: ignore[union-attr]
                each[name] = score.expand(wide[name].shape).flatten(2).double()
                total[name] = each[name].sum(-1)
            elif distribution is not None:
                score = distribution.log_prob(wide[name]).double()
                total[name] = sum_right(score, 2).expand(shape)
        rest = [name for name in self.latents if name not in total]
        if rest:
            trace = _posterior_at(self.model, given, wide, self.taken.missing, {})
            total |= {n: density(trace[n]).double().expand(shape) for n in rest}
        return each, total

    def _given(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, self.count, _BATCH):
            yield self.taken[slice(start, min(start + _BATCH, self.count))]


def _quantities(evidence: Evidence, dimensions: list[str]) -> dict[str, Tensor]:
    """Draws, weights and log-densities of one batch, each ``(P, B, ...)``."""
    found = {"weight": _flat(evidence, torch.as_tensor(evidence.log_measure)).double().exp()}
    for name in evidence.latents:
        site = evidence.q[name]
        log_q: Any = site.log_prob
        event = site.value.dim() - site.batch_dims
        found[f"value/{name}"] = _flat(evidence, site.value, event)
        found[f"own/{name}"] = _flat(evidence, log_q).double()
        found[f"prior/{name}"] = _flat(evidence, evidence.terms[name] + log_q).double()
        for key, trace in (("each_q", evidence.q), ("each_p", evidence.p)):
            distribution = trace[name].distribution
            base = None if distribution is None else elementwise(distribution)
            if name in dimensions and base is not None:
                score = base.log_prob(site.value).expand(site.value.shape)
                found[f"{key}/{name}"] = _flat(evidence, score, event).flatten(2).double()
    return found


def _flat(evidence: Evidence, values: Tensor, event: int = 0) -> Tensor:
    """``(*particles, batch, *event)``, broadcastable, as ``(P, B, *event)``."""
    shape = evidence.batch_shape
    lead = values.dim() - event
    values = values.reshape(*[1] * (len(shape) - lead), *values.shape)
    values = values.expand(*shape, *values.shape[len(shape) :])
    return values.flatten(0, len(shape) - 2)


def _add(total: Tensor, part: slice, score: Tensor) -> None:
    """Add densities ``(c, m, ...)`` over m to the running logarithm of their sum, in place."""
    flat = total.view(-1, *total.shape[2:])
    flat[part] = torch.logaddexp(flat[part], torch.logsumexp(score, 1))


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _host(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.cpu()


def _refuse_refining(q: Any) -> None:
    # here: the functions that refine read rows as those of this package do
    from deeplvm.inference.semi_amortised import SemiAmortised

    if isinstance(q, SemiAmortised):
        raise ValueError(
            "A semi-amortised q refines itself as it draws, and cannot score the draws of other "
            "rows; give the model with its encoder as q."
        )


def _check(evidence: Evidence) -> None:
    if not evidence.latents:
        raise ValueError("Everything is given: no latent is left that could be informative.")
    shared = sorted(set(evidence.latents) & evidence.shared)
    if shared:
        raise ValueError(
            f"All rows share {', '.join(shared)}: it has no aggregate over rows, and so no "
            f"information about one."
        )
