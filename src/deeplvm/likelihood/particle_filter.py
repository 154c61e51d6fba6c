r"""Particle filter: :math:`\log p(x_{1:T})` of sequences, step by step with resampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from deeplvm.core.draws import Draw, Sampled
from deeplvm.core.joint import Joint, as_site, filled
from deeplvm.core.model import LatentVariableModel, unexplained
from deeplvm.core.trace import Site, Trace
from deeplvm.core.values import NamedRows
from deeplvm.inference.rows import Names, OnProgress, Rows, Tensors, at_least, for_rows
from deeplvm.inference.tempering import Population
from deeplvm.likelihood.sequential import PopulationEstimate
from deeplvm.randomness import RowNoise
from deeplvm.recurrent import Recurrent
from deeplvm.unrolled import Unrolled

Proposal = Literal["auto", "prior", "posterior"]
_NUMBERS = 2**14  # particles of all rows together that go through a step at once


@dataclass(frozen=True, eq=False)
class FilterEstimate(
    PopulationEstimate, also="length", without="predictive", keys={"length": "steps"}
):
    r"""Log-likelihood of each sequence by a particle filter; nats.

    Attributes are those of :class:`~deeplvm.likelihood.sequential.PopulationEstimate`, and:

    Attributes:
        predictive: :math:`\log \hat p(x_t | x_{1:t-1})`, shape ``(rows, T)``, which sum to
            ``log_px``; zero beyond the length of a row.
        proposal: Which of p and q drew the particles.
    """

    predictive: Tensor
    proposal: str

    @property
    def length(self) -> int:
        """How many steps there are."""
        return self.predictive.shape[1]

    def __str__(self) -> str:
        return (
            f"{super().__str__()}, {self.particles:,} particles from the {self.proposal}, "
            f"resampled {float(self.resamplings.mean()):.1f} times in "
            f"{self.length} steps; effective first particles "
            f"{float(self.ess.mean()):.1f}"
        )


def particle_filter(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    particles: int = 1_000,
    *,
    proposal: Proposal = "posterior",
    resample_below: float = 0.5,
    batch_size: int | None = None,
    seed: int = 0,
    progress: OnProgress | None = None,
) -> FilterEstimate:
    r""":math:`\log p(x_{1:T})` of every sequence of a model that is a :class:`Recurrent`.

    At each step particles draw their latents, from q or from p itself, are weighted by

    .. math:: w_t^k = \frac{p(x_t, z_t^k | x_{1:t-1}, z_{1:t-1}^k)}
                           {q(z_t^k | x_{1:T}, z_{1:t-1}^k)},

    and are resampled where few of them carry the weight, with all that they remember. The mean of
    :math:`\hat p(x_{1:T}) = \prod_t \sum_k W_{t-1}^k w_t^k` is p(x), and its relative variance
    grows with the number of steps as T, where that of importance sampling grows exponentially.

    p is a Recurrent, or a Joint with one Recurrent whose other names come before it: latents of
    the whole sequence are drawn first and stay with their particle, so that they have ever fewer
    values, and ``ess`` falls. q is of the same form; what it computes of the whole of x (a
    backward network, or another Recurrent before its last one) is computed first. Weights look
    back only: a q that looks ahead draws latents for the future, and resampling may throw them
    away before it comes; compare ``resample_below=0``, which is importance sampling.

    Novel Approach to Nonlinear/Non-Gaussian Bayesian State Estimation (Gordon, Salmond & Smith,
    1993), https://doi.org/10.1049/ip-f-2.1993.0015; with a learned q Filtering Variational
    Objectives (Maddison et al., 2017), https://arxiv.org/abs/1705.09279; the standard error from A
    General Theory of Particle Filters in Hidden Markov Models (Chan & Lai, 2013),
    https://arxiv.org/abs/1312.5114

    Args:
        model, seed: As of every estimate: :mod:`deeplvm.inference.rows`.
        data: Rows: ``data.test[:100]``, or named tensors ``(rows, T, *event)``, NaN where one is
            missing; lengths and other inputs too.
        particles: K.
        proposal: ``"posterior"`` draws from q (a guided filter), ``"prior"`` from p (the bootstrap
            filter), which needs nothing of q; ``"auto"`` from q where that goes through the steps
            as p does.
        resample_below: Share of effective particles below which a row is resampled; 0 never.
        batch_size: Rows at a time; chosen by the number of particles if left out.
        progress: Told after each batch how many of the rows are done, and of how many.

    Raises:
        ValueError: If p or q has no Recurrent, p more than one, or either a name that reads the
            finished sequence; or an argument is out of its range.

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> from deeplvm.networks import MLP
        >>> p = Recurrent(
        ...     {"z | z[-1]": Gaussian(2, MLP(2)), "x | z": Gaussian(3, MLP(2))}, start={"z": 2}
        ... )
        >>> q = Recurrent({"z | x, z[-1]": Gaussian(2, MLP(5))}, start={"z": 2})
        >>> model = LatentVariableModel(p, q)
        >>> particle_filter(model, {"x": torch.zeros(4, 6, 3)}, 100).predictive.shape
        torch.Size([4, 6])
    """
    at_least(1, particles=particles)
    begin, drawn_by = filter_of(model, proposal)

    def evaluate(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        walk = begin(given, missing, particles, noise)
        each = [walk.take(t, resample_below) for t in range(walk.target.count)]
        return {**walk.population.result(), "predictive": torch.stack(each, 1)}

    joined = for_rows(
        model, data, evaluate, seed=seed, apart=True, progress=progress,
        batch_size=max(1, _NUMBERS // particles) if batch_size is None else batch_size,
    )  # fmt: skip
    return FilterEstimate(**joined, particles=particles, proposal=drawn_by)


class _Parts(NamedTuple):
    """A joint as what comes before its recurrence, and that."""

    before: Joint
    recurrent: Recurrent


def parted(joint: Any) -> _Parts:
    """A joint as what comes before the one Recurrent whose steps are filtered, and that."""
    symbol = joint.symbol
    if isinstance(joint, Recurrent):
        joint = Joint({f"{', '.join(joint.names)}": joint})
    factors = joint.order if isinstance(joint, Joint) else []
    modules = {factor: joint.conditional(factor.names[0]) for factor in factors}
    found = [module for module in modules.values() if isinstance(module, Recurrent)]
    if symbol == "q" and len(found) > 1:  # what reads x backwards, say, is computed first
        found = [module for module in found if not module.backwards][-1:] or found
    if len(found) != 1:
        raise ValueError(
            f"A particle filter goes through the steps of one Recurrent, and {symbol} has "
            f"{len(found)}"
            + (
                "; with proposal='prior' it needs none in q."
                if symbol == "q"
                else ": use importance_sampling, or sequential_monte_carlo."
            )
        )
    if joint.shared:
        raise ValueError(
            f"All rows share {', '.join(sorted(joint.shared))}, and a particle filter is of each "
            f"row by itself; use importance_sampling."
        )
    if found[0].backwards:
        raise ValueError(
            f"A particle filter goes forwards in time, and {symbol} runs backwards: use "
            f"importance_sampling, or with proposal='prior' p alone."
        )
    others = {factor: each for factor, each in modules.items() if each is not found[0]}
    late = [
        name
        for factor in others
        for name in factor.names
        if any([parent.name in found[0].names for parent in factor.parents])
    ]
    if late:
        raise ValueError(
            f"{symbol} computes {', '.join(late)} from the finished sequence, which no particle "
            f"has before the last step; use importance_sampling."
        )
    before = Joint({str(factor): each for factor, each in others.items()})
    before.symbol = symbol  # q may read what has holes
    return _Parts(before, found[0])


class _Filter:
    """Particles of some rows on their way through the steps.

    Args:
        model, p, q, given, missing, noise: Of the rows.
        particles: K.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        p: _Parts,
        q: _Parts | None,
        given: Mapping[str, Tensor],
        missing: frozenset[str],
        particles: int,
        noise: RowNoise,
    ) -> None:
        some = next(iter(given.values()))
        shape = (particles, len(some))
        self.model, self.noise = model, noise
        # what comes before the steps, and its weights
        known: dict[str, Any] = {
            name: as_site(name, value, model.p if name in model.p.names else None, missing)
            for name, value in given.items()
        }
        self.log_weight = torch.zeros(shape, dtype=torch.float64, device=some.device)
        drawn = noise.of(Sampled())
        self.guide, ready = None, {}
        if q is not None:
            read = {name: filled(site) for name, site in known.items()}
            first = _before(q, read, shape, missing, {}, drawn)
            self.guide = _walk(q, {**read, **first}, shape, missing, drawn)
            ready = {name: first[name] for name in model.common if name in first}
            known |= {name: site for name, site in first.items() if site.drawn}
            self.log_weight = self.log_weight - _total(first, drawn=True)
        first = _before(p, known, shape, missing, ready, drawn)
        self.log_weight = self.log_weight + _total(first, drawn=False)
        default = drawn if self.guide is None else unexplained
        self.target = _walk(p, {**known, **first}, shape, missing, default)
        self.population = Population(*shape, device=some.device)

    def take(self, t: int, resample_below: float) -> Tensor:
        """One step; returns its predictive log-density, shape ``(rows,)``."""
        log_weight, latents, ready = self.log_weight, {}, {}
        if self.guide is not None:
            trace = self.guide.take(t)
            latents = {name: site for name, site in trace.items() if site.drawn}
            ready = {name: trace[name] for name in self.model.common if name in trace}
            log_weight = log_weight - _total(trace, drawn=True)
        trace = self.target.take(t, more=latents, ready=ready)
        log_weight = log_weight + _total(trace, drawn=False)
        if self.target.mask is not None:
            log_weight = torch.where(self.target.mask[:, t], log_weight, 0.0)
        predictive = self.population.weigh(log_weight)
        index = self.population.resample(resample_below, self.noise)
        for walker in (self.target, self.guide):
            if walker is not None:
                walker.change(partial(taken, index=index))
        self.log_weight = torch.zeros_like(log_weight)
        return predictive


Begin = Callable[[Tensors, Names, int, RowNoise], _Filter]


def filter_of(model: LatentVariableModel, proposal: Proposal) -> tuple[Begin, str]:
    """A filter of given rows, names that have holes, so many particles and noise; what draws them.

    Raises:
        ValueError: As :func:`particle_filter`.
    """
    if proposal not in get_args(Proposal):
        raise ValueError(f"proposal is 'auto', 'prior' or 'posterior', not {proposal!r}.")
    p, q = parted(model.p), None
    if proposal == "posterior" or (proposal == "auto" and _goes(model)):
        q = parted(model.q)
    return partial(_Filter, model, p, q), "prior" if q is None else "posterior"


def is_chain(model: LatentVariableModel) -> bool:
    """Whether p draws latents step by step, so that a particle filter measures it best."""
    try:
        recurrent = parted(model.p).recurrent
    except (ValueError, AttributeError):  # a program of one's own has no factors
        return False
    return bool(set(model.q.names).intersection(recurrent.names))


def _goes(model: LatentVariableModel) -> bool:
    """Whether q goes through the steps as p does."""
    try:
        parted(model.q)
    except ValueError:
        return False
    return True


def _walk(
    parts: _Parts,
    known: Mapping[str, Any],
    shape: tuple[int, int],
    missing: frozenset[str],
    default: Draw,
) -> Unrolled:
    recurrent = parts.recurrent
    read = {n: v for n, v in known.items() if n in recurrent.names or n in recurrent.inputs}
    walk = Unrolled(recurrent, read, shape, missing=missing, default=default)
    if walk.open:
        raise ValueError(
            f"A particle filter needs to know where each row ends: give {recurrent.end!r} or "
            f"{recurrent.length!r}."
        )
    return walk


def _before(
    parts: _Parts,
    known: Mapping[str, Any],
    shape: tuple[int, int],
    missing: frozenset[str],
    ready: Mapping[str, Site],
    default: Draw,
) -> Trace:
    """What comes before the steps."""
    names = {*parts.before.names, *parts.before.inputs}
    read = {name: value for name, value in known.items() if name in names}
    return parts.before(read, shape, default=default, missing=missing, ready=ready)


def _total(trace: Trace, *, drawn: bool) -> Tensor:
    """Log-densities of what was drawn, or of what was given, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for site in trace.values():
        if site.drawn is drawn and site.log_prob is not None:
            total = total + site.log_prob.double()
    return total


def taken(site: Site, index: Tensor) -> Site:
    """A site of which each particle has another's value; what has no particles stays."""
    if site.batch_dims < 2:
        return site
    row = torch.arange(index.shape[1], device=index.device)

    def chosen(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.expand(*index.shape, *value.shape[2:])[index, row]

    return Site(chosen(site.value), batch_dims=2, view=site.view)
