r"""Draws of the latents from both sides: z from q(z | x_n), one for each row, and from p(z)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

from deeplvm.evaluation.batches import Batches, batches_of
from deeplvm.evidence import elementwise
from deeplvm.gradients import Sampled
from deeplvm.joint import Joint, embed, owner_of
from deeplvm.model import LatentVariableModel
from deeplvm.trace import Site, Trace

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Split


@dataclass(frozen=True, eq=False)
class LatentDraws:
    r"""One latent, drawn from the aggregate posterior and from the prior.

    Attributes:
        name: Its name.
        posterior: :math:`z_n \sim q(z | x_n)`, one of each row, shape ``(rows, *event)``: draws
            of :math:`q(z) = E_x\, q(z | x)`.
        prior: As many draws of p(z), shape ``(rows, *event)``.
        posterior_features: The first as networks see them (categories one-hot), shape
            ``(rows, features)``, float64.
        prior_features: The second so.
        discrete: Whether it takes separate values.
        one_hot: Whether a value is a one-hot vector.
        standard_normal: Whether the prior is N(0, I).
    """

    name: str
    posterior: Tensor
    prior: Tensor
    posterior_features: Tensor
    prior_features: Tensor
    discrete: bool
    one_hot: bool
    standard_normal: bool


def latent_draws(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    split: Split = "test",
    rows: int | None = None,
    batch_size: int = 256,
) -> dict[str, LatentDraws]:
    """Every latent of a row from both sides, by name; call it inside ``evaluating``.

    Inputs of p (labels, say) are those of the rows: the i-th draws of both sides share them. What
    all rows share is drawn from q for both.

    Raises:
        ValueError: If q draws nothing for a row, ``rows`` is below two, or a draw is not finite.
    """
    taken, count = rows_of(model, data, split, rows)
    parts: dict[str, list[LatentDraws]] = {}
    for posterior, prior in _traces(model, taken, count, batch_size):
        for name in latents_of(model, posterior):
            parts.setdefault(name, []).append(_draws(model, name, posterior[name], prior[name]))
    return {name: _joined(each) for name, each in parts.items()}


def seed_of(seed: int, what: str) -> int:
    """A seed for one purpose: noise must not repeat data that were drawn from the same seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{what}".encode()).digest()[:4])


def rows_of(
    model: LatentVariableModel,
    data: Data | Mapping[str, Tensor],
    split: Split,
    rows: int | None,
) -> tuple[Batches, int]:
    """The rows that the model reads, and how many of them, from the first on, are asked for.

    Raises:
        ValueError: If they are fewer than two.
    """
    taken = batches_of(model, data, split)
    count = taken.rows if rows is None else min(rows, taken.rows)
    if count < 2:
        raise ValueError(
            f"An aggregate posterior is of several rows, found {count}; give at least two."
        )
    return taken, count


def latents_of(model: LatentVariableModel, posterior: Trace) -> tuple[str, ...]:
    """The names that q draws for each row.

    Raises:
        ValueError: If there is none.
    """
    shared = getattr(model.q, "shared", frozenset())
    names = tuple([n for n, site in posterior.items() if site.drawn and n not in shared])
    if not names:
        raise ValueError(
            f"q draws nothing for a row in {model.factorisation}; add a latent such as 'z | x' to "
            f"q, or leave a name out of the data that q can draw."
        )
    return names


def prior_of(model: LatentVariableModel, latents: Sequence[str]) -> Any:
    """The joint of the latents and of what they are drawn from, cut out of p: no x is drawn."""
    if not isinstance(model.p, Joint):
        return model.p
    needed = {*latents, *ancestors_of(model.p, latents)}
    factors = {
        str(factor): model.p.factors[factor.key]
        for factor in model.p.order
        if needed & set(factor.names)
    }
    return Joint(factors, shared=model.p.shared & needed)


def ancestors_of(joint: Any, names: Sequence[str]) -> set[str]:
    """Every name from which these are drawn, directly or not."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        parents = {parent.name for parent in joint.parents(name)} if name in joint else set()
        waiting += parents - found
        found |= parents
    return found


def _traces(
    model: LatentVariableModel, taken: Batches, count: int, batch_size: int
) -> Iterator[tuple[Trace, Trace]]:
    for start in range(0, count, batch_size):
        given = taken[slice(start, min(start + batch_size, count))]
        posterior = model.posterior(given, missing=taken.missing)
        prior = prior_of(model, latents_of(model, posterior))
        yield posterior, prior_trace(model, prior, given, posterior, taken.missing)


def prior_trace(
    model: LatentVariableModel,
    prior: Any,
    given: Mapping[str, Tensor],
    posterior: Trace,
    missing: frozenset[str],
) -> Trace:
    """Ancestral draws of the latents at the inputs of these rows, one a row."""
    known: dict[str, Any] = {name: given[name] for name in prior.inputs if name in given}
    shared = getattr(model.q, "shared", frozenset())
    known |= {name: posterior[name] for name in shared if name in prior.names}
    shape = posterior.batch_shape[-1:]
    return prior(known, shape, default=Sampled(), missing=missing & set(known))


def is_discrete(site: Site) -> bool:
    """Whether a variable takes separate values."""
    if not site.value.is_floating_point():
        return True
    try:
        return site.distribution is not None and bool(site.distribution.support.is_discrete)  # type: ignore[union-attr]
    except (NotImplementedError, AttributeError):
        return False


def is_one_hot(distribution: Distribution | None) -> bool:
    """Whether the values are one-hot vectors along the last axis."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    try:
        return distribution is not None and distribution.support is constraints.one_hot
    except NotImplementedError:
        return False


def _draws(model: LatentVariableModel, name: str, q: Site, p: Site) -> LatentDraws:
    owner = owner_of(model.p, name)
    seen = [embed(owner, site.value) for site in (q, p)]
    features = [each.reshape(len(each), -1).double().cpu() for each in seen]
    for each, side in zip(features, ("q", "p"), strict=True):
        if not bool(torch.isfinite(each).all()):
            raise ValueError(
                f"Draws of {name!r} from {side} are not finite; look at a model that was trained "
                f"until it broke."
            )
    return LatentDraws(
        name,
        q.value.cpu(),
        p.value.cpu(),
        *features,
        discrete=is_discrete(q),
        one_hot=is_one_hot(q.distribution),
        standard_normal=_is_standard_normal(p.distribution),
    )


def _joined(parts: Sequence[LatentDraws]) -> LatentDraws:
    def cat(field: str) -> Tensor:
        # a copy: tensors of inference mode could not be used for anything else
        return torch.cat([getattr(part, field) for part in parts]).clone()

    return LatentDraws(
        parts[0].name,
        cat("posterior"),
        cat("prior"),
        cat("posterior_features"),
        cat("prior_features"),
        discrete=parts[0].discrete,
        one_hot=parts[0].one_hot,
        standard_normal=all([part.standard_normal for part in parts]),
    )


def _is_standard_normal(distribution: Distribution | None) -> bool:
    base = None if distribution is None else elementwise(distribution)
    return (
        isinstance(base, Normal) and bool((base.loc == 0).all()) and bool((base.scale == 1).all())
    )
