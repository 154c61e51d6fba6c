"""Sequential Monte Carlo samplers against closed forms (R2.6d)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from scipy import stats

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, FullCovarianceGaussian, Gaussian
from deeplvm.inference.tempering import Population
from deeplvm.likelihood.sequential import sequential_monte_carlo
from deeplvm.networks import MLP
from models import LOG_PX, counts, linear, marginal

ONES = {"x": torch.ones(3, 2, dtype=torch.float64)}


@pytest.mark.parametrize("start", ["prior", "posterior"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_golden_likelihood(start: Any, adaptive: bool) -> None:
    """TB1 within 5 of its own standard errors, seed fixed: fails in one seed of 500,000."""
    found = sequential_monte_carlo(linear(), ONES, 400, steps=3, start=start, adaptive=adaptive)
    assert (found.log_px_stderr < 0.08).all()
    assert ((found.log_px - LOG_PX).abs() < 5 * found.log_px_stderr).all()
    assert (found.acceptance > 0.3).all()
    assert (found.temperatures >= 2).all()  # each row finds its own


@pytest.mark.parametrize("below", [0.0, 0.5, 0.95])
def test_the_estimate_is_unbiased_and_knows_its_error(below: float) -> None:
    """2,000 rows are 2,000 runs: 5 standard errors of their mean, for few temperatures.

    The root of the mean estimated variance is within a fifth of the spread that the runs have.
    """
    rows = 2_000
    found = sequential_monte_carlo(
        linear(), {"x": torch.ones(rows, 2)}, 12, [0.15, 1.0], steps=2,
        resample_below=below, batch_size=rows,
    )  # fmt: skip
    weight = (found.log_px - LOG_PX).exp()
    assert abs(weight.mean() - 1.0) < 5 * weight.std() / math.sqrt(rows)
    said = (weight.square() * found.log_px_stderr.square()).mean().sqrt()
    assert 0.8 < float(said / weight.std()) < 1.25
    resampled = float(found.resamplings.mean())
    assert (below == 0.0) == (resampled == 0.0)
    assert below < 0.95 or resampled > 0.9


def test_an_exact_posterior_has_one_weight() -> None:
    model = linear()
    posterior = FullCovarianceGaussian(1, MLP(2), covariance="global")
    with torch.no_grad():  # mean M^-1 W^T x, variance s2 M^-1, M = 5.5
        posterior.head.layer.weight.copy_(torch.tensor([[1.0, 2.0]]) / 5.5)
        posterior.head.layer.bias.zero_()
        sigma = math.sqrt(0.5 / 5.5) - posterior.minimum_scale
        raw = math.log(math.expm1(sigma)) - math.log(math.expm1(1.0))
        posterior.free.copy_(torch.tensor([raw, 0.0]).reshape(posterior.free.shape))
    model.q = Joint({"z | x": posterior})
    found = sequential_monte_carlo(model, ONES, 4, start="posterior")
    assert torch.allclose(found.log_px, torch.full((3,), LOG_PX), rtol=0, atol=1e-8)
    assert (found.temperatures == 1).all()
    assert found.to_dict()["acceptance"] is None


def test_temperatures_follow_the_distance() -> None:
    """A posterior far from the prior takes more of them, and is still found: 5 standard errors."""
    model = linear()
    x = torch.tensor([[5.0, 10.0]]).expand(4, 2)
    far = sequential_monte_carlo(model, {"x": x}, 200, steps=3)
    near = sequential_monte_carlo(model, {"x": x * 0.0}, 200, steps=3)
    assert far.temperatures[0] > near.temperatures[0]
    assert far.resamplings.min() >= 1
    assert ((far.log_px - marginal().log_prob(x)).abs() < 5 * far.log_px_stderr).all()
    assert far.log_px_stderr.max() < 0.3
    finer = sequential_monte_carlo(model, {"x": x}, 8, steps=3, keep=0.95)
    assert finer.temperatures[0] > far.temperatures[0]


def test_a_constraint_and_missing_elements() -> None:
    """A Gamma's rate of two counts, one of them missing: negative binomial, 5 standard errors."""

    x = torch.tensor([[0.0, math.nan], [math.nan, 4.0], [15.0, math.nan]])
    found = sequential_monte_carlo(counts(2), {"x": x}, 200, steps=3)
    exact = torch.from_numpy(stats.nbinom(3.0, 0.5 / 1.5).logpmf([0, 4, 15]))
    assert (found.log_px_stderr < 0.15).all()
    assert ((found.log_px - exact).abs() < 5 * found.log_px_stderr).all()


def test_systematic_resampling_keeps_the_weights_in_the_mean() -> None:
    """Copies are K W rounded up or down, and K W in the mean; even rows stay as they are."""
    rows, weight = 4_000, torch.tensor([0.55, 0.05, 0.15, 0.25])
    population = Population(4, rows)
    population.weigh(weight.log().unsqueeze(1).expand(4, rows))
    even = Population(4, 3)
    even.weigh(torch.full((4, 3), -2.0))
    assert torch.equal(even.resample(0.9), torch.arange(4).unsqueeze(1).expand(4, 3))
    assert torch.allclose(even.log_px, torch.full((3,), -2.0))
    index = population.resample(0.9)
    copies = torch.stack([(index == each).sum(0) for each in range(4)]).double()
    expected = 4 * weight
    assert (copies >= expected.floor().unsqueeze(1)).all()
    assert (copies <= expected.ceil().unsqueeze(1)).all()
    assert ((copies.mean(1) - expected).abs() < 5 * 0.5 / math.sqrt(rows)).all()
    assert torch.allclose(population.ess, torch.tensor(4.0))


def test_a_particle_that_cannot_be_is_left() -> None:
    """Weights of zero, and a row in which all are."""
    population = Population(3, 2)
    population.weigh(torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf], [0.0, -math.inf]]))
    index = population.resample(0.9)
    assert 1 not in index[:, 0].tolist()
    found = population.result()["log_px"]
    assert float(found[0]) == pytest.approx(math.log(2 / 3))
    assert found[1] == -math.inf


def test_the_result_is_plain_and_repeats() -> None:
    model, data = linear(), {"x": torch.randn(5, 2)}
    model.train()
    before = torch.get_rng_state()
    first = sequential_monte_carlo(model, data, 4, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert torch.equal(first.log_px, sequential_monte_carlo(model, data, 4, steps=2).log_px)
    assert json.loads(json.dumps(first.to_dict()))["particles"] == 4
    assert "4 chains" in str(first)
    one = sequential_monte_carlo(
        model, {name: value[:1] for name, value in data.items()}, 1, [1.0]
    )
    assert one.rows == 1
    assert one.log_px_stderr.isnan().all()
    (first.log_px + 1).sum()


def test_wrong_arguments_are_said() -> None:
    model = linear()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"particles": 0}, "particles is at least 1"),
        ({"start": "q"}, "'prior' or 'posterior'"),
        ({"keep": 1.0}, "keep is between 0 and 1"),
        ({"temperatures": [0.5]}, r"rise from above 0 to 1.*\[0.5\]"),
        ({"temperatures": [0.0, 1.0]}, "rise from above 0"),
        ({"temperatures": [0.7, 0.6, 1.0]}, "rise from above 0"),
        ({"temperatures": [1.0], "adaptive": True}, "so give none"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            sequential_monte_carlo(model, ONES, **options)
    p = Joint({"h": Bernoulli(2), "x | h": Gaussian(2, MLP(2))})
    discrete = LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(2))}))
    with pytest.raises(ValueError, match="exact_likelihood"):
        sequential_monte_carlo(discrete, ONES)
