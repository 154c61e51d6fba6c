r"""The linear Gaussian model inside a model: exact posterior, and the M-step in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.conditionals.heads import raw_of
from deeplvm.joint import Joint
from deeplvm.model import LatentVariableModel
from deeplvm.networks import MLP


@dataclass(frozen=True, eq=False)
class Posterior:
    r"""Gaussian posteriors of some rows.

    Attributes:
        mean: :math:`E[z | x]`, shape ``(rows, K)``.
        covariance: Shape ``(rows, K, K)``, or ``(1, K, K)`` where all rows have the same.
        log_px: :math:`\log p(x)` of what is observed, in standardised units, ``(rows,)``, nats.
    """

    mean: Tensor
    covariance: Tensor
    log_px: Tensor


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r""":math:`p(z) = N(0, I)`, :math:`p(u | z) = N(Wz + b, \mathrm{diag}(s^2))`.

    u are the data in the units of the likelihood, flat; an element may be missing (NaN).

    Attributes:
        latent: Name of z.
        observed: Name of x.
        likelihood: The conditional that holds W, b and s.
    """

    latent: str
    observed: str
    likelihood: Gaussian

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """W ``(D, K)``, b ``(D,)`` and the variance ``(D,)``, float64."""
        layer: Any = self.likelihood.head.layer
        size = self.likelihood.event_shape.numel()
        scale = self.likelihood.scale(()).detach().double()
        variance = scale.expand(self.likelihood.event_shape).reshape(size).square()
        weight = layer.weight.detach().double()
        bias = weight.new_zeros(size) if layer.bias is None else layer.bias.detach().double()
        return weight, bias, variance

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor, variance: Tensor) -> None:
        """Put W, b and the variance into the model."""
        layer: Any = self.likelihood.head.layer
        scale = self.likelihood.scale
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        if isinstance(scale.source, str):
            raw = raw_of((variance.sqrt() - scale.minimum).clamp(min=1e-12), scale.at_zero)
            scale.raw.copy_(raw.reshape(self.likelihood.event_shape) if scale.raw.ndim else raw[0])

    def posterior(self, u: Tensor) -> Posterior:
        r"""Exact posteriors: precision :math:`I + \sum_d w_d w_d^T / s_d^2` over what is observed.

        Args:
            u: Shape ``(rows, D)``, NaN where missing.
        """
        weight, bias, variance = self.parameters()
        there = ~u.isnan()
        residual = torch.where(there, u - bias, 0.0)
        seen = there.to(u) if not bool(there.all()) else torch.ones_like(u[:1])
        outer = (weight / variance.unsqueeze(1)).unsqueeze(2) * weight.unsqueeze(1)  # (D, K, K)
        size = weight.shape[1]
        identity = torch.eye(size).to(weight)
        precision = identity + (seen @ outer.flatten(1)).reshape(-1, size, size)
        factor = torch.linalg.cholesky(precision)
        covariance = torch.cholesky_inverse(factor)
        pull = residual / variance @ weight  # (rows, K)
        mean = (covariance @ pull.unsqueeze(-1)).squeeze(-1)
        log_px = -0.5 * (
            (seen * (math.log(2 * math.pi) + variance.log())).sum(-1)
            + 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            + (residual.square() / variance).sum(-1)
            - (pull * mean).sum(-1)
        )
        return Posterior(mean, covariance, log_px)

    def maximise(self, u: Tensor, mean: Tensor, covariance: Tensor) -> None:
        r"""The M-step: W, b and the noise that maximise :math:`E_q[\log p(x, z)]`.

        Each element of x is a regression on :math:`\tilde z = (z, 1)` over the rows that have it:
        :math:`\tilde w_d = (\sum_n E[\tilde z \tilde z^T])^{-1} \sum_n x_{nd} E[\tilde z]`, and
        the noise is the mean of :math:`E[(x_{nd} - \tilde w_d^T \tilde z)^2]`.

        Args:
            u: Data, shape ``(rows, D)``, NaN where missing.
            mean: Of q, shape ``(rows, K)``.
            covariance: Of q, shape ``(rows, K, K)`` or ``(1, K, K)``.
        """
        there = ~u.isnan()
        filled = torch.where(there, u, 0.0)
        size = mean.shape[1]
        extended = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
        second = extended.unsqueeze(2) * extended.unsqueeze(1)  # (rows, K + 1, K + 1)
        second[:, :size, :size] += covariance
        complete = bool(there.all())
        seen = torch.ones_like(u[:, :1]) if complete else there.to(u)
        gram = (seen.T @ second.flatten(1)).reshape(-1, size + 1, size + 1)  # (D or 1, ...)
        cross = filled.T @ extended  # (D, K + 1)
        slopes = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
        squared = (slopes.unsqueeze(1) @ gram @ slopes.unsqueeze(2)).reshape(-1)
        residual = filled.square().sum(0) - 2.0 * (slopes * cross).sum(1) + squared
        count = there.sum(0).to(u)
        variance = residual / count
        if self.likelihood.scale.source == "global":
            variance = (residual.sum() / count.sum()).expand_as(residual)
        least = self.likelihood.scale.minimum**2
        self.write(slopes[:, :size], slopes[:, size], variance.clamp(min=least))

    @torch.no_grad()
    def write_posterior(self, model: LatentVariableModel) -> bool:
        """Make q the exact posterior of a full row, if its form allows; whether it did.

        It does where q(z | x) is a full Gaussian of a linear map of x.
        """
        q: Any = model.q
        if not isinstance(q, Joint) or q.names != (self.latent,):
            return False
        conditional = q[self.latent]
        parents = [str(parent) for parent in q.parents(self.latent)]
        linear = isinstance(conditional, FullCovarianceGaussian) and is_linear(conditional.head)
        if not linear or conditional.units is not None or parents != [self.observed]:
            return False
        weight, bias, variance = self.parameters()
        full = self.posterior(torch.zeros_like(bias).unsqueeze(0))
        gain = full.covariance[0] @ (weight / variance.unsqueeze(1)).T  # (K, D)
        factor = torch.linalg.cholesky(full.covariance[0])
        raw = raw_of((factor.diagonal() - conditional.minimum_scale).clamp(min=1e-12))
        layer, size = conditional.head.layer, len(gain)
        layer.weight.zero_()
        layer.weight[:size] = gain.to(layer.weight)
        layer.bias[:size] = (-gain @ bias).to(layer.bias)
        own = layer.bias[size:] if conditional.free is None else conditional.free
        # what a 1 below the diagonal stands for is the conditional's own business
        own.copy_(torch.cat([raw, torch.ones_like(factor).flatten()]))
        shape = conditional.head.network.in_shape or (layer.in_features,)
        unit = conditional(layer.weight.new_zeros(1, *shape)).root().reshape(size, size)
        below = torch.where(unit != 0, factor / unit.double(), 0.0).tril(-1)
        own.copy_(torch.cat([raw, below.flatten()]))
        return bool((factor.diagonal() > conditional.minimum_scale).all())


def linear_gaussian_of(model: LatentVariableModel) -> LinearGaussian | None:
    """The linear Gaussian model that p is, or ``None`` if it is another one."""
    p: Any = model.p
    if not isinstance(p, Joint) or len(p.order) != 2:
        return None
    first, second = p.order
    latent, observed = first.names[0], second.names[0]
    prior, likelihood = p.conditional(latent), p.conditional(observed)
    linear = (
        isinstance(prior, StandardNormal)
        and len(prior.event_shape) == 1
        and isinstance(likelihood, Gaussian)
        and [str(parent) for parent in second.parents] == [latent]
        and is_linear(likelihood.head)
        and likelihood.head.layer.bias is not None
        and not likelihood.scale.outputs
    )
    return LinearGaussian(latent, observed, likelihood) if linear else None  # type: ignore[arg-type]


def in_units(likelihood: Gaussian, x: Tensor) -> Tensor:
    """Data in the units of the likelihood, flat, shape ``(rows, D)``, float64."""
    units = likelihood.units
    return (x if units is None else units.standardise(x)).flatten(1).double()


def is_linear(head: Any) -> bool:
    """Whether a head is a linear map of its parent: a network without hidden layers."""
    network = head.network
    empty = isinstance(network, MLP) and len(network.layers) == 0
    return empty and isinstance(head.layer, nn.Linear)
