r"""Holes: where p(z) draws and no posterior has been; and the reverse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.aggregate import ancestors_of, prior_of, prior_trace, several
from deeplvm.evaluation.latents.pairwise import refuse_refining, under_rows
from deeplvm.evaluation.latents.posterior_means import latents_of
from deeplvm.inference.rows import Rows
from deeplvm.randomness import evaluating, seed_of
from deeplvm.results import Estimate, Record, number, shown_mean

_NUMBERS = 2**21  # in the largest tensor of a chunk: 16 MB in float64
_RESAMPLES = 200
_BATCH = 256


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
        return [f"{self.draws:,} draws of each, q(z) of {self.rows:,} rows"]


def holes(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    draws: int = 1_000,
    level: float = 0.01,
    worst: int = 16,
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
        draws: Of the prior, and of the aggregate posterior.
        level: Of the quantiles.
        worst: How many of the prior draws with the lowest density are kept.

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
    if not 0.0 < level < 0.5 or draws * level < 1.0 or worst < 1:
        raise ValueError(
            f"level is between 0 and 0.5, draws at least 1 / level and worst at least 1; found "
            f"{level}, {draws}, {worst}."
        )
    refuse_refining(model.q)
    rows = several(model, data)
    with evaluating(model, seed_of(seed, "holes")):
        ends = _draw(model, rows, draws)
        at_prior = _aggregate(model, rows, ends.prior, None)
        at_posterior = _aggregate(model, rows, ends.posterior, ends.own)
    order = at_prior.argsort()[:worst]
    prior, posterior = ends.prior_at_prior, ends.prior_at_posterior
    uncovered = outside = None
    if prior is not None and posterior is not None:
        uncovered = share_below(at_prior - prior, at_posterior - posterior, level, seed)
        outside = share_below(posterior, prior, level, seed)
    return Holes(
        at_prior,
        at_posterior,
        prior,
        posterior,
        level,
        share_below(at_prior, at_posterior, level, seed),
        uncovered,
        outside,
        {n: v.cpu()[order].clone() for n, v in (ends.prior | ends.inputs).items()},
        at_prior[order].clone(),
        rows.rows,
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


def _draw(model: LatentVariableModel, rows: Rows, draws: int) -> _Ends:
    """Draws that are spread over the rows as evenly as can be."""
    order = torch.cat([torch.randperm(rows.rows) for _ in range(-(-draws // rows.rows))])[:draws]
    own = order.sort().values
    sides: dict[str, list[dict[str, Tensor]]] = {"p": [], "q": [], "inputs": [], "log": []}
    for start, batch in rows.each(_BATCH):
        inside = own[(own >= start) & (own < start + _BATCH)] - start
        if not len(inside):
            continue
        given = {name: value[inside.to(value.device)] for name, value in batch.items()}
        posterior = model.posterior(given, missing=rows.missing)
        names = latents_of(model, posterior)
        prior = prior_of(model, names)
        ancestral = prior_trace(model, prior, given, posterior, rows.missing)
        known = {name: given[name] for name in prior.inputs if name in given}
        sides["q"].append({name: posterior[name].value for name in names})
        sides["p"].append({name: ancestral[name].value for name in names})
        sides["inputs"].append(known)
        others = ancestors_of(prior, names) - {*names, *model.shared}
        if any([name in ancestral and ancestral[name].drawn for name in others]):
            continue  # p(z) is an integral over them
        held = {name: posterior[name] for name in (*names, *model.shared) if name in prior.names}
        scored = prior(known | held, (len(inside),), missing=rows.missing & set(known))
        pairs = (("p", ancestral), ("q", scored))
        sides["log"].append(
            {key: _total([s[n].log_prob for n in names], len(inside)) for key, s in pairs}
        )
    joined = {key: _cat(parts) for key, parts in sides.items()}
    logs = {key: value.double().cpu().clone() for key, value in joined["log"].items()}
    return _Ends(joined["p"], joined["q"], own, joined["inputs"], logs.get("p"), logs.get("q"))


def _aggregate(
    model: LatentVariableModel, rows: Rows, draws: Mapping[str, Tensor], own: Tensor | None
) -> Tensor:
    r""":math:`\log \frac{1}{N} \sum_n q(z | x_n)` of each draw, its own row left out."""
    count = len(next(iter(draws.values())))
    dimensions = sum([value[0].numel() for value in draws.values()])
    total = torch.full((count,), -math.inf, dtype=torch.float64, device=rows.device)
    chunk = max(1, _NUMBERS // (min(rows.rows, _BATCH) * dimensions))
    for start, given in rows.each(_BATCH):
        ready = model.encode(given, missing=rows.missing)
        for first in range(0, count, chunk):
            some = slice(first, first + chunk)
            held = {name: value[some] for name, value in draws.items()}
            _, by_name = under_rows(model, given, rows.missing, held, ready=ready)
            log_q = sum(by_name.values(), torch.zeros((), dtype=torch.float64))
            if own is not None:
                mine = own[some, None] - start == torch.arange(log_q.shape[1])
                log_q = log_q.masked_fill(mine.to(log_q.device), -math.inf)
            total[some] = torch.logaddexp(total[some], log_q.logsumexp(1))
    return (total - math.log(rows.rows - (own is not None))).cpu().clone()


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
