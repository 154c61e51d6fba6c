"""Pictures drawn in steps: what each model is where it is known by other means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from deeplvm import Joint, LatentVariableModel, elbo, recipes
from deeplvm.conditionals import StandardNormal
from deeplvm.data import Data, load
from deeplvm.recipes import RecipeError
from deeplvm.runs.run import build

SMALL: dict[str, Any] = {"latent": 3, "hidden": 6}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30, binarize="static")


def batch(data: Data, rows: int = 5) -> Tensor:
    return data.batch("train", slice(rows))["x"]


class Once(nn.Module):
    """A conditional of a function of its parents."""

    def __init__(self, conditional: nn.Module, function: Any) -> None:
        super().__init__()
        self.conditional, self.function = conditional, function
        self.event_shape = conditional.event_shape

    def forward(self, parent: Tensor) -> Any:
        return self.conditional(self.function(parent))


def test_one_step_without_attention_is_the_plain_vae(digits: Data) -> None:
    model = build(recipes.draw, digits, {**SMALL, "steps": 1, "attention": False}, 0)
    p, q, zeros = model.p, model.q, torch.zeros(1, 12)
    canvas = torch.zeros(1, 1, 8, 8)

    def decode(z: Tensor) -> Tensor:
        return p["c"](p["h"](p["s"](z, zeros)), canvas)

    def encode(x: Tensor) -> Tensor:
        return q["e"](q["r"](x, canvas, zeros[:, :6]), zeros)

    plain = LatentVariableModel(
        Joint({"z": StandardNormal(3), "x | z": Once(p["x"], decode)}),
        Joint({"z | x": Once(q["z"], encode)}),
    )
    x = batch(digits)
    for form in ("sampled", "analytic"):
        bounds = []
        for each in (model, plain):
            torch.manual_seed(0)
            bounds.append(elbo(each.evidence({"x": x}, particles=4), form))
        torch.testing.assert_close(*bounds)


@pytest.mark.parametrize("attention", [True, False], ids=["attention", "whole"])
def test_divergences_of_steps_add_up(digits: Data, *, attention: bool) -> None:
    model = build(recipes.draw, digits, {**SMALL, "steps": 3, "attention": attention}, 0)
    evidence = model.evidence({"x": batch(digits)}, particles=2)
    assert evidence.has_closed_kl("z")
    steps = [
        kl_divergence(Normal(step.mean, step.stddev), Normal(0.0, 1.0)).sum(-1)
        for step in evidence.q["z"].distribution.steps
    ]
    assert len(steps) == 3
    torch.testing.assert_close(evidence.kl("z"), sum(steps).expand(2, 5))
    assert model.common == {"s", "h", "c"}


def test_drawing_on_is_drawing_more(digits: Data) -> None:
    """The canvas of a step is what was written until then, and x follows from the last."""
    model = build(recipes.draw, digits, {**SMALL, "steps": 3}, 0)
    trace = model.sample(4)
    canvas, state = torch.zeros(1, 1, 8, 8), torch.zeros(1, 12)
    for t in range(3):
        state = model.p["s"](trace["z"].value[:, t], state)
        canvas = model.p["c"](model.p["h"](state), canvas)
        torch.testing.assert_close(trace["c"].value[:, t], canvas)
    torch.testing.assert_close(trace["x"].distribution.mean, model.p["x"](canvas).mean)


def test_bad_windows_and_sizes_are_refused(digits: Data) -> None:
    for options, words in (
        ({"attention": False, "read": 4}, "read is the side of a window"),
        ({"write": -1}, "write must be at least 1, found -1"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
    ):
        with pytest.raises(RecipeError, match=words):
            recipes.draw(digits, **options)
    with pytest.raises(RecipeError, match=r"draw models images of numbers.*take the recipe vae"):
        recipes.draw(load("iris"))
