"""Regression of log p on a Gaussian's terms: exact of Gaussians, better than the encoder else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.inference import stochastic_regression
from deeplvm.learning.closed_forms import linear_gaussian_of
from deeplvm.likelihood import quadrature_likelihood
from deeplvm.networks import MLP


def linear() -> tuple[LatentVariableModel, Tensor]:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(3), "x | z": Gaussian(4, MLP(3), scale="dimension")})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(3, MLP(4))})), torch.randn(5, 4)


def test_a_gaussian_posterior_is_found_exactly() -> None:
    """Whatever the encoder says at first; the bound is log p(x), for each draw."""
    model, x = linear()
    found = stochastic_regression(model, {"x": x}, steps=60)
    law: Any = linear_gaussian_of(model)
    exact = law.posterior(x)
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    covariance = found.posterior.covariance_matrix
    assert torch.allclose(covariance, exact.covariance.expand_as(covariance), atol=1e-8)
    assert torch.allclose(found.bound, exact.log_px, atol=1e-8)
    assert bool((found.bound_stderr < 1e-8).all())


def test_missing_elements_are_left_out_and_batches_do_not_matter() -> None:
    model, x = linear()
    x[1, 2] = x[3, :3] = torch.nan
    law: Any = linear_gaussian_of(model)
    exact = law.posterior(x)
    found = stochastic_regression(model, {"x": x}, steps=60, batch_size=2)
    again = stochastic_regression(model, {"x": x}, steps=60)
    assert torch.allclose(found.mean, exact.mean, atol=1e-8)
    assert torch.allclose(found.bound, again.bound, atol=1e-9)


def test_a_posterior_that_is_not_gaussian_has_a_better_bound() -> None:
    """Below log p(x) by quadrature, above the encoder's; a class is summed out."""
    torch.manual_seed(0)
    p = Joint({"k": Categorical(2), "z": StandardNormal(1), "x | z, k": Bernoulli(6, MLP(3, 8))})
    q = Joint({"k | x": Categorical(2, MLP(6)), "z | x": Gaussian(1, MLP(6))})
    model, x = LatentVariableModel(p, q), (torch.rand(6, 6) > 0.3).double()
    found = stochastic_regression(model, {"x": x})
    assert bool((found.gain > 0).all())
    plain = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Bernoulli(6, MLP(1, 8))}),
        Joint({"z | x": Gaussian(1, MLP(6))}),
    )
    found = stochastic_regression(plain, {"x": x})
    exact = quadrature_likelihood(plain, {"x": x}).log_px
    gap = exact - found.bound
    assert bool((gap > -4 * found.bound_stderr).all())
    assert float(gap.mean()) < 0.05


def test_too_few_draws_are_refused() -> None:
    model, x = linear()
    with pytest.raises(ValueError, match="take more of either"):
        stochastic_regression(model, {"x": x}, steps=4, particles=1)
    with pytest.raises(ValueError, match="no continuous latent"):
        stochastic_regression(LatentVariableModel(Joint({"x": Gaussian(4)})), {"x": x})
