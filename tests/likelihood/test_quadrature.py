"""Quadrature for one or two latent dimensions, against closed forms."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.distributions import DiagonalNormal
from deeplvm.likelihood.quadrature import quadrature_likelihood
from deeplvm.networks import MLP
from models import Function, counts, linear


def knows_nothing(weight: Tensor, noise: float, shift: float = 0.0) -> LatentVariableModel:
    """TB1 of any size; q is a standard normal, at ``shift``."""
    normal = StandardNormal(weight.shape[1])()
    normal = DiagonalNormal(normal.loc + shift, normal.scale, 1)
    return linear(weight, noise, Function(lambda _: normal, weight.shape[1]))


def exactly(weight: Tensor, noise: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x), posterior means and the posterior covariance."""
    size, latents = weight.shape
    covariance = weight @ weight.T + noise**2 * torch.eye(size)
    m = weight.T @ weight + noise**2 * torch.eye(latents)
    inverse = torch.linalg.inv(m)
    marginal = torch.distributions.MultivariateNormal(torch.zeros(size), covariance)
    return marginal.log_prob(x), x @ weight @ inverse, noise**2 * inverse


def test_the_golden_value_of_a_linear_gaussian_model() -> None:
    """TB1: log p, posterior mean and variance."""
    model = knows_nothing(torch.tensor([[1.0], [2.0]]), math.sqrt(0.5))
    found = quadrature_likelihood(model, {"x": torch.ones(1, 2)})
    assert found.mean == pytest.approx(-2.707313885885, abs=1e-11)
    assert float(found.free_mean) == pytest.approx(6 / 11, abs=1e-11)
    assert float(found.free_covariance) == pytest.approx(1 / 11, abs=1e-11)
    assert found.largest_error < 1e-9


def test_the_golden_value_of_a_bernoulli_decoder() -> None:
    """TB3: logits (2z + 0.5, -z), x = (1, 0)."""
    decoder = Bernoulli(2, MLP(1))
    with torch.no_grad():
        layer: Any = decoder.head.layer
        layer.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    p = Joint({"z": StandardNormal(1), "x | z": decoder})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
    found = quadrature_likelihood(model, {"x": torch.tensor([[1.0, 0.0]])})
    assert found.mean == pytest.approx(-1.046940937908, abs=1e-10)
    assert found.largest_error < 1e-6
    coarse = quadrature_likelihood(model, {"x": torch.tensor([[1.0, 0.0]])}, points=6)
    assert abs(coarse.mean + 1.046940937908) < coarse.largest_error


@pytest.mark.parametrize("latents", [1, 2])
@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 40.0])
def test_posteriors_far_narrower_than_the_prior(latents: int, noise: float, shift: float) -> None:
    """TB1 whatever q says: correlated posteriors down to a ten-thousandth of the prior's width."""
    torch.manual_seed(0)
    weight = torch.randn(4, latents) * 2
    x = torch.randn(6, latents) @ weight.T + noise * torch.randn(6, 4)
    log_px, mean, covariance = exactly(weight, noise, x)
    found = quadrature_likelihood(knows_nothing(weight, noise, shift), {"x": x}, points=24)
    assert torch.allclose(found.log_px, log_px, rtol=0, atol=1e-7)
    assert torch.allclose(found.free_mean, mean, rtol=0, atol=1e-7 * noise)
    assert torch.allclose(
        found.free_covariance, covariance.expand_as(found.free_covariance), rtol=1e-6
    )


def test_a_discrete_latent_beside_it_is_summed() -> None:
    """A mixture of two Gaussians of z: log p(x) is a logsumexp of two normals."""
    labels = Categorical(2)
    prior = Gaussian(1, MLP(2), scale=0.6)
    likelihood = Gaussian(2, MLP(1), scale=0.5)
    p = Joint({"y": labels, "z | y": prior, "x | z": likelihood})
    q = Joint({"z | x": Gaussian(1, MLP(2)), "y | z": Categorical(2, MLP(1))})
    x = torch.randn(5, 2)
    found = quadrature_likelihood(LatentVariableModel(p, q), {"x": x}, 100)
    with torch.no_grad():
        weight, bias = likelihood.head.layer.weight, likelihood.head.layer.bias
        shares = torch.log_softmax(labels.head.free.flatten(), 0)
        means = prior(torch.eye(2)).mean  # (2, 1)
        covariance = 0.36 * weight @ weight.T + 0.25 * torch.eye(2)
        parts = [
            share
            + torch.distributions.MultivariateNormal(weight @ mean + bias, covariance).log_prob(x)
            for share, mean in zip(shares, means, strict=True)
        ]
    assert torch.allclose(found.log_px, torch.logsumexp(torch.stack(parts), 0), atol=1e-8)


def test_two_latents_that_depend_on_each_other_and_holes() -> None:
    """A chain b -> a -> x with missing elements, against the joint normal."""
    torch.manual_seed(0)
    p = Joint(
        {
            "b": StandardNormal(1),
            "a | b": Gaussian(1, MLP(1), scale=0.7),
            "x | a": Gaussian(3, MLP(1), scale=0.5),
        }
    )
    model = LatentVariableModel(
        p, Joint({"a | x": Gaussian(1, MLP(3)), "b | a": Gaussian(1, MLP(1))})
    )
    upper, lower = p["a"].head.layer, p["x"].head.layer
    of_a = upper.weight @ upper.weight.T + 0.49
    covariance = lower.weight @ of_a @ lower.weight.T + 0.25 * torch.eye(3)
    mean = lower.weight @ upper.bias + lower.bias
    x = torch.randn(4, 3)
    x[0, 1] = x[1, 2] = math.nan
    found = quadrature_likelihood(model, {"x": x})
    for row in range(4):
        seen = ~x[row].isnan()
        marginal = torch.distributions.MultivariateNormal(mean[seen], covariance[seen][:, seen])
        assert marginal.log_prob(x[row, seen]).item() == pytest.approx(
            found.log_px[row].item(), abs=1e-9
        )


def test_a_latent_with_a_constraint() -> None:
    """Counts of a Gamma's rate are negative binomial; the rate's logarithm has known moments."""
    x = torch.tensor([[0.0], [4.0], [15.0], [120.0]])
    found = quadrature_likelihood(counts(), {"x": x})
    exact = torch.from_numpy(stats.nbinom(3.0, 0.5 / 1.5).logpmf(x[:, 0].numpy()))
    assert torch.allclose(found.log_px, exact, rtol=0, atol=1e-7)
    shape = 3.0 + x[:, 0]
    assert torch.allclose(found.free_mean[:, 0], shape.digamma() - math.log(1.5), atol=1e-6)
    assert torch.allclose(found.free_covariance[:, 0, 0], torch.polygamma(1, shape), atol=1e-5)


class Magnitude(nn.Module):
    """A normal around the squared length of z."""

    event_shape = torch.Size((1,))

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, z: Tensor) -> torch.distributions.Distribution:
        size = z.square().sum(-1, keepdim=True)
        return torch.distributions.Independent(torch.distributions.Normal(size, self.noise), 1)


def test_two_modes() -> None:
    """Both are seen, or the error says that they are not, against a sum on a fine grid."""

    x = torch.tensor([[0.5], [2.0], [4.0]])
    q = Gaussian(1, MLP(1))
    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Magnitude(0.4)}), Joint({"z | x": q})
    )
    found = quadrature_likelihood(model, {"x": x}, points=160)
    grid = torch.linspace(-8, 8, 20_001)
    log_joint = torch.distributions.Normal(0.0, 1.0).log_prob(grid) + torch.distributions.Normal(
        grid.square(), 0.4
    ).log_prob(x)
    exact = log_joint.logsumexp(1) + math.log(16 / 20_000)
    # the third row's modes, 0.1 wide and 4 apart, are narrower than the nodes: its error says so
    error = (found.log_px - exact).abs()
    assert error[0] < 1e-6
    assert (error < 2 * found.log_px_stderr + 1e-6).all()
    assert found.log_px_stderr[2] > 0.1


def test_a_ring_in_two_dimensions() -> None:
    """The posterior lies on a ring; |z|^2 is exponential with mean 2, so p(x) is an integral."""
    x = torch.tensor([[0.5], [2.0], [4.0]])
    ring = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Magnitude(1.0)}),
        Joint({"z | x": Gaussian(2, MLP(1))}),
    )
    found = quadrature_likelihood(ring, {"x": x})
    size = np.linspace(0, 60, 60_001)
    for row in range(3):
        value = stats.expon(scale=2.0).pdf(size) * stats.norm(size, 1.0).pdf(float(x[row]))
        error = abs(float(found.log_px[row]) - math.log(np.trapezoid(value, size)))
        assert error < 1e-2
        assert error < 2 * float(found.log_px_stderr[row]) + 1e-7


def test_the_result_is_plain_and_repeats() -> None:
    model = knows_nothing(torch.tensor([[1.0], [2.0]]), 1.0)
    data = {"x": torch.randn(5, 2)}
    model.train()
    before = torch.get_rng_state()
    first = quadrature_likelihood(model, data, 16)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    again = quadrature_likelihood(model, data, 16)
    assert torch.equal(first.log_px, again.log_px)
    assert (
        quadrature_likelihood(model, {name: value[:2] for name, value in data.items()}, 16).rows
        == 2
    )
    assert json.loads(json.dumps(first.to_dict()))["dimensions"] == 1
    assert "16 Gauss–Hermite nodes" in str(first)
    one = quadrature_likelihood(model, {name: value[:1] for name, value in data.items()})
    assert one.to_dict()["stderr"] is None
    (first.log_px + 1).sum()  # plain tensors, no inference mode


def test_a_row_that_p_cannot_explain() -> None:
    """A row of probability zero beside others, and one that is not a number."""

    class Parity(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, z: Tensor) -> torch.distributions.Distribution:
            low, high = torch.sigmoid(z), 1.0 + torch.sigmoid(z)
            uniform = torch.distributions.Uniform(low, high, validate_args=False)
            return torch.distributions.Independent(uniform, 1)

    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Parity()}), Joint({"z | x": Gaussian(1, MLP(1))})
    )
    found = quadrature_likelihood(model, {"x": torch.tensor([[5.0], [1.0]])})
    assert found.log_px[0] == -math.inf
    assert found.log_px[1] == pytest.approx(0.0, abs=1e-10)
    assert found.to_dict()["value"] is None
    broken = knows_nothing(torch.tensor([[1.0], [math.nan]]), 1.0)
    with pytest.raises(ValueError, match=r"not a number, or \+inf, in 2 rows"):
        quadrature_likelihood(broken, {"x": torch.zeros(2, 2)})


def test_what_cannot_be_integrated_is_said() -> None:
    three = knows_nothing(torch.randn(4, 3), 1.0)
    data = {"x": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"one or two.*have 3.*annealed_importance_sampling"):
        quadrature_likelihood(three, data)
    for points in (3, 161):
        with pytest.raises(ValueError, match="points is at"):
            quadrature_likelihood(three, data, points)
    p = Joint({"h": Bernoulli(2), "x | h": Gaussian(4, MLP(2))})
    discrete = LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(4))}))
    with pytest.raises(ValueError, match="exact_likelihood"):
        quadrature_likelihood(discrete, data)
