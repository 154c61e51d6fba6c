"""Recipes of pixels that follow from those before them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplvm import recipes
from deeplvm.data import load
from deeplvm.evaluation import evaluate
from deeplvm.inference.reconstruction import reconstructed
from deeplvm.recipes import RecipeError

PIXELS = {
    "pixel_cnn": {"width": 4, "blocks": 1},
    "gated_pixel_cnn": {"width": 4, "layers": 2},
    "pixel_cnn_pp": {"width": 4, "blocks": 1},
    "pixel_rnn": {"width": 4, "layers": 1},
    "image_transformer": {"width": 4, "blocks": 1},
    "locally_masked_pixel_cnn": {"width": 4, "blocks": 1, "curves": 2},
}


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize("values", ["binary", "colours", "reals"])
@torch.no_grad()
def test_images_of_any_size_and_kind(name: str, values: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (30, 3, 5, 3)).astype(np.uint8)  # channels last
    made = {"binary": pictures % 2, "colours": pictures, "reals": rng.normal(size=(30, 3, 5, 3))}
    np.save(tmp_path / "pictures.npy", made[values])
    data = load(tmp_path / "pictures.npy")
    model = getattr(recipes, name)(data, **PIXELS[name]).eval()
    found = evaluate(model, data["test"])
    assert math.isfinite(found.log_px["value"])
    drawn = model.sample(2)["x"].value
    assert drawn.shape == (2, *data.variables["x"].shape)
    # a colour is one pixel's, where channels are coupled
    elements = model.p["x"].masked.orders.shape[-1]
    assert elements == (15 if values == "colours" else 45)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(30, 4)))
    table, digits = load(tmp_path / "table.npy"), load("digits", limit=30)
    for name in (*PIXELS, "pixel_vae", "variational_lossy_autoencoder"):
        with pytest.raises(RecipeError, match=rf"{name} models images.*take"):
            getattr(recipes, name)(table)
    with pytest.raises(RecipeError, match="kernel must be at least 1, found 0"):
        recipes.pixel_cnn(digits, kernel=0)
    with pytest.raises(RecipeError, match=r"pixel_rnn: RowLSTM expects .*; found .*kernel=2"):
        recipes.pixel_rnn(digits, kernel=2)
    with pytest.raises(RecipeError, match="width=5 and heads=2"):
        recipes.image_transformer(digits, width=5)
    with pytest.raises(RecipeError, match=r"8 by 8 pixels has at most 4 sizes, .*levels=5"):
        recipes.pixel_cnn_pp(digits, levels=5)


@pytest.mark.parametrize(
    "asked, made",
    [
        ("auto", "DiscretizedLogisticMixture"),
        ("discretized-logistic", "DiscretizedLogistic"),
        ("categorical", "Categorical"),
    ],
)
def test_a_likelihood_that_is_asked_for_is_taken(asked: str, made: str) -> None:
    data = load("digits", likelihood=asked, limit=30)
    model = recipes.gated_pixel_cnn(data, **PIXELS["gated_pixel_cnn"])
    assert type(model.p["x"].conditional).__name__ == made
    rows = {"x": data.batch("train", slice(3))["x"]}
    assert torch.isfinite(model.evidence(rows).log_weight).all()


def test_missing_pixels_are_refused_in_words() -> None:
    data = load("digits", limit=30)
    x = data.batch("train", slice(3))["x"].clone()
    x[0, 0, 3, 3] = torch.nan
    model = recipes.gated_pixel_cnn(data, **PIXELS["gated_pixel_cnn"])
    with pytest.raises(ValueError, match="missing"):
        model.evidence({"x": x})


def test_reconstructions_of_pixels_that_follow_from_each_other_are_draws() -> None:
    data = load("digits", limit=30)
    torch.manual_seed(0)
    model = recipes.pixel_vae(data, latent=2, channels=(4,), features=8, width=4, layers=2)
    rows = data["test"][:3]
    _, values, drawn = reconstructed(model, data, rows, seed=0)
    assert drawn == {"x"}
    assert values["x"].shape == (3, 1, 8, 8)
    torch.testing.assert_close(values["x"], values["x"].round())
    again = reconstructed(model, data, rows[:2], seed=0)[1]["x"]
    torch.testing.assert_close(again, values["x"][:2])
