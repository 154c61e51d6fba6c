r"""Draws of the latents of every row, scored under q of every other row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deeplvm.evaluation.batches import Batches, batches_of, evaluating
from deeplvm.evidence import Evidence, elementwise
from deeplvm.gradients import Draw, Sampled
from deeplvm.joint import as_site, embed, owner_of
from deeplvm.model import LatentVariableModel
from deeplvm.trace import Site, sum_right

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split

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
    data: Data | Mapping[str, Tensor],
    *,
    particles: int,
    minibatch: int,
    split: Split,
    rows: int | None,
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
    if particles < 1 or minibatch < 2 or (rows is not None and rows < 2):
        raise ValueError(
            f"particles is at least 1, minibatch and rows at least 2; found {particles}, "
            f"{minibatch}, {rows}."
        )
    _refuse_refining(model.q)
    taken = batches_of(model, data, split, omit=tuple(draw or ()))
    count = taken.rows if rows is None else min(rows, taken.rows)
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
        self, model: LatentVariableModel, taken: Batches, count: int, *, by_dimension: bool
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
        wide = {n: value[part].unsqueeze(1) for n, value in self.values.items()}
        wide = {n: value.expand(-1, rows, *value.shape[2:]) for n, value in wide.items()}
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
            trace = self._read(given, wide)
            total |= {n: trace[n].log_prob.double().expand(shape) for n in rest}
        return each, total

    def _read(self, given: Mapping[str, Any], wide: Mapping[str, Tensor]) -> Any:
        """The trace of q at given latents, each ``(c, m, *event)``: some read others."""
        q = self.model.q
        sites = {
            name: as_site(name, value, _owner(self.model, name), self.taken.missing)
            for name, value in given.items()
            if name in q.names or name in q.inputs
        }
        for name, value in wide.items():
            features = embed(owner_of(q, name), value)
            sites[name] = Site(value, drawn=True, batch_dims=2, features=features)
        shape = tuple(next(iter(wide.values())).shape[:2])
        return q(sites, shape, missing=self.taken.missing)

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


def _owner(model: LatentVariableModel, name: str) -> Any:
    return next((joint for joint in (model.q, model.p) if name in joint.names), None)


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
