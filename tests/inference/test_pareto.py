"""Pareto k̂ on weights whose tail is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deeplvm.inference.diagnostics import pareto_k, tail_length


def tail(log_weights: torch.Tensor) -> torch.Tensor:
    count = tail_length(len(log_weights)) + 1
    return log_weights.topk(count, 0).values


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_known_shapes_are_found(shape: float) -> None:
    """Weights u^-k have tail shape k: the mean over 200 rows within 0.05 (4 s.e. are 0.03)."""
    weights = -shape * torch.rand(4_000, 200).log()
    fitted = pareto_k(tail(weights))
    # the prior draws the fit towards 0.5 by 10 observations in M + 10
    length = tail_length(4_000)
    expected = (length * shape + 5) / (length + 10)
    assert float(fitted.mean()) == pytest.approx(expected, abs=0.05)


def test_light_tails_are_below_zero() -> None:
    """Bounded weights (uniform) have shape -1, normal weights near 0 or below."""
    assert (pareto_k(tail(torch.rand(4_000, 20).log())) < -0.3).all()


def test_against_a_direct_transcription() -> None:
    """The published algorithm, one row at a time, in NumPy."""
    generator = np.random.default_rng(0)
    excess = np.sort(generator.pareto(1.4, 60))
    weights = torch.tensor(np.append(excess[::-1] + 1.0, 1.0)).log()[:, None]
    assert float(pareto_k(weights)) == pytest.approx(zhang_stephens(excess), abs=1e-9)


def zhang_stephens(x: np.ndarray) -> float:
    n = len(x)
    m = 30 + int(n**0.5)
    b = 1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))
    b = b / (3 * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    k = np.log1p(-b[:, None] * x).mean(1)
    profile = n * (np.log(-b / k) - k - 1)
    weight = 1 / np.exp(profile - profile[:, None]).sum(1)
    best = (b * weight).sum() / weight.sum()
    return float((n * np.log1p(-best * x).mean() + 5) / (n + 10))


def test_scale_of_the_weights_does_not_matter() -> None:
    weights = tail(-0.8 * torch.rand(1_000, 3).log())
    assert torch.allclose(pareto_k(weights), pareto_k(weights - 1e4), atol=1e-6)


def test_no_tail_to_fit() -> None:
    """Constant weights, those that differ by rounding, too few, and weights that are all zero."""
    assert pareto_k(torch.zeros(50, 2)).isnan().all()
    assert pareto_k(-90 + 1e-13 * torch.randn(50, 2).sort(0, descending=True).values).isnan().all()
    assert pareto_k(torch.randn(4, 2).sort(0, descending=True).values).isnan().all()
    assert pareto_k(torch.full((50, 1), -math.inf)).isnan().all()


def test_weights_of_zero_beside_others() -> None:
    weights = torch.full((50, 1), -math.inf)
    weights[:10, 0] = torch.randn(10).sort(descending=True).values
    assert pareto_k(weights).isfinite().all()
