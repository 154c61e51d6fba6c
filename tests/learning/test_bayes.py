"""Bayesian treatment of global parameters, where posterior and predictive density are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import (
    Beta,
    Cauchy,
    Distribution,
    Independent,
    Laplace,
    Normal,
    kl_divergence,
)

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Beta as BetaConditional
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.learning.bayes import (
    held,
    make_random,
    minus_divergence,
    posterior_predictive,
    posteriors,
)
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.training import Machine, Optimization, fit


class BetaPrior(nn.Module):
    event_shape = torch.Size((1,))

    def forward(self) -> Distribution:
        return Independent(Beta(torch.tensor([2.0]), torch.tensor([3.0])), 1)


class Coin(nn.Module):
    event_shape = torch.Size((1,))

    def forward(self, theta: Tensor) -> Distribution:
        return Independent(BernoulliDistribution(theta, validate_args=False), 1)


def test_a_coin_by_a_name_that_all_rows_share() -> None:
    """R1.6.3: the predictive density of heads is (a + h) / (a + b + h + t)."""
    heads, tails = 6, 4
    p = Joint({"theta": BetaPrior(), "x | theta": Coin()}, shared=["theta"])
    q = Joint({"theta": BetaConditional(1)}, shared=["theta"])
    model = LatentVariableModel(p, q)
    x = torch.tensor([1.0] * heads + [0.0] * tails).unsqueeze(1)
    fit(
        model,
        {"x": x},
        epochs=150,
        batch_size=10,
        particles=20,
        optimization=Optimization(learning_rate=0.05, schedule="cosine"),
        machine=Machine(device="cpu", compile=False),
        quiet=True,
    )
    new = {"x": torch.tensor([[1.0], [0.0]])}
    predictive = importance_sampling(model, new, particles=20_000).log_px.exp()
    truth = (2 + heads) / (2 + 3 + heads + tails)
    assert predictive[0].item() == pytest.approx(truth, abs=0.01)
    assert predictive.sum().item() == pytest.approx(1.0, abs=1e-6)


def regression() -> tuple[LatentVariableModel, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(30, 2)
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.3 + 0.5 * torch.randn(30, 1)
    p = Joint({"y | x": Gaussian(1, MLP(2), scale=0.5)})
    return LatentVariableModel(p, Joint({})), x, y


def test_a_regression_has_the_best_factorised_posterior_and_its_predictive_density() -> None:
    """Means are those of the exact posterior, variances 1 / (precision)_ii."""
    model, x, y = regression()
    make_random(model, {"p.y.*": Normal(0.0, 1.0)})
    fit(
        model,
        {"x": x, "y": y},
        log_prior=minus_divergence,
        epochs=500,
        batch_size=30,
        optimization=Optimization(learning_rate=0.05, schedule="cosine"),
        machine=Machine(device="cpu", compile=False),
        quiet=True,
    )
    design = torch.cat([x, torch.ones(30, 1)], 1)
    precision = torch.eye(3) + design.T @ design / 0.25
    mean = torch.linalg.solve(precision, design.T @ y / 0.25)[:, 0]
    q = posteriors(model)
    found = [q[f"p.y.head.layer.{name}"] for name in ("weight", "bias")]
    loc = torch.cat([each.loc.flatten() for each in found]).detach()
    scale = torch.cat([each.scale.flatten() for each in found]).detach()
    assert torch.allclose(loc, mean, atol=0.03)
    assert torch.allclose(scale, precision.diagonal().rsqrt(), rtol=0.15)

    new = torch.tensor([[3.0, 3.0], [0.0, 0.1]])
    value = torch.tensor([[-2.0], [0.5]])
    extended = torch.cat([new, torch.ones(2, 1)], 1)
    deviation = (0.25 + extended.square() @ scale.square()).sqrt()
    truth = Normal(extended @ loc, deviation).log_prob(value[:, 0])
    state = torch.random.get_rng_state()
    predictive = posterior_predictive(model, {"x": new, "y": value}, draws=200, particles=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ((predictive.log_px - truth).abs() < 4 * predictive.log_px_stderr).all()
    assert (predictive.spread > 0).all()
    assert "200 draws of the parameters" in str(predictive)
    assert predictive.to_dict()["rows"] == 2


def test_divergence_names_and_draws() -> None:
    model, _, _ = regression()
    mean = model.p["y"].head.layer.weight.detach().clone()
    prior = Laplace(0.1, 2.0)
    make_random(model, {"p.y.head.layer.weight": prior}, initial_scale=0.3)
    expected = kl_divergence(Normal(mean, torch.full_like(mean, 0.3)), prior).sum()
    assert minus_divergence(model).item() == pytest.approx(-expected.item(), abs=1e-12)
    layer = model.p["y"].head.layer
    assert not torch.equal(layer.weight, layer.weight)
    with held(model, 3):
        first = layer.weight.clone()
        assert torch.equal(layer.weight, first)
    with held(model, 3):
        assert torch.equal(layer.weight, first)
    draws = torch.stack([layer.weight.detach() for _ in range(4000)])
    assert ((draws.mean(0) - mean).abs() < 4 * 0.3 / math.sqrt(4000)).all()
    assert torch.allclose(draws.std(0), torch.full_like(mean, 0.3), rtol=0.06)


def test_latents_are_integrated_for_each_draw() -> None:
    """With a posterior without spread it is the likelihood itself."""
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
    x = torch.randn(4, 2)
    plain = importance_sampling(model, {"x": x}, 5000).log_px
    make_random(model, {"p.x.head.layer.*": Normal(0.0, 1.0)}, initial_scale=1e-9)
    found = posterior_predictive(model, {"x": x}, draws=3, particles=5000)
    assert torch.allclose(found.log_px, plain, atol=0.1)


def test_what_cannot_be_random_is_refused() -> None:
    model, x, y = regression()
    with pytest.raises(ValueError, match="No parameter of the model is random"):
        minus_divergence(model)
    with pytest.raises(ValueError, match="No parameter of the model is random"):
        posterior_predictive(model, {"x": x, "y": y})
    with pytest.raises(ValueError, match=r"Cauchy prior of .* has no closed form"):
        make_random(model, {"p.y.*": Cauchy(0.0, 1.0)})
    make_random(model, {"p.y.*bias": Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match="random already"):
        make_random(model, {"*bias*original": Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match="at least 2, found 1"):
        posterior_predictive(model, {"x": x, "y": y}, draws=1)
    with pytest.raises(ValueError, match="above 0, not 0"):
        make_random(model, {"p.y.*weight": Normal(0.0, 1.0)}, initial_scale=0.0)
