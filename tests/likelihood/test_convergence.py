"""The verdict on a likelihood: each case planted, and the curves against closed forms (R2.6d)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.gradients import Enumerated
from deeplvm.likelihood import annealed_importance_sampling, importance_sampling
from deeplvm.likelihood.convergence import Convergence, convergence
from deeplvm.networks import MLP
from deeplvm.report.figures.likelihood import convergence_figure
from models import linear, marginal


class Fixed(nn.Module):
    """A normal whose mean is linear in x, of a scale that is given."""

    event_shape = torch.Size((1,))

    def __init__(self, scale: float, weight: tuple[float, float] = (1 / 5.5, 2 / 5.5)) -> None:
        super().__init__()
        self.scale, self.weight = scale, torch.tensor(weight)

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        mean = (x * self.weight).sum(-1, keepdim=True)
        return torch.distributions.Independent(torch.distributions.Normal(mean, self.scale), 1)


def rows(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of TB1 and their exact log p(x)."""
    torch.manual_seed(0)
    x = marginal().sample((count,))
    return {"x": x}, marginal().log_prob(x)


def test_what_has_settled() -> None:
    """Both curves end within 5 standard errors, over rows, of the exact likelihood."""
    data, exact = rows(40)
    found = convergence(linear(q=Fixed(0.45)), data, (1, 10, 300), (10, 100), steps=3)
    assert found.verdict.startswith("Both have settled: the 300-particle estimate and annealing")
    for values in (found.importance[-1], found.annealed[-1]):
        short = exact - values
        assert abs(short.mean()) < 5 * short.std() / math.sqrt(40)
        assert abs(short.mean()) < 0.03
    # E[L_k] rises with k, and L_1 is the ELBO: E_q log w, in closed form
    means = found.importance.mean(1)
    assert (means.diff() > 0).all()
    posterior = torch.distributions.Normal(0.0, math.sqrt(1 / 11))
    lost = torch.distributions.kl_divergence(torch.distributions.Normal(0.0, 0.45), posterior)
    short = exact - found.importance[0]
    assert abs(short.mean() - lost) < 5 * short.std() / math.sqrt(40)


def test_what_still_rises() -> None:
    """q is a hundred times too wide: few particles are far below."""
    data, _ = rows(30)
    found = convergence(linear(q=Fixed(30.0)), data, (1, 2, 4), (30, 100), steps=3)
    assert re.match(
        r"The 4-particle estimate is still rising: \d+\.\d+ ± \d+\.\d+ nats below annealing with "
        r"100 temperatures\.",
        found.verdict,
    )


def test_a_missing_part_of_the_posterior() -> None:
    """Two modes, one of which q never visits: settled, log 2 too low."""

    class Square(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, z: Tensor) -> torch.distributions.Distribution:
            normal = torch.distributions.Normal(z.square(), 0.5)
            return torch.distributions.Independent(normal, 1)

    class Right(nn.Module):
        event_shape = torch.Size((1,))

        def forward(self, x: Tensor) -> torch.distributions.Distribution:
            normal = torch.distributions.Normal(x.clamp(min=1.0).sqrt(), 0.2)
            return torch.distributions.Independent(normal, 1)

    model = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Square()}), Joint({"z | x": Right()})
    )
    torch.manual_seed(0)
    data = {"x": 4.0 + torch.rand(30, 1)}
    found = convergence(model, data, (10, 100, 1_000), (30, 100), steps=4)
    assert "has stopped rising" in found.verdict
    assert found.verdict.endswith("q seems to miss a part of the posterior.")
    assert abs(found.gap.value - math.log(2)) < 5 * found.gap.stderr + 0.02


def test_annealing_that_has_not_settled() -> None:
    """Sharp posteriors in 10 dimensions, and a q that knows nothing: too few temperatures."""
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(10), "x | z": Gaussian(10, MLP(10), scale=0.1)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(10, MLP(10))}))
    data = {"x": torch.randn(20, 10)}
    found = convergence(model, data, (1, 10), (2, 4), annealed_particles=4, steps=2)
    assert re.match(
        r"Annealing has not settled: it rose by [\d.]+ ± [\d.]+ nats from 2 to 4 temperatures, "
        r"which leaves about [\d.]+ ± [\d.]+ to come; take more temperatures or "
        r"start from q \(start='posterior'\). The 10-particle estimate is [\d.]+ ± [\d.]+"
        r" nats below it\.",
        found.verdict,
    )


def test_annealing_below_importance_sampling() -> None:
    """q is the posterior, and one temperature is plain sampling from the prior."""
    data, exact = rows(200)
    found = convergence(
        linear(q=Fixed(math.sqrt(1 / 11))), data, (1, 10), (1, 2), annealed_particles=2, steps=2
    )
    torch.testing.assert_close(found.importance[0], exact, rtol=0, atol=1e-9)
    assert re.match(
        r"Annealing with 2 temperatures is [\d.]+ ± [\d.]+ nats below the 10-particle estimate; "
        r"it still rose by [\d.]+ ± [\d.]+ from 1 temperatures: take more\.",
        found.verdict,
    )


def planted(importance: list[float], annealed: list[float], noise: float, **other: Any) -> str:
    """The verdict on curves of these means: rows differ much, and their differences little."""
    torch.manual_seed(0)
    common = 10.0 * torch.randn(50)

    def curve(means: list[float]) -> Tensor:
        each = noise * torch.randn(len(means), 50)
        return torch.tensor(means)[:, None] + common + each - each.mean(1, keepdim=True)

    base = Convergence(
        particles=(100, 1_000, 5_000)[-len(importance) :],
        importance=curve(importance),
        temperatures=(300, 1_000)[-len(annealed) :],
        annealed=curve(annealed),
        acceptance=torch.full((len(annealed),), 0.2),
        ess=torch.ones(50),
        pareto_k=torch.zeros(50),
        annealed_particles=16,
        start="prior",
        exact=False,
        tolerance=0.05,
    )
    return replace(base, **other).verdict


def test_verdicts_on_planted_curves() -> None:
    assert planted([-90.0, -88.4, -88.0], [-87.6, -87.6], 0.8).startswith(
        "The 5,000-particle estimate is still rising: 0.40 ± 0.1"
    )
    assert planted([-88.0, -87.62], [-87.6, -87.6], 0.05).startswith(
        "Both have settled: the 5,000-particle estimate and annealing with 1,000 temperatures "
        "agree within 0.0200 ± 0.00"
    )
    assert planted([-88.0, -87.8], [-88.0, -87.6], 0.1).startswith(
        "Annealing has not settled: it rose by 0.400 ± 0.0"
    )
    # 0.1 from 300 to 1,000 leaves 0.043, which is tolerated
    assert planted([-88.0, -87.6], [-87.7, -87.6], 0.1).startswith("Both have settled")
    below = planted([-88.0, -87.6], [-88.6, -88.6], 0.1)
    assert below.startswith("Annealing with 1,000 temperatures is 1.000 ± 0.0")
    assert below.endswith(
        "its particles mix badly (acceptance 0.20): take more leapfrog steps or start from "
        "q (start='posterior')."
    )
    assert planted([-88.0, -87.6], [-87.5, -87.5], 2.0).startswith("Not told apart")
    assert "the exact sum" in planted([-88.0, -87.7], [-87.6], 0.1, exact=True)
    # one number of each: nothing is known of a rise
    assert "still rising" in planted([-88.0], [-87.6], 0.1)


def test_enumerated_latents() -> None:
    """A mixture alone: annealing is the exact sum; importance sampling too, if it enumerates."""
    torch.manual_seed(0)
    p = Joint({"y": Categorical(3), "x | y": Gaussian(2, MLP(3), scale=0.5)})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(2))}))
    data = {"x": torch.randn(20, 2)}
    found = convergence(model, data, (1, 10), (5, 10), draw={"y": Enumerated()})
    exact = importance_sampling(model, data, draw={"y": Enumerated()})
    assert found.exact
    torch.testing.assert_close(found.importance[-1], exact.log_px)
    torch.testing.assert_close(found.annealed[0], exact.log_px)
    assert "agree within 0.0000 nats" in found.verdict
    sampled = convergence(model, data, (1, 50), (5, 10))
    torch.testing.assert_close(sampled.annealed[0], exact.log_px)


def test_results_seeds_and_the_last_particles() -> None:
    """The last number of draws is what importance sampling gives; plain numbers are JSON."""
    data, _ = rows(6)
    model = linear(q=Fixed(0.5))
    state = torch.get_rng_state()
    found = convergence(model, data, (40, 1), (5, 2), annealed_particles=2, steps=2)
    again = convergence(model, data, (1, 40), (2, 5), annealed_particles=2, steps=2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found.importance, again.importance)
    assert torch.equal(found.annealed, again.annealed)
    estimate = importance_sampling(model, data, 40)
    torch.testing.assert_close(found.importance[-1], estimate.log_px)
    torch.testing.assert_close(found.pareto_k, estimate.pareto_k, equal_nan=True)
    torch.testing.assert_close(
        float(found.importance[0].mean()), estimate.curve[0].value, rtol=1e-12, atol=0
    )
    walks = [annealed_importance_sampling(model, data, 2, t, steps=2, seed=1) for t in (2, 5)]
    assert torch.equal(found.annealed, torch.stack([walk.log_px for walk in walks]))
    plain = json.loads(json.dumps(found.to_dict()))
    assert [point["particles"] for point in plain["importance"]] == [1, 40]
    assert plain["annealing"][-1]["below"] == 0.0
    assert plain["verdict"] in str(found)
    assert "40 particles" in str(found)
    few = convergence(
        model,
        {name: value[:3] for name, value in data.items()},
        (1, 4),
        (2, 5),
        annealed_particles=2,
        steps=2,
    )
    assert few.rows == 3


def test_what_is_refused() -> None:
    model = linear(q=Fixed(0.5))
    with pytest.raises(ValueError, match="take at least 2, found 1"):
        convergence(model, rows(1)[0])
    with pytest.raises(ValueError, match="particles are numbers of at least 1"):
        convergence(model, rows(3)[0], (0, 5))
    with pytest.raises(ValueError, match="temperatures are numbers of at least 1"):
        convergence(model, rows(3)[0], (1, 5), ())


def test_the_figure_shows_both_curves() -> None:
    found = convergence(
        linear(q=Fixed(0.5)), rows(6)[0], (1, 40), (2, 5), annealed_particles=2, steps=2
    )
    svg = str(convergence_figure(found.to_dict()))
    assert svg.startswith("<svg")
    for text in (
        "particles",
        "temperatures",
        "annealing, 2 particles",
        "log p(x), nats a row",
        ">40<",
    ):
        assert text in svg
