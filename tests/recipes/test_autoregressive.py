"""Recipes of elements one after another: what they are made of, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deeplvm import recipes
from deeplvm.conditionals import Autoregressive, Bernoulli
from deeplvm.data import load
from deeplvm.networks import MADE
from deeplvm.recipes import RecipeError


def test_no_hidden_layer_is_a_belief_network_of_what_is_seen() -> None:
    data = load("digits", binarize="static", limit=30)
    model = recipes.made(data, hidden=(0,))
    network = model.p["x"].masked
    assert isinstance(network, MADE)
    assert len(network.layers) == 0
    x = data.batch("train", slice(5))["x"]
    assert model.evidence({"x": x}).log_weight.isfinite().all()
    with pytest.raises(RecipeError, match="reads nothing; leave out --no-direct"):
        recipes.made(data, hidden=(0,), direct=False)


@pytest.mark.parametrize("recipe", [recipes.made, recipes.nade, recipes.darn])
def test_what_a_fixed_order_cannot_is_said(recipe: recipes.Recipe) -> None:
    holes = np.random.default_rng(0).normal(size=(40, 3))
    holes[3, 1] = math.nan
    with pytest.raises(RecipeError, match="take autoregressive_table, which serves any order"):
        recipe(load({"x": holes}))
    counts = np.random.default_rng(0).poisson(3.0, size=(40, 3))
    with pytest.raises(ValueError, match="independent elements depend on each other"):
        recipe(load({"x": counts}, likelihood="multinomial"))


def test_layers_of_a_belief_network_depend_on_each_other_where_asked() -> None:
    data = load("digits", binarize="static", limit=30)
    plain = recipes.sigmoid_belief_network(data, units=(5, 3))
    ordered = recipes.sigmoid_belief_network(data, units=(5, 3), autoregressive=True)
    for one, other in ((plain.p, ordered.p), (plain.q, ordered.q)):
        for name in ("z1", "z2"):
            assert isinstance(one[name], Bernoulli)
            assert isinstance(other[name], Autoregressive)
    chosen = recipes.sigmoid_belief_network(
        data, units=(3,), autoregressive=True, prior="bernoulli"
    )
    assert isinstance(chosen.p["z1"], Bernoulli)
