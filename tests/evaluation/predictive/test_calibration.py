"""Predictions of hidden values against the exact conditional law, and models that are wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    OneHot,
    Poisson,
    StandardNormal,
)
from deeplvm.evaluation.predictive.calibration import calibration, calibration_error, reliability
from deeplvm.networks import MLP

WEIGHT = torch.tensor([[1.0], [-0.5], [0.8]], dtype=torch.float64)
RNG = np.random.default_rng(0)


def factor_model(noise: float = 0.5) -> LatentVariableModel:
    """One factor, three reals; q is not the posterior, and knows nothing of holes."""
    likelihood = Gaussian(3, MLP(1), scale=noise)
    posterior = Gaussian(1, MLP(3), scale=0.7)
    for part, weight in ((likelihood, WEIGHT), (posterior, 0.4 * WEIGHT.T)):
        layer: Any = part.head.layer
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.zero_()
    p = Joint({"z": StandardNormal(1), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def covariance(noise: float = 0.5) -> Tensor:
    return WEIGHT @ WEIGHT.T + noise**2 * torch.eye(3)


def rows(count: int, noise: float = 0.5) -> Tensor:
    return MultivariateNormal(torch.zeros(3), covariance(noise)).sample((count,))


def exact_pit(x: Tensor, hidden: int) -> Tensor:
    """Φ of the standardised value, given the other two columns."""
    c = covariance()
    rest = [i for i in range(3) if i != hidden]
    gain = c[hidden, rest] @ c[rest][:, rest].inverse()
    scale = (c[hidden, hidden] - gain @ c[rest, hidden]).sqrt()
    return Normal(x[:, rest] @ gain, scale).cdf(x[:, hidden])


def test_transforms_are_those_of_the_exact_conditional() -> None:
    """Each row's F(x_m | x_o), whatever q is; a row's error is 0.5 / sqrt(effective particles)."""
    x = rows(60)
    found = calibration(factor_model(), {"x": x}, hide=None, particles=2_000)
    assert found.rows == 60
    assert found.effective_particles > 200
    for each in found.intervals:
        expected = exact_pit(x, int(each.title[2]))
        assert (each.pit - expected).abs().max() < 5 * 0.5 / math.sqrt(200)
        # the root of the mean of 60 errors
        assert (each.pit - expected).square().mean().sqrt() < 1.5 * 0.5 / math.sqrt(400)


def test_a_model_that_is_right() -> None:
    """Within 4 standard errors of every level, and uniform; one run in 2,000 fails."""
    found = calibration(factor_model(), {"x": rows(800)}, particles=200)
    for coverage in found.coverage:
        assert coverage.value == pytest.approx(coverage.level, abs=4 * coverage.stderr)
        assert coverage.stderr == pytest.approx(
            math.sqrt(coverage.level * (1 - coverage.level) / 480), rel=0.25
        )
    assert found.p_value > 1e-3
    assert min(each.adjusted for each in found.intervals) > 1e-3
    # hidden with probability 0.2 each, and a row with any of three: 0.488
    assert len(found.pit) == found.rows == pytest.approx(390, abs=60)


def test_an_overconfident_model() -> None:
    """The scale is half of what it should be, so that 90 % intervals cover about 64 %."""
    x = rows(500)
    narrow = calibration(factor_model(0.25), {"x": x}, particles=200)
    ninety = narrow.coverage[2]
    assert ninety.level == 0.9
    assert ninety.value < 0.8 - 3 * ninety.stderr
    assert narrow.p_value < 1e-3
    wide = calibration(factor_model(1.0), {"x": x}, particles=200)
    assert wide.coverage[0].value > 0.5 + 4 * wide.coverage[0].stderr
    assert "interval of 90 %" in str(narrow)
    assert json.loads(json.dumps(narrow.to_dict(), allow_nan=False))["rows"] == narrow.rows


def test_outputs_given_inputs() -> None:
    """y | x without latents: hide=1 predicts y from x alone; the coverage is that of a normal."""
    x = torch.randn(1_500, 2)
    outcome = Gaussian(1, MLP(2), scale=0.5)
    model = LatentVariableModel(Joint({"y | x": outcome}))
    with torch.no_grad():
        y = outcome(x).mean + torch.randn(1_500, 1)  # twice the scale
    found = calibration(model, {"x": x, "y": y}, hide=1.0, particles=400)
    assert found.rows == 1_500
    assert found.effective_particles == pytest.approx(400)
    for coverage in found.coverage:
        half = 0.5 * Normal(0.0, 1.0).icdf(torch.tensor(0.5 + coverage.level / 2))
        expected = float(2 * Normal(0.0, 1.0).cdf(half) - 1)
        # quantiles of 400 draws are themselves a little off
        assert coverage.value == pytest.approx(expected, abs=4 * coverage.stderr + 0.01)


def test_counts_are_randomised() -> None:
    """A Poisson model of Poisson counts is right, small as they are; a rate that is wrong is not.

    Four standard errors, and a p-value that falls below 10⁻³ in one run of a thousand.
    """
    counts = torch.distributions.Poisson(0.7).sample((2_000, 1))
    right = calibration(
        LatentVariableModel(Joint({"x": Poisson(1, mean=0.7)})),
        {"x": counts},
        hide=1.0,
        particles=300,
    )
    assert right.p_value > 1e-3
    assert right.coverage[0].value == pytest.approx(0.5, abs=4 * right.coverage[0].stderr)
    wrong = calibration(
        LatentVariableModel(Joint({"x": Poisson(1, mean=1.4)})),
        {"x": counts},
        hide=1.0,
        particles=300,
    )
    assert wrong.p_value < 1e-6


def labels(scale: float) -> tuple[LatentVariableModel, dict[str, Tensor]]:
    """b and c given x; the data have logits that are smaller by a factor."""
    torch.manual_seed(0)
    x = torch.randn(1_500, 2)
    p = Joint({"b | x": Bernoulli(1, MLP(2)), "c | x": Categorical(3, MLP(2))})
    with torch.no_grad():
        for name in ("b", "c"):
            layer: Any = p[name].head.layer
            layer.bias.zero_()
            layer.weight.copy_(2 * torch.randn(layer.weight.shape))
            layer.weight.mul_(scale)
        data = {name: p({"x": x}, (1_500,))[name].value for name in ("b", "c")}
        for name in ("b", "c"):
            p[name].head.layer.weight.div_(scale)  # type: ignore[union-attr]
    return LatentVariableModel(p), {"x": x, **data}


def test_probabilities() -> None:
    """Brier score in closed form where the model is right; logits three times too large found."""
    model, data = labels(1.0)
    right = calibration(model, data, hide=1.0, particles=500)
    b, c = sorted(right.reliability, key=lambda each: each.title)
    with torch.no_grad():
        trace = model.p({"x": data["x"]}, (1_500,))
        p: Tensor = trace["b"].distribution.mean[:, 0]  # type: ignore[union-attr]
    noise = float((p * (1 - p)).mean()) / 500
    assert b.brier.value == pytest.approx(
        float((p - data["b"][:, 0]).square().mean()) + noise, abs=2e-3
    )
    assert (b.probability - p).abs().max() < 5 * 0.5 / math.sqrt(500)
    assert b.title == "b[0]"
    assert c.title == "c"
    assert min(b.adjusted, c.adjusted) > 1e-2  # the smaller of two is below in one of 100
    assert b.calibration_error.value == pytest.approx(
        b.if_calibrated, abs=4 * b.calibration_error.stderr
    )
    model, data = labels(1 / 3)
    wrong = calibration(model, data, hide=1.0, particles=500)
    assert max(each.adjusted for each in wrong.reliability) < 0.01
    assert "Brier score" in str(wrong)
    assert math.isnan(wrong.p_value)  # no column of numbers
    assert wrong.to_dict()["p_value"] is None


def test_reliability_by_hand() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    (found,) = reliability({"c": (shares, torch.tensor([0.0, 2.0]))}, seed=0)
    first, second = 0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.6**2 + 0.7**2
    assert found.brier.value == pytest.approx((first + second) / 2)
    assert found.outcome.tolist() == [1.0, 0.0]
    assert found.calibration_error.value == pytest.approx((0.3 + 0.6) / 2)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.0


def test_errors_are_by_rows() -> None:
    """Copies of one column are one column's worth of evidence."""
    x = torch.randn(300, 1).expand(300, 4)
    model = LatentVariableModel(Joint({"x": Gaussian(4, scale=1.0)}))
    found = calibration(model, {"x": x}, hide=1.0, particles=400)
    alone = found.intervals[0].coverage[0].stderr
    assert found.coverage[0].stderr == pytest.approx(alone, rel=0.05)  # and not half of it


def test_what_is_missing_stays_so() -> None:
    x = rows(60)
    x[:40, 0] = torch.nan
    found = calibration(factor_model(), {"x": x}, hide=None, particles=50)
    assert {each.title: len(each.pit) for each in found.intervals} == {
        "x[0]": 20,
        "x[1]": 60,
        "x[2]": 60,
    }


def test_few_effective_particles_are_told() -> None:
    few = calibration(factor_model().float(), {"x": rows(7).float()}, particles=5, hide=None)
    assert few.rows == 7
    assert "fewer than 10 effective particles" in str(few)


def test_data_from_the_same_seed() -> None:
    """Noise that made the data is not met again: hidden at random means at random."""
    torch.manual_seed(0)
    x = torch.randn(2_000, 1)
    model = LatentVariableModel(Joint({"x": Gaussian(1, scale=1.0)}))
    assert calibration(model, {"x": x}, particles=200, seed=0).p_value > 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hide": 0.0}, "share above 0"),
        ({"particles": 1}, "at least 2"),
        ({"levels": (0.5, 1.0)}, "between 0 and 1; found 1000 and 0.5, 1.0"),
        ({"names": ["w"]}, "does not score w"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(factor_model(), {"x": rows(4)}, **options)


def test_what_cannot_be_hidden() -> None:
    p = Joint({"x": Gaussian(2), "y | x": Gaussian(1, MLP(2))})
    model = LatentVariableModel(p)
    data = {"x": torch.randn(9, 2), "y": torch.randn(9, 1)}
    with pytest.raises(ValueError, match="draws other names from x"):
        calibration(model, data, names=["x"])
    assert [each.title for each in calibration(model, data, hide=1.0).intervals] == ["y[0]"]
    for conditional, values in (
        (FullCovarianceGaussian(2), torch.randn(9, 2)),
        (OneHot(3), torch.eye(3)),
    ):
        with pytest.raises(ValueError, match=r"missing|depend on each other"):
            calibration(LatentVariableModel(Joint({"x": conditional})), {"x": values}, hide=0.5)
    with pytest.raises(ValueError, match="Nothing was hidden"):
        calibration(model, {"x": data["x"], "y": torch.full((9, 1), torch.nan)})
