"""Normal distribution by the Cholesky factor of its covariance."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from deeplvm.distributions.multivariate_normal import MultivariateNormal, _solve_lower, product


class FullCovarianceNormal(MultivariateNormal):
    r"""Normal :math:`x = \mu + L \epsilon`, :math:`\Sigma = L L^T`.

    .. math:: \log p(x) = -\sum_i \tfrac{1}{2} \epsilon_i^2 + \tfrac{1}{2} \log 2 \pi
              + \log L_{ii}

    A draw is scored from its own noise, without solving for it.

    Args:
        loc: the mean, shape ``(*batch, *event)``, of d elements in all.
        factor: L, lower triangular with a positive diagonal, shape ``(*batch, d, d)``.
        event_dims: the number of dimensions of the event.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1,
    https://arxiv.org/abs/1906.02691

    Examples:
        >>> normal = FullCovarianceNormal(
        ...     torch.tensor([0.5, -0.3]), torch.tensor([[0.8, 0.0], [0.4, 0.6]])
        ... )
        >>> print(f"{normal.log_prob(torch.tensor([0.66, -0.82])):.6f}")
        -1.623908
    """

    def __init__(self, loc: Tensor, factor: Tensor, event_dims: int = 1) -> None:
        super().__init__(loc, event_dims, factor.shape[:-2])
        self._factor = factor

    def root(self) -> Tensor:
        return self._factor

    def energy(self, offset: Tensor) -> Tensor:
        return _solve_lower(self._factor, offset).square().sum(-1)

    def log_determinant(self) -> Tensor:
        return 2 * self._factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _draw(self, shape: Size) -> tuple[Tensor, Tensor | None]:
        noise = self._noise(shape, self.event_shape.numel())
        offset = product(self._factor, noise.unsqueeze(-1)).squeeze(-1)
        return offset, noise.square().sum(-1)


def dense(normal: MultivariateNormal) -> FullCovarianceNormal:
    """The same distribution by the Cholesky factor of its covariance; costs d cubed a row."""
    factor = torch.linalg.cholesky(normal.covariance_matrix)
    return FullCovarianceNormal(normal.loc, factor, len(normal.event_shape))
