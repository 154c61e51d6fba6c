"""Dequantization as a latent: what is rounded down, and the noise in a cell (R4.4)."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Dequantized, Gaussian, RoundedDown
from deeplvm.conditionals.flows import Flow, Logit, RealNVP
from deeplvm.networks import MLP

X = torch.tensor([[0.0, 3.0], [2.0, 1.0], [3.0, 3.0]], dtype=torch.float64)


def test_rounding_down() -> None:
    rounded = RoundedDown(2, levels=4)(torch.tensor([[0.0, 3.9], [-0.5, 7.0], [1.5, 2.5]]))
    assert rounded.sample().tolist() == [[0, 3], [0, 3], [1, 2]]
    right = torch.tensor([[0.0, 3.0], [0.0, 3.0], [1.0, 2.0]])
    assert rounded.log_prob(right).tolist() == [0, 0, 0]
    assert (rounded.log_prob(torch.tensor([1.0, 2.0]))).tolist() == [-math.inf, -math.inf, 0]
    noisy = RoundedDown(2, levels=4, noisy=True)(torch.tensor([[1.5, 2.5]]))
    assert noisy.sample().floor().tolist() == [[1, 2]]
    assert noisy.log_prob(torch.tensor([[1.9, 2.1], [2.1, 2.1]])).tolist() == [0, -math.inf]


def learned() -> Dequantized:
    torch.manual_seed(0)
    noise = RealNVP(2, MLP(2, 8), transforms=2, hidden=(8,), noise="logistic")
    cell = Dequantized(2, noise, units=(1.5, 1.0))
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return cell


@pytest.mark.parametrize("learns", [False, True])
def test_noise_is_normalised_within_its_cell(*, learns: bool) -> None:
    """Drawn and scored in one pass; integrates to one on a grid, to 2e-2; 0 outside."""
    cell = learned() if learns else Dequantized(2)
    distribution = cell(X).expand(torch.Size((5, 3)))
    value, log_prob = distribution.rsample_and_log_prob()
    assert torch.equal(value.floor(), X.expand(5, 3, 2))
    torch.testing.assert_close(distribution.log_prob(value), log_prob)
    axis = (torch.arange(200) + 0.5) / 200
    grid = torch.cartesian_prod(axis, axis)[:, None] + X
    total = cell(X).log_prob(grid).exp().mean(0)
    torch.testing.assert_close(total, torch.ones(3), rtol=0, atol=2e-2)
    assert (cell(X).log_prob(X + 1.5) == -math.inf).all()


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("learned_noise", [False, True])
def test_the_bound_is_below_the_mass_of_the_cell(*, noisy: bool, learned_noise: bool) -> None:
    """Independent normals: the mass is a product of differences of their distribution function.

    5 standard errors of 20,000 draws; of the mean of 20,000 weights to 1e-2. Seed fixed.
    """
    v = Gaussian(2, scale=0.8)
    with torch.no_grad():
        v.head.free.copy_(torch.tensor([[1.0, 2.0]]))
    p = Joint({"v": v, "x | v": RoundedDown(2, noisy=noisy)})
    inner = learned() if learned_noise else Dequantized(2)
    inner.noisy = noisy
    model = LatentVariableModel(p, Joint({"v | x": inner}))
    normal = torch.distributions.Normal(torch.tensor([1.0, 2.0]), 0.8)
    mass = (normal.cdf(X + 1) - normal.cdf(X)).log().sum(-1)
    torch.manual_seed(1)
    x = X + torch.rand_like(X) if noisy else X
    with torch.no_grad():
        evidence = model.evidence({"x": x}, particles=20_000)
    assert (elbo(evidence) < mass).all()
    torch.testing.assert_close(iwae(evidence), mass, rtol=0, atol=2e-2)


def test_uniform_pixels_have_eight_bits() -> None:
    """Logistic noise through the logit is uniform: -D log 256, whatever the value."""
    for alpha in (0.05, 1e-6):
        flow = Flow(4, units=Logit(4, 0.0, 256.0, alpha=alpha), noise="logistic")
        flow.minimum_scale = 0.0  # a scale of one, exactly
        value = 256 * torch.rand(5, 4)
        expected = torch.full((5,), 4 * math.log((1 - 2 * alpha) / 256))
        torch.testing.assert_close(flow().log_prob(value), expected, rtol=0, atol=1e-9)


def test_a_logit_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="alpha between 0 and 1/2, found low=0, high=1, alpha=0"):
        Logit(2, 0.0, 1.0, alpha=0.0)
    flow = Flow(2, units=Logit(2, 0.0, 1.0))
    assert flow().log_prob(torch.tensor([[0.5, 1.5], [0.5, 0.5]])).isinf().tolist() == [
        True,
        False,
    ]
