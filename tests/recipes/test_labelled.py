"""Recipes given a label: any hierarchy with it, and refusals where it can move nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deeplvm import recipes
from deeplvm.data import Data, load
from deeplvm.objectives import elbo
from deeplvm.recipes import RecipeError
from deeplvm.recipes.catalogue import loading_of


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


@pytest.mark.parametrize(
    "name, options",
    [
        ("vae", {"latent": 2, "hidden": (8,)}),
        ("convolutional_vae", {"latent": 2, "channels": (4,), "features": 8}),
        ("iwae", {"latent": 2, "hidden": 8}),
        ("ladder_vae", {"latent": (2, 2), "hidden": (8, 8)}),
        ("convolutional_ladder_vae", {}),
    ],
)
def test_every_conditional_with_parents_reads_the_label(
    digits: Data, name: str, options: dict[str, Any]
) -> None:
    """Another label is another density; each class learns; shared modules are shared still."""
    plain, model = [
        getattr(recipes, name)(digits, given_label=given, **options) for given in (False, True)
    ]
    assert str(model.p).startswith("p(c | y)")
    assert [f"{f}, c" if f.parents else str(f) for f in plain.p.order] == [
        str(f) for f in model.p.order if f.names != ("c",)
    ]
    both = [n for n in plain.p.names if n in plain.q.names and plain.p[n] is plain.q[n]]
    assert all([model.p[n] is model.q[n] for n in both])
    rows = digits.batch("train", slice(0, 20))
    found = []
    for labels in (rows["y"], (rows["y"] + 1) % 10):
        torch.manual_seed(0)
        bound = elbo(model.evidence({"x": rows["x"], "y": labels}))
        bound.mean().backward()
        found.append(bound.detach())
    assert (found[0] != found[1]).all()
    moves = [p.grad for n, p in model.named_parameters() if n.endswith("move.weight")]
    assert moves
    assert all([g is not None and g.any(0).all() for g in moves])  # a column a class


@pytest.mark.parametrize(
    "name, options",
    [
        ("gated_pixel_cnn", {"width": 4, "layers": 2}),
        ("made", {"hidden": (8,)}),
        ("nice", {"transforms": 2, "hidden": (8,)}),
        ("real_nvp", {"transforms": 2, "hidden": (8,)}),
        ("glow", {"transforms": 2, "hidden": (8,)}),
    ],
)
def test_elements_one_after_another_and_flows_read_the_label(name: str, options: dict) -> None:
    """What a draw is scored by is what it was drawn from, of the label as well."""
    recipe = getattr(recipes, name)
    data = load("digits", limit=60, **(loading_of(recipe) or {}))
    model = recipe(data, given_label=True, **options).double().eval()
    assert str(model.p) == "p(c | y) p(x | c)"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    site = model.sample(4, {"y": torch.arange(4)})["x"]
    own = model.evidence({"x": site.value, "y": torch.arange(4)}).log_weight
    torch.testing.assert_close(own, site.log_prob)
    other = model.evidence({"x": site.value, "y": torch.arange(1, 5)}).log_weight
    assert (own != other).all()


STEPS = {"steps": 2, "latent": 1, "hidden": 3}


@pytest.mark.parametrize(
    "name, options",
    [
        ("draw", STEPS),
        ("convolutional_draw", STEPS),
        ("diffusion", {"channels": (4,), "steps": 3}),
    ],
)
def test_what_is_drawn_in_steps_reads_the_label(name: str, options: dict[str, Any]) -> None:
    """Another label is another density and another draw; each class learns; cells are shared."""
    data = load("digits", limit=60)
    torch.manual_seed(0)
    model = getattr(recipes, name)(data, given_label=True, **options).double()
    rows = data.batch("train", slice(None))
    found, drawn = [], []
    for labels in (rows["y"], (rows["y"] + 1) % 10):
        torch.manual_seed(0)
        bound = elbo(model.evidence({"x": rows["x"], "y": labels}, missing=()))
        bound.mean().backward()
        found.append(bound.detach())
        torch.manual_seed(0)
        drawn.append(
            model.sample(3, {"y": labels[:3]})["z0" if name == "diffusion" else "l"].value
        )
    assert (found[0] != found[1]).all()
    assert (drawn[0] != drawn[1]).flatten(1).any(1).all()
    moves = [p.grad for n, p in model.named_parameters() if n.endswith("move.weight")]
    assert moves
    assert all([g is not None and g.any(0).all() for g in moves])  # a column a class
    if name != "diffusion":
        assert model.p["s"] is model.q["s"]


def test_what_a_label_cannot_move_is_refused() -> None:
    with pytest.raises(RecipeError, match="have no label"):
        recipes.vae(load("digits", keep_labels=1), given_label=True)
    with pytest.raises(RecipeError, match="has no labels"):
        recipes.vae(load(torch.rand(30, 4)), given_label=True)
    noisy = load("digits", limit=60, dequantize="auto")
    with pytest.raises(RecipeError, match="leave out --noise variational"):
        recipes.glow(noisy, given_label=True, noise="variational")
