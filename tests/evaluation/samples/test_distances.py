"""Fréchet's and the kernel distance: closed forms, loops, bias and errors over many draws."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from deeplvm.evaluation.samples import distances
from deeplvm.evaluation.samples.distances import (
    frechet_distance,
    gaussian_frechet,
    kernel_distance,
)


def a_covariance(dimensions: int, rank: int) -> Tensor:
    root = torch.randn(dimensions, rank)
    return root @ root.T


def test_two_gaussians() -> None:
    """Against the root of the product, and where the covariances commute."""
    mean, other = torch.randn(2, 5)
    one, two = a_covariance(5, 7), a_covariance(5, 7)
    root = scipy.linalg.sqrtm((one @ two).numpy())
    expected = (mean - other).square().sum() + (one + two).trace() - 2 * np.trace(root).real
    assert float(gaussian_frechet(mean, one, other, two)) == pytest.approx(float(expected))
    a, b = torch.rand(2, 5)
    diagonal = float((mean - other).square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert float(gaussian_frechet(mean, a.diag(), other, b.diag())) == pytest.approx(diagonal)


def test_singular_gaussians() -> None:
    """Fewer rows than features: orthogonal supports, and a distance from itself of zero."""
    zero, one = torch.zeros(6), a_covariance(6, 2)
    assert float(gaussian_frechet(zero, one, zero, one)) == pytest.approx(0, abs=1e-6)
    a, b = torch.tensor([2.0, 3, 0, 0]).diag(), torch.tensor([0.0, 0, 5, 1]).diag()
    assert float(gaussian_frechet(zero[:4], a, zero[:4], b)) == pytest.approx(11)


def test_moments_of_rows() -> None:
    x, y = torch.randn(50, 3), torch.randn(40, 3) + 1
    found = frechet_distance(x, y)
    assert found.value == pytest.approx(
        float(gaussian_frechet(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))
    )
    assert (found.data_rows, found.sample_rows, found.dimensions) == (50, 40, 3)


@pytest.mark.parametrize("shift, rows", [(0.0, 200), (0.5, 200)])
def test_the_bias_is_taken_off(shift: float, rows: int) -> None:
    """N(0, 1) and N(shift, 1) in 10 dimensions: what is left is within 4 errors of the truth.

    One seed in 15,000 fails by chance, apart from the terms of order 1/N², below 0.01 here.
    """
    truth = 10 * shift**2
    many = [
        frechet_distance(torch.randn(rows, 10), torch.randn(rows, 10) + shift, seed=i)
        for i in range(80)
    ]
    value = torch.tensor([each.value for each in many])
    beyond = torch.tensor([each.extrapolated for each in many])
    error = float(beyond.std() / math.sqrt(len(many)))
    assert abs(float(beyond.mean()) - truth) < 4 * error + 0.01
    assert float(value.mean()) - truth > 0.15  # too large by about a quarter
    told = math.sqrt(np.mean([each.stderr**2 for each in many]))
    # near zero the distance is no smooth function of the moments: its error is told too large
    assert 0.7 < told / float(beyond.std()) < (1.4 if shift else 2.0)


def test_too_few_rows_to_extrapolate() -> None:
    few = frechet_distance(torch.randn(70, 20), torch.randn(70, 20))
    assert math.isnan(few.extrapolated)
    assert few.stderr > 0
    assert "too few rows for 20 features" in str(few)
    assert json.loads(json.dumps(few.to_dict()))["extrapolated"] is None
    assert math.isnan(frechet_distance(torch.randn(5, 2), torch.randn(5, 2)).stderr)


def cubic(a: Tensor, b: Tensor) -> float:
    return (float(a @ b) / len(a) + 1) ** 3


def test_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(12, 3), torch.randn(12, 3) + 1
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    expected = np.mean(
        [
            cubic(x[i], x[j]) + cubic(y[i], y[j]) - cubic(x[i], y[j]) - cubic(x[j], y[i])
            for i, j in pairs
        ]
    )
    assert kernel_distance(x, y).value == pytest.approx(float(expected))
    before = kernel_distance(x, y).stderr
    monkeypatch.setattr(distances, "_CHUNK", 5)
    assert kernel_distance(x, y).value == pytest.approx(float(expected))
    assert kernel_distance(x, y).stderr == pytest.approx(before)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernel_distance_is_unbiased_and_its_error_right(shift: float) -> None:
    r"""In one dimension it is :math:`\sum_r \binom3r (m_r - m_r')^2` of the moments.

    The mean of 200 within 4 errors (one seed in 15,000 fails); the error told within 25 %, or at
    zero, where it is told too large, by at most 60 %: the spread of 200 is known to 5 %, or a
    little worse with the tails of a cubic kernel.
    """
    truth = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    many = [kernel_distance(torch.randn(300, 1), torch.randn(300, 1) + shift) for _ in range(200)]
    found = torch.tensor([each.value for each in many])
    assert abs(float(found.mean()) - truth) < 4 * float(found.std()) / math.sqrt(200)
    told = math.sqrt(np.mean([each.stderr**2 for each in many]))
    assert 0.75 < told / float(found.std()) < (1.25 if shift else 1.6)


def test_error_of_the_kernel_distance_between_equals() -> None:
    """In 20 dimensions, where all of it comes from pairs; the spread of 150 is known to 6 %."""
    many = [kernel_distance(torch.randn(100, 20), torch.randn(100, 20)) for _ in range(150)]
    told = math.sqrt(np.mean([each.stderr**2 for each in many]))
    spread = float(torch.tensor([each.value for each in many]).std())
    assert told / spread == pytest.approx(1, abs=0.25)


def test_refusals() -> None:
    x = torch.randn(9, 2)
    with pytest.raises(ValueError, match="9 rows of data and 8 samples"):
        kernel_distance(x, x[:8])
    with pytest.raises(ValueError, match="at least 5"):
        kernel_distance(x[:2], x[:2])
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(x[:1], x)
