"""Annealed importance sampling against closed forms (R2.6d)."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import (
    Bernoulli,
    FullCovarianceGaussian,
    Gaussian,
    Poisson,
    StandardNormal,
)
from deeplvm.evaluation.likelihood.annealing import (
    annealed_importance_sampling,
    sandwich,
    schedule,
)
from deeplvm.inference.hamiltonian import Point, transition
from deeplvm.networks import MLP


def linear_gaussian() -> LatentVariableModel:
    """TB1: W = (1, 2), b = 0, noise variance 0.5; q is far from the posterior."""
    likelihood = Gaussian(2, MLP(1), scale=math.sqrt(0.5))
    with torch.no_grad():
        likelihood.head.layer.weight.copy_(torch.tensor([[1.0], [2.0]]))
        likelihood.head.layer.bias.zero_()
    p = Joint({"z": StandardNormal(1), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_the_golden_likelihood(start: str) -> None:
    """TB1 within 0.05 nat at 1,000 temperatures; it is off by more in 1 of 10^5 seeds."""
    estimate = annealed_importance_sampling(
        linear_gaussian(),
        {"x": torch.ones(3, 2)},
        16,
        1_000,
        steps=3,
        start=start,  # type: ignore[arg-type]
    )
    assert (estimate.log_px + 2.707313885885).abs().max() < 0.05
    assert (estimate.acceptance > 0.4).all()
    assert (estimate.ess > 10).all()


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_the_weights_are_unbiased_with_few_temperatures(start: str) -> None:
    """The mean weight is p(x) for any number of temperatures; 5 standard errors, seed fixed."""
    rows = 4_000
    estimate = annealed_importance_sampling(
        linear_gaussian(), {"x": torch.ones(rows, 2)}, 1, 4, steps=2, start=start,  # type: ignore[arg-type]
        batch_size=rows,
    )  # fmt: skip
    weight = estimate.log_px.exp()
    error = weight.std() / math.sqrt(rows)
    assert (weight.mean() - math.exp(-2.707313885885)).abs() < 5 * error
    assert estimate.log_px.mean() < -2.7073


def test_an_exact_posterior_has_one_weight() -> None:
    model = linear_gaussian()
    posterior = FullCovarianceGaussian(1, MLP(2), covariance="global")
    with torch.no_grad():  # mean M^-1 W^T x, variance s2 M^-1, M = 5.5
        posterior.head.layer.weight.copy_(torch.tensor([[1.0, 2.0]]) / 5.5)
        posterior.head.layer.bias.zero_()
        sigma = math.sqrt(0.5 / 5.5) - posterior.minimum_scale
        raw = math.log(math.expm1(sigma)) - math.log(math.expm1(1.0))
        posterior.free.copy_(torch.tensor([raw, 0.0]).reshape(posterior.free.shape))
    model.q = Joint({"z | x": posterior})
    estimate = annealed_importance_sampling(
        model, {"x": torch.ones(2, 2)}, 4, 5, steps=2, start="posterior"
    )
    torch.testing.assert_close(
        estimate.log_px, torch.full((2,), -2.707313885885), rtol=0, atol=1e-8
    )


def test_the_sandwich_holds_the_truth() -> None:
    """On simulated rows, whose exact likelihood is known; 5 standard errors over rows."""
    model = linear_gaussian()
    found = sandwich(model, 200, 8, 30, steps=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = model.sample(200)["x"].value
    weight = torch.tensor([[1.0], [2.0]])
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(2), weight @ weight.T + 0.5 * torch.eye(2)
    )
    exact = marginal.log_prob(x)
    for values, sign in ((found.lower, 1.0), (found.upper, -1.0)):
        short = sign * (exact - values)
        assert short.mean() > -5 * short.std() / math.sqrt(200)
    assert 0.0 < found.gap < 0.5
    closer = sandwich(model, 200, 8, 300, steps=3)
    assert abs(closer.gap) < 0.5 * found.gap


def test_latents_with_a_constraint() -> None:
    r"""A rate :math:`\lambda \sim Gamma(a, b)`: counts are negative binomial.

    5 of its own standard errors: fails by chance once in a million seeds.
    """

    class Rate(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, *_: Tensor) -> torch.distributions.Distribution:
            gamma = torch.distributions.Gamma(torch.tensor([3.0]), torch.tensor([0.5]))
            return torch.distributions.Independent(gamma, 1)

    class Count(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, rate: Tensor) -> torch.distributions.Distribution:
            return torch.distributions.Independent(torch.distributions.Poisson(rate), 1)

    model = LatentVariableModel(
        Joint({"rate": Rate(), "x | rate": Count()}), Joint({"rate | x": Rate()})
    )
    x = torch.tensor([[0.0], [4.0], [15.0]])
    estimate = annealed_importance_sampling(model, {"x": x}, 200, 200, steps=4)
    exact = torch.from_numpy(stats.nbinom(3.0, 0.5 / 1.5).logpmf(x[:, 0].numpy()))
    assert (estimate.log_px_stderr < 0.06).all()
    assert ((estimate.log_px - exact).abs() < 5 * estimate.log_px_stderr).all()


def test_two_layers_and_missing_elements() -> None:
    """A chain of two latents, and elements that are not there, against the joint normal."""
    torch.manual_seed(0)
    p = Joint(
        {
            "b": StandardNormal(2),
            "a | b": Gaussian(2, MLP(2), scale=0.7),
            "x | a": Gaussian(3, MLP(2), scale=0.5),
        }
    )
    q = Joint({"a | x": Gaussian(2, MLP(3)), "b | a": Gaussian(2, MLP(2))})
    model = LatentVariableModel(p, q)
    upper, lower = p["a"].head.layer, p["x"].head.layer
    of_a = upper.weight @ upper.weight.T + 0.49 * torch.eye(2)
    covariance = lower.weight @ of_a @ lower.weight.T + 0.25 * torch.eye(3)
    mean = lower.weight @ upper.bias + lower.bias
    x = torch.randn(4, 3)
    x[0, 1] = x[1, 2] = math.nan
    estimate = annealed_importance_sampling(model, {"x": x}, 32, 300, steps=4)
    for row in range(4):
        seen = ~x[row].isnan()
        marginal = torch.distributions.MultivariateNormal(mean[seen], covariance[seen][:, seen])
        assert abs(marginal.log_prob(x[row, seen]).item() - estimate.log_px[row].item()) < 0.05


def test_a_transition_leaves_the_density_as_it_is() -> None:
    """HMC on N(0, C): mean and covariance within 5 standard errors of 20,000 chains."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 2.0]])
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), covariance)
    precision = torch.linalg.inv(covariance)

    def evaluate(free: Tensor) -> Point:
        log = normal.log_prob(free)
        return Point(free, torch.zeros_like(log), log, torch.zeros_like(free), -free @ precision)

    torch.manual_seed(0)
    point = evaluate(normal.sample((200, 100)))
    for _ in range(20):
        point, probability = transition(evaluate, point, 1.0, torch.full((100,), 0.4), 5)
    flat = point.free.reshape(-1, 2)
    assert (flat.mean(0).abs() < 5 * covariance.diagonal().sqrt() / math.sqrt(20_000)).all()
    assert (torch.cov(flat.T) - covariance).abs().max() < 5 * 2 * math.sqrt(2 / 20_000)
    assert 0.5 < probability.mean() < 1.0
    # acceptance tends to 1 as the step size tends to 0, by its fourth power
    lost = []
    for size in (0.2, 0.1):
        _, probability = transition(evaluate, point, 1.0, torch.full((100,), size), 5)
        lost.append(1.0 - probability.mean())
    assert lost[1] < 0.5 * lost[0]


def test_chains_that_leave_the_numbers_stay() -> None:
    def evaluate(free: Tensor) -> Point:
        log = -free.square().sum(-1).exp()  # overflows
        return Point(free, torch.zeros_like(log), log, torch.zeros_like(free), -1e300 * free)

    torch.manual_seed(0)
    point = evaluate(torch.zeros(3, 2, 1))
    moved, probability = transition(evaluate, point, 1.0, torch.full((2,), 1e200), 3)
    assert torch.equal(moved.free, point.free)
    assert (probability == 0).all()


def test_the_schedule_is_symmetric_and_rises() -> None:
    betas = torch.tensor(schedule(50))
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51))


def test_what_cannot_be_annealed_is_said() -> None:
    p = Joint({"h": Bernoulli(2), "x | h": Poisson(1, MLP(2))})
    discrete = LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(1))}))
    with pytest.raises(ValueError, match=r"'h' is discrete.*Enumerated"):
        annealed_importance_sampling(discrete, {"x": torch.ones(2, 1)}, 2, 3)
    with pytest.raises(ValueError, match="temperatures is at least 1"):
        annealed_importance_sampling(linear_gaussian(), {"x": torch.ones(2, 2)}, 2, 0)
    with pytest.raises(ValueError, match="'prior' or 'posterior'"):
        annealed_importance_sampling(
            linear_gaussian(),
            {"x": torch.ones(2, 2)},
            2,
            3,
            start="q",  # type: ignore[arg-type]
        )


def test_seeds_and_batches() -> None:
    model, x = linear_gaussian(), {"x": torch.randn(5, 2)}
    state = torch.get_rng_state()
    first = annealed_importance_sampling(model, x, 4, 10, steps=2)
    again = annealed_importance_sampling(model, x, 4, 10, steps=2)
    assert torch.equal(first.log_px, again.log_px)
    assert torch.equal(state, torch.get_rng_state())
    one = annealed_importance_sampling(model, x, 1, 1)
    assert one.log_px.shape == (5,)
