"""What held-out rows lose: an encoder that is over-fitted on purpose, and one that is exact."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.data.records import Data, Description, Selection
from deeplvm.evaluation.bound.gaps import inference_gaps
from deeplvm.evaluation.bound.generalisation import (
    LARGE,
    Gap,
    GeneralisationGap,
    generalisation_gap,
)
from deeplvm.networks import MLP

WEIGHT = torch.tensor([[1.0, 0.4], [-0.6, 1.2], [0.3, 0.8], [0.9, -0.5]])
NOISE = 0.5


def decoder() -> Joint:
    """TB1, exactly."""
    likelihood = Gaussian(4, MLP(2), scale=math.sqrt(NOISE))
    layer: Any = likelihood.head.layer
    with torch.no_grad():
        layer.weight.copy_(WEIGHT)
        layer.bias.zero_()
    return Joint({"z": StandardNormal(2), "x | z": likelihood})


def draws(rows: int, seed: int) -> Tensor:
    """Rows of TB1."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = (
        torch.randn(rows, size, generator=generator, dtype=torch.float64) for size in (2, 4)
    )
    return z @ WEIGHT.double().T + math.sqrt(NOISE) * noise


def data_of(train: Tensor, test: Tensor) -> Data:
    """Two splits as Data."""
    description = Description(
        "rows", "rows", {}, {}, None, "by hand", (), {"train": len(train), "test": len(test)}
    )
    return Data(description, *[Selection({"x": rows}) for rows in (train, test[:0], test)])


def exact_encoder() -> FullCovarianceGaussian:
    """The posterior of TB1, which is in its family: fitted on a great many rows, once."""
    encoder = FullCovarianceGaussian(2, MLP(4), minimum_scale=1e-6)
    model = LatentVariableModel(decoder(), Joint({"z | x": encoder}))
    train(model, draws(512, 7), steps=200, rate=0.05)
    return encoder


def train(model: LatentVariableModel, x: Tensor, *, steps: int, rate: float) -> None:
    """The encoder alone, on all rows at once."""
    optimizer = torch.optim.Adam(model.q.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = -elbo(model.evidence({"x": x}, particles=4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def log_px(x: Tensor) -> Tensor:
    spread = WEIGHT.double() @ WEIGHT.double().T + NOISE * torch.eye(4)
    return MultivariateNormal(torch.zeros(4), spread).log_prob(x)


OPTIONS: dict[str, Any] = {"particles": 100, "steps": 80, "learning_rate": 0.1}


def test_an_overfitted_encoder_is_found() -> None:
    """The decoder is the truth, the encoder knows 8 rows by heart: it alone is to blame.

    The decoder's gap is of the rows, not of the model: it is compared with the exact densities.
    """
    torch.manual_seed(0)
    model = LatentVariableModel(decoder(), Joint({"z | x": Gaussian(2, MLP(4, 64))}))
    few, held_out = draws(8, 1), draws(60, 2)
    train(model, few, steps=200, rate=0.03)
    found = generalisation_gap(model, {"x": few}, {"x": held_out}, **OPTIONS)
    assert found.encoder.overfits
    assert found.encoder.value > 0.4
    assert not found.decoder.overfits
    assert "the encoder alone over-fits" in found.verdict
    assert found.verdict in str(found)
    exact = float(log_px(few).mean() - log_px(held_out).mean())
    assert found.decoder.value == pytest.approx(exact, abs=0.05)
    total = found.decoder.value + found.family.value + found.encoder.value
    assert found.total.value == pytest.approx(total, abs=1e-10)
    plain = found.to_dict()
    assert plain["encoder_overfits"]
    json.dumps(plain, allow_nan=False)
    assert "<table" in found._repr_html_()


def test_a_healthy_model_is_silent() -> None:
    """The exact posterior: nothing over-fits, and the encoder's gap is nothing."""
    model = LatentVariableModel(decoder(), Joint({"z | x": exact_encoder()}))
    few, held_out = draws(40, 3), draws(40, 4)
    found = generalisation_gap(model, {"x": few}, {"x": held_out}, **OPTIONS)
    assert abs(found.encoder.value) < 0.02
    assert abs(found.family.value) < 0.02
    exact = float(log_px(few).mean() - log_px(held_out).mean())
    assert found.decoder.value == pytest.approx(exact, abs=0.05)
    assert found.total.value == pytest.approx(exact, abs=0.05)
    assert not found.encoder.overfits
    assert not found.decoder.overfits
    assert found.verdict.startswith("no over-fitting")


def test_parts_are_those_of_the_splits() -> None:
    """The same as both splits by hand, with the errors of two independent means."""
    torch.manual_seed(0)
    model = LatentVariableModel(decoder(), Joint({"z | x": Gaussian(2, MLP(4))}))
    data = data_of(draws(12, 1), draws(9, 2))
    options: dict[str, Any] = {"particles": 50, "steps": 5}
    some = data.sampled(8)
    found = generalisation_gap(model, some.train, some.test, **options)
    train_gaps, test_gaps = (
        inference_gaps(model, rows, **options) for rows in (some.train, some.test)
    )
    a, b = train_gaps.amortisation, test_gaps.amortisation
    assert found.encoder.value == pytest.approx(float(b.mean() - a.mean()), abs=1e-12)
    error = math.sqrt(float(a.var() / 8 + b.var() / 8))
    assert found.encoder.stderr == pytest.approx(error, abs=1e-12)
    assert GeneralisationGap(train_gaps, test_gaps).to_dict() == found.to_dict()


def test_what_is_called_overfitting() -> None:
    """Above two standard errors and above a tenth of a nat; in words for each case."""
    assert Gap(2 * LARGE, 0.9 * LARGE).overfits
    assert not Gap(2 * LARGE, 1.1 * LARGE).overfits  # it may be chance
    assert not Gap(0.9 * LARGE, 0.001).overfits  # certain, and small
    assert not Gap(-3.0, 0.1).overfits
    model = LatentVariableModel(decoder(), Joint({"z | x": Gaussian(2, MLP(4))}))
    gaps = inference_gaps(model, {"x": draws(6, 1)}, particles=20, steps=2)
    local, amortised = gaps.local, gaps.amortised

    def shifted(log_p: float, bound: float) -> Any:
        return dataclasses.replace(
            gaps,
            local=dataclasses.replace(local, log_px=local.log_px + log_p, elbo=local.elbo + log_p),
            amortised=dataclasses.replace(amortised, elbo=amortised.elbo + log_p + bound),
        )

    cases = {
        (0.0, -9.0): "the encoder alone",
        (-99.0, -9.0): "both over-fit",
        (-99.0, 0.0): "the decoder over-fits",
        (0.0, 0.0): "no over-fitting",
    }
    for shift, words in cases.items():
        assert GeneralisationGap(gaps, shifted(*shift)).verdict.startswith(words)


def test_refusals() -> None:
    model = LatentVariableModel(decoder(), Joint({"z | x": Gaussian(2, MLP(4))}))
    x = draws(4, 1)
    with pytest.raises(TypeError, match="Say which rows"):
        generalisation_gap(model, data_of(x, x), {"x": x})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rows to evaluate"):
        generalisation_gap(model, {"x": x[:0]}, {"x": x})
    one = generalisation_gap(model, {"x": x[:1]}, {"x": x[1:2]}, particles=5, steps=1)
    assert "give more rows" in one.verdict
    assert one.to_dict()["encoder"]["stderr"] is None
