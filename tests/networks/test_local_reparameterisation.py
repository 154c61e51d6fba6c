"""Local reparameterisation against drawing the weights (R4.5.3n)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import linear

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.networks import Features, LocallyReparameterisedLinear, weights_divergence


def layer_of(inputs: int = 3, outputs: int = 2) -> LocallyReparameterisedLinear:
    torch.manual_seed(0)
    layer = LocallyReparameterisedLinear(inputs, outputs, prior_scale=0.7)
    with torch.no_grad():
        layer.log_scale.copy_(torch.randn(outputs, inputs) - 1)
        layer.bias_log_scale.copy_(torch.randn(outputs) - 1)
    return layer


def weight_sampled(layer: LocallyReparameterisedLinear, x: Tensor) -> Tensor:
    weight, bias = [each.rsample() for each in layer.weights()]
    return linear(x, weight, bias)


def test_moments_are_those_of_drawn_weights() -> None:
    """Means within 5 standard errors, variances within 5 of theirs, of 20,000 draws of each."""
    layer, x, rounds = layer_of(), torch.randn(4, 3), 20_000
    with torch.no_grad():
        mean, variance = layer.moments(x)
        weights, biases = [each.sample((rounds,)) for each in layer.weights()]
        drawn = torch.einsum("nij,bj->nbi", weights, x) + biases.unsqueeze(1)
        local = layer(x.expand(rounds, -1, -1))
    for draws in (drawn, local):
        error = (variance / rounds).sqrt()
        assert ((draws.mean(0) - mean).abs() <= 5 * error).all()
        assert ((draws.var(0) - variance).abs() <= 5 * variance * math.sqrt(2 / rounds)).all()


def gradients(layer: LocallyReparameterisedLinear, *, local: bool) -> Tensor:
    """Of a regression loss of 64 rows, 400 times, one row a time."""
    x = torch.linspace(-1, 1, 192).reshape(64, 3)
    found = []
    for _ in range(400):
        y = layer(x) if local else weight_sampled(layer, x)
        loss = (y - x[:, :2]).square().mean()
        grads = torch.autograd.grad(loss, list(layer.parameters()))
        found.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(found)


def test_the_gradient_has_the_mean_and_less_variance() -> None:
    """5 standard errors of 400: one of 16 fails by chance once in 100,000 seeds."""
    layer = layer_of()
    local, drawn = gradients(layer, local=True), gradients(layer, local=False)
    assert local.var(0).sum() < 0.2 * drawn.var(0).sum()
    error = ((local.var(0) + drawn.var(0)) / 400).sqrt()
    assert ((local.mean(0) - drawn.mean(0)).abs() <= 5 * error).all()


def test_the_divergence_is_torchs() -> None:
    layer = layer_of()
    expected = sum(
        kl_divergence(Normal(m, s.exp()), Normal(0.0, 0.7)).sum()
        for m, s in ((layer.mean, layer.log_scale), (layer.bias_mean, layer.bias_log_scale))
    )
    torch.testing.assert_close(layer.divergence(), expected)
    both = nn.ModuleList([layer, nn.Sequential(layer_of(2, 1))])
    torch.testing.assert_close(
        weights_divergence(both), layer.divergence() + layer_of(2, 1).divergence()
    )


def test_regression_finds_the_posterior() -> None:
    """The posterior of Bayesian linear regression, which has a closed form.

    The optimum of the bound over a diagonal Gaussian is exact where inputs are orthogonal.
    """
    torch.manual_seed(0)
    rows, noise = 40, 0.5
    x = torch.ones(rows, 1)
    x[::2] = -1.0  # orthogonal to the bias
    y = 0.8 * x + 0.3 + noise * torch.randn(rows, 1)
    layer = LocallyReparameterisedLinear(1, 1)
    optimizer = torch.optim.Adam(layer.parameters(), 0.04)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.992)
    for _ in range(600):
        optimizer.zero_grad()
        fit = Normal(layer(x.expand(8, -1, -1)), noise).log_prob(y).mean(0).sum()
        (weights_divergence(layer) - fit).backward()
        optimizer.step()
        schedule.step()
    precision = 1 + rows / noise**2
    assert layer.log_scale.exp().item() == pytest.approx(precision**-0.5, rel=0.05)
    assert layer.bias_log_scale.exp().item() == pytest.approx(precision**-0.5, rel=0.05)
    mean = (x * y).sum().item() / noise**2 / precision
    assert layer.mean.item() == pytest.approx(mean, abs=0.01)
    assert layer.bias_mean.item() == pytest.approx(y.sum().item() / noise**2 / precision, abs=0.01)


def test_in_a_model() -> None:
    network = nn.Sequential(LocallyReparameterisedLinear(2, 8), nn.Tanh())
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, Features(network, out_shape=8))})
    q = Joint({"z | x": Gaussian(2, LocallyReparameterisedLinear(3, 8))})
    model = LatentVariableModel(p, q)
    value = elbo(model.evidence({"x": torch.ones(5, 3)}, particles=4)).mean()
    (value - weights_divergence(model) / 1000).backward()
    assert all([w.grad is not None for w in model.parameters()])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="positive scales"):
        LocallyReparameterisedLinear(2, 2, initial_scale=0.0)
    with pytest.raises(ValueError, match="no layer with Gaussian weights"):
        weights_divergence(nn.Linear(2, 2))
