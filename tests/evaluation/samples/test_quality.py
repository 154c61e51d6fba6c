"""Draws against data: the true model has the numbers of fresh rows, others have worse ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation.samples.features import standardised_columns
from deeplvm.evaluation.samples.quality import SampleQuality, draws, sample_quality
from deeplvm.networks import MLP


def linear(scale: float = 0.5, **posterior: object) -> LatentVariableModel:
    """x | z normal around a fixed linear map of z."""
    likelihood = Gaussian(3, MLP(2), scale=scale)
    with torch.no_grad():
        likelihood.head.layer.weight.copy_(torch.tensor([[1.0, 0.4], [-0.6, 1.2], [0.3, 0.8]]))
        likelihood.head.layer.bias.zero_()
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))


def rows_of(model: LatentVariableModel, rows: int) -> dict[str, Tensor]:
    return {"x": model.sample(rows)["x"].value}


@pytest.fixture(scope="module")
def truth() -> tuple[LatentVariableModel, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    model = linear()
    found = model, rows_of(model, 600), rows_of(model, 600)
    torch.set_default_dtype(torch.float32)
    return found


def test_the_true_model_is_as_good_as_fresh_rows(truth: tuple) -> None:
    """Each difference within 5 of its errors, which are right within a half: one in 1,000."""
    model, train, test = truth
    quality = sample_quality(model, train, test)
    for name in ("precision", "recall", "density", "coverage"):
        pair = (quality.samples.manifold, quality.fresh.manifold)
        values = [getattr(each, name).value for each in pair]
        error = math.hypot(*[getattr(each, name).stderr for each in pair])
        assert abs(values[0] - values[1]) < 5 * error, name
    for pair in (
        [each.frechet.extrapolated for each in (quality.samples, quality.fresh)],
        [each.kernel.value for each in (quality.samples, quality.fresh)],
    ):
        assert max(pair, key=abs) == pytest.approx(0, abs=0.1)
    copying = quality.copying["columns"]
    assert list(quality.copying) == ["columns"]
    assert copying.p_value > 1e-3
    assert copying.ratio.value == pytest.approx(1, abs=5 * copying.ratio.stderr)


def test_worse_models_are_worse(truth: tuple) -> None:
    _, train, test = truth
    wide = sample_quality(linear(scale=2.0), train, test)
    assert wide.samples.manifold.precision.value < wide.fresh.manifold.precision.value - 0.2
    assert wide.samples.frechet.extrapolated > 10 * wide.samples.frechet.stderr
    assert wide.samples.kernel.value > 5 * wide.samples.kernel.stderr
    assert wide.copying["columns"].statistic > 5
    means = sample_quality(linear(), train, test, mean=True)
    # all on a plane: the data are not covered
    assert means.samples.manifold.recall.value < means.fresh.manifold.recall.value - 0.2
    assert "which are no draws" in str(means)


def test_a_model_that_copies(truth: tuple) -> None:
    """A likelihood whose means are training rows, chosen by the sign pattern of z."""
    _, train, test = truth

    class Copies(nn.Module):
        out_features = 3

        def forward(self, z: Tensor) -> Tensor:
            bits = (z > 0).to(z) @ (2.0 ** torch.arange(9, dtype=z.dtype))
            return train["x"][bits.long()]

    likelihood = Gaussian(3, Copies(), scale=1e-3)
    with torch.no_grad():
        likelihood.head.layer.weight.copy_(torch.eye(3))
        likelihood.head.layer.bias.zero_()
    p = Joint({"z": StandardNormal(9), "x | z": likelihood})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(9, MLP(3))}))
    found = sample_quality(model, train, test)
    assert found.copying["columns"].p_value < 1e-12
    assert found.samples.manifold.precision.value > 0.99  # which alone would look very good
    assert "the model may copy" in str(found)
    shown = found.neighbours
    assert torch.allclose(shown.samples, shown.nearest["columns"], atol=0.01)


def test_features_of_ones_own(truth: tuple) -> None:
    model, train, test = truth
    first = sample_quality(model, train, test, most=80)
    assert first.rows == 80
    given = sample_quality(model, train, test, most=80, features=standardised_columns(train["x"]))
    assert given.to_dict() == first.to_dict()


def test_printed(truth: tuple) -> None:
    model, train, test = truth
    found = sample_quality(model, train, test, most=100)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["samples"]["manifold"]["neighbours"] == 5
    text = str(found)
    assert "held-out rows" in text
    assert "draws x ~ p(x), 100 of them" in text
    assert "Compare these numbers only with numbers of the same fingerprint" in text
    assert [row[0] for row in found.table()][:4] == ["precision", "recall", "density", "coverage"]
    assert "<table" in found._repr_html_()
    few = sample_quality(model, train, test, most=40)
    assert "40 rows are too few for the errors that are left out" in str(few)
    assert "left out" not in text
    copies = replace(found.copying["columns"], exact=0.5)
    assert "50.0 % of the samples are equal" in str(replace(found, copying={"columns": copies}))


def test_labels_are_drawn_as_the_training_rows_have_them() -> None:
    """A model of x given y: p draws x, training rows chosen at random give y."""
    p = Joint({"z": StandardNormal(1), "x | z, y": Gaussian(1, MLP(3), scale=0.1)})
    with torch.no_grad():
        layer = p["x"].head.layer
        layer.weight.copy_(torch.tensor([[0.0, 0.0, 10.0]]))
        layer.bias.zero_()
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(1))}))
    labels = (torch.arange(400) % 4 == 0).long()  # a quarter are ones
    given = {"y": nn.functional.one_hot(labels, 2).double()}
    values = draws(model, 2_000, given, "x")
    share = float((values > 5).double().mean())
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2_000))  # one in 15,000
    centre = draws(model, 10, given, "x", mean=True)
    assert set(centre.flatten().tolist()) <= {0.0, 10.0}
    with pytest.raises(ValueError, match="needs y to draw x from"):
        draws(model, 5, {"x": values}, "x")


def test_images_with_labels() -> None:
    """Digits: features of a network, neighbours in pixels and in features."""
    digits = load("digits")
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli((1, 8, 8), MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP((1, 8, 8)))}))
    found: SampleQuality = sample_quality(model, digits.train, digits.test, most=60)
    assert found.features.kind == "classifier"
    assert list(found.copying) == ["pixels", "features"]
    assert found.copying["pixels"].train_rows == digits.rows("train")
    assert found.samples.manifold.coverage.value < 0.2  # 0 and 1 where the data have 0 to 16
    assert found.fresh.manifold.coverage.value > 0.8
    assert found.neighbours.samples.shape == (24, 1, 8, 8)
    pixels = found.copying["pixels"]
    train = digits.batch("train", slice(None))["x"]
    assert torch.equal(found.neighbours.nearest["pixels"][:12], train[pixels.nearest[:12]])
    assert "test rows" in str(found)


def test_refusals(truth: tuple) -> None:
    model, train, test = truth
    with pytest.raises(ValueError, match="6 rows are too few for 5 neighbours"):
        sample_quality(model, train, test, most=6)
    with pytest.raises(ValueError, match="There is no 'w' that p draws"):
        sample_quality(model, train, test, name="w")
    labelled = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z, y": Gaussian(1, MLP(3))}),
        Joint({"z | x": Gaussian(1, MLP(1))}),
    )
    only = {"y": torch.zeros(9, 2)}
    with pytest.raises(ValueError, match="p draws none of y"):
        sample_quality(labelled, only, only)
    holes = {"x": test["x"].clone()}
    holes["x"][3, 1] = math.nan
    with pytest.raises(ValueError, match=r"missing values .* in the held-out rows"):
        sample_quality(model, train, holes)
