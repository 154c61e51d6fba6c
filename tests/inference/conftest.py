"""TB1 with exact expectations: every bound here is a number without noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.gradients import Drawn
from deeplvm.networks import MLP


@dataclass(frozen=True)
class Nodes:
    """Gauss-Hermite nodes instead of draws: expectations of cubics under a normal are exact."""

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(2))
        normal: Any = distribution
        (size,) = normal.event_shape
        grid = torch.cartesian_prod(*[nodes] * size).reshape(-1, size)
        measure = torch.cartesian_prod(*[weights / weights.sum()] * size)
        measure = measure.reshape(-1, size).log().sum(1)
        root = torch.linalg.cholesky(normal.covariance_matrix) if _full(normal) else None
        ones = (1,) * len(batch_shape)
        offset = grid.reshape(-1, *ones, size)
        if root is None:
            offset = offset * normal.scale
        else:
            offset = (root @ offset.unsqueeze(-1)).squeeze(-1)
        shape = (len(grid), *batch_shape)
        value = (normal.loc + offset).expand(*shape, size)
        return Drawn(value, normal.log_prob(value), shape, measure.reshape(-1, *ones))


def _full(distribution: Any) -> bool:
    return hasattr(distribution, "covariance_matrix")


@pytest.fixture
def nodes() -> dict[str, Nodes]:
    return {"z": Nodes()}


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x | z) = N(Wz + b, s2 I), and what follows from it."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    variance: float

    def p(self) -> Joint:
        likelihood = Gaussian(4, MLP(2), scale=math.sqrt(self.variance))
        layer: Any = likelihood.head.layer
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return Joint({"z": StandardNormal(2), "x | z": likelihood})

    def model(self, posterior: nn.Module) -> LatentVariableModel:
        return LatentVariableModel(self.p(), Joint({"z | x": posterior}))

    @property
    def precision(self) -> Tensor:
        """S^-1, of the posterior."""
        return torch.eye(2) + self.weight.T @ self.weight / self.variance

    @property
    def log_px(self) -> Tensor:
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(4)
        return MultivariateNormal(self.bias, covariance).log_prob(self.x)

    @property
    def diagonal_gap(self) -> Tensor:
        """R2.1c: 1/2 (sum log (S^-1)_ii + log det S)."""
        return 0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet())


@pytest.fixture
def tb1() -> LinearGaussian:
    torch.manual_seed(3)
    weight = torch.tensor([[1.0, 0.4], [-0.6, 1.2], [0.3, 0.8], [0.9, -0.5]])
    bias = torch.tensor([0.2, -0.1, 0.0, 0.5])
    covariance = weight @ weight.T + 0.5 * torch.eye(4)
    x = MultivariateNormal(bias, covariance).sample((6,))
    return LinearGaussian(x, weight, bias, 0.5)


@pytest.fixture
def maximise() -> Callable[[Callable[[], Tensor], list[Tensor]], float]:
    """Ascend a deterministic function of some parameters to its top."""

    def climb(value: Callable[[], Tensor], parameters: list[Tensor]) -> float:
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=300,
            tolerance_grad=1e-11,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -value()
            loss.backward()
            return loss

        optimizer.step(closure)
        return float(value().detach())

    return climb
