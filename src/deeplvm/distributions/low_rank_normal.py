"""Normal distributions whose covariance, or precision, is diagonal plus low rank."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from deeplvm.distributions.multivariate_normal import MultivariateNormal, product


class LowRankNormal(MultivariateNormal):
    r"""Normal with covariance :math:`\Sigma = W W^T + \mathrm{diag}(\sigma^2)`: factor analysis.

    Scored with the determinant lemma and the Woodbury identity: cost and memory are linear in d.
    With :math:`V = \mathrm{diag}(\sigma)^{-1} W` and :math:`C = I + V^T V` (rank by rank),

    .. math:: \log \det \Sigma = \log \det C + 2 \textstyle\sum_i \log \sigma_i .

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: W, shape ``(*batch, d, rank)``.
        scale: :math:`\sigma`, shape ``(*batch, d)``.
        event_dims: the number of dimensions of the event.
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, event_dims: int = 1) -> None:
        leading = torch.broadcast_shapes(factor.shape[:-2], scale.shape[:-1])
        super().__init__(loc, event_dims, leading)
        self._factor = factor
        self._scale = scale
        self._whitened = factor / scale.unsqueeze(-1)  # V
        self._inner = _root_of_inner(self._whitened)

    def root(self) -> Tensor:
        scale = torch.diag_embed(self._scale)
        leading = torch.broadcast_shapes(self._factor.shape[:-2], scale.shape[:-2])
        parts = [part.expand(*leading, *part.shape[-2:]) for part in (self._factor, scale)]
        return torch.cat(parts, -1)

    @property
    def variance(self) -> Tensor:
        variance = self._factor.square().sum(-1) + self._scale.square()
        return self._as_event(variance).expand(self._extended_shape())

    def energy(self, offset: Tensor) -> Tensor:
        # min over z of |y - V z|^2 + |z|^2, y the whitened offset: a sum of squares, so it
        # cannot turn negative as y^T y - y^T V C^-1 V^T y does when W is much larger than sigma
        whitened = offset / self._scale
        projected = product(self._whitened.mT, whitened.unsqueeze(-1)).squeeze(-1)
        weights = torch.cholesky_solve(projected.unsqueeze(-1), self._inner_for(projected))
        residual = whitened - product(self._whitened, weights).squeeze(-1)
        return residual.square().sum(-1) + weights.squeeze(-1).square().sum(-1)

    def log_determinant(self) -> Tensor:
        inner = self._inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * (inner + self._scale.log().sum(-1))

    def _inner_for(self, projected: Tensor) -> Tensor:
        rank = projected.shape[-1]
        return self._inner.expand(*projected.shape[:-1], rank, rank)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        shared = self._noise(shape, self._factor.shape[-1])
        own = self._noise(shape, self.event_shape.numel())
        return product(self._factor, shared.unsqueeze(-1)).squeeze(-1) + self._scale * own, None


class LowRankPrecisionNormal(MultivariateNormal):
    r"""Normal with precision :math:`\Sigma^{-1} = \mathrm{diag}(\sigma^{-2}) + U U^T`.

    With :math:`V = \mathrm{diag}(\sigma) U`, :math:`C = I + V^T V = L L^T`, a draw is

    .. math:: x = \mu + \sigma \odot (\epsilon - V L^{-T} (L + I)^{-1} V^T \epsilon),

    for any rank: with :math:`K = L^{-T} (L + I)^{-1}`, :math:`K + K^T - K V^T V K^T = C^{-1}`.

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: U, shape ``(*batch, d, rank)``.
        scale: :math:`\sigma`, shape ``(*batch, d)``.
        event_dims: the number of dimensions of the event.

    Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et
    al., 2014), https://arxiv.org/abs/1401.4082
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, event_dims: int = 1) -> None:
        leading = torch.broadcast_shapes(factor.shape[:-2], scale.shape[:-1])
        super().__init__(loc, event_dims, leading)
        self._scale = scale
        self._whitened = factor * scale.unsqueeze(-1)  # V
        self._inner = _root_of_inner(self._whitened)

    def root(self) -> Tensor:
        elements = self.event_shape.numel()
        identity = torch.eye(elements, dtype=self._scale.dtype, device=self._scale.device)
        return self._scale.unsqueeze(-1) * (identity - self._shrinkage(self._whitened.mT))

    def energy(self, offset: Tensor) -> Tensor:
        whitened = offset / self._scale
        projected = product(self._whitened.mT, whitened.unsqueeze(-1)).squeeze(-1)
        return whitened.square().sum(-1) + projected.square().sum(-1)

    def log_determinant(self) -> Tensor:
        inner = self._inner.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * (self._scale.log().sum(-1) - inner)

    def _shrinkage(self, projected: Tensor) -> Tensor:
        # V L^-T (L + I)^-1 applied to projections V^T e, shape (*batch, rank, columns)
        rank = self._inner.shape[-1]
        identity = torch.eye(rank, dtype=self._scale.dtype, device=self._scale.device)
        lower = torch.linalg.solve_triangular(self._inner + identity, projected, upper=False)
        upper = torch.linalg.solve_triangular(self._inner.mT, lower, upper=True)
        return product(self._whitened, upper)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        noise = self._noise(shape, self.event_shape.numel()).unsqueeze(-1)
        shrunk = self._shrinkage(product(self._whitened.mT, noise))
        return self._scale * (noise - shrunk).squeeze(-1), None


def _root_of_inner(whitened: Tensor) -> Tensor:
    """Cholesky factor of :math:`I + V^T V`, shape ``(*batch, rank, rank)``.

    By a QR factorisation of I stacked on V: it costs the same, cannot fail, and has the digits
    that forming V^T V would lose where V is large.
    """
    rank = whitened.shape[-1]
    identity = torch.eye(rank, dtype=whitened.dtype, device=whitened.device)
    stacked = torch.cat([identity.expand(*whitened.shape[:-2], rank, rank), whitened], -2)
    upper = torch.linalg.qr(stacked).R
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
