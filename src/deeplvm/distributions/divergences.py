r"""Closed-form KL divergences between normals of every structure of covariance.

.. math:: KL(q \| p) = \tfrac{1}{2} \left( \mathrm{tr}(\Sigma_p^{-1} \Sigma_q)
          + (\mu_q - \mu_p)^T \Sigma_p^{-1} (\mu_q - \mu_p) - d
          + \log \det \Sigma_p - \log \det \Sigma_q \right)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from deeplvm.distributions.counts import Poisson
from deeplvm.distributions.diagonal_normal import DiagonalNormal, same_event
from deeplvm.distributions.discrete import Bernoulli, OneHotCategorical, Ordinal
from deeplvm.distributions.multivariate_normal import (
    FullCovarianceNormal,
    LowRankNormal,
    LowRankPrecisionNormal,
    MultivariateNormal,
    dense,
)
from deeplvm.distributions.real import Gamma
from deeplvm.distributions.simplex import Dirichlet
from deeplvm.distributions.unit_interval import Beta, ContinuousBernoulli


def _as_full(normal: DiagonalNormal) -> FullCovarianceNormal:
    dims = len(normal.event_shape)
    scale = normal.scale.reshape(*normal.batch_shape, -1)
    return FullCovarianceNormal(normal.loc, torch.diag_embed(scale), dims)


@register_kl(MultivariateNormal, DiagonalNormal)
def _kl_to_diagonal(q: MultivariateNormal, p: DiagonalNormal) -> Tensor:
    same_event(q, p)
    dims = len(q.event_shape)
    ratio = (q.variance + (q.loc - p.loc).square()) / p.variance - 1 + p.variance.log()
    flat = ratio.sum(tuple(range(-dims, 0))) if dims else ratio
    return 0.5 * (flat - q.log_determinant())


@register_kl(MultivariateNormal, MultivariateNormal)
def _kl_between_correlated(q: MultivariateNormal, p: MultivariateNormal) -> Tensor:
    same_event(q, p)
    lower = (p if isinstance(p, FullCovarianceNormal) else dense(p)).root()
    spread = torch.linalg.solve_triangular(lower, q.root(), upper=False)
    trace = spread.square().sum((-2, -1))
    energy = p.energy(q._flat_loc - p._flat_loc)
    determinants = p.log_determinant() - q.log_determinant()
    kl = 0.5 * (trace + energy - q.event_shape.numel() + determinants)
    return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(DiagonalNormal, MultivariateNormal)
def _kl_from_diagonal(q: DiagonalNormal, p: MultivariateNormal) -> Tensor:
    return _kl_between_correlated(_as_full(q), p)


def _remember(*distributions: torch.distributions.Distribution) -> None:
    # torch finds the formula for a pair of types at its first use, with code that cannot be
    # traced, and remembers it: a first use here lets an analytic bound be one graph
    for distribution in distributions:
        kl_divergence(distribution, distribution)
        event_dims = len(distribution.event_shape)
        if isinstance(distribution, MultivariateNormal):
            kl_divergence(distribution, DiagonalNormal(_ONE, _ONE, event_dims))
            kl_divergence(DiagonalNormal(_ONE, _ONE, event_dims), distribution)
        elif event_dims == 0:
            one = torch.distributions.Independent(distribution, 0, validate_args=False)
            kl_divergence(one, one)


_ONE = torch.ones(1)


def remember() -> None:
    """Use every closed form once; torch forgets them all where another one is registered."""
    _remember(
        DiagonalNormal(_ONE, _ONE, 1),
        FullCovarianceNormal(_ONE, _ONE.unsqueeze(-1)),
        LowRankNormal(_ONE, _ONE.unsqueeze(-1), _ONE),
        LowRankPrecisionNormal(_ONE, _ONE.unsqueeze(-1), _ONE),
        Bernoulli(logits=_ONE, validate_args=False),
        Beta(_ONE, _ONE),
        ContinuousBernoulli(_ONE),
        OneHotCategorical(_ONE),
        Ordinal(logits=_ONE, validate_args=False),
        torch.distributions.Categorical(logits=_ONE, validate_args=False),
        Dirichlet(torch.ones(2)),
        Gamma(_ONE, _ONE, validate_args=False),
        torch.distributions.Laplace(_ONE, _ONE, validate_args=False),
        torch.distributions.Normal(_ONE, _ONE, validate_args=False),
        Poisson(_ONE, validate_args=False),
    )
