"""Rates against quadrature, and the posterior of their means against what it must be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, Multinomial, StandardNormal
from deeplvm.evaluation import denoised, differential_rates
from deeplvm.networks import MLP


def fixed(words: Multinomial, weight: list[list[float]]) -> Multinomial:
    with torch.no_grad():
        words.head.layer.weight.copy_(torch.tensor(weight))
        words.head.layer.bias.zero_()
    return words


def test_the_denoised_mean_is_that_of_the_posterior() -> None:
    words = fixed(Multinomial(2, MLP(1), total=10), [[2.0], [-2.0]])
    p = Joint({"z": StandardNormal(1), "x | z": words})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2), scale=1.5)}))
    x = torch.tensor([[3.0, 1.0]])
    z = torch.linspace(-9, 9, 4001)
    first = torch.sigmoid(4 * z)
    weight = (3 * first.log() + (1 - first).log() - z.square() / 2).exp()
    expected = float((weight * first).sum() / weight.sum())
    found = denoised(model, {"x": x}, particles=20_000)
    # 20,000 draws of weights of an effective number above 5,000: five errors are below 0.01
    assert float(found[0, 0]) / 10 == pytest.approx(expected, abs=0.01)
    again = denoised(model, {"x": x.repeat(3, 1)}, particles=50, total=1.0)
    torch.testing.assert_close(again.sum(1), torch.ones(3))


def given_model() -> LatentVariableModel:
    """Rates that an input decides: nothing of a row is unknown."""
    return LatentVariableModel(Joint({"x | u": fixed(Multinomial(2, MLP(1)), [[0.5], [-0.5]])}))


def rows(mean: float, seed: int, count: int = 40) -> dict[str, Tensor]:
    u = mean + torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
    return {"x": torch.ones(count, 2), "u": u}


def test_the_error_of_a_mean_over_known_rates_is_that_of_its_rows() -> None:
    """The Bayesian bootstrap of a mean has the variance s² / (n + 1)."""
    first, second = rows(1.0, 0), rows(0.0, 1)
    found = differential_rates(given_model(), first, second, draws=4_000, particles=1)
    shares = [torch.sigmoid(each["u"][:, 0]) for each in (first, second)]
    means = torch.stack([each.mean() for each in shares])
    # a mean of 4,000 draws of a deviation of 0.03: five errors are 0.0025
    torch.testing.assert_close(found.rates[:, 0], means, rtol=0, atol=0.0025)
    relative = [float(s.var(correction=0) / 41 / s.mean() ** 2) for s in shares]
    expected = math.sqrt(sum(relative)) / math.log(2)
    # a deviation of 4,000 draws is known to 1.1 %; the logarithm is not quite linear
    assert float(found.stderr[0]) == pytest.approx(expected, rel=0.08)
    change = math.log2(float(means[0] / means[1]))
    assert float(found.log_fold_change[0]) == pytest.approx(change, abs=0.02)
    assert found.rows == (40, 40)
    assert "40 rows against 40" in str(found)


def test_rates_as_of_another_input() -> None:
    """All rows are given the same input: nothing is left of what differed."""
    asked = {"given": {"u": 2.0}, "draws": 20, "particles": 2}
    found = differential_rates(given_model(), rows(1.0, 0), rows(-1.0, 1), **asked)  # type: ignore[arg-type]
    torch.testing.assert_close(found.rates[:, 0], torch.sigmoid(torch.full((2,), 2.0)))
    assert float(found.log_fold_change.abs().max()) < 1e-9
    with pytest.raises(ValueError, match="p has no input 'v' to be given; it has u"):
        denoised(given_model(), rows(1.0, 0), given={"v": 1.0})
