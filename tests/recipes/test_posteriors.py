"""Every named posterior in a recipe, and what can be written in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deeplvm import elbo, recipes
from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.flows import InverseAutoregressiveFlow, SylvesterFlow
from deeplvm.conditionals.posteriors import known, posterior_of
from deeplvm.data import Data, load
from deeplvm.networks import MLP

SMALL = {"latent": 4, "hidden": (8,)}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30)


@pytest.mark.parametrize("name", list(known()))
def test_a_recipe_takes_it(name: str, digits: Data) -> None:
    """The bound is finite, and every parameter gets a gradient."""
    torch.manual_seed(0)
    model = recipes.vae(digits, posterior=name, **SMALL).double()
    given = {"x": digits.batch("train", slice(5))["x"].double()}
    bound = elbo(model.evidence(given, particles=2))
    assert bound.shape == (5,)
    assert bound.isfinite().all()
    bound.mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_other_recipes_take_it(digits: Data) -> None:
    """An image encoder, two layers, and a label; each with options."""
    torch.manual_seed(0)
    choice = "iaf(transforms=3, hidden=(5,))"
    models = [
        recipes.convolutional_vae(digits, latent=2, channels=(4,), features=8, posterior=choice),
        recipes.iwae(digits, layers=2, latent=2, hidden=8, posterior=choice),
        recipes.conditional_vae(digits, posterior=choice, **SMALL),
    ]
    for model, latents in zip(models, (("z",), ("z1", "z2"), ("z",)), strict=True):
        for latent in latents:
            conditional = model.q[latent]
            assert isinstance(conditional, InverseAutoregressiveFlow)
            assert len(conditional.transforms) == 3
        rows = digits.batch("train", slice(5))
        given = {name: value.double() for name, value in rows.items() if name in model.names}
        if "y" in given:
            given["y"] = rows["y"]
        assert elbo(model.double().evidence(given)).isfinite().all()


def test_the_plain_name_is_the_gaussian(digits: Data) -> None:
    assert isinstance(recipes.vae(digits, **SMALL).q["z"], Gaussian)


def test_a_function_serves_as_well_as_a_name() -> None:
    made = posterior_of(lambda shape, network: Gaussian(shape, network, scale=0.5), 3, MLP(2, 4))
    assert made(torch.zeros(5, 2)).stddev.eq(0.5).all()
    assert isinstance(posterior_of("sylvester(kind='triangular')", 4), SylvesterFlow)
    assert isinstance(posterior_of("gaussian", 4), nn.Module)


@pytest.mark.parametrize(
    "text, said",
    [
        ("iaff", "'iaff' is not a posterior; there are gaussian, full_covariance"),
        ("iaf(", "is not a posterior"),
        ("__import__('os')", "is not a posterior"),
        ("iaf(steps=4)", r"posterior 'iaf\(steps=4\)': .*steps"),
        ("sylvester(kind='square')", "'orthogonal', 'householder', 'triangular', not 'square'"),
        ("mixture(components=0)", "components of at least 1"),
    ],
)
def test_what_there_is_not_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        posterior_of(text, 4, MLP(2, 4))
