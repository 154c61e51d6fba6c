"""Rate and distortion: the linear-Gaussian model has both at every temperature."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions.kl import kl_divergence

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.evaluation.bound.rate_distortion import rate_distortion
from deeplvm.networks import MLP

WEIGHT = torch.tensor([[1.0, 0.4], [-0.6, 1.2], [0.3, 0.8], [0.9, -0.5]])
BETAS = (0.1, 0.5, 1.0, 2.5)


def tb1() -> tuple[LatentVariableModel, Tensor]:
    """TB1 with rows of its own."""
    likelihood = Gaussian(4, MLP(2), scale=math.sqrt(0.5))
    layer: Any = likelihood.head.layer
    with torch.no_grad():
        layer.weight.copy_(WEIGHT)
        layer.bias.zero_()
    torch.manual_seed(2)
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))
    x = torch.randn(40, 2) @ WEIGHT.double().T + math.sqrt(0.5) * torch.randn(40, 4)
    return model, x


def exact(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Rate and distortion of the tempered posterior N(m, S), S⁻¹ = I + β W'W / s²."""
    weight = WEIGHT.double()
    spread = (torch.eye(2) + beta * weight.T @ weight / 0.5).inverse()
    mean = beta * x @ weight @ spread / 0.5
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    rate = kl_divergence(MultivariateNormal(mean, spread), prior)
    off = (x - mean @ weight.T).square().sum(1) + (weight @ spread @ weight.T).trace()
    return rate, 0.5 * (off / 0.5 + 4 * math.log(2 * math.pi * 0.5))


def test_the_curve_of_a_linear_gaussian() -> None:
    """Each point within 4 standard errors of the difference row by row; one seed in 2,000 fails.

    A walk of 150 temperatures is as good as exact: its bias is below 0.01 nat.
    """
    model, x = tb1()
    found = rate_distortion(model, {"x": x}, betas=BETAS, particles=48, temperatures=150, steps=3)
    assert [point.beta for point in found.curve] == list(BETAS)
    for point in found.curve:
        rate, distortion = exact(x, point.beta)
        for value, truth in ((point.rate, rate), (point.distortion, distortion)):
            gap = value - truth
            error = float(gap.std()) / math.sqrt(len(x))
            assert error < max(0.06, 0.02 / point.beta)  # a warm distortion varies more
            assert abs(float(gap.mean())) < 4 * error + 0.01
        assert (point.ess > 20).all()
    one = found.curve[2]
    log_px = MultivariateNormal(
        torch.zeros(4), WEIGHT.double() @ WEIGHT.double().T + 0.5 * torch.eye(4)
    ).log_prob(x)
    assert torch.allclose(-(one.rate + one.distortion), log_px, atol=0.25)
    rates, distortions = (
        [float(getattr(p, name).mean()) for p in found.curve] for name in ("rate", "distortion")
    )
    assert rates == sorted(rates)
    assert distortions == sorted(distortions, reverse=True)


def test_a_hasty_walk_is_above_the_curve() -> None:
    """Few temperatures: R + βD, lowest on the curve, is too high in expectation, never too low.

    4 standard errors over 40 rows with 2 chains each: one seed in 30,000 fails.
    """
    model, x = tb1()
    found = rate_distortion(
        model, {"x": x}, betas=[1.0, 3.0], particles=2, temperatures=3, steps=1
    )
    above = []
    for point in found.curve:
        rate, distortion = exact(x, point.beta)
        excess = (point.rate + point.beta * point.distortion) - (rate + point.beta * distortion)
        above.append(float(excess.mean()))
        assert above[-1] > -4 * float(excess.std()) / math.sqrt(len(x))
    assert max(above) > 0.2  # the bound is seen to be loose


def test_weights_make_up_for_a_hasty_walk() -> None:
    """Many chains and two temperatures: consistent, although no chain is where it should be.

    5,000 chains a row leave an error of some 0.05 nat; five times as much fails.
    """
    model, x = tb1()
    found = rate_distortion(
        model, {"x": x[:6]}, betas=[1.0], particles=5_000, temperatures=2, steps=1
    )
    (point,) = found.curve
    rate, distortion = exact(x[:6], 1.0)
    assert torch.allclose(point.rate, rate, atol=0.25)
    assert torch.allclose(point.distortion, distortion, atol=0.25)
    assert (point.ess < 2_500).all()


def test_the_models_own_point() -> None:
    """Rate in closed form, distortion by draws; together the ELBO, above the line of log p(x).

    4 standard errors: one seed in 15,000 fails.
    """
    model, x = tb1()
    found = rate_distortion(model, {"x": x}, betas=(), particles=2_000)
    with torch.no_grad():
        q: Any = model.q["z"]
        base = q(x).base_dist if hasattr(q(x), "base_dist") else q(x)
        mean, spread = base.mean, base.variance
    rate = 0.5 * (mean.square() + spread - 1 - spread.log()).sum(1)
    weight = WEIGHT.double()
    off = (x - mean @ weight.T).square().sum(1) + (spread @ weight.square().T).sum(1)
    distortion = 0.5 * (off / 0.5 + 4 * math.log(2 * math.pi * 0.5))
    assert torch.allclose(found.rate, rate, atol=1e-10)
    gap = found.distortion - distortion
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(x))
    assert torch.equal(found.elbo, -(found.rate + found.distortion))
    assert found.curve == ()
    tempered_rate, tempered_distortion = exact(x, 1.0)
    assert (found.elbo < -(tempered_rate + tempered_distortion) + 0.2).all()


def test_prior_as_posterior() -> None:
    """R = 0 where q is the prior; the curve begins there."""
    model, x = tb1()
    blind = LatentVariableModel(model.p, Joint({"z": StandardNormal(2)}))
    found = rate_distortion(blind, {"x": x}, betas=[1e-6], particles=200, temperatures=1, steps=2)
    assert float(found.rate.abs().max()) == 0
    (point,) = found.curve
    assert float(point.rate.abs().max()) < 1e-3
    assert float(point.distortion.mean()) == pytest.approx(float(found.distortion.mean()), rel=0.1)


def test_one_row_has_no_error() -> None:
    model, x = tb1()
    options: dict[str, Any] = {"betas": [1.0], "temperatures": 4, "particles": 3}
    assert "β = 1" in str(rate_distortion(model, {"x": x[:6]}, **options))
    one = rate_distortion(model, {"x": x[:1]}, **options)
    assert one.to_dict()["rate"]["stderr"] is None
    json.dumps(one.to_dict(), allow_nan=False)


def test_holes_and_single_precision() -> None:
    """The distortion of a row with holes is of what is there; a float32 model walks as well."""
    model, x = tb1()
    holed = x[:4].clone()
    holed[:, 2:] = torch.nan
    options: dict[str, Any] = {"betas": [1.0], "temperatures": 30, "particles": 30}
    found = rate_distortion(model.float(), {"x": holed}, **options)
    weight = WEIGHT.double()[:2]
    log_px = MultivariateNormal(torch.zeros(2), weight @ weight.T + 0.5 * torch.eye(2)).log_prob(
        holed[:, :2]
    )
    (point,) = found.curve
    assert torch.allclose(-(point.rate + point.distortion), log_px, atol=0.5)
    assert found.rate.dtype == torch.float64


def test_discrete_latents_have_a_point_alone() -> None:
    """A curve is refused with the way out; the point is exact by a sum over the values."""
    torch.manual_seed(0)
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3, 6))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    x = torch.randint(2, (5, 4)).double()
    with pytest.raises(ValueError, match=r"betas=\(\)"):
        rate_distortion(model, {"x": x})
    found = rate_distortion(model, {"x": x}, betas=(), draw={"y": Enumerated()})
    expected_rate, expected_distortion = torch.zeros(5), torch.zeros(5)
    with torch.no_grad():
        for label in range(3):
            y = torch.full((5,), label)
            log_q: Any = model.q({"x": x, "y": y})["y"].log_prob
            trace = model.p({"x": x, "y": y})
            log_prior: Any = trace["y"].log_prob
            log_px: Any = trace["x"].log_prob
            expected_rate += log_q.exp() * (log_q - log_prior)
            expected_distortion -= log_q.exp() * log_px
    assert torch.allclose(found.rate, expected_rate, atol=1e-10)
    assert torch.allclose(found.distortion, expected_distortion, atol=1e-10)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"particles": 0}, "at least 1"),
        ({"temperatures": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"betas": [0.0]}, "betas are above 0"),
        ({"betas": [math.inf]}, "betas are above 0"),
    ],
)
def test_refusals(options: dict[str, Any], match: str) -> None:
    model, x = tb1()
    with pytest.raises(ValueError, match=match):
        rate_distortion(model, {"x": x}, **options)


def test_an_observed_name_in_the_prior() -> None:
    """Chains cannot start in p(z | y) for the y that is observed; the point is there."""
    p = Joint({"y": Categorical(2), "z | y": Gaussian(1, MLP(2)), "x | z": Gaussian(2, MLP(1))})
    model = LatentVariableModel(p, Joint({"z | x, y": Gaussian(1, MLP(4))}))
    data = {"x": torch.randn(3, 2), "y": torch.tensor([0, 1, 1])}
    with pytest.raises(ValueError, match="prior of the latents reads y"):
        rate_distortion(model, data)
    assert rate_distortion(model, data, betas=()).rows == 3
    with pytest.raises(ValueError, match="without a latent"):
        rate_distortion(model, data | {"z": torch.randn(3, 1)}, betas=())
