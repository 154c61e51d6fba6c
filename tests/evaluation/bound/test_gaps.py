"""What the bound loses, and to what: against closed forms on a linear-Gaussian model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from deeplvm import Enumerated, Joint, LatentVariableModel
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    StandardNormal,
)
from deeplvm.evaluation import Evaluation, InferenceGaps, evaluate, inference_gaps
from deeplvm.networks import MLP

WEIGHT = [[1.0, 0.4], [-0.6, 1.2], [0.3, 0.8], [0.9, -0.5]]


def model_with(
    posterior: Callable[[], nn.Module],
) -> tuple[LatentVariableModel, Tensor, Tensor, float]:
    """TB1 with rows of its own, their log p(x), and the gap of the best diagonal q."""
    torch.manual_seed(2)
    weight = torch.tensor(WEIGHT)
    likelihood = Gaussian(4, MLP(2), scale=math.sqrt(0.5))
    layer: Any = likelihood.head.layer
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    marginal = MultivariateNormal(torch.zeros(4), weight @ weight.T + 0.5 * torch.eye(4))
    x = marginal.sample((20,))
    precision = torch.eye(2) + 2 * weight.T @ weight
    gap = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    model = LatentVariableModel(p, Joint({"z | x": posterior()}))
    return model, x, marginal.log_prob(x), float(gap)


def test_a_family_that_has_the_posterior() -> None:
    """R2.1c: no approximation gap; all that is lost is the encoder's doing."""
    model, x, log_px, _ = model_with(lambda: FullCovarianceGaussian(2, MLP(4), minimum_scale=1e-6))
    gaps = inference_gaps(model, {"x": x}, particles=300, steps=400, learning_rate=0.1)
    # the refined q is exact but for the noise of its gradients
    assert float(gaps.approximation.mean()) < 5e-3
    assert (gaps.approximation >= 0).all()  # Jensen: never below, whatever is drawn
    assert torch.allclose(gaps.log_px, log_px, atol=0.02)
    assert torch.allclose(gaps.total, gaps.approximation + gaps.amortisation, atol=1e-12)
    assert float(gaps.amortisation.mean()) > 1


def test_a_family_that_has_not() -> None:
    """R2.1c: the diagonal family's gap in closed form, within 4 standard errors (one in 15,000).

    The error of a row's ELBO is estimated from the spread over rows, whose true gap is the same.
    """
    model, x, log_px, expected = model_with(lambda: Gaussian(2, MLP(4), minimum_scale=1e-6))
    gaps = inference_gaps(model, {"x": x}, particles=1000, steps=200, learning_rate=0.1)
    plain = gaps.to_dict()
    error = plain["approximation"]["stderr"]
    # steps that are noisy end a little below the best: 2e-3 nats
    assert plain["approximation"]["value"] == pytest.approx(expected, abs=4 * error + 2e-3)
    assert error < 0.01
    assert plain["log_px"]["value"] == pytest.approx(float(log_px.mean()), abs=0.02)
    assert plain["elbo"]["value"] < plain["elbo_local"]["value"] < plain["log_px"]["value"]
    assert "approximation gap" in str(gaps)
    assert "<table" in gaps._repr_html_()


def test_labels_summed_out() -> None:
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3, 6))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    x = torch.randint(2, (5, 4)).double()
    gaps = inference_gaps(
        model, {"x": x[:4]}, draw={"y": Enumerated()}, steps=300, learning_rate=0.1
    )
    assert gaps.approximation.abs().max() < 1e-5
    assert gaps.amortisation.min() > 1e-5
    assert len(gaps.total) == 4


@pytest.fixture(scope="module")
def make() -> Callable[..., Evaluation]:
    def measure(**options: Any) -> Evaluation:
        model, x, _, _ = model_with(lambda: Gaussian(2, MLP(4)))
        return evaluate(model, {"x": x}, particles=40, **options)

    return measure


def test_in_the_evaluation(make: Callable[..., Evaluation]) -> None:
    """Beside the rest where asked for, and otherwise nothing is changed."""
    evaluation = make(gap_rows=6)
    plain = json.loads(evaluation.to_json())
    assert plain["gaps"]["rows"] == 6
    assert plain["gaps"]["approximation"]["value"] > 0
    total = plain["gaps"]["approximation"]["value"] + plain["gaps"]["amortisation"]["value"]
    assert plain["gaps"]["total"]["value"] == pytest.approx(total)
    assert "amortisation gap" in str(evaluation)
    assert Evaluation.from_dict(plain).to_json() == evaluation.to_json()
    without = make()
    assert "gaps" not in without.to_dict()
    assert "gap" not in str(without)
    rest = {name: value for name, value in plain.items() if name != "gaps"}
    assert rest["settings"].pop("gap_rows") == 6
    assert json.loads(without.to_json()) == rest


def test_one_row_has_no_error() -> None:
    model, x, _, _ = model_with(lambda: Gaussian(2, MLP(4)))
    gaps = inference_gaps(model, {"x": x[:1]}, particles=16, steps=2)
    assert isinstance(gaps, InferenceGaps)
    assert gaps.to_dict()["amortisation"]["stderr"] is None
    assert "±" not in str(gaps).split("\n")[0]
