r"""Posteriors of rows with holes, by an encoder that has never seen any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Draw, Enumerated, Sampled
from deeplvm.core.joint import Joint, is_joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import Masked
from deeplvm.core.trace import Site, Trace
from deeplvm.core.values import NamedRows
from deeplvm.inference.missing import MissingMixture, Weights
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, redrawn, rows_of
from deeplvm.randomness import RowNoise

Complete = Literal["auto"] | bool
_BLOCK, _COUNT = 16, 12  # of so many particles, so many are of completions, one each
_ROUNDS = 6
_HEAVY = 0.5
_PARTICLES = 64  # of a round


class CompletedPosterior(nn.Module):
    r"""A q that reads completed rows, and the prior for what that leaves out.

    .. math:: q(z | x_o) = \frac{1}{16} \left( \sum_{j=1}^{12} q(z | x_o, x_m^{(j)})
              + 4\, p(z) \right)

    What stands for missing elements is given beside the row. Of every 16 particles each component
    draws its share, and the density is that of the mixture, so that log-weights are those of
    importance sampling from it, none larger than :math:`4 p(x_o | z)`.

    Optimally Combining Sampling Techniques for Monte Carlo Rendering (Veach & Guibas, 1995),
    https://doi.org/10.1145/218380.218498

    Args:
        q: Reads the rows.
        holes: Names that are completed; the completions of ``x`` are given as ``x_completed``,
            shape ``(batch, 12, *event)``.
        prior: The latents' joint density; where it needs what is observed, ``None``: then
            completions take all shares.
    """

    def __init__(self, q: Any, holes: tuple[str, ...], prior: Joint | None) -> None:
        super().__init__()
        self.q, self.prior = q, prior
        self.completions = {name: f"{name}_completed" for name in holes}
        self.names = q.names
        self.inputs = (*q.inputs, *self.completions.values())
        self.symbol = "q"

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        missing: frozenset[str] = frozenset(),
        ready: Any = None,
        **options: Any,
    ) -> Trace:
        """Draw from the mixture; what is given must not be a latent."""
        sites = {name: s if isinstance(s, Site) else Site(s) for name, s in given.items()}
        parts = {n: sites.pop(c).value for n, c in self.completions.items()}  # (B, 12, *event)
        one = next(iter(parts.values()))
        count = one.shape[1]
        shape = batch_shape or one.shape[:1]
        missing = missing.difference(parts)

        def component(index: Tensor | int) -> dict[str, Site]:
            alone = isinstance(index, int)
            return {
                name: replace(
                    sites[name],
                    value=part[:, index] if alone else part[:, index].transpose(0, 1),
                    batch_dims=1 if alone else 2,
                    holes=False,
                    fill=False,
                )
                for name, part in parts.items()
            }

        turn = torch.arange(shape[0] if len(shape) > 1 else 1, device=one.device) % _BLOCK
        own = component(turn % count) if len(shape) > 1 else component(0)
        trace = self.q({**sites, **own}, shape, missing=missing, **options)
        drawn = [n for n, s in trace.items() if s.log_prob is not None and s.drawn]
        known: dict[str, Site] = {}
        if self.prior is not None:
            known = {n: s for n, s in sites.items() if n in self.prior.inputs}
            other = self.prior(known, shape, **options)
            for name in drawn:
                value = trace[name].value
                late = (turn >= count).reshape(-1, *[1] * (value.dim() - 1))
                mixed = torch.where(late, other[name].value.to(value), value)
                trace.sites[name] = replace(trace[name], value=mixed, seen=None)
        held = {n: replace(trace[n], drawn=False, distribution=None) for n in drawn}
        every = [(self.q, {**sites, **component(i), **held}, 1) for i in range(count)]
        if self.prior is not None:
            every.append((self.prior, {**known, **held}, _BLOCK - count))
        total = sum([share for *_, share in every])
        terms = [
            sum([scored[name].log_prob for name in drawn]) + math.log(share / total)
            for joint, values, share in every
            for scored in (joint(values, shape, missing=missing),)
        ]
        mixture = torch.logsumexp(torch.stack(torch.broadcast_tensors(*terms)), 0)
        for place, name in enumerate(drawn):
            density = mixture if place == 0 else torch.zeros_like(mixture)
            # what a particle was drawn from is no longer its distribution, but ends where it did
            own: Any = trace[name].distribution
            if isinstance(own, Masked):
                none = Distribution(own.batch_shape, own.event_shape, validate_args=False)
                own = Masked(none, own.mask, own.length)
            else:
                own = None
            trace.sites[name] = replace(trace[name], distribution=own, log_prob=density)
        return trace


def _prior_of(model: LatentVariableModel) -> Joint | None:
    """The latents of p by themselves, if nothing observed is among what they follow from."""
    if not isinstance(model.p, Joint):
        return None
    wanted, waiting = set(model.q.names), [n for n in model.q.names if n in model.p.names]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in needed or name not in model.p.names:
            continue
        needed.add(name)
        waiting += [parent.name for parent in model.p.parents(name)]
        # a latent, or computed from latents: anything else is observed
        own: Any = model.p.conditional(name)
        if name not in wanted and (is_joint(own) or getattr(own, "out_shape", None) is None):
            return None
    factors = [f for f in model.p.order if needed.intersection(f.names)]
    if any([not needed.issuperset(f.names) for f in factors]):
        return None
    written = {f.key.removesuffix("|").rstrip(): model.p.conditional(f.names[0]) for f in factors}
    return Joint(written)


@dataclass(frozen=True, eq=False)
class Completed:
    """A model and rows for which q reads completions of the rows.

    ``importance_sampling(completed.model, completed.data)``, and all other functions of a model
    and its data, go with it.

    Attributes:
        model: The same p, and :class:`CompletedPosterior` around q.
        data: The rows, named tensors, with their completions.
    """

    model: LatentVariableModel
    data: dict[str, Tensor]

    def rows_as(self, rows: Rows) -> Rows:
        """The rows, as those that were completed are read."""
        read = rows_of(self.model, self.data)
        return replace(read, data_rows=rows.data_rows, keys=rows.keys)


def complete(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    draw: Mapping[str, Draw] | None = None,
    rounds: int = _ROUNDS,
    particles: int = _PARTICLES,
    batch_size: int = 100,
    seed: int = 0,
) -> Completed:
    r"""Give q complete rows: those observed, filled with draws of :math:`p(x_m | x_o)`.

    q(z | x) of a row with holes reads zeros in their place, which says little if it was trained on
    complete rows. But :math:`p(z | x_o) = E[p(z | x_o, x_m)]` under :math:`p(x_m | x_o)`, and of
    complete rows q knows. Completions begin, half of them as p draws rows, half by what q makes of
    the row as it is. A round draws z from the mixture of q over the completions, weighs it by
    :math:`p(x_o, z) / q(z)`, resamples as many as there are completions, and draws
    :math:`x_m \sim p(x_m | x_o, z)` for each; weights that would leave fewer are tempered.

    Population Monte Carlo (Cappé et al., 2004), https://doi.org/10.1198/106186004X12803; filling
    and encoding in turn: Stochastic Backpropagation and Approximate Inference in Deep Generative
    Models (Rezende et al., 2014), https://arxiv.org/abs/1401.4082, appendix F.

    Args:
        model: Left as it was.
        data: Rows with missing elements (NaN).
        draw: How a latent is drawn.
        rounds: Of which each costs ``particles`` passes through p.
        particles: Of a round.
        batch_size: Rows at a time; no matter for the result.
        seed: Same seed, same completions.

    Raises:
        ValueError: If :func:`completable` says why not.
    """
    at_least(1, rounds=rounds, particles=particles)
    rows = rows_of(model, data, omit=redrawn(draw))
    if why := completable(model, rows, draw):
        raise ValueError(f"Rows with missing elements cannot be completed for q: {why}.")
    holes = holes_of(model, rows)
    wide = LatentVariableModel(model.p, CompletedPosterior(model.q, holes, _prior_of(model)))

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        noise = noise.apart("completions")
        options: dict[str, Any] = {"missing": missing, "rows": rows.data_rows}

        def completed(evidence: Any, count: int) -> dict[str, Tensor]:
            weights = _tempered(Weights.of(evidence), count)
            start = noise.uniform_like(weights.log[:1])
            steps = torch.arange(count, device=start.device)[:, None]
            index = weights.chosen((steps + start) / count)  # (J, batch), systematic
            found = {}
            for name in holes:
                samples = MissingMixture.of(name, evidence, given[name], weights, noise).samples()
                at = index.reshape(*index.shape, *[1] * (samples.dim() - 2))
                chosen = samples.take_along_dim(at, 0).to(given[name])
                found[name] = torch.where(given[name].isnan(), chosen, given[name])
            return found

        ways = lambda: noise.draws(model.q.names, draw)  # noqa: E731
        first = completed(
            model.evidence(given, particles=particles, draw=ways(), **options), _COUNT // 2
        )
        inputs = {n: v for n, v in given.items() if n in model.p.inputs}
        count = len(next(iter(given.values())))
        prior = model.p(inputs, (_COUNT // 2, count), default=noise.of(Sampled()))
        values = {
            name: torch.cat(
                [
                    first[name],
                    torch.where(
                        given[name].isnan(), prior[name].value.to(given[name]), given[name]
                    ),
                ]
            )
            for name in holes
        }
        for _ in range(rounds):
            beside = {f"{n}_completed": v.transpose(0, 1) for n, v in values.items()}
            values = completed(
                wide.evidence({**given, **beside}, particles=particles, draw=ways(), **options),
                _COUNT,
            )
        return {
            **{f"data/{n}": value for n, value in given.items()},
            **{f"data/{n}_completed": v.transpose(0, 1) for n, v in values.items()},
        }

    joined = for_rows(model, rows, measure, batch_size=batch_size, seed=seed, finite=())
    return Completed(wide, {key[5:]: value for key, value in joined.items()})


def holes_of(model: LatentVariableModel, rows: Rows) -> tuple[str, ...]:
    """Names with missing elements that p scores and q reads."""
    return tuple([n for n in rows.names if n in rows.missing and n in model.p.names])


def completable(
    model: LatentVariableModel, rows: Rows, draw: Mapping[str, Draw] | None = None
) -> str:
    """Why q cannot read completions of rows; empty if it can."""
    holes = holes_of(model, rows)
    if not isinstance(model.q, Joint):
        return "q is a program of its own"
    if not set(holes) & set(model.q.inputs):
        return "q does not read what is missing"
    if model.shared:
        return f"all rows share {', '.join(sorted(model.shared))}"
    if drawn := sorted(set(holes) & set(model.q.names)):
        return f"q draws {', '.join(drawn)} itself"
    if any([isinstance(way, Enumerated) for way in (draw or {}).values()]):
        return "values are summed over"
    return ""


def to_complete(
    model: LatentVariableModel,
    rows: Rows,
    pareto_k: Tensor | None,
    wanted: Complete,
    draw: Mapping[str, Draw] | None = None,
) -> Tensor:
    """Which rows are to be read completed: those with holes, or of these the heavy-tailed.

    k-hat is known with an error, so that ``"auto"`` begins at 0.5, where the variance of the
    weights is infinite, and not at the 0.7 at which one warns. Of sequences weights have a heavy
    tail with holes or without, and completions take long: there it is none.

    Args:
        model: Whose q reads the rows.
        rows: Of which some have missing elements.
        pareto_k: Of their weights as they are, shape ``(rows,)``; needed for ``"auto"``.
        wanted: All rows with holes, none, or by k-hat (``"auto"``).
        draw: How a latent is drawn.

    Returns:
        Row numbers; none where q cannot read completions.
    """
    wanted = False if wanted == "auto" and rows.lengths else wanted
    if not wanted or not holes_of(model, rows) or completable(model, rows, draw):
        return torch.zeros(0, dtype=torch.int64)
    parts = []
    for _, batch in rows.each(10_000):
        each = [batch[n].isnan().reshape(len(batch[n]), -1).any(1) for n in holes_of(model, rows)]
        parts.append(torch.stack(each).any(0))
    holes = torch.cat(parts).cpu()
    chosen = holes if wanted is True or pareto_k is None else holes & (pareto_k.cpu() > _HEAVY)
    return chosen.nonzero().squeeze(-1)


def _tempered(weights: Weights, count: int) -> Weights:
    r"""Weights :math:`w^\beta`, with the largest :math:`\beta \le 1` that leaves enough."""
    low, high = torch.zeros_like(weights.log[0]), torch.ones_like(weights.log[0])

    def effective(power: Tensor) -> Tensor:
        scaled = power * weights.log.nan_to_num(neginf=-1e4)
        return (2 * scaled.logsumexp(0) - (2 * scaled).logsumexp(0)).exp()

    enough = effective(high) >= count
    for _ in range(20):
        middle = (low + high) / 2
        good = effective(middle) >= count
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    power = torch.where(enough, 1.0, low)
    log = (power * weights.log.nan_to_num(neginf=-1e4)).log_softmax(0)
    return replace(weights, log=log)
