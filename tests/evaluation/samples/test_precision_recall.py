"""Precision, recall, density, coverage: against loops, and against exact expectations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm.evaluation.samples import precision_recall as manifolds
from deeplvm.evaluation.samples.precision_recall import (
    MEASURES,
    ManifoldEstimate,
    manifold_estimate,
)
from deeplvm.results import Estimate


def by_loops(data: Tensor, samples: Tensor, k: int) -> list[float]:
    """The four measures as their definitions say, point by point."""
    x, y = data.numpy(), samples.numpy()

    def radius(points: np.ndarray, i: int) -> float:
        others = [
            float(np.linalg.norm(points[i] - points[j])) for j in range(len(points)) if j != i
        ]
        return sorted(others)[k - 1]

    reach = [radius(x, i) for i in range(len(x))]
    sample_reach = [radius(y, j) for j in range(len(y))]
    apart = [[np.linalg.norm(a - b) for b in y] for a in x]
    inside = [[apart[i][j] <= reach[i] for j in range(len(y))] for i in range(len(x))]
    precision = np.mean([any(inside[i][j] for i in range(len(x))) for j in range(len(y))])
    recall = np.mean(
        [any(apart[i][j] <= sample_reach[j] for j in range(len(y))) for i in range(len(x))]
    )
    density = np.sum(inside) / (k * len(y))
    coverage = np.mean([any(row) for row in inside])
    return [float(precision), float(recall), float(density), float(coverage)]


def values(estimate: ManifoldEstimate) -> list[float]:
    return [getattr(estimate, name).value for name in MEASURES]


@pytest.mark.parametrize("k", [1, 3])
def test_the_definitions(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, samples = torch.randn(43, 2), 0.7 * torch.randn(31, 2) + 0.5
    expected = by_loops(data, samples, k)
    assert values(manifold_estimate(data, samples, neighbours=k)) == pytest.approx(expected)
    assert len(set(expected)) > 2  # a case that tells them apart
    monkeypatch.setattr(manifolds, "_CHUNK", 7)
    assert values(manifold_estimate(data, samples, neighbours=k)) == pytest.approx(expected)


def test_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are equal, as in tables of categories: a ball holds its border."""
    data, samples = torch.randint(3, (40, 2)).double(), torch.randint(4, (30, 2)).double()
    monkeypatch.setattr(manifolds, "_CHUNK", 11)
    found = values(manifold_estimate(data, samples, neighbours=2))
    assert found == pytest.approx(by_loops(data, samples, 2))


def test_samples_that_are_the_data_and_that_are_far_off() -> None:
    data = torch.randn(60, 3)
    same = manifold_estimate(data, data.flip(0))
    assert (same.precision.value, same.recall.value, same.coverage.value) == (1, 1, 1)
    assert same.density.value > 1  # each lies in its own ball too
    assert values(manifold_estimate(data, data + 100)) == [0, 0, 0, 0]


def test_expectations_for_equal_distributions() -> None:
    """Exact at any size and in any dimension; 4 standard errors, one failure in 15,000 each."""
    many = [
        manifold_estimate(torch.randn(60, 3), torch.randn(90, 3), neighbours=4) for _ in range(150)
    ]
    density = torch.tensor([each.density.value for each in many])
    coverage = torch.tensor([each.coverage.value for each in many])
    expected = 1 - math.comb(60 - 1, 4) / math.comb(60 + 90 - 1, 4)
    assert many[0].coverage_if_equal == pytest.approx(expected)
    for found, mean in ((density, 1.0), (coverage, expected)):
        assert abs(found.mean() - mean) < 4 * found.std() / math.sqrt(len(found))
    none = Estimate(0, 0)
    large = ManifoldEstimate(none, none, none, none, 5, 100_000, 100_000)
    assert large.coverage_if_equal == pytest.approx(1 - 2**-5, abs=1e-5)


def test_standard_errors_are_as_large_as_the_spread() -> None:
    """Within 40 %: the spread of 60 draws is known to 9 %, two seeds in a hundred miss 3 of it."""
    many = [
        manifold_estimate(torch.randn(250, 2), 0.7 * torch.randn(250, 2), seed=i)
        for i in range(60)
    ]
    for name in ("recall", "density", "coverage"):
        spread = torch.tensor([getattr(each, name).value for each in many]).std()
        told = torch.tensor([getattr(each, name).stderr for each in many])
        assert float(told.square().mean().sqrt() / spread) == pytest.approx(1, abs=0.4), name


def test_printed_and_plain() -> None:
    data = torch.randn(50, 2)
    few = manifold_estimate(data, data + 1, neighbours=5)
    assert math.isnan(few.precision.stderr)  # no two parts of fifty
    plain = json.loads(json.dumps(few.to_dict()))
    assert plain["precision"] == {"value": few.precision.value, "stderr": None}
    assert "coverage" in str(few)
    assert "k = 5, 50 samples" in str(few)


@pytest.mark.parametrize(
    "data, samples, match",
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), "at least 6; the data have 5"),
        (torch.zeros(9, 2), torch.zeros(1, 2), "the samples have 1"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "2 features and the samples 3"),
        (torch.zeros(9, 1, 2, 2), torch.zeros(9, 4), r"\(rows, features\)"),
    ],
)
def test_refusals(data: Tensor, samples: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        manifold_estimate(data, samples)
