"""Which model is better: the interval of a paired difference holds the truth."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm.evaluation import compare, difference


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_holds_the_true_difference(seeds: int) -> None:
    """In 90 to 99 of 100 repetitions; chance of a failure if it is 95 %: 0.7 % above, 2.8 below.

    Rows differ by far more than models, and seeds move a model by as much as rows are unsure.
    """
    torch.manual_seed(1)
    held = 0
    for _ in range(100):
        rows = -90 + 15 * torch.randn(200)
        models = []
        for mean in (0.5, 0.0):
            of_seed = 0.2 * torch.randn(seeds, 1) if seeds > 1 else torch.zeros(1, 1)
            models.append(rows + mean + of_seed + 2 * torch.randn(seeds, 200))
        low, high = difference(*models).interval()
        held += low < 0.5 < high
    assert 90 <= held <= 99


def test_rows_are_the_pairs_and_seeds_count() -> None:
    """The parts of the error, by hand in float64."""
    torch.manual_seed(0)
    a, b = torch.randn(3, 50).double(), torch.randn(2, 50).double()
    found = difference(a, b)
    paired = a.mean(0) - b.mean(0)
    of_rows = float(paired.var() / 50)
    of_seeds = float(a.mean(1).var() / 3), float(b.mean(1).var() / 2)
    assert found.value == pytest.approx(float(paired.mean()), abs=1e-12)
    assert found.stderr == pytest.approx(math.sqrt(of_rows + sum(of_seeds)), abs=1e-12)
    below = of_rows**2 / 49 + of_seeds[0] ** 2 / 2 + of_seeds[1] ** 2 / 1
    assert found.degrees == pytest.approx((of_rows + sum(of_seeds)) ** 2 / below)
    assert found.over_seeds == pytest.approx(math.sqrt(sum(of_seeds)), abs=1e-12)
    assert math.isnan(difference(a[0], b).over_seeds)


def test_the_best_is_first_and_equals_are_told() -> None:
    torch.manual_seed(0)
    rows = torch.randn(40)
    told = {"worse": rows - 1, "best": rows + 0.1, "near": rows + 0.1 * torch.randn(40)}
    found = compare(told, settings={"latent": ("1", "2", "3")})
    assert [each.name for each in found.models] == ["best", "near", "worse"]
    assert found.differing() == (("option", "best", "near", "worse"), [("latent", "2", "3", "1")])
    assert "latent" in str(found)
    near = compare({"a": rows, "b": rows + 0.5 * torch.randn(40)})
    assert "not told apart" in str(near)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="two models or more"):
        compare({"a": torch.zeros(3)})
    with pytest.raises(ValueError, match="there are 4 of one and 3 of the other"):
        compare({"a": torch.zeros(3), "b": torch.zeros(4)})
    one = difference(torch.zeros(1), torch.ones(1))
    assert one.interval() == (-math.inf, math.inf)
