"""The harmonic-type estimator of the AEVB appendix against closed forms (R2.6d)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.likelihood.harmonic import FittedMixture, fitted_normal, harmonic_likelihood
from deeplvm.likelihood.quadrature import quadrature_likelihood
from deeplvm.networks import MLP
from models import LOG_PX, counts, linear


def test_the_golden_likelihood() -> None:
    """TB1: a Gaussian fit of a Gaussian posterior; 5 of its own standard errors, and 0.02 nat."""
    model = linear()
    found = harmonic_likelihood(model, {"x": torch.ones(3, 2)}, 32, 50)
    assert ((found.log_px - LOG_PX).abs() < 5 * found.log_px_stderr).all()
    assert ((found.log_px - LOG_PX).abs() < 0.02).all()
    assert (found.r_hat < 1.05).all()
    assert ((found.acceptance > 0.6) & (found.acceptance < 0.95)).all()


def test_the_fit_is_the_posterior_so_every_ratio_is_the_evidence() -> None:
    """With the exact posterior for the fit there is no noise, wherever the chains are."""
    model = linear()

    def exact(draws: Tensor) -> Distribution:
        rows = draws.shape[1]
        return MultivariateNormal(
            torch.full((rows, 1), 6 / 11), torch.eye(1).expand(rows, 1, 1) / 11
        )

    found = harmonic_likelihood(model, {"x": torch.ones(2, 2)}, 2, 2, fit=exact, warmup=1)
    assert torch.allclose(found.log_px, torch.full((2,), LOG_PX), rtol=0, atol=1e-9)
    assert (found.log_px_stderr < 1e-9).all()


def test_the_error_is_what_it_says() -> None:
    """400 rows are 400 runs, of a fit that is half as wide: its error is within a quarter.

    Errors over their own standard errors have a mean square near one.
    """
    model = linear()

    def narrow(draws: Tensor) -> Distribution:
        return Independent(Normal(draws.mean(0), 0.5 * draws.std(0)), 1)

    found = harmonic_likelihood(
        model, {"x": torch.ones(400, 2)}, 16, 20, fit=narrow, warmup=40, batch_size=400
    )
    spread = float((found.log_px - LOG_PX).square().mean().sqrt())
    said = float(found.log_px_stderr.square().mean().sqrt())
    assert 0.75 < said / spread < 1.33
    assert 50 < found.ess.mean() <= 320


def test_five_dimensions_and_missing_elements() -> None:
    """Correlated posteriors in five dimensions, an element missing: by the joint normal."""
    torch.manual_seed(0)
    weight, noise = torch.randn(6, 5), 0.7
    x = torch.randn(3, 5) @ weight.T + noise * torch.randn(3, 6)
    x[1, 2] = math.nan
    found = harmonic_likelihood(linear(weight, noise), {"x": x}, 32, 60, warmup=60)
    covariance = weight @ weight.T + noise**2 * torch.eye(6)
    for row in range(3):
        seen = ~x[row].isnan()
        marginal = MultivariateNormal(torch.zeros(int(seen.sum())), covariance[seen][:, seen])
        error = float((found.log_px[row] - marginal.log_prob(x[row, seen])).abs())
        assert error < 5 * float(found.log_px_stderr[row]) + 1e-3
        assert error < 0.1


def test_a_constraint() -> None:
    """A Gamma's rate: the posterior of its logarithm is nearly normal; counts, 5 s.e."""

    x = torch.tensor([[4.0], [15.0]])
    found = harmonic_likelihood(counts(), {"x": x}, 16, 40, fit=FittedMixture(2), warmup=40)
    exact = torch.from_numpy(stats.nbinom(3.0, 0.5 / 1.5).logpmf([4, 15]))
    assert ((found.log_px - exact).abs() < 5 * found.log_px_stderr).all()
    assert (found.log_px_stderr < 0.1).all()


class Square(nn.Module):
    """N(z^2, noise^2)."""

    event_shape = torch.Size((1,))

    def forward(self, z: Tensor) -> Distribution:
        return Independent(Normal(z.square(), 1.0), 1)


def test_two_modes_want_a_mixture() -> None:
    """A mixture of two is nearer than one Gaussian, against quadrature; 5 standard errors."""
    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Square()}), Joint({"z | x": Gaussian(1, MLP(1))})
    )
    x = {"x": torch.full((3, 1), 1.5)}
    truth = quadrature_likelihood(model, {"x": x["x"][:1]}, points=160)
    assert truth.largest_error < 1e-3
    mixture = harmonic_likelihood(model, x, 32, 60, fit=FittedMixture(2))
    assert (mixture.r_hat < 1.1).all()
    assert ((mixture.log_px - truth.log_px).abs() < 5 * mixture.log_px_stderr + 1e-3).all()
    normal = harmonic_likelihood(model, x, 32, 60)
    assert mixture.log_px_stderr.mean() < 0.7 * normal.log_px_stderr.mean()


def test_chains_that_do_not_meet_are_seen() -> None:
    """Two modes far apart: r_hat says that no chain goes from one to the other."""

    class Far(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, z: Tensor) -> Distribution:
            return Independent(Normal(z.square(), 0.05), 1)

    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Far()}), Joint({"z | x": Gaussian(1, MLP(1))})
    )
    found = harmonic_likelihood(model, {"x": torch.full((2, 1), 4.0)}, 8, 20)
    assert found.apart == 1.0


def test_the_fits() -> None:
    """The Gaussian has the draws' moments; one component of a mixture is that Gaussian."""
    torch.manual_seed(0)
    draws = torch.randn(500, 3, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.1]]) + 2.0
    normal, one = fitted_normal(draws), FittedMixture(1)(draws)
    assert isinstance(normal, MultivariateNormal)
    assert torch.allclose(normal.covariance_matrix[1], torch.cov(draws[:, 1].T))
    assert one.batch_shape == (3,)
    z = torch.randn(4, 3, 2) * 0.1 + 2.0
    assert torch.allclose(normal.log_prob(z), one.log_prob(z), atol=0.05)


def test_the_result_is_plain_and_repeats() -> None:
    model, data = linear(torch.randn(2, 1), 1.0), {"x": torch.randn(4, 2)}
    model.train()
    before = torch.get_rng_state()
    first = harmonic_likelihood(model, data, 4, 5, warmup=5)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert torch.equal(first.log_px, harmonic_likelihood(model, data, 4, 5, warmup=5).log_px)
    assert json.loads(json.dumps(first.to_dict()))["dimensions"] == 1
    assert "4 chains of 5 posterior draws" in str(first)
    assert (
        harmonic_likelihood(
            model, {name: value[:1] for name, value in data.items()}, 4, 5, warmup=5
        ).rows
        == 1
    )
    (first.log_px + 1).sum()


def test_what_it_cannot_do_is_said() -> None:
    x = {"x": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=r"at most 5.*have 6.*sequential_monte_carlo"):
        harmonic_likelihood(linear(torch.randn(2, 6), 1.0), x)
    with pytest.raises(ValueError, match="chains is at least 2"):
        harmonic_likelihood(linear(torch.randn(2, 1), 1.0), x, 1)
    p = Joint({"h": Bernoulli(2), "x | h": Gaussian(2, MLP(2))})
    with pytest.raises(ValueError, match="exact_likelihood"):
        harmonic_likelihood(LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(2))})), x)
    broken = linear(torch.tensor([[1.0], [math.nan]]), 1.0)
    with pytest.raises(ValueError, match="chains of 2 rows of a batch did not move"):
        harmonic_likelihood(broken, x, 2, 2)
