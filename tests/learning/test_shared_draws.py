"""The Monte-Carlo error of a mean over rows that are all scored at the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.learning import make_random, posterior_predictive, posteriors
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP

ROWS, DRAWS, RUNS = 60, 30, 40


def random_parameters() -> tuple[Callable[[int], tuple[float, float]], float]:
    """Regression with random weights, whose predictive density is normal."""
    torch.manual_seed(0)
    x, y = torch.randn(ROWS, 1), 0.7 * torch.randn(ROWS, 1)
    model = LatentVariableModel(Joint({"y | x": Gaussian(1, MLP(1), scale=0.5)}), Joint({}))
    make_random(model, {"p.y.*": Normal(0.0, 1.0)}, initial_scale=0.2)
    mean = {name.split(".")[-1]: each.mean.detach() for name, each in posteriors(model).items()}
    spread = (0.04 * x.square() + 0.04 + 0.25).sqrt()
    exact = float(Normal(x @ mean["weight"].T + mean["bias"], spread).log_prob(y).mean())

    def estimate(seed: int) -> tuple[float, float]:
        found = posterior_predictive(
            model, {"x": x, "y": y}, draws=DRAWS, particles=1, seed=1_000 * seed
        )
        return float(found.log_px.mean()), found.monte_carlo_stderr

    return estimate, exact


def shared_names() -> tuple[Callable[[int], tuple[float, float]], float]:
    """x = w + noise with one w for all rows: the density of each row is normal."""
    torch.manual_seed(0)
    x = 1.0 + torch.randn(ROWS, 1)
    p = Joint({"w": StandardNormal(1), "x | w": Gaussian(1, MLP(1), scale=1.0)}, shared=["w"])
    model = LatentVariableModel(p, Joint({"w": Gaussian(1)}, shared=["w"]))
    given: Any = p["x"]
    with torch.no_grad():
        w: Any = model.posterior({"x": x})["w"].distribution
        origin, at_one = [given(torch.tensor([[each]])).mean.flatten() for each in (0.0, 1.0)]
        slope = at_one - origin
        spread = (1.0 + (slope * w.stddev).square()).sqrt()
        exact = float(Normal(origin + slope * w.mean, spread).log_prob(x).mean())

    def estimate(seed: int) -> tuple[float, float]:
        found = importance_sampling(model, {"x": x}, DRAWS, seed=seed)
        return found.mean, found.monte_carlo_stderr

    return estimate, exact


@pytest.mark.parametrize("case", [random_parameters, shared_names])
def test_the_interval_holds_the_exact_mean(
    case: Callable[[], tuple[Callable[[int], tuple[float, float]], float]],
) -> None:
    """±1.96 errors hold it in 95 % of runs; of 40, 34 are asked for: one seed in 300 fails.

    With rows taken as independent it held in 35 to 60 %.
    """
    estimate, exact = case()
    found = Tensor([estimate(seed) for seed in range(RUNS)])
    held = (found[:, 0] - exact).abs() < 1.96 * found[:, 1]
    assert int(held.sum()) >= 34
    # the errors are as large as the runs are apart
    assert 0.75 < float(found[:, 1].mean() / found[:, 0].std()) < 1.35
