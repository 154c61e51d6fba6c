r"""Exact :math:`p(x) = \sum_z p(x, z)` and :math:`p(z | x)` of latents with few values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent

from deeplvm.core.joint import as_site
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.steps import of_one_step
from deeplvm.core.trace import Site
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Enumerated, Sampled
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, evaluation_of, for_rows, rows_of
from deeplvm.randomness import RowNoise
from deeplvm.results import RowEstimate

_MOST = 2**20  # values of all latents together: twenty binary ones


@dataclass(frozen=True, eq=False)
class ExactLikelihood(RowEstimate, also="exact"):
    r"""Log-likelihood of each row, summed over all values of the latents; nats.

    ``log_px_stderr`` is zero: nothing is drawn.

    Attributes:
        latents: Names that were summed over.
        values: How many joint values they have.
    """

    latents: tuple[str, ...]
    values: int

    @property
    def exact(self) -> bool:
        """Always: nothing is drawn."""
        return True

    def __str__(self) -> str:
        names = ", ".join(self.latents)
        return f"{super().__str__()}, exact: a sum over {self.values:,} values of {names}"


@dataclass(frozen=True, eq=False)
class ExactPosterior:
    r""":math:`p(z | x)` of each row, one probability for every joint value of the latents.

    Attributes:
        log_prob: Shape ``(rows, S_1, ..., S_n)``, one axis a latent, in the order of ``values``;
            nats.
        values: For each latent its values, shape ``(S, *event)``.
        log_px: :math:`\log p(x)`, shape ``(rows,)``.
    """

    log_prob: Tensor
    values: dict[str, Tensor]
    log_px: Tensor

    def marginal(self, name: str) -> Tensor:
        """Probabilities of the values of one latent, others summed out, shape ``(rows, S)``.

        Raises:
            ValueError: If it is none of the latents.
        """
        if name not in self.values:
            raise ValueError(
                f"{name!r} is none of the latents, which are {', '.join(self.values)}."
            )
        axis = 1 + list(self.values).index(name)
        others = [each for each in range(1, self.log_prob.dim()) if each != axis]
        return self.log_prob.exp().sum(others) if others else self.log_prob.exp()

    def mean(self, name: str) -> Tensor:
        """Posterior mean of one latent that has numbers for values, shape ``(rows, *event)``."""
        values = self.values[name].to(self.log_prob.dtype)
        return torch.tensordot(self.marginal(name), values, 1)

    def __str__(self) -> str:
        each = -(self.log_prob.exp() * self.log_prob.clamp(min=-800.0)).flatten(1).sum(1)
        return (
            f"p({', '.join(self.values)} | x) of {len(self.log_px):,} rows, "
            f"{self.log_prob[0].numel():,} values each; entropy {float(each.mean()):.3f} nats"
        )


def exact_likelihood(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    sum_over: Collection[str] = (),
    pairs: int = 4_096,
    most: int = _MOST,
    seed: int = 0,
) -> ExactLikelihood:
    r""":math:`\log p(x) = \log \sum_z p(x, z)` of every row, over all values of all latents.

    Only p is evaluated: q has no part in it. ``importance_sampling`` with ``Enumerated()`` gives
    the same number by way of q, with every value in memory at once; here values come in chunks,
    and memory does not grow with their number. The cost is one evaluation of p for each row and
    value, so it doubles with each binary latent.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), eq. 1.13,
    https://arxiv.org/abs/1906.02691

    Args:
        model, data: As of every estimate: :mod:`deeplvm.inference.rows`.
        sum_over: Names to sum over although the data have them: ``["y"]`` sums over the labels.
        pairs: Pairs of a row and a value that go through p at once.
        most: The largest number of joint values that are summed.
        seed: Without effect on the result; torch's own random state is left as it was.

    Raises:
        ValueError: If a latent is continuous, shared by all rows or remembered from step to step,
            there is none, or there are too many values.

    Examples:
        Two binary causes of one event; the posterior explains away:

        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Bernoulli
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": Bernoulli(2), "x | z": Bernoulli(1, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Bernoulli(2, MLP(1))}))
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> estimate = exact_likelihood(model, {"x": x})
        >>> round(float(estimate.log_px.exp().sum()), 5)  # p(x = 0) + p(x = 1)
        1.0
        >>> exact_posterior(model, {"x": x}).log_prob.shape
        torch.Size([2, 4])
    """
    at_least(1, pairs=pairs, most=most)
    space = _space(model, data, sum_over, most)

    def evaluate(given: Tensors, missing: Names, _: RowNoise) -> Tensors:
        chunks = space.log_joint(given, missing, pairs)
        log_px = next(chunks).logsumexp(0)
        for chunk in chunks:
            log_px = torch.logaddexp(log_px, chunk.logsumexp(0))
        return {"log_px": log_px, "log_px_stderr": torch.zeros_like(log_px)}

    joined = for_rows(
        model, data, evaluate, batch_size=max(1, pairs // space.count),
        seed=seed, omit=tuple(sum_over),
    )  # fmt: skip
    return ExactLikelihood(**joined, latents=tuple(space.values), values=space.count)


def exact_posterior(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    sum_over: Collection[str] = (),
    pairs: int = 4_096,
    most: int = _MOST,
    seed: int = 0,
) -> ExactPosterior:
    r""":math:`p(z | x) = p(x, z) / \sum_{z'} p(x, z')` of every row, for every value of z.

    Args:
        model, data: As for :func:`exact_likelihood`; the result has S numbers a row.
        sum_over: Names to infer although the data have them.
        pairs: Pairs of a row and a value that go through p at once.
        most: The largest number of joint values.
        seed: Without effect on the result.

    Raises:
        ValueError: As for :func:`exact_likelihood`.
    """
    at_least(1, pairs=pairs, most=most)
    space = _space(model, data, sum_over, most)

    def evaluate(given: Tensors, missing: Names, _: RowNoise) -> Tensors:
        joint = torch.cat(list(space.log_joint(given, missing, pairs))).T  # (rows, S)
        log_px = joint.logsumexp(1)
        return {"log_px": log_px, "log_prob": joint - log_px.unsqueeze(1)}

    joined = for_rows(
        model, data, evaluate, batch_size=max(1, pairs // space.count),
        seed=seed, omit=tuple(sum_over),
    )  # fmt: skip
    sizes = [len(each) for each in space.values.values()]
    return ExactPosterior(joined["log_prob"].unflatten(1, sizes), space.values, joined["log_px"])


class _Space:
    """All joint values of the latents, numbered; the last latent's values run fastest."""

    def __init__(self, model: LatentVariableModel, values: dict[str, Tensor]) -> None:
        self.p = model.p
        self.values = values
        self.count = math.prod([len(each) for each in values.values()])

    def log_joint(
        self, given: Mapping[str, Tensor], missing: frozenset[str], pairs: int
    ) -> Iterator[Tensor]:
        r""":math:`\log p(x, z)` in float64, chunk by chunk, each ``(values, rows)``."""
        read = {*self.p.names, *self.p.inputs}.difference(self.values)
        known = {n: v for n, v in given.items() if n in read}
        rows = len(next(iter(given.values())))
        chunk = max(1, pairs // rows)
        for start in range(0, self.count, chunk):
            rest = torch.arange(start, min(start + chunk, self.count))
            shape, sites, zero = (len(rest), rows), {}, []
            for name, values in reversed(self.values.items()):
                value = values[(rest % len(values)).to(values.device)].unsqueeze(1)
                value = value.expand(*shape, *values.shape[1:])
                sites[name] = as_site(name, value, self.p, batch_dims=2)
                rest = rest // len(values)
                if name in given:  # in some rows: there it has that value and no other
                    other = ~given[name].isnan() & (given[name] != value)
                    zero.append(other.reshape(*shape, -1).any(-1))
            trace = self.p({**known, **sites}, shape, missing=missing.difference(sites))
            log_joint = trace.log_prob.expand(shape).double()
            yield (
                log_joint.masked_fill(torch.stack(zero).any(0), -torch.inf) if zero else log_joint
            )


def _space(
    model: LatentVariableModel, data: NamedRows | Rows, sum_over: Collection[str], most: int
) -> _Space:
    """The latents' values, found by drawing one row of p."""
    if unknown := set(sum_over) - set(model.p.names):
        raise ValueError(
            f"p has no {', '.join([repr(each) for each in sorted(unknown)])} to sum over."
        )
    holes = rows_of(model, data).missing
    partly = [name for name in holes if model.reads(name) and name in model.p.names]
    taken = rows_of(model, data, (*sum_over, *partly))
    with evaluation_of(model, 0):
        p, first = model.p, taken[slice(0, 1)]
        known = {
            n: as_site(n, v, p, taken.missing)
            for n, v in first.items()
            if n in p.names or n in p.inputs
        }
        trace = p(known, (1,), missing=taken.missing, default=Sampled())
        drawn = {name: site for name, site in trace.items() if site.drawn}
        if not drawn:
            raise ValueError(
                "There is no latent to sum over: p scores every name that is not given, so "
                "importance_sampling is exact."
            )
        values = {
            name: _values(name, site, most, shared=name in model.shared)
            for name, site in drawn.items()
        }
    space = _Space(model, values)
    if space.count > most:
        raise ValueError(
            f"{', '.join(values)} have {space.count:,} values together, more than the {most:,} "
            f"that are summed; raise `most` if you mean it, or use importance_sampling."
        )
    return space


def _values(name: str, site: Site, most: int, *, shared: bool) -> Tensor:
    """All values of one latent in one row, shape ``(S, *right, *event)``."""
    distribution = site.distribution
    if shared:
        raise ValueError(
            f"{name!r} is shared by all rows, so p(x) of a row alone is not a sum over its "
            f"values; use importance_sampling."
        )
    if distribution is None or of_one_step(distribution) is not distribution:
        raise ValueError(
            f"{name!r} is remembered from step to step, or counts up to a length, so its values "
            f"are not listed; use importance_sampling with draw={{{name!r}: Enumerated()}}, or "
            f"particle_filter."
        )
    if distribution.support is None or not distribution.support.is_discrete:
        raise ValueError(
            f"{name!r} is continuous and cannot be summed over; use quadrature_likelihood for one "
            f"or two dimensions, importance_sampling (with draw={{NAME: Enumerated()}} for the "
            f"discrete latents beside it) or annealed_importance_sampling for more."
        )
    shape = site.value.shape[: site.value.dim() - len(distribution.event_shape)]
    right = len(shape) - site.batch_dims  # members of a plate
    if right:
        distribution = Independent(distribution.expand(shape), right)
    return Enumerated(most).values(name, distribution)
