"""TB3: a Bernoulli decoder with logits (2z + 0.5, -z), x = (1, 0), z ~ N(0, 1)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.objectives import Form

LOG_PX = -1.046940937908


@pytest.fixture
def model() -> LatentVariableModel:
    decoder, encoder = Bernoulli(2, MLP(1)), Gaussian(1, MLP(2))
    with torch.no_grad():
        layer: Any = decoder.head.layer
        layer.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    return LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": decoder}), Joint({"z | x": encoder})
    )


X = ((1.0, 0.0),)


def quadrature(model: LatentVariableModel) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes z, their weights under N(0, 1), and log p(x | z) there."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    z = torch.tensor(nodes)[:, None]
    trace = model.p({"z": z, "x": torch.tensor(X).expand(120, 2)})
    log_prob = trace["x"].log_prob
    assert log_prob is not None
    return z, torch.tensor(weights / math.sqrt(2 * math.pi)), log_prob


def test_golden_value_by_quadrature(model: LatentVariableModel) -> None:
    """R1.7: log p(x), through the library's own conditionals."""
    with torch.no_grad():
        _, weights, log_prob = quadrature(model)
    assert float((weights * log_prob.exp()).sum().log()) == pytest.approx(LOG_PX, abs=1e-10)


def test_importance_sampling_meets_quadrature(model: LatentVariableModel) -> None:
    """R2.6a on TB3 with an untrained encoder: 4 standard errors; one seed in 16,000 fails."""
    estimate = importance_sampling(model, {"x": torch.tensor(X)}, particles=50_000)
    assert abs(estimate.mean - LOG_PX) < 4 * estimate.monte_carlo_stderr
    assert estimate.monte_carlo_stderr < 0.02


@pytest.mark.parametrize("form", ["sampled", "analytic", "entropy"])
def test_three_forms_of_the_elbo_agree(model: LatentVariableModel, form: Form) -> None:
    """R2.2b: within 4 standard errors (1e5 draws) of quadrature; one seed in 5,000 fails.

    The expectation under q is one under N(0, 1) after z = mu + sigma eps.
    """
    x = torch.tensor(X)
    with torch.no_grad():
        q = model.q({"x": x})["z"].distribution
        nodes, weights = np.polynomial.hermite_e.hermegauss(120)
        z = q.mean + q.stddev * torch.tensor(nodes)[:, None]
        p = model.p({"z": z, "x": x.expand(120, 2)})
        log_weight = p.log_prob - q.log_prob(z)
        exact = float((torch.tensor(weights / math.sqrt(2 * math.pi)) * log_weight).sum())

        draws = 100_000
        values = elbo(model.evidence({"x": x.expand(draws, 2)}), form=form)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(draws)
    assert exact < LOG_PX
