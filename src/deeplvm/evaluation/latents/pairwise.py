r"""Every draw of every row, under q of all rows: :math:`\log q(z \mid x_m)` of pairs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence, density, elementwise
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import sum_right
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.posterior_means import full
from deeplvm.gradients import Draw, Sampled
from deeplvm.inference.rows import Rows, at_least, redrawn, rows_of
from deeplvm.randomness import evaluating

_ELEMENTS = 500_000  # of scores at a time: few enough to stay in the caches
_BATCH = 256
T = TypeVar("T", bound="Group | Dimensions")


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
    data: NamedRows | Rows,
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
    refuse_refining(model.q)
    rows = rows_of(model, data, omit=redrawn(draw))
    count = rows.rows
    if count < 2:
        raise ValueError("One row has no aggregate over rows; give two rows or more.")
    with evaluating(model, seed):
        batch_of = torch.empty(count, dtype=torch.long)
        batch_of[torch.randperm(count)] = torch.arange(count) % max(1, count // minibatch)
        values, found = _drawn(model, rows, particles, draw, by_dimension=by_dimension)
        _add_all_rows(model, rows, values, found, batch_of.to(rows.device))
    return replace(
        found,
        groups={key: _on_host(each) for key, each in found.groups.items()},
        dimensions={key: _on_host(each) for key, each in found.dimensions.items()},
        weight=found.weight.cpu(),
        sizes=torch.bincount(batch_of)[batch_of],
    )


def refuse_refining(q: Any) -> None:
    """Refuse a q that cannot score what it did not draw.

    Raises:
        ValueError: If it refines itself as it draws.
    """
    # here: the functions that refine read rows as those of this package do
    from deeplvm.inference.semi_amortised import SemiAmortised

    if isinstance(q, SemiAmortised):
        raise ValueError(
            "A semi-amortised q refines itself as it draws, and cannot score the draws of other "
            "rows; give the model with its encoder as q."
        )


def under_rows(
    model: LatentVariableModel,
    given: Mapping[str, Any],
    missing: frozenset[str],
    draws: Mapping[str, Tensor],
    factorised: Collection[str] = (),
    ready: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r""":math:`\log q(z \mid x_m)` of draws, each ``(c, *event)``, under m rows.

    Args:
        model: Whose q scores them.
        given: Values of the rows.
        missing: Names with missing elements.
        draws: All latents of each draw, by name.
        factorised: Latents whose dimensions are wanted by themselves.
        ready: What :meth:`LatentVariableModel.encode` gave for these rows, if it is at hand.

    Returns:
        By name ``(c, m, D)`` of the dimensions wanted, and ``(c, m)`` of every latent.
    """
    ready = model.encode(given, missing=missing) if ready is None else ready
    rows = len(next(iter(given.values())))
    wide = {n: v.unsqueeze(1).expand(-1, rows, *v.shape[1:]) for n, v in draws.items()}
    shape = tuple(next(iter(wide.values())).shape[:2])
    each: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}
    for name, value in wide.items():
        own: Any = ready[name].distribution if name in ready else None
        if name in factorised:
            score = elementwise(own).log_prob(value)  # type: ignore[union-attr]
            each[name] = score.expand(value.shape).flatten(2).double()
            total[name] = each[name].sum(-1)
        elif own is not None:
            total[name] = sum_right(own.log_prob(value).double(), 2).expand(shape)
    if rest := [name for name in wide if name not in total]:  # they read other latents
        q = model.q
        sites = {
            name: model.site(name, value, missing)
            for name, value in given.items()
            if name in q.names or name in q.inputs
        }
        for name, value in wide.items():
            sites[name] = replace(model.site(name, value, batch_dims=2), drawn=True)
        trace = q(sites, shape, missing=missing, **({"ready": ready} if ready else {}))
        total |= {name: density(trace[name]).double().expand(shape) for name in rest}
    return each, total


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


def _drawn(
    model: LatentVariableModel,
    rows: Rows,
    particles: int,
    draw: Mapping[str, Draw] | None,
    *,
    by_dimension: bool,
) -> tuple[dict[str, Tensor], Scores]:
    """Draws by name, ``(P * N, *event)``, and their own densities; sums over rows are empty."""
    parts: dict[str, list[Tensor]] = {}
    latents: tuple[str, ...] = ()
    single: list[str] = []
    reads: dict[str, set[str]] = {}
    options: Any = {"missing": rows.missing}
    for _, given in rows.each(_BATCH):
        evidence = model.evidence(
            given, particles=particles, draw=draw, default=Sampled(), rows=rows.data_rows,
            **options,
        )  # fmt: skip
        _check(evidence)
        latents, ready = evidence.latents, model.encode(given, **options)
        single = [n for n in latents if n in ready and ready[n].distribution is not None]
        reads = {name: reads_of(model.p, evidence, name) for name in latents}
        for key, value in _quantities(evidence, single if by_dimension else []).items():
            parts.setdefault(key, []).append(value)
    joined = {key: torch.cat(each, 1) for key, each in parts.items()}
    groups: dict[str, Group] = {}
    for names in dict.fromkeys([*[(n,) for n in single], latents]):
        own, prior = (_sum([joined[f"{key}/{n}"] for n in names]) for key in ("own", "prior"))
        beside = frozenset().union(*[reads[n] for n in names]) - set(names)
        others, near = (torch.full_like(own, -math.inf) for _ in range(2))
        known = None if beside else prior
        groups[", ".join(names)] = Group(names, own, known, others, near, beside)
    dimensions = {
        name: Dimensions(
            own := joined[f"each_q/{name}"],
            None if reads[name] else joined.get(f"each_p/{name}"),
            torch.full_like(own, -math.inf),
        )
        for name in single
        if f"each_q/{name}" in joined
    }
    values = {name: joined[f"value/{name}"].flatten(0, 1) for name in latents}
    return values, Scores(groups, dimensions, joined["weight"], torch.empty(0), particles)


def _add_all_rows(
    model: LatentVariableModel,
    rows: Rows,
    values: Mapping[str, Tensor],
    found: Scores,
    batch_of: Tensor,
) -> None:
    """Add the density of every draw under all rows, and under those of its minibatch."""
    draws = found.weight.numel()
    size = sum([value[0].numel() for value in values.values()])
    chunk = max(1, _ELEMENTS // (_BATCH * size))
    row_of = torch.arange(draws, device=batch_of.device) % rows.rows
    for first, given in rows.each(_BATCH):
        count = len(next(iter(given.values())))
        scored = torch.arange(first, first + count, device=batch_of.device)
        ready = model.encode(given, missing=rows.missing)
        for start in range(0, draws, chunk):
            part = slice(start, start + chunk)
            some = {name: value[part] for name, value in values.items()}
            each, total = under_rows(model, given, rows.missing, some, found.dimensions, ready)
            own = row_of[part, None] == scored
            apart = batch_of[row_of[part], None] != batch_of[scored]
            for group in found.groups.values():
                score = _sum([total[n] for n in group.latents]).masked_fill(own, -math.inf)
                _add(group.others, part, score)
                _add(group.near, part, score.masked_fill(apart, -math.inf))
            for name, dimensions in found.dimensions.items():
                _add(dimensions.total, part, each[name])


def _quantities(evidence: Evidence, dimensions: list[str]) -> dict[str, Tensor]:
    """Draws, weights and log-densities of one batch, each ``(P, B, ...)``."""

    def flat(values: Tensor, event: int = 0) -> Tensor:
        values = full(values, event, evidence.batch_shape)
        return values.flatten(0, len(evidence.batch_shape) - 2)

    found = {"weight": flat(torch.as_tensor(evidence.log_measure)).double().exp()}
    for name in evidence.latents:
        site = evidence.q[name]
        log_q: Any = site.log_prob
        event = site.value.dim() - site.batch_dims
        found[f"value/{name}"] = flat(site.value, event)
        found[f"own/{name}"] = flat(log_q).double()
        found[f"prior/{name}"] = flat(evidence.terms[name] + log_q).double()
        for key, trace in (("each_q", evidence.q), ("each_p", evidence.p)):
            distribution = trace[name].distribution
            base = None if distribution is None else elementwise(distribution)
            if name in dimensions and base is not None:
                score = base.log_prob(
                    site.value
                )  # under each label that is tried, where p reads it
                found[f"{key}/{name}"] = flat(score, event).flatten(2).double()
    return found


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _add(total: Tensor, part: slice, score: Tensor) -> None:
    """Add densities ``(c, m, ...)`` over m to the running logarithm of their sum, in place."""
    flat = total.view(-1, *total.shape[2:])
    flat[part] = torch.logaddexp(flat[part], torch.logsumexp(score, 1))


def _on_host(record: T) -> T:
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    return replace(record, **{n: v.cpu() for n, v in values.items() if isinstance(v, Tensor)})


def _check(evidence: Evidence) -> None:
    if not evidence.latents:
        raise ValueError("Everything is given: no latent is left that could be informative.")
    if shared := sorted(set(evidence.latents) & evidence.shared):
        raise ValueError(
            f"All rows share {', '.join(shared)}: it has no aggregate over rows, and so no "
            f"information about one."
        )
