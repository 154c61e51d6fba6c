"""TB1: p(z) = N(0, I), p(x | z) = N(Wz + b, s2 I). Everything has a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from deeplvm import LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Gaussian
from deeplvm.distributions import DiagonalNormal
from deeplvm.evaluation import evaluate, latent_use
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from models import LOG_PX, ExactPosterior, linear
from models import marginal as of_linear


def linear_gaussian(
    weight: Tensor, bias: Tensor, variance: float, posterior: nn.Module | None = None
) -> LatentVariableModel:
    q = posterior or ExactPosterior(weight, bias, variance)
    return linear(weight, math.sqrt(variance), q, bias)


def marginal(weight: Tensor, bias: Tensor, variance: float) -> MultivariateNormal:
    return of_linear(weight, math.sqrt(variance), bias)


@pytest.fixture
def golden() -> LatentVariableModel:
    return linear_gaussian(torch.tensor([[1.0], [2.0]]), torch.zeros(2), 0.5)


@pytest.fixture
def larger() -> tuple[Tensor, Tensor, float]:
    torch.manual_seed(1)
    return torch.randn(6, 3), torch.randn(6), 0.3


def test_golden_values(golden: LatentVariableModel) -> None:
    """R1.7, R2.6a on TB1: log p(x), posterior mean and variance."""
    x = torch.ones(1, 2)
    estimate = importance_sampling(golden, {"x": x}, particles=64)
    assert estimate.mean == pytest.approx(LOG_PX, abs=1e-11)
    posterior: Any = golden.posterior({"x": x})["z"].distribution
    assert float(posterior.mean) == pytest.approx(6 / 11, abs=1e-12)
    assert float(posterior.variance) == pytest.approx(1 / 11, abs=1e-12)


@pytest.mark.parametrize("holes", [False, True], ids=["complete", "with NaN"])
def test_exact_posterior_makes_the_log_weight_constant(
    larger: tuple[Tensor, Tensor, float], holes: bool
) -> None:
    """R2.2b: zero variance. Every single sample is log p(x of the observed elements)."""
    weight, bias, variance = larger
    model = linear_gaussian(*larger)
    x = 2 * torch.randn(20, 6)
    if holes:
        x[torch.rand(20, 6) < 0.4] = math.nan
        x[0] = math.nan  # a row of which nothing is known: log p is 0
    exact = []
    for row in x:
        known = ~row.isnan()
        density = marginal(weight[known], bias[known], variance) if known.any() else None
        exact.append(density.log_prob(row[known]) if density else torch.zeros(()))
    expected = torch.stack(exact)

    log_weight = model.evidence({"x": x}, particles=50).log_weight
    assert (log_weight - expected).abs().max() < 1e-10
    estimate = importance_sampling(model, {"x": x}, particles=100, batch_size=7)
    assert (estimate.log_px - expected).abs().max() < 1e-10
    assert (estimate.elbo - expected).abs().max() < 1e-10
    assert torch.allclose(estimate.ess, torch.full((20,), 100.0))
    assert estimate.pareto_k.isnan().all()  # constant weights have no tail
    assert estimate.heavy == 0
    # Var = K sum w^2 / (sum w)^2 - 1 is zero up to rounding, whose root this is
    assert estimate.monte_carlo_stderr < 1e-7


def test_gap_is_the_divergence_from_the_true_posterior(
    larger: tuple[Tensor, Tensor, float],
) -> None:
    """R1.8, R2.2a: log p(x) - ELBO = KL(q || p(z | x)) >= 0, for a q that is wrong."""
    exact = ExactPosterior(*larger)
    wrong = Gaussian(3, MLP(6))
    x = torch.randn(4, 6)
    model = linear_gaussian(*larger, posterior=wrong)
    q = MultivariateNormal(wrong(x).mean, torch.diag_embed(wrong(x).variance))
    gap = marginal(*larger).log_prob(x) - elbo_in_closed_form(larger, q, x)
    assert torch.allclose(gap, kl_divergence(q, exact(x)))
    # 4 standard errors of 20,000 draws: fails for one seed in 4,000 (4 rows)
    weights = model.evidence({"x": x}, particles=20_000).log_weight
    error = weights.std(0) / math.sqrt(20_000)
    assert ((weights.mean(0) - elbo_in_closed_form(larger, q, x)).abs() < 4 * error).all()


def elbo_in_closed_form(
    parameters: tuple[Tensor, Tensor, float], q: MultivariateNormal, x: Tensor
) -> Tensor:
    """E_q log N(x; Wz + b, s2 I) - KL(q || N(0, I))."""
    weight, bias, variance = parameters
    residual = x - q.mean @ weight.T - bias
    spread = torch.einsum("dl,blm,dm->b", weight, q.covariance_matrix, weight)
    dimension = len(bias)
    expected = -0.5 * (
        dimension * math.log(2 * math.pi * variance)
        + (residual.square().sum(1) + spread) / variance
    )
    standard = MultivariateNormal(torch.zeros(q.event_shape), torch.eye(*q.event_shape * 2))
    return expected - kl_divergence(q, standard)


def test_approximation_gap_of_a_diagonal_posterior(larger: tuple[Tensor, Tensor, float]) -> None:
    """R2.1c: the best diagonal q loses 1/2 (sum log (S^-1)_ii + log det S)."""
    weight, bias, variance = larger
    precision = torch.eye(3) + weight.T @ weight / variance

    class BestDiagonal(nn.Module):
        event_shape = torch.Size([3])

        def forward(self, x: Tensor) -> DiagonalNormal:
            mean = torch.linalg.solve(precision, ((x - bias) @ weight / variance).T).T
            return DiagonalNormal(mean, precision.diagonal().rsqrt(), 1)

    expected = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    x = torch.randn(5, 6)
    q = BestDiagonal()(x)
    gaussian = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    gap = marginal(*larger).log_prob(x) - elbo_in_closed_form(larger, gaussian, x)
    assert torch.allclose(gap, expected.expand(5))


def test_importance_sampling_meets_the_closed_form(larger: tuple[Tensor, Tensor, float]) -> None:
    """R2.6a with a q that is wrong: within 5 of its own standard errors in every one of 10 rows.

    The delta method's error is trusted because the weights are bounded; fails for one seed in 1e5.
    """
    exact = ExactPosterior(*larger)

    class Wider(nn.Module):
        event_shape = torch.Size([3])

        def forward(self, x: Tensor) -> MultivariateNormal:
            true = exact(x)
            return MultivariateNormal(true.mean + 0.05, 1.5 * true.covariance_matrix)

    model = linear_gaussian(*larger, posterior=Wider())
    x = marginal(*larger).sample((10,))
    estimate = importance_sampling(model, {"x": x}, particles=4_000)
    error = estimate.log_px - marginal(*larger).log_prob(x)
    assert (error.abs() < 5 * estimate.log_px_stderr).all()
    assert estimate.log_px_stderr.max() < 0.02
    assert (estimate.pareto_k < 0.5).all()  # bounded weights: k <= 0 but for the prior of the fit


def test_bounds_are_ordered(larger: tuple[Tensor, Tensor, float]) -> None:
    """R2.6a: ELBO <= E[L_5] <= E[L_50] <= log p(x), by 10 standard errors and more."""
    model = linear_gaussian(*larger, posterior=Gaussian(3, MLP(6), scale=0.3))
    x = marginal(*larger).sample((3,))
    with torch.no_grad():
        one = torch.stack([elbo(model.evidence({"x": x}, particles=5)) for _ in range(200)])
        five = torch.stack([iwae(model.evidence({"x": x}, particles=5)) for _ in range(200)])
        fifty = torch.stack([iwae(model.evidence({"x": x}, particles=50)) for _ in range(200)])
    assert (one.mean(0) < five.mean(0)).all()
    assert (five.mean(0) < fifty.mean(0)).all()
    assert (fifty.mean(0) < marginal(*larger).log_prob(x)).all()


def test_active_units_of_probabilistic_pca() -> None:
    """R2.8.1c: with 3 informative columns of 10, exactly those 3 dimensions are active."""
    weight = torch.zeros(12, 10)
    weight[:, [1, 4, 7]] = torch.randn(12, 3)
    model = linear_gaussian(weight, torch.zeros(12), 0.5)
    x = marginal(weight, torch.zeros(12), 0.5).sample((500,))
    use = latent_use(model, {"x": x})["z"]
    assert use.active_units == 3
    assert use.variance is not None
    assert (use.variance > 1e-2).nonzero().flatten().tolist() == [1, 4, 7]
    assert not use.collapsed
    assert use.kl_by_dimension is None  # the full covariance has none by dimension
    evaluation = evaluate(model, {"x": x}, particles=32)
    assert any("Only 3 of the 10 dimensions of z" in text for text in evaluation.warnings)
    assert evaluation.elbo["value"] == pytest.approx(evaluation.log_px["value"], abs=1e-10)
