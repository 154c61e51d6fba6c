"""Invertible models of images and tables (R4.4): units, bits, draws, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm import LatentVariableModel, evaluate, load, recipes
from deeplvm.conditionals.flows import Logit
from deeplvm.core.joint import Joint
from deeplvm.data import Data, DataError
from deeplvm.inference import embed
from deeplvm.likelihood import annealed_importance_sampling, harmonic_likelihood
from deeplvm.recipes import RecipeError

SMALL = {"transforms": 1, "hidden": (4,)}


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)


def uniform(model: LatentVariableModel, name: str) -> None:
    """Make a flow that starts as the identity after logistic noise exactly that."""
    flow = model.p[name]
    flow.minimum_scale = 0.0
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            parameter.zero_()


@pytest.mark.parametrize("added", [True, False], ids=["noise in the data", "noise in the model"])
def test_uniform_pixels_have_eight_bits_end_to_end(grey: np.ndarray, *, added: bool) -> None:
    """Untrained, through ``evaluate``: 8.00 bits a pixel to 1e-4, as the logit is that near."""
    data = load({"x": grey}, dequantize="auto" if added else None)
    model = recipes.nice(data, transforms=2, hidden=(4,), alpha=1e-5)
    uniform(model, "x" if added else "v")
    found = evaluate(model, data.test, particles=1 if added else 3)
    assert found.bits_per_dim == pytest.approx(8.0, abs=1e-4)
    said = "uniform noise was added" if added else "gives them probabilities"
    assert said in found.bits_per_dim_offset


def test_a_change_of_units_shifts_by_the_logarithm() -> None:
    """Pixels in [0, 256) against the same in [0, 1): D log 256, to 1e-10."""
    flows = []
    for top in (256.0, 1.0):
        torch.manual_seed(0)
        flows.append(recipes.invertible.RealNVP((1, 4, 4), units=Logit((1, 4, 4), 0.0, top)))
    x = torch.rand(5, 1, 4, 4)
    shift = flows[1]().log_prob(x) - flows[0]().log_prob(256 * x)
    torch.testing.assert_close(shift, torch.full((5,), 16 * math.log(256)), rtol=0, atol=1e-9)


def test_noise_of_the_data_and_of_the_model_are_one_bound(grey: np.ndarray) -> None:
    """The same parameters, the same noise: the same value of each row, to 1e-9."""
    noisy, whole = load({"x": grey}, dequantize="uniform"), load({"x": grey})
    models = []
    for data in (noisy, whole):
        torch.manual_seed(0)
        models.append(recipes.glow(data, **SMALL).double())
    x = noisy.train["x"].double()
    direct = models[0].evidence({"x": x}).log_weight
    named = models[1].p({"x": x.floor(), "v": x}, (len(x),)).log_prob
    torch.testing.assert_close(direct, named, rtol=0, atol=1e-9)


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("recipe", ["nice", "real_nvp", "glow"])
def test_draws_are_pixels(grey: np.ndarray, recipe: str, *, added: bool) -> None:
    """Whole numbers from 0 to 255 that the model itself scores."""
    data = load({"x": grey}, dequantize="auto" if added else None)
    model = getattr(recipes, recipe)(data, alpha=0.2, **SMALL)
    x = data.variables["x"]
    draws = x.restored(model.sample(50)["x"].value)["x"]
    assert draws.dtype == np.uint8
    outside = model.p["x" if added else "v"]().sample((50,))
    assert outside.min() < 0 or outside.max() > 256  # what is clipped


def test_what_a_row_is_embedded_in_is_its_noise(grey: np.ndarray) -> None:
    data = load({"x": grey}, dequantize="auto")
    model = recipes.real_nvp(data, **SMALL)
    noise = embed(model, data.test)["x_noise"]
    assert noise.shape == (len(data.test["x"]), 1, 4, 4)
    again, _ = model.p["x"]().noise_of(data.test["x"])
    torch.testing.assert_close(noise, again.detach(), rtol=1e-4, atol=1e-4)


def test_what_is_refused(grey: np.ndarray) -> None:
    def load_(values: np.ndarray, **options: Any) -> Data:
        return load({"x": values}, **options)

    rows, rng = grey.reshape(40, 16), np.random.default_rng(0)
    with pytest.raises(RecipeError, match=r"x of memory is 0 and 1, .* take the recipe vae"):
        recipes.nice(load_((grey > 100).astype(np.uint8)))
    with pytest.raises(RecipeError, match="leave out --binarize"):
        recipes.nice(load("digits", binarize="static", limit=20))
    holes = rng.normal(size=(40, 4))
    holes[0, 0] = np.nan
    with pytest.raises(RecipeError, match="needs every element of a row"):
        recipes.real_nvp(load_(holes))
    constant = rng.uniform(0.2, 0.8, size=(60, 3))
    constant[:, 1] = 0.3
    with pytest.raises(RecipeError, match="1 elements of memory are constant"):
        recipes.real_nvp(load_(constant))
    with pytest.raises(DataError, match="is constant in the training rows"):
        load_(constant + 5.0, likelihood="gaussian")  # whose mean is rounded
    with pytest.raises(RecipeError, match="has one alone"):
        recipes.real_nvp(load_(rng.normal(size=(40, 1))))
    with pytest.raises(RecipeError, match="leave out --likelihood student-t"):
        recipes.glow(load_(rng.normal(size=(40, 4)), likelihood="student-t"))
    with pytest.raises(RecipeError, match="noise of whole numbers, but those of memory are not"):
        recipes.glow(load_(rng.normal(size=(40, 4))), noise="variational")
    with pytest.raises(RecipeError, match="take real_nvp"):
        recipes.glow(load_(rng.integers(0, 256, (40, 5, 5)).astype(np.uint8)))
    with pytest.raises(RecipeError, match="multiples of 8"):
        recipes.real_nvp(load_(grey), scales=4)
    with pytest.raises(RecipeError, match="alpha between 0 and 1/2"):
        recipes.nice(load_(grey), alpha=0.0)
    with pytest.raises(RecipeError, match="hidden must be at least 1"):
        recipes.nice(load_(rows), hidden=(0,))


def test_noise_by_itself_is_of_whole_numbers_alone(grey: np.ndarray) -> None:
    """``dequantize="auto"``: levels and counts get noise, reals and 0 and 1 do not."""
    assert load({"x": grey}, dequantize="auto").variables["x"].dequantized
    assert load({"x": grey / 255}, dequantize="auto").variables["x"].dequantized
    for values in ((grey > 100).astype(np.uint8), np.random.default_rng(0).normal(size=(40, 3))):
        assert not load({"x": values}, dequantize="auto").variables["x"].dequantized
    assert not load({"x": grey}, dequantize="auto", binarize="static").variables["x"].dequantized
    assert isinstance(recipes.nice(load({"x": grey}, dequantize="auto")).p, Joint)


def test_no_chain_walks_in_the_cells_of_whole_numbers(grey: np.ndarray) -> None:
    """The harmonic estimator was half a nat too high without a word, annealing -inf."""
    data = load({"x": grey}, dequantize="auto")
    model = recipes.real_nvp(data, **SMALL, noise="variational")
    for estimate in (annealed_importance_sampling, harmonic_likelihood):
        with pytest.raises(ValueError, match="'x' is possible only where the latents lie in its"):
            estimate(model, data.test[:2])


@pytest.mark.parametrize("name", ["real_nvp", "glow"])
def test_one_row_far_out_does_not_undo_what_was_learned(name: str) -> None:
    """On two moons such rows cost 2 nats at once; without the clip it is 0.04 here, and 0.05."""
    x = np.random.default_rng(3).normal(size=(200, 2))
    torch.manual_seed(3)
    recipe = recipes.find(name)
    model = recipe(load({"x": x}), transforms=3, hidden=(16,))
    rows, odd = torch.as_tensor(x), torch.tensor([[40.0, -40.0]])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)

    def step(batch: torch.Tensor) -> float:
        optimiser.zero_grad()
        bound = model.p["x"]().log_prob(batch).mean()
        (-bound).backward()
        clip = recipes.training_of(recipe).get("clip", math.inf)
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        return bound.item()

    before = [step(rows) for _ in range(40)][-1]
    step(torch.cat([rows[:50], odd]))
    assert min([step(rows) for _ in range(10)]) > before - 0.01
