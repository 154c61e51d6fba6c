"""TB1 to be learned: data, models of it, and the likelihood that none can exceed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.networks import MLP


@dataclass(frozen=True)
class Problem:
    """60 rows of five elements, whose first principal components are two."""

    x: Tensor

    def model(
        self, scale: str | float = "global", posterior: nn.Module | None = None, latent: int = 2
    ) -> LatentVariableModel:
        torch.manual_seed(1)
        p = Joint({"z": StandardNormal(latent), "x | z": Gaussian(5, MLP(latent), scale=scale)})
        q = posterior or FullCovarianceGaussian(latent, MLP(5), covariance="global")
        return LatentVariableModel(p, Joint({"z | x": q}))

    @property
    def maximum(self) -> float:
        """-1/2 {D log 2 pi + sum_{j <= K} log l_j + (D - K) log s2 + D}, a row (R2.2.1)."""
        levels = torch.linalg.eigvalsh(torch.cov(self.x.T, correction=0)).flip(0)
        rest = levels[2:].mean()
        return -0.5 * float(
            5 * math.log(2 * math.pi) + levels[:2].log().sum() + 3 * rest.log() + 5
        )

    def log_px(self, model: LatentVariableModel, x: Tensor | None = None) -> Tensor:
        """The marginal density by torch's own multivariate normal, of what is observed."""
        likelihood = model.p["x"]
        weight, bias = likelihood.head.layer.weight, likelihood.head.layer.bias
        scale = likelihood.scale(()).expand(5)
        covariance = weight @ weight.T + torch.diag(scale.square())
        rows = []
        for row in self.x if x is None else x:
            there = ~row.isnan()
            rows.append(
                MultivariateNormal(bias[there], covariance[there][:, there]).log_prob(row[there])
            )
        return torch.stack(rows)


@pytest.fixture
def tb1() -> Problem:
    torch.manual_seed(0)
    weight = torch.tensor([[1.5, 0.4], [-0.6, 1.2], [0.3, 0.8], [0.9, -0.5], [1.0, 1.0]])
    x = torch.randn(60, 2) @ weight.T + 0.5 * torch.randn(60, 5) + torch.arange(5.0)
    return Problem(x)
