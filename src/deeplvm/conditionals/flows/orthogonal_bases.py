"""Orthonormal columns that a network's raw numbers choose: three ways to say them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeplvm.conditionals.flows.householder import reflect
from deeplvm.conditionals.flows.vectors import times
from deeplvm.distributions.multivariate_normal import product


class Basis:
    r"""M orthonormal columns Q of d elements: :math:`Q^T Q = I`.

    Attributes:
        features: d.
        columns: M.
        parameters_per_row: how many raw numbers say Q.
    """

    features: int
    columns: int
    parameters_per_row: int = 0

    def prepare(self, raw: Tensor) -> Tensor:
        """Numbers that ``project`` and ``lift`` read, as many as the raw: once for all draws."""
        return raw

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        """:math:`Q^T z`, of ``(*leading, d)`` to ``(*leading, M)``."""
        raise NotImplementedError

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        """:math:`Q y`, of ``(*leading, M)`` to ``(*leading, d)``."""
        raise NotImplementedError

    def start(self, raw: Tensor) -> None:
        """Set the starting values of the raw numbers, in place."""


class NearestOrthonormal(Basis):
    r"""The orthonormal columns nearest to a raw d x M matrix, by Björck's iteration.

    .. math:: Q_{k+1} = Q_k (I + \tfrac12 (I - Q_k^T Q_k))

    from the matrix divided by its Frobenius norm. It converges from every matrix of full rank,
    by a factor of 1.5 a step while a singular value is small and quadratically at the end; the
    number of steps is fixed and suffices for singular values of 3e-5 of the norm. A row whose
    matrix is closer to losing a rank than that, so that :math:`Q^T Q` is not the identity to
    1e-6, takes the first M unit vectors instead: the density is exact there too.

    An Iterative Algorithm for Computing the Best Estimate of an Orthogonal Matrix (Björck &
    Bowie, 1971), https://doi.org/10.1137/0708036
    """

    steps = 30
    tolerance = 1e-6

    def __init__(self, features: int, columns: int) -> None:
        self.features, self.columns = features, columns
        self.parameters_per_row = features * columns

    def prepare(self, raw: Tensor) -> Tensor:
        q = nn.functional.normalize(raw, dim=-1, eps=1e-20)
        q = self._matrix(q)
        identity = torch.eye(self.columns, dtype=raw.dtype, device=raw.device)
        for _ in range(self.steps):
            q = q + 0.5 * product(q, identity - product(q.mT, q))
        found = torch.linalg.matrix_norm(product(q.mT, q) - identity)
        enough = max(self.tolerance, 8 * self.columns * torch.finfo(raw.dtype).eps)
        units = torch.eye(self.features, self.columns, dtype=raw.dtype, device=raw.device)
        return torch.where((found <= enough)[..., None, None], q, units).flatten(-2)

    def _matrix(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(*numbers.shape[:-1], self.features, self.columns)

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        return times(self._matrix(prepared).mT, value)

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        return times(self._matrix(prepared), value)

    def start(self, raw: Tensor) -> None:
        """Orthonormal already, with entries of about 1."""
        matrix = nn.init.orthogonal_(torch.empty(self.features, self.columns, dtype=raw.dtype))
        raw.copy_(matrix.flatten() * self.features**0.5)


class Reflections(Basis):
    """A product of Householder reflections, M = d: an orthogonal matrix, never written out."""

    def __init__(self, features: int, number: int) -> None:
        self.features = self.columns = features
        self.parameters_per_row = number * features

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        for v in prepared.split(self.features, -1):
            value = reflect(value, v)
        return value

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        for v in prepared.split(self.features, -1)[::-1]:
            value = reflect(value, v)
        return value

    def start(self, raw: Tensor) -> None:
        """Mirrors in random directions."""
        raw.normal_()


class Order(Basis):
    """The elements in their order or in the reverse, M = d; no raw numbers."""

    def __init__(self, features: int, *, reverse: bool) -> None:
        self.features = self.columns = features
        self.reverse = reverse

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        return value.flip(-1) if self.reverse else value

    lift = project
