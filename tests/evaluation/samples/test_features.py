"""Features: what is learned, that it repeats, and that different ones are told apart."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from deeplvm.data import Data, Variable, load
from deeplvm.evaluation.samples.features import (
    FeatureMap,
    classifier_features,
    features_of,
    rotation_features,
    standardised_columns,
)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


@pytest.fixture(scope="module")
def learned(digits: Data) -> FeatureMap:
    return features_of(digits.train[:800], held_out=digits.test, seed=3)


def stripes(rows: int) -> tuple[Tensor, Tensor]:
    """Images of horizontal or vertical stripes."""
    labels = torch.arange(rows) % 2
    line = (torch.arange(6) % 2).double()
    image = torch.where(labels[:, None, None] == 0, line, line[:, None]).expand(-1, 6, 6)
    return image[:, None] + 0.1 * torch.randn(rows, 1, 6, 6), labels


def test_digits(digits: Data, learned: FeatureMap) -> None:
    """A classifier that is right in more than nine of ten test rows, and so are its features."""
    assert learned.kind == "classifier"
    assert learned.accuracy is not None
    assert learned.accuracy > 0.93
    expected = math.sqrt(learned.accuracy * (1 - learned.accuracy) / 179)
    assert learned.accuracy_stderr == pytest.approx(expected)
    test = digits.batch("test", slice(None))
    features = learned(test["x"])
    assert features.shape == (len(test["x"]), 64)
    assert features.dtype == torch.float64
    near = torch.cdist(features, features).fill_diagonal_(math.inf).argmin(1)
    assert float((test["y"][near] == test["y"]).double().mean()) > 0.9
    assert "right in" in str(learned)
    assert json.loads(json.dumps(learned.to_dict()))["fingerprint"] == learned.fingerprint


def test_the_same_again(digits: Data, learned: FeatureMap) -> None:
    """Whatever the default type and torch's own state, which is left as it was."""
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        again = features_of(digits.train[:800], held_out=digits.test, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = digits.batch("test", slice(0, 20))["x"]
    assert torch.equal(again(x), learned(x))
    assert again.fingerprint == learned.fingerprint


def test_other_features_have_other_fingerprints() -> None:
    x, y = stripes(40)
    first = classifier_features(x, y)
    others = [
        classifier_features(x, y, seed=1),
        classifier_features(x, 1 - y),
        classifier_features(x + 0.01, y),
        classifier_features(x[:-1], y[:-1]),
        rotation_features(x),
        standardised_columns(x),
    ]
    marks = {first.fingerprint, *[each.fingerprint for each in others]}
    assert len(marks) == 7
    assert (first.accuracy, first.chance, first.to_dict()["accuracy"]) == (None, None, None)
    assert "right" not in str(first)


def test_rotations() -> None:
    """Stripes turned by a half look alike, so that at best every second turn is told right."""
    x = torch.zeros(400, 1, 7, 7)
    x[:, 0, 0, :3] = 1  # a corner and a side: all four turns differ
    x = x + 0.1 * torch.randn_like(x)
    found = rotation_features(x[:300], held_out=x[300:])
    assert found.accuracy == 1
    assert found.chance == pytest.approx(0.25)
    assert "how an image was turned" in str(found)
    half, _ = stripes(600)
    assert rotation_features(half[:500], held_out=half[500:]).accuracy < 0.65
    wide = rotation_features(x[..., :5], held_out=x[..., :5])  # mirrored: no quarter turns
    assert wide.accuracy is not None
    assert wide.accuracy > 0.9


def test_standardised_columns() -> None:
    x = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.0]) + 2
    found = standardised_columns(x)(x + 1)
    spread = x.std(0, correction=0)
    expected = (x + 1 - x.mean(0)) / torch.tensor([float(spread[0]), float(spread[1]), 1.0])
    assert torch.allclose(found, expected, atol=1e-5)
    counts = torch.randint(9, (50, 2)).double()
    logs = counts.log1p()
    found = standardised_columns(counts, counts=True)(counts)
    assert torch.allclose(found, (logs - logs.mean(0)) / logs.std(0, correction=0), atol=1e-5)


def test_categories_are_one_apart() -> None:
    def column(kind: str, levels: int | None) -> Variable:
        return Variable("c", (), kind, "", torch.zeros(()), torch.ones(()), 0, 2, levels)  # type: ignore[bad-argument-type]

    parts = (column("category", 3), column("real", None))
    table = Variable(
        "x", (2,), "mixed", "columns", torch.zeros(2), torch.ones(2), 0, 2, parts=parts
    )
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    features = standardised_columns(x, table)
    assert features.dimensions == 4
    apart = torch.cdist(features(x), features(x))
    assert torch.allclose(apart[0], torch.tensor([0.0, 1.0, 1.0, 0.0]), atol=1e-6)


def test_what_suits_the_data(digits: Data) -> None:
    x, y = stripes(60)
    assert features_of({"x": x, "y": y}, held_out={"x": x, "y": y}).accuracy == 1
    assert features_of({"x": x}).kind == "rotations"
    assert features_of({"x": x, "y": torch.zeros_like(y)}).kind == "rotations"
    assert features_of({"x": x.flatten(1), "y": y}).kind == "columns"
    iris = features_of(load("iris").train)
    assert (iris.kind, iris.dimensions, iris.accuracy) == ("columns", 4, None)
    assert "4 standardised columns" in str(iris)


def test_counts_with_labels() -> None:
    """Their logarithms, through an MLP."""
    y = torch.arange(300) % 3
    x = torch.poisson(torch.ones(300, 3) + 20 * torch.eye(3)[y])
    found = classifier_features(x, y, held_out=(x, y), counts=True)
    assert found.accuracy is not None
    assert found.accuracy > 0.95
    assert found(x).shape == (300, 64)


def test_refusals(learned: FeatureMap) -> None:
    with pytest.raises(ValueError, match=r"rows of shape \(1, 8, 8\), found \(64,\)"):
        learned(torch.zeros(3, 64))
    holes = torch.full((3, 1, 8, 8), math.nan)
    with pytest.raises(ValueError, match=r"missing values \(NaN\) in the rows.*fill them"):
        learned(holes)
    with pytest.raises(ValueError, match="missing values"):
        standardised_columns(holes)
    with pytest.raises(ValueError, match="at least two classes"):
        classifier_features(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="Only an image"):
        rotation_features(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="have no 'w'; they have x"):
        features_of({"x": torch.zeros(3, 2)}, "w")
