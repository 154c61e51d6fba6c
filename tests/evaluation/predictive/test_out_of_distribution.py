"""Scores in closed form on a normal model; areas against scikit-learn and DeLong's own formula."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor
from torch.distributions import Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation.predictive.out_of_distribution import (
    complexity,
    delong,
    detection,
    out_of_distribution,
    png_bits,
    waic,
    zlib_bits,
)
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.networks import MLP

RNG = np.random.default_rng(0)


def normal(scale: float = 1.0, features: int = 20) -> LatentVariableModel:
    return LatentVariableModel(Joint({"x": Gaussian(features, scale=scale)}))


def log_normal(x: Tensor, scale: float = 1.0) -> Tensor:
    return Normal(0.0, scale).log_prob(x).sum(1)


def test_scores_in_closed_form() -> None:
    """Without latents p is known: every score is its formula, to rounding."""
    train, inside, outside = torch.randn(30, 20), torch.randn(25, 20), 0.1 * torch.randn(15, 20)
    found = out_of_distribution(
        normal(),
        {"x": inside},
        {"x": outside},
        train={"x": train},
        background=normal(2.0),
        ensemble=[normal(1.1), normal(0.8)],
        elbo=True,
    )
    for name, x in (("inside", inside), ("outside", outside)):
        several = torch.stack([log_normal(x, s) for s in (1.0, 1.1, 0.8)]).numpy()
        expected = {
            "likelihood": -log_normal(x),
            "typicality": (log_normal(x) - log_normal(train).mean()).abs(),
            "likelihood ratio": log_normal(x, 2.0) - log_normal(x),
            "WAIC": torch.from_numpy(several.var(0, ddof=1) - several.mean(0)),
            "ELBO": -log_normal(x),
        }
        assert set(expected) == set(found.detections)
        for score, values in expected.items():
            assert torch.allclose(getattr(found[score], name), values, atol=1e-10), score
    # rows near the mode have the most density: the likelihood says the wrong thing, exactly
    assert found["likelihood"].auroc.value == 0.0
    assert found["typicality"].auroc.value > 0.99
    assert found["likelihood"].auroc.stderr == 0.0
    assert "typicality" in str(found)
    assert "15 outside" in str(found)
    assert "<table" in found._repr_html_()
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["scores"]["typicality"]["outside_rows"] == 15


def test_the_likelihood_is_the_importance_estimate() -> None:
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1), scale=0.5)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(3))}))
    x, y = torch.randn(2, 8, 3)
    found = out_of_distribution(model, {"x": x[:6]}, {"x": y[:6]}, particles=40, seed=3, elbo=True)
    estimate = importance_sampling(model, {"x": x[:6]}, 40, seed=3)
    assert torch.equal(found["likelihood"].inside, -estimate.log_px)
    assert torch.equal(found["ELBO"].inside, -estimate.elbo)
    assert (found["ELBO"].inside > found["likelihood"].inside).all()
    assert len(found["likelihood"].outside) == 6


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_those_of_scikit_learn(ties: bool) -> None:
    inside, outside = RNG.normal(size=70), RNG.normal(1.0, size=50)
    if ties:
        inside, outside = inside.round(), outside.round()
    found = detection("s", torch.from_numpy(inside), torch.from_numpy(outside))
    truth, score = np.repeat([0, 1], [70, 50]), np.concatenate([inside, outside])
    assert found.auroc.value == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert found.aupr.value == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    # inside rows kept as positives, by the lowest scores
    false, true, _ = roc_curve(1 - truth, -score, drop_intermediate=False)
    assert found.passed.value == pytest.approx(false[true >= 0.95].min(), abs=1e-12)


def test_error_of_the_area() -> None:
    """DeLong's error against the spread of the areas of 400 samples: 5 errors, one in 10⁶."""
    areas, errors = [], []
    for _ in range(400):
        area, error = delong(RNG.normal(size=60), RNG.normal(1.0, size=40))
        areas.append(area)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=5 / math.sqrt(800))
    expected = float(Normal(0.0, 1.0).cdf(torch.tensor(1 / math.sqrt(2))))
    assert np.mean(areas) == pytest.approx(expected, abs=5 * np.std(areas) / 20)


def test_delong_by_its_definition() -> None:
    """From the matrix of all pairs, with many more rows on one side."""
    inside, outside = RNG.normal(size=9).round(1), RNG.normal(1.0, size=70).round(1)
    pairs = (inside[:, None] < outside) + 0.5 * (inside[:, None] == outside)
    area, error = delong(inside, outside)
    assert area == pytest.approx(pairs.mean())
    variance = pairs.mean(1).var(ddof=1) / 9 + pairs.mean(0).var(ddof=1) / 70
    assert error == pytest.approx(math.sqrt(variance))


def test_errors_of_the_bootstrap() -> None:
    """Of the other two areas, against the spread of 40 samples, within half."""
    samples = [
        detection(
            "s", torch.from_numpy(RNG.normal(size=80)), torch.from_numpy(RNG.normal(1, size=80))
        )
        for _ in range(40)
    ]
    for name in ("aupr", "passed"):
        spread = np.std([getattr(each, name).value for each in samples])
        mean = np.mean([getattr(each, name).stderr for each in samples])
        assert mean == pytest.approx(spread, rel=0.5)


def test_complexity_of_images() -> None:
    """A compressor's own length; bits of a uniform model cancel nothing of it."""
    digits = load("digits")
    x = digits.batch("test", slice(10))["x"]
    bits = complexity({"x": x}, zlib_bits)
    assert bits[3] == 8 * len(zlib.compress(x[3].to(torch.uint8).numpy().tobytes(), 9))
    flat = complexity({"x": torch.zeros(2, 3, 8, 8)}, png_bits)
    noise = complexity({"x": torch.randint(256, (2, 3, 8, 8)).double()}, png_bits)
    assert (noise > flat + 8 * 150).all()  # 192 bytes that cannot be packed
    found = out_of_distribution(
        normal(features=4),
        {"x": torch.arange(12.0).view(3, 4)},
        {"x": torch.zeros(2, 4)},
        compressor=lambda row: int(row.sum()),
    )
    first = -float(log_normal(torch.arange(4.0)[None])) / math.log(2) - 6
    assert float(found["complexity"].inside[0]) == pytest.approx(first)


def test_waic_prefers_agreement() -> None:
    log_px = torch.tensor([[-1.0, -1.0], [-1.0, -3.0], [-1.0, 1.0]])
    assert waic(log_px).tolist() == [-1.0, -5.0]


def test_same_seed_same_numbers() -> None:
    model = normal().float()
    x, y = torch.randn(2, 30, 20, dtype=torch.float32)
    one, two = (out_of_distribution(model, {"x": x}, {"x": y}, seed=1).to_dict() for _ in "ab")
    assert one == two


@pytest.mark.parametrize(
    "inside, outside, options, message",
    [
        (torch.zeros(1, 20), torch.zeros(3, 20), {}, "Two inside rows or more are compared"),
        (torch.zeros(3, 20), torch.zeros(1, 20), {}, "Two outside rows or more.*found 1"),
        (torch.zeros(3, 20), torch.zeros(3, 21), {}, r"same names and shapes.*\(20,\).*\(21,\)"),
        (torch.zeros(3, 20) + 0.5, torch.zeros(3, 20), {"compressor": zlib_bits}, "not a whole"),
    ],
)
def test_refused(inside: Tensor, outside: Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        out_of_distribution(normal(), {"x": inside}, {"x": outside}, **options)


def test_nan_scores_and_several_names() -> None:
    with pytest.raises(ValueError, match="'s' is compared over two rows"):
        detection("s", torch.tensor([0.0, torch.nan]), torch.zeros(3))
    with pytest.raises(ValueError, match="bytes of one name"):
        complexity({"x": torch.zeros(2, 1), "w": torch.zeros(2, 1)}, zlib_bits)
