"""Recipes for data with holes: what the encoder reads, and values missing not at random."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, SelfMasking, StandardNormal, WithMask
from deeplvm.data import load
from deeplvm.evaluation import evaluate
from deeplvm.inference import impute
from deeplvm.likelihood import importance_sampling, score_cells
from deeplvm.networks import MLP
from deeplvm.recipes import RecipeError, find, miwae, not_miwae
from deeplvm.training import fit, unfolded

NAN = math.nan


def test_an_encoder_tells_a_zero_from_a_hole() -> None:
    torch.manual_seed(0)
    encoder = WithMask(Gaussian(2, MLP(8, 5)), 4)
    x = torch.tensor([[0.0, 1.0, 0.0, 2.0], [NAN, 1.0, NAN, 2.0]])
    first, second = encoder(x).mean
    assert not torch.allclose(first, second)
    model = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": Gaussian(4, MLP(2))}), Joint({"z | x": encoder})
    )
    assert model.evidence({"x": x}, particles=3).log_weight.isfinite().all()


def self_masked(slope: float, offset: float) -> LatentVariableModel:
    """x = z + noise of variance 1/4, seen with probability sigmoid(slope x + offset)."""
    row = Gaussian(1, nn.Linear(1, 1), scale=0.5)
    reason = SelfMasking(1, (torch.zeros(1), torch.ones(1)))
    with torch.no_grad():
        row.head.layer.weight.fill_(1.0)
        row.head.layer.bias.fill_(0.0)
        row.head.network.weight.fill_(1.0)
        row.head.network.bias.fill_(0.0)
        reason.slope.fill_(slope)
        reason.offset.fill_(offset)
    p = Joint({"z": StandardNormal(1), "x | z": row, "x_observed | x": reason})
    return LatentVariableModel(
        p, Joint({"z | x_seen": WithMask(Gaussian(1, MLP(2)), 1), "x | z": row})
    )


def test_the_likelihood_is_that_of_values_and_holes() -> None:
    """Against the integral over x ~ N(0, 1.25) on a grid, with 20,000 particles."""
    torch.manual_seed(0)
    model = self_masked(-2.0, 0.5)
    x = torch.tensor([[0.7], [NAN]])
    evidence = model.evidence({"x": x}, particles=20_000)
    found = torch.logsumexp(evidence.log_weight, 0) - math.log(20_000)
    grid = torch.linspace(-10, 10, 4001)
    law = torch.distributions.Normal(0.0, 1.25**0.5)
    seen = torch.sigmoid(-2.0 * grid + 0.5)
    hole = (law.log_prob(grid).exp() * (1 - seen)).sum() * 0.005
    there = law.log_prob(x[0, 0]) + torch.sigmoid(-2.0 * x[0, 0] + 0.5).log()
    torch.testing.assert_close(found, torch.stack([there, hole.log()]), atol=0.05, rtol=0)
    # what is missing is filled in with the mean of x given that it is
    filled = impute(model, {"x": x}, particles=20_000).values["x"][1, 0]
    right = (grid * law.log_prob(grid).exp() * (1 - seen)).sum() * 0.005 / hole
    assert abs(float(filled - right)) < 0.1
    assert model.explains_holes == {"x"}


def incomplete(rows: int = 800) -> tuple[Tensor, Tensor]:
    """Two numbers that go together; of the first the high ones are missing."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 1, generator=generator)
    x = torch.cat([z, z], 1) + 0.5 * torch.randn(rows, 2, generator=generator)
    gone = torch.rand(rows, generator=generator) < torch.sigmoid(4.0 * x[:, 0] - 1.0)
    return x, torch.stack([torch.where(gone, NAN, x[:, 0]), x[:, 1]], 1)


def test_high_values_that_are_missing_are_filled_in_high() -> None:
    """The bias of filled values halves at least; under 'at random' it is about -0.5."""
    x, holes = incomplete()
    gone = holes.isnan()
    data = load(holes.numpy().astype(np.float64), likelihood="gaussian", split=(0.8, 0.1, 0.1))
    bias = {}
    for recipe in (miwae, not_miwae):
        torch.manual_seed(0)
        model = recipe(data, latent=1, hidden=(16,)).float()
        unfolded(fit)(
            model, data, epochs=60, particles=10, learning_rate=1e-2, batch_size=100,
            objective=recipe.training["objective"], quiet=True, compile=False,
        )  # fmt: skip
        found = impute(model, {"x": holes.float()}, completed=False)
        bias[recipe] = float((found.values["x"].double() - x)[gone].mean())
    assert bias[miwae] < -0.2
    assert abs(bias[not_miwae]) < 0.5 * abs(bias[miwae])


def test_what_goes_with_holes_that_are_explained() -> None:
    x, holes = incomplete(60)
    data = load(holes.numpy(), likelihood="gaussian")
    model = not_miwae(data, latent=1, hidden=(4,)).float()
    with pytest.raises(ValueError, match="these data have none; leave it out"):
        unfolded(fit)(model, data, epochs=1, hide=0.5, quiet=True)
    with pytest.raises(RecipeError, match="it takes real numbers"):
        not_miwae(load("digits", limit=30))
    with pytest.raises(ValueError, match="p says why elements of x are missing"):
        score_cells(model, {"x": holes.float()}, 20)
    assert x.shape == (60, 2)
    measured = evaluate(model, data.train, particles=10)
    seen = data.train["x"].isfinite().sum(1)
    log_px = importance_sampling(model, data.train, 10).log_px
    bits = (-log_px / seen / math.log(2)).mean()
    assert measured.bits_per_dim == pytest.approx(float(bits))  # holes are no elements
    assert "own units" in measured.bits_per_dim_offset
    assert not [text for text in measured.warnings if " x " in text or text.startswith("x ")]


@pytest.mark.parametrize("likelihood", ["auto", "bernoulli"])
def test_pixels_that_are_masked(likelihood: Any) -> None:
    """Learned from, scored and filled in; what is there stays, and a black-out says nothing."""
    random = np.random.default_rng(0)
    images = random.integers(0, 2, size=(60, 1, 4, 4)).astype(float)
    images *= 1 if likelihood == "bernoulli" else random.integers(0, 17, size=images.shape)
    masked = np.where(random.random(images.shape) < 0.3, np.nan, images)
    masked[:6] = np.nan
    data = load({"x": masked}, likelihood=likelihood)
    assert data.variables["x"].is_image
    assert data.variables["x"].missing
    model = find("vae")(data, latent=2, hidden=(8,))
    unfolded(fit)(model, data, epochs=1, batch_size=16, quiet=True, compile=False)
    some = data.train[:20]
    found, rows = impute(model, some, particles=10), some.batch(slice(None))["x"]
    observed = ~rows.isnan()
    assert torch.equal(found.values["x"][observed], rows[observed])
    assert found.values["x"].isfinite().all()
    black = ~observed.flatten(1).any(1)
    assert black.any()
    log_px = importance_sampling(model, some, 10).log_px
    assert (log_px[black] == 0).all()
    assert (log_px[~black] < 0).all()
