r"""Models of Gaussians inside a model: their exact posterior, and the M-step in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deeplvm.conditionals import (
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    Mixture,
    OneHot,
    StandardNormal,
)
from deeplvm.conditionals.heads import raw_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel

_NUMBERS = 2**22  # in the covariances of what is missing, of a batch's components


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

    def start(self, u: Tensor, seed: int) -> None:
        """The mean of the data as b."""
        weight, _, variance = self.parameters()
        self.write(weight, u.nanmean(0), variance)

    def expect(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The E-step: log p(x) of each row, ``(rows,)``, and the sums that the M-step reads."""
        exact = self.posterior(u)
        return exact.log_px, self.sums(u, exact.mean, exact.covariance)

    def sums(self, u: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        r"""Sums over rows of what :meth:`maximise` reads, with :math:`\tilde z = (z, 1)`.

        Args:
            u: Data, shape ``(rows, D)``, NaN where missing.
            mean: Of q, shape ``(rows, K)``.
            covariance: Of q, shape ``(rows, K, K)`` or ``(1, K, K)``.

        Returns:
            Over the rows that have element d: :math:`\sum E[\tilde z \tilde z^T]` (one for all d
            where nothing is missing), :math:`\sum x_d E[\tilde z]`, :math:`\sum x_d^2` and their
            number.
        """
        there = ~u.isnan()
        filled = torch.where(there, u, 0.0)
        size = mean.shape[1]
        extended = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
        second = extended.unsqueeze(2) * extended.unsqueeze(1)  # (rows, K + 1, K + 1)
        second[:, :size, :size] += covariance
        seen = torch.ones_like(u[:, :1]) if bool(there.all()) else there.to(u)
        return {
            "gram": (seen.T @ second.flatten(1)).reshape(-1, size + 1, size + 1),  # (D or 1, ...)
            "cross": filled.T @ extended,  # (D, K + 1)
            "square": filled.square().sum(0),
            "count": there.sum(0).to(u),
        }

    def maximise(self, sums: Mapping[str, Tensor]) -> None:
        r"""The M-step: W, b and the noise that maximise :math:`E_q[\log p(x, z)]`.

        Each element of x is a regression on :math:`\tilde z` over the rows that have it:
        :math:`\tilde w_d = (\sum_n E[\tilde z \tilde z^T])^{-1} \sum_n x_{nd} E[\tilde z]`, and
        the noise is the mean of :math:`E[(x_{nd} - \tilde w_d^T \tilde z)^2]`.
        """
        gram, cross, count = sums["gram"], sums["cross"], sums["count"]
        slopes = torch.linalg.solve(gram, cross.unsqueeze(-1)).squeeze(-1)
        squared = (slopes.unsqueeze(1) @ gram @ slopes.unsqueeze(2)).reshape(-1)
        residual = sums["square"] - 2.0 * (slopes * cross).sum(1) + squared
        variance = residual / count
        if self.likelihood.scale.source == "global":
            variance = (residual.sum() / count.sum()).expand_as(residual)
        least = self.likelihood.scale.minimum**2
        size = slopes.shape[1] - 1
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
        linear = isinstance(conditional, FullCovarianceGaussian) and conditional.head.affine
        if not linear or conditional.units is not None or parents != [self.observed]:
            return False
        weight, bias, variance = self.parameters()
        full = self.posterior(torch.zeros_like(bias).unsqueeze(0))
        gain = full.covariance[0] @ (weight / variance.unsqueeze(1)).T  # (K, D)
        factor = torch.linalg.cholesky(full.covariance[0])
        layer, size = conditional.head.layer, len(gain)
        layer.weight.zero_()
        layer.weight[:size] = gain.to(layer.weight)
        layer.bias[:size] = (-gain @ bias).to(layer.bias)
        own = layer.bias[size:] if conditional.free is None else conditional.free
        own.copy_(conditional.raw(factor))
        return bool((factor.diagonal() > conditional.minimum_scale).all())


def linear_gaussian_of(model: LatentVariableModel) -> LinearGaussian | None:
    """The linear Gaussian model that p is, or ``None`` if it is another one."""
    latent, observed, prior, likelihood = _linear_in_one(model)
    standard = isinstance(prior, StandardNormal) and len(prior.event_shape) == 1
    known = standard and not likelihood.scale.outputs
    return LinearGaussian(latent, observed, likelihood) if known else None


def _linear_in_one(model: LatentVariableModel) -> tuple[str, str, nn.Module | None, Any]:
    """Names and conditionals of z and of x | z, a Gaussian of a linear map; no prior elsewhere."""
    p: Any = model.p
    if not isinstance(p, Joint) or len(p.order) != 2:
        return "", "", None, None
    latent, observed = [factor.names[0] for factor in p.order]
    likelihood: Any = p.conditional(observed)
    linear = (
        isinstance(likelihood, Gaussian)
        and [str(parent) for parent in p.order[1].parents] == [latent]
        and likelihood.head.affine
        and likelihood.head.layer.bias is not None
    )
    return latent, observed, p.conditional(latent) if linear else None, likelihood


def in_units(likelihood: Gaussian, x: Tensor) -> Tensor:
    """Data in the units of the likelihood, flat, shape ``(rows, D)``, float64."""
    units = likelihood.units
    return (x if units is None else units.standardise(x)).flatten(1).double()


@dataclass(frozen=True, eq=False)
class MixtureOfGaussians:
    r""":math:`p(y = k) = \pi_k`, :math:`p(u | y = k) = N(\mu_k, \mathrm{diag}(s_k^2))`.

    u are the data in the units of the likelihood, flat; an element may be missing (NaN).

    Attributes:
        latent: Name of y.
        observed: Name of x.
        prior: The conditional that holds the weights.
        likelihood: The conditional that holds means and scales, linear in one-hot y.
    """

    latent: str
    observed: str
    prior: Any
    likelihood: Gaussian

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights ``(K,)``, means ``(K, D)`` and variances ``(K, D)``, float64."""
        layer: Any = self.likelihood.head.layer
        raw = (layer.weight + layer.bias.unsqueeze(1)).T.detach()  # (K, outputs D)
        size = self.likelihood.event_shape.numel()
        shape = (len(raw), *self.likelihood.event_shape)
        parts = [raw[:, size:].reshape(shape)] if self.likelihood.scale.outputs else []
        scale = self.likelihood.scale(parts).detach().expand(shape).flatten(1)
        logits = self.prior.head.free.detach().double().flatten()
        return torch.log_softmax(logits, 0), raw[:, :size].double(), scale.double().square()

    @torch.no_grad()
    def write(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        """Put weights, means and variances into the model."""
        layer: Any = self.likelihood.head.layer
        scale = self.likelihood.scale
        free = self.prior.head.free
        free.copy_(log_weights.reshape(free.shape))
        columns = [means]
        raw = raw_of((variances.sqrt() - scale.minimum).clamp(min=1e-12), scale.at_zero)
        if scale.outputs:
            columns.append(raw)
        elif isinstance(scale.source, str):
            shape = self.likelihood.event_shape
            scale.raw.copy_(raw[0].reshape(shape) if scale.raw.ndim else raw[0, 0])
        layer.weight.copy_(torch.cat(columns, 1).T)
        layer.bias.zero_()

    def responsibilities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`p(y = k | x)`, shape ``(rows, K)``, and :math:`\log p(x)`, shape ``(rows,)``.

        Args:
            u: Shape ``(rows, D)``, NaN where missing.
        """
        log_weights, means, variances = self.parameters()
        there = ~u.isnan()
        filled, seen = torch.where(there, u, 0.0), there.to(u)
        precision = 1.0 / variances
        square = (
            filled.square() @ precision.T
            - 2.0 * filled @ (means * precision).T
            + seen @ (means.square() * precision).T
        )
        constant = seen @ (math.log(2 * math.pi) + variances.log()).T
        joint = log_weights - 0.5 * (square + constant)
        log_px = torch.logsumexp(joint, 1)
        return (joint - log_px.unsqueeze(1)).exp(), log_px

    def expect(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The E-step: log p(x) of each row, ``(rows,)``, and the sums that the M-step reads."""
        share, log_px = self.responsibilities(u)
        there = ~u.isnan()
        filled = torch.where(there, u, 0.0)
        return log_px, {
            "weight": share.sum(0),  # (K,)
            "count": share.T @ there.to(u),  # (K, D), as are the sums
            "first": share.T @ filled,
            "square": share.T @ filled.square(),
        }

    def maximise(self, sums: Mapping[str, Tensor]) -> None:
        r"""The M-step: weighted frequencies, means and variances.

        A component that no row wants any more keeps its mean and variance.
        """
        _, before, _ = self.parameters()
        count, first = sums["count"], sums["first"]
        safe = count.clamp(min=1e-10)
        means = torch.where(count > 1e-10, first / safe, before)
        spread = sums["square"] - 2.0 * means * first + means.square() * count
        source = self.likelihood.scale.source
        if source == "network":
            variances = torch.where(count > 1e-10, spread / safe, 1.0)
        elif source == "dimension":
            variances = (spread.sum(0) / count.sum(0)).expand_as(spread)
        else:
            variances = (spread.sum() / count.sum()).expand_as(spread)
        least = self.likelihood.scale.minimum**2
        weights = (sums["weight"] / sums["weight"].sum()).clamp(min=1e-300).log()
        self.write(weights, means, variances.clamp(min=least))

    def start(self, u: Tensor, seed: int) -> None:
        """Rows far from one another as means (k-means++), the variance of all as variances."""
        _, _, variances = self.parameters()
        filled, centres = _rows_apart(u, len(variances), seed)
        spread = filled.var(0, correction=0)
        if self.likelihood.scale.source == "global":
            spread = spread.mean().expand_as(spread)
        equal = torch.zeros(len(variances), dtype=torch.float64).log_softmax(0)
        self.write(equal, centres, spread.expand_as(variances))


@dataclass(frozen=True, eq=False)
class CorrelatedMixture:
    r""":math:`p(u) = \sum_k \pi_k N(u; \mu_k, \Sigma_k)` of one conditional, full covariances.

    u are the data in the units of the likelihood, flat; an element may be missing (NaN).

    Attributes:
        observed: Name of x.
        mixture: The conditional that holds the weights, and the components.
        shrinkage: s: each covariance is learned from D further rows with s times that of all rows;
            0 is maximum likelihood.
        towards: Whether that is the covariance of all rows, or the diagonal of it.
    """

    observed: str
    mixture: Mixture
    shrinkage: float = 0.0
    towards: Literal["covariance", "variance"] = "covariance"

    @property
    def likelihood(self) -> Any:
        """A component; all have the same units."""
        return self.mixture.components[0]

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights ``(K,)``, means ``(K, D)`` and factors L of covariances, float64."""
        found = [each.standard() for each in self.mixture.components]  # type: ignore[operator]
        means = torch.stack([loc.detach().double().flatten() for loc, _ in found])
        factors = torch.stack([factor.detach().double() for _, factor in found])
        logits = self.mixture.head.free.detach().double().flatten()
        return torch.log_softmax(logits, 0), means, factors

    @torch.no_grad()
    def write(self, log_weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Put weights, means and covariances into the model."""
        free = self.mixture.head.free
        free.copy_(log_weights.reshape(free.shape))
        factors = torch.linalg.cholesky(covariances)
        for each, mean, factor in zip(self.mixture.components, means, factors, strict=True):
            component: Any = each
            own = component.raw(factor)
            if component.free is None:
                component.head.free.copy_(torch.cat([mean, own]).reshape(1, -1))
            else:
                component.head.free.copy_(mean.reshape(1, -1))
                component.free.copy_(own)

    def expect(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        r"""The E-step: log p(x) of each row, ``(rows,)``, and the sums that the M-step reads.

        With the precision :math:`\Lambda`, :math:`\delta = u - \mu`, zero where missing, and
        :math:`C = \Lambda_{mm}^{-1}`, what is missing has mean :math:`\mu_m - C (\Lambda
        \delta)_m` and covariance C, and :math:`\delta_o^T \Sigma_{oo}^{-1} \delta_o = \delta^T
        \Lambda \delta - (\Lambda \delta)_m^T C (\Lambda \delta)_m`.
        """
        log_weights, means, factors = self.parameters()
        there = ~u.isnan()
        offset = (torch.where(there, u, 0.0) - means.unsqueeze(1)) * there  # (K, rows, D)
        noise = torch.linalg.solve_triangular(factors, offset.mT, upper=False)
        half_log_determinant = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        joint = -0.5 * noise.square().sum(1) - half_log_determinant.unsqueeze(1)
        joint += log_weights.unsqueeze(1) - 0.5 * math.log(2 * math.pi) * there.sum(1)
        holes = (~there).any(1).nonzero().squeeze(1)
        blocks = holes.split(max(1, _NUMBERS // factors.numel())) if len(holes) else ()
        precision = torch.cholesky_inverse(factors)
        size, parts = len(means[0]), []
        for some in blocks:
            gone = ~there[some]
            most = int(gone.sum(1).max())
            place = gone.to(u).argsort(1, descending=True)[:, :most]  # of what is missing, first
            here = gone.gather(1, place).to(u)  # the others stay alone, with a precision of one
            block = precision[:, place.unsqueeze(2), place.unsqueeze(1)]  # (K, rows, most, most)
            block = block * here.unsqueeze(1) * here.unsqueeze(2) + torch.diag_embed(1.0 - here)
            root = torch.linalg.cholesky(block)
            where = place.expand(len(means), -1, -1)
            pull = (offset[:, some] @ precision).gather(2, where) * here
            shift = torch.cholesky_solve(pull.unsqueeze(-1), root).squeeze(-1)
            joint[:, some] += 0.5 * (pull * shift).sum(-1)
            joint[:, some] -= root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            offset[:, some] -= torch.zeros_like(offset[:, some]).scatter(2, where, shift)
            parts.append((place, here, root))
        log_px = torch.logsumexp(joint, 0)
        share = (joint - log_px).exp()  # (K, rows)
        spread = torch.zeros_like(factors).flatten(1)
        for some, (place, here, root) in zip(blocks, parts, strict=True):
            left = torch.cholesky_inverse(root) - torch.diag_embed(1.0 - here)
            left = (share[:, some, None, None] * left).flatten(1)
            at = (size * place.unsqueeze(2) + place.unsqueeze(1)).flatten()
            spread.scatter_add_(1, at.expand_as(left), left)
        weighted = share.unsqueeze(-1) * offset
        return log_px, {
            "weight": share.sum(1),  # (K,)
            "count": share @ there.to(u),  # (K, D)
            "first": weighted.sum(1),  # from the means before
            "second": weighted.mT @ offset + spread.view_as(factors),  # (K, D, D)
        }

    def maximise(self, sums: Mapping[str, Tensor]) -> None:
        r"""The M-step: weights, means, and :math:`(S_k + s D T) / (n_k + D)`.

        T is the covariance of all N rows and of D more with unit variances; without shrinkage the
        covariance is :math:`S_k / n_k`. A component that no row wants any more keeps its mean and
        covariance.
        """
        _, before, factors = self.parameters()
        weight = sums["weight"].clamp(min=1e-10)[:, None]
        change = sums["first"] / weight
        scatter = sums["second"] - weight.unsqueeze(-1) * change.unsqueeze(1) * change.unsqueeze(2)
        size = before.shape[1]
        unit = torch.eye(size).to(scatter)
        covariance = scatter / weight.unsqueeze(-1)
        if self.shrinkage:
            means = before + change
            apart = means - (weight * means).sum(0) / weight.sum()
            between = (weight * apart).mT @ apart
            every = (scatter.sum(0) + between + size * unit) / (weight.sum() + size)
            every = every * unit if self.towards == "variance" else every
            covariance = scatter + self.shrinkage * size * every
            covariance = covariance / (weight + size).unsqueeze(-1)
        covariance = covariance + self.likelihood.minimum_scale**2 * unit
        wanted = sums["weight"] > 1e-8
        covariance = torch.where(wanted[:, None, None], covariance, factors @ factors.mT)
        means = before + torch.where(wanted[:, None], change, 0.0)
        weights = (sums["weight"] / sums["weight"].sum()).clamp(min=1e-300).log()
        self.write(weights, means, covariance)

    def start(self, u: Tensor, seed: int) -> None:
        """Rows far from one another as means (k-means++), the variance of all as variances."""
        count = len(self.mixture.components)
        filled, centres = _rows_apart(u, count, seed)
        spread = filled.var(0, correction=0) + self.likelihood.minimum_scale**2
        equal = torch.zeros(count, dtype=torch.float64).log_softmax(0)
        spread = torch.diag(spread).expand(count, -1, -1)
        self.write(equal, centres, spread)


def _rows_apart(u: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows with means in their holes, and some far from one another; of few rows some twice."""
    from sklearn.cluster import kmeans_plusplus  # a second to import, and no other fit's

    filled = torch.where(u.isnan(), u.nanmean(0), u)
    rows = filled.cpu().numpy()
    centres, _ = kmeans_plusplus(rows, min(count, len(rows)), random_state=seed)
    return filled, torch.from_numpy(np.resize(centres, (count, rows.shape[1]))).to(filled)


def correlated_mixtures_of(
    model: LatentVariableModel,
    shrinkage: float = 0.0,
    towards: Literal["covariance", "variance"] = "covariance",
) -> list[CorrelatedMixture]:
    """The mixtures of Gaussians with full covariances whose mixture p is; none of other models."""
    p: Any = model.p
    if not isinstance(p, Joint) or len(p.order) != 1 or p.order[0].parents:
        return []
    name = p.order[0].names[0]
    found = _correlated_in(p.conditional(name))
    return [CorrelatedMixture(name, each, shrinkage, towards) for each in found]


def _correlated_in(conditional: Any) -> list[Any]:
    """A mixture of full-covariance Gaussians, or those that are mixed; none in anything else."""
    if not isinstance(conditional, Mixture) or conditional.head.network is not None:
        return []
    parts = [*conditional.components]
    if all([isinstance(p, FullCovarianceGaussian) and p.head.network is None for p in parts]):
        return [conditional]
    inner = [_correlated_in(part) for part in parts]
    return [each for found in inner for each in found] if all(inner) else []


def mixture_of(model: LatentVariableModel) -> MixtureOfGaussians | None:
    """The mixture of Gaussians that p is, or ``None`` if it is another model."""
    latent, observed, prior, likelihood = _linear_in_one(model)
    if not isinstance(prior, Categorical | OneHot):
        return None
    single = prior.head.network is None and prior.head.event_shape == ()
    return MixtureOfGaussians(latent, observed, prior, likelihood) if single else None
