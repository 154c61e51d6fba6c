"""Draws that make an expectation under q exact, or its draws known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from deeplvm import Evidence, Joint, LatentVariableModel
from deeplvm.gradients import Drawn
from models import Function

Exact = Callable[..., Evidence]


@dataclass(frozen=True)
class Quadrature:
    """The nodes of a scalar normal as enumerated values: every bound is an integral to 1e-12."""

    order: int = 120

    def __call__(
        self, name: str, distribution: Any, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.order)
        shape = (self.order, *batch_shape)
        noise = torch.tensor(nodes).reshape(-1, *[1] * len(batch_shape)).expand(shape)
        value = distribution.loc + distribution.scale * noise
        measure = torch.tensor(weights).log() - 0.5 * math.log(2 * math.pi)
        measure = measure.reshape(-1, *[1] * len(batch_shape)).expand(shape)
        return Drawn(value, distribution.log_prob(value), shape, measure)


@pytest.fixture
def exact() -> Exact:
    """Evidence whose scalar normal latents are integrated instead of drawn."""

    def evidence(model: LatentVariableModel, x: Tensor, **options: Any) -> Evidence:
        draw = {name: Quadrature() for name in model.q.names}
        return model.evidence({"x": x}, draw=draw, **options)

    return evidence


@pytest.fixture
def conjugate() -> LatentVariableModel:
    """TB4: z ~ N(0, 1), x | z ~ N(z, 1), q the prior."""
    p = Joint(
        {
            "z": Function(lambda: Normal(torch.zeros(()), 1.0)),
            "x | z": Function(lambda z: Normal(z, 1.0)),
        }
    )
    q = Joint({"z": Function(lambda: Normal(torch.zeros(()), torch.ones(())))})
    return LatentVariableModel(p, q)
