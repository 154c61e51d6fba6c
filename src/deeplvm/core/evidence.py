r"""Evidence: for each name, log p − log q, and the log-measure of the particles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from deeplvm.core.trace import Site, Trace, base_of, same_shape


@dataclass(frozen=True)
class Evidence:
    r"""The ledger from which every bound is computed.

    With :math:`w = \sum_n \text{terms}[n]` and the log-measure :math:`m` of the particles, the
    ELBO is :math:`\sum e^m w` and the importance-weighted bound :math:`\log \sum e^{m + w}`, for
    Monte-Carlo and for enumerated particles alike.

    Attributes:
        terms: Name to ``log p − log q`` in nats, shape ``(*particles, batch)`` or broadcastable
            to it: for an observed name ``log p``, for a latent ``log p − log q``.
        log_measure: :math:`-\log K` for Monte Carlo, :math:`\log q(y|x)` for enumerated values.
        p: The trace of p; every name given or drawn by q.
        q: The trace of q.
        latents: Names that q drew, in the order in which it drew them.
        observed: Names whose values were given and have a density in p.
        closed: Latents whose divergence may be computed in closed form: p's parents of them were
            drawn before them in q.
        kl_weight: Factor on the terms of the latents; see :meth:`temper`.
        row_weight: Factor on the term of a name, 1/N of the data for names that all rows share.
        shared: Names that all rows share.
        drawn_in: Of latents that are given in some rows, the rows in which they were drawn,
            booleans of shape ``(batch,)``. In the others the term is ``log p``, as of an observed
            name.
    """

    terms: dict[str, Tensor]
    log_measure: Tensor | float
    p: Trace
    q: Trace
    latents: tuple[str, ...]
    observed: tuple[str, ...]
    closed: frozenset[str] = frozenset()
    kl_weight: Tensor | float = 1.0
    row_weight: float = 1.0
    shared: frozenset[str] = frozenset()
    drawn_in: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``(*particles, batch)``."""
        return self.q.batch_shape

    @property
    def particle_dims(self) -> tuple[int, ...]:
        """The dimensions of the particles."""
        return tuple(range(len(self.batch_shape) - 1))

    @property
    def log_weight(self) -> Tensor:
        r""":math:`\log p(x, z) - \log q(z | x)`, the sum of terms, ``(*particles, batch)``."""
        return self.total([self.weighted(name, term) for name, term in self.terms.items()])

    @property
    def own_log_weight(self) -> Tensor:
        """The sum of the terms, unweighted, of all names but those that all rows share."""
        return self.total([term for name, term in self.terms.items() if name not in self.shared])

    def log_weight_of_particles(self) -> Tensor:
        """:attr:`own_log_weight`, values that are enumerated summed out, ``(K, batch)``."""
        outer = self.particle_dims[:-1]
        if not outer:
            return self.own_log_weight
        # of the measure only the 1/K of the particles is taken out
        inner = self.log_measure + math.log(self.batch_shape[-2])
        return torch.logsumexp(inner + self.own_log_weight, outer)

    def scale(self, name: str) -> float:
        """What terms of a name are multiplied by: less than 1 where all rows share it."""
        return self.row_weight if name in self.shared else 1.0

    def weighted(self, name: str, term: Tensor) -> Tensor:
        """A term, times ``kl_weight`` where its name is latent (1 costs nothing)."""
        if name not in self.latents or (
            isinstance(self.kl_weight, float) and self.kl_weight == 1.0
        ):
            return term
        weighted = self.kl_weight * term
        rows = self.drawn_in.get(name)
        return weighted if rows is None else torch.where(rows, weighted, term)

    def observed_terms(self) -> list[Tensor]:
        """``log p`` of all that was given, also of latents in the rows that have them."""
        known = [
            torch.where(rows, torch.zeros_like(self.terms[name]), self.terms[name])
            for name, rows in self.drawn_in.items()
        ]
        return [self.terms[name] for name in self.observed] + known

    def latent_term(self, name: str) -> Tensor:
        """``log p − log q`` of a latent in the rows in which it was drawn, 0 in the others."""
        rows, term = self.drawn_in.get(name), self.terms[name]
        return term if rows is None else torch.where(rows, term, torch.zeros_like(term))

    def total(self, terms: list[Tensor]) -> Tensor:
        """Sum of terms, expanded to ``(*particles, batch)``."""
        if not terms:
            return torch.zeros(self.batch_shape)
        total = sum(terms[1:], start=terms[0])
        return (
            total if same_shape(total.shape, self.batch_shape) else total.expand(self.batch_shape)
        )

    def expectation(self, values: Tensor) -> Tensor:
        r"""Mean over the particles under their measure, :math:`\sum e^m v`, shape ``(batch,)``."""
        if not self.particle_dims:
            return values
        if isinstance(self.log_measure, float):
            return values.mean(self.particle_dims)
        return (self.log_measure.exp() * values).sum(self.particle_dims)

    def log_expectation_exp(self, values: Tensor) -> Tensor:
        r""":math:`\log \sum e^{m + v}` over the particles, shape ``(batch,)``."""
        if not self.particle_dims:
            return values
        return torch.logsumexp(self.log_measure + values, self.particle_dims)

    def temper(self, kl_weight: Tensor | float) -> Evidence:
        """The same ledger with the terms of the latents weighted, for any objective to read.

        With a weight other than 1 no objective of it is a bound on ``log p(x)`` (below 1 it can
        exceed it); evaluation always uses 1.
        """
        floats = isinstance(kl_weight, float) and isinstance(self.kl_weight, float)
        return (
            self if floats and kl_weight == self.kl_weight else replace(self, kl_weight=kl_weight)
        )

    def kl(self, name: str) -> Tensor:
        r"""The divergence :math:`KL(q(z_n|\cdot) \| p(z_n|\cdot))` of a latent, in nats.

        In closed form where there is one, else its sampled form :math:`\log q - \log p`. Its shape
        is broadcastable to ``(*particles, batch)``.
        """
        try:
            return self.closed_kl(name)
        except ValueError:
            return -self.latent_term(name)

    def closed_kl(self, name: str) -> Tensor:
        """The divergence of a latent in closed form; see :meth:`kl`.

        Raises:
            ValueError: If the names do not allow it, or no closed form is known.
        """
        q, p = self._pair(name)
        return self._rowwise(name, _divergence(name, q, p))

    def has_closed_kl(self, name: str) -> bool:
        """Whether :meth:`closed_kl` has an answer for a latent."""
        try:
            return self.closed_kl(name) is not None
        except ValueError:
            return False

    def kl_by_step(self, name: str) -> Tensor:
        r"""Closed-form divergence of each step, shape ``(*particles, batch, *members)``.

        Raises:
            ValueError: If the names do not allow it, or no closed form is known.
        """
        each = _divergence(name, *self._pair(name)) * self.scale(name)
        return each.expand(torch.broadcast_shapes(each.shape, self.members(name)))

    def kl_by_dimension(self, name: str) -> Tensor:
        r"""Closed-form divergence of each dimension, shape ``(*particles, batch, *event)``.

        Raises:
            ValueError: If the latent's distributions do not factorise over its dimensions.
        """
        q, p = self._pair(name)
        event = self.q[name].value.shape[self.q[name].batch_dims :]
        base_q, base_p = elementwise(q), elementwise(p)
        if base_q is None or base_p is None:
            raise ValueError(
                f"{name!r} does not factorise over its dimensions, so it has no divergence per "
                f"dimension."
            )
        each = _divergence(name, base_q, base_p) * self.scale(name)
        return each.expand(torch.broadcast_shapes(each.shape, event))

    def entropy(self, name: str) -> Tensor:
        r"""Closed form of :math:`H[q(z_n|\cdot)]`, broadcastable to ``(*particles, batch)``."""
        site = self.q[name]
        if site.distribution is None or name in self.drawn_in:
            raise ValueError(f"{name!r} has no entropy in closed form here; use the sampled form.")
        try:
            entropy = site.distribution.entropy()
        except NotImplementedError as error:
            kind = type(site.distribution).__name__
            raise ValueError(
                f"The entropy of {name!r} ({kind}) has no closed form; use the sampled form."
            ) from error
        return self._rowwise(name, entropy)

    def _pair(self, name: str) -> tuple[Distribution, Distribution]:
        if name not in self.latents:
            raise ValueError(
                f"{name!r} is not a latent of this evidence: {', '.join(self.latents)}."
            )
        if name in self.drawn_in:
            raise ValueError(
                f"{name!r} is given in some rows, so its divergence has no closed form here; use "
                f"the sampled form."
            )
        if name not in self.closed:
            raise ValueError(
                f"The divergence of {name!r} has no closed form here: p's parents of it are not "
                f"all drawn before it in q; use the sampled form."
            )
        q, p = self.q[name].distribution, self.p[name].distribution
        if q is None or p is None:
            raise ValueError(f"{name!r} has one distribution a step; use the sampled form.")
        return q, p

    def members(self, name: str) -> tuple[int, ...]:
        """How often a latent repeats inside a row: the steps of a sequence, say."""
        site = self.q[name]
        event = 0 if site.distribution is None else len(site.distribution.event_shape)
        return tuple(site.value.shape[site.batch_dims : site.value.dim() - event])

    def _rowwise(self, name: str, values: Tensor) -> Tensor:
        """Values of each member inside a row, summed over them; some may stand for all members."""
        if members := self.members(name):
            values = values.expand(torch.broadcast_shapes(values.shape, members))
            values = values.flatten(-len(members)).sum(-1)
        return values * self.row_weight if name in self.shared else values

    def means(self) -> dict[str, float]:
        """The mean of each name's term over particles and rows, in nats."""
        wide = {name: term.detach().expand(self.batch_shape) for name, term in self.terms.items()}
        return {name: float(self.expectation(term).mean()) for name, term in wide.items()}

    def __repr__(self) -> str:
        terms = ", ".join([f"{name}: {mean:.4g}" for name, mean in self.means().items()])
        *particles, rows = self.batch_shape
        return f"Evidence({terms}; mean nats of {rows} rows, particles {tuple(particles)})"

    def _repr_html_(self) -> str:
        from deeplvm.results import html_table

        rows = [
            [name, "latent" if name in self.latents else "observed", f"{mean:.4f}"]
            for name, mean in self.means().items()
        ]
        return html_table(["name", "", "mean log p − log q (nats)"], rows)


def _divergence(name: str, q: Distribution, p: Distribution) -> Tensor:
    """The closed form, of distributions that may have the batch shape of one row or of all."""
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    try:
        q, p = (
            each if same_shape(each.batch_shape, shape) else each.expand(shape) for each in (q, p)
        )
        return kl_divergence(q, p)
    except NotImplementedError as error:
        raise ValueError(
            f"No closed form is known for the divergence of {name!r} ({type(q).__name__} to "
            f"{type(p).__name__}); use the sampled form."
        ) from error


def elementwise(distribution: Distribution) -> Distribution | None:
    """The distribution of single elements, if the variable factorises into them."""
    base = base_of(distribution)
    own = getattr(base, "elementwise", None)
    if own is not None:
        return own()
    return base if not base.event_shape else None


def density(site: Site) -> Tensor:
    """The log-density of a site that has one."""
    if site.log_prob is None:
        raise ValueError("This name is computed, not random: it has no density.")
    return site.log_prob
