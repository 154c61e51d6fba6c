"""A standard normal with a learned acceptance: what it integrates to, and what is said of Z."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, Resampled
from deeplvm.evaluation import evaluate
from deeplvm.networks import MLP


def steep(truncation: int) -> Resampled:
    torch.manual_seed(0)
    prior = Resampled(1, hidden=(8,), truncation=truncation, samples=4096).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(6.0)
    return prior.eval()


@pytest.mark.parametrize("truncation", [1, 2, 5, 100])
@torch.no_grad()
def test_it_integrates_to_one(truncation: int) -> None:
    """By quadrature: exactly with the true Z, and with its estimate within its error."""
    prior = steep(truncation)
    grid = torch.linspace(-9, 9, 6001).double()[:, None]
    width = (grid[1] - grid[0]).item()
    normal = (-0.5 * grid.squeeze(-1).square()).exp() / math.sqrt(2 * math.pi)
    exact = (normal * prior.log_acceptance(grid).exp()).sum() * width
    distribution = prior()
    found = prior.normaliser.estimate
    assert abs(found.value - exact.log()) < 5 * found.stderr  # fails once in 1.7 million
    total = distribution.log_prob(grid).exp().sum() * width
    assert abs(total - 1) < 5 * found.stderr
    distribution.log_z = exact.log()
    assert distribution.log_prob(grid).exp().sum() * width == pytest.approx(1, abs=1e-9)
    assert truncation > 1 or torch.allclose(distribution.log_prob(grid).exp(), normal)


@torch.no_grad()
def test_draws_are_of_its_density() -> None:
    """The distribution function at three points, within 4.5 errors: 2 in 100,000; seed fixed."""
    prior = steep(4)
    grid = torch.linspace(-9, 9, 6001).double()[:, None]
    density = prior().log_prob(grid).exp()
    draws = prior().sample((20_000,))
    for point in (-1.0, 0.0, 1.0):
        below = density[grid.squeeze(-1) < point].sum() / density.sum()
        share = (draws < point).double().mean()
        assert abs(share - below) < 4.5 * (below * (1 - below) / 20_000).sqrt()


def test_measured_it_is_a_function_of_the_parameters_alone() -> None:
    """The same twice, whatever the seed; another after a step; no random number is taken."""
    prior = steep(5)
    state = torch.get_rng_state()
    first = prior().log_z
    assert torch.equal(prior().log_z, first)
    assert torch.equal(torch.get_rng_state(), state)
    (gradient,) = torch.autograd.grad(first, [prior.head.layer.bias])  # type: ignore[list-item]
    with torch.no_grad():
        prior.head.layer.bias.add_(1e-4)  # type: ignore[union-attr]
    assert (prior().log_z - first).item() == pytest.approx(1e-4 * gradient.item(), rel=1e-3)
    prior.train()
    assert not torch.equal(prior().log_z, prior().log_z)


def test_an_evaluation_says_how_well_z_is_known() -> None:
    model = LatentVariableModel(
        Joint({"z": steep(5), "x | z": Gaussian(2, MLP(1), scale=1.0)}),
        Joint({"z | x": Gaussian(1, MLP(2))}),
    ).double()
    found = evaluate(model, {"x": torch.zeros(6, 2).double()}, particles=10)
    assert found.normalisers == {"z": steep(5).normaliser.estimate.to_dict()}
    assert "log Z(z)" in str(found)
    assert "normalisers" in found.to_dict()


@pytest.mark.parametrize("options", [{"truncation": 0}, {"samples": 1}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Resampled expects"):
        Resampled(2, **options)  # type: ignore[arg-type]
