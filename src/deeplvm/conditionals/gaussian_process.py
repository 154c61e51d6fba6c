"""Functions drawn from a Gaussian process that is pinned at learned points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import Head, at_least, positive
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.multivariate_normal import product


class GaussianProcess(nn.Module):
    r"""Values :math:`f(\xi)` of random functions that pass near learned points.

    Each of the D functions is a Gaussian process with a constant mean c and the kernel

    .. math:: k(\xi, \xi') = a^2 \exp(-\tfrac12 \sum_j (\xi_j - \xi'_j)^2 / \ell_j^2)

    given its variational data: at the inputs :math:`s_1, \dots, s_m` it takes the values
    :math:`t_1, \dots, t_m`, up to noise of variance :math:`\nu a^2`. At one input its value is
    normal, and the D functions are independent:

    .. math:: f_d(\xi) \sim N(c_d + k_\xi^T (K + \nu a^2 I)^{-1} (t_d - c_d),\;
              a^2 - k_\xi^T (K + \nu a^2 I)^{-1} k_\xi)

    The inputs s, the lengths and the amplitude are learned for all rows; c and t - c are computed
    from the parents, so that each row has functions of its own. At first t = c: the functions of a
    row are constant, and what reads them sees little more than c.

    The Variational Gaussian Process (Tran, Ranganath & Blei, 2016),
    https://arxiv.org/abs/1511.06499

    Args:
        features: D, the number of functions.
        inputs: dimensions of :math:`\xi`.
        network: maps the parents after :math:`\xi` to features, from which a linear head makes
            c and t - c; ``None`` for numbers that are learned directly.
        points: m, the number of variational data; a factorisation of an m by m matrix a step.
        noise: :math:`\nu`, relative to :math:`a^2`; it keeps the matrix well-conditioned in single
            precision.
        amplitude: the first a. A reverse model is as narrow as the functions are sure, and what
            it cannot yet follow does not grow: a small amplitude learns slowly.

    The first lengths are the distance of two draws of :math:`N(0, I)`,
    :math:`\sqrt{2 \cdot \text{inputs}}`.

    Shape:
        Parents :math:`\xi` ``(*particles, batch, inputs)`` and any others of leading shape
        ``(*particles, batch)`` give that batch shape, event ``(features,)``.

    Raises:
        ValueError: a size is below 1, or the noise or the amplitude is not positive.

    Examples:
        >>> from deeplvm.networks import MLP
        >>> mapping = GaussianProcess(20, 2, MLP(784, 500))
        >>> mapping(torch.zeros(5, 100, 2), torch.zeros(100, 784)).batch_shape
        torch.Size([5, 100])
    """

    def __init__(
        self,
        features: int,
        inputs: int,
        network: nn.Module | None = None,
        *,
        points: int = 10,
        noise: float = 1e-4,
        amplitude: float = 1.0,
    ) -> None:
        super().__init__()
        owner = "GaussianProcess"
        self.event_shape = Size((at_least(features, 1, owner, "features"),))
        self.inputs = at_least(inputs, 1, owner, "inputs")
        self.points = at_least(points, 1, owner, "points")
        for name, number in (("noise", noise), ("amplitude", amplitude)):
            if not number > 0:
                raise ValueError(f"GaussianProcess expects {name} above 0, found {number}.")
        self.noise, self.first = noise, amplitude
        self.locations = nn.Parameter(torch.randn(points, inputs))  # as the inputs are spread
        self.lengths = nn.Parameter(torch.zeros(inputs))
        self.amplitude = nn.Parameter(torch.zeros(()))
        self.head = Head(network, Size((1 + points, features)), 1, owner)
        if network is not None and isinstance(self.head.layer, nn.Linear):
            with torch.no_grad():
                self.head.layer.weight[features:].zero_()
                self.head.layer.bias[features:].zero_()

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution of the functions' values, given the inputs and then other parents."""
        if not parents or parents[0].shape[-1] != self.inputs:
            raise TypeError(
                f"GaussianProcess reads its inputs from the first of its parents, "
                f"{self.inputs} wide, found shapes {[tuple(each.shape) for each in parents]}."
            )
        inputs, *others = parents
        (values,) = self.head.each(*others)  # (*particles, batch, 1 + m, D)
        weights, reduction = self._weights(self._correlations(inputs))
        centre, offsets = values[..., 0, :], values[..., 1:, :]
        mean = centre + product(weights.unsqueeze(-2), offsets).squeeze(-2)
        # the variance is never below a^2 nu / (nu + m); rounding must not take it there
        least = self.noise / (self.noise + self.points)
        scale = self._amplitude() * (1 - reduction).clamp(min=least).sqrt()
        return DiagonalNormal(mean, scale.unsqueeze(-1), 1)

    def _amplitude(self) -> Tensor:
        return positive(self.amplitude, 1e-3 * self.first, self.first)

    def _lengths(self) -> Tensor:
        return positive(self.lengths, 1e-3, math.sqrt(2 * self.inputs))

    def _correlations(self, inputs: Tensor) -> Tensor:
        r""":math:`k(\xi, s_i) / a^2`, shape ``(*leading, m)``."""
        offsets = (inputs.unsqueeze(-2) - self.locations) / self._lengths()
        return (-0.5 * offsets.square().sum(-1)).exp()

    def _weights(self, correlations: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`(K + \nu a^2 I)^{-1} k_\xi`, and :math:`k_\xi^T` times it over :math:`a^2`."""
        gram = self._correlations(self.locations)
        gram = gram + self.noise * torch.eye(self.points, dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky_ex(gram).L  # positive definite: nothing to check
        columns = correlations.reshape(-1, self.points).mT  # (m, rows)
        half = torch.linalg.solve_triangular(factor, columns, upper=False)
        weights = torch.linalg.solve_triangular(factor.mT, half, upper=True)
        leading: Sequence[int] = correlations.shape[:-1]
        return weights.mT.reshape(correlations.shape), half.square().sum(0).reshape(leading)

    def extra_repr(self) -> str:
        return f"{self.event_shape[0]}, inputs={self.inputs}, points={self.points}"
