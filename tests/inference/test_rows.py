"""Rows: which rows, read once, refused once."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation.bound.rate_distortion import rate_distortion
from deeplvm.inference import refine, sample_posterior
from deeplvm.inference.rows import at_random, for_rows, rows_of
from deeplvm.likelihood import (
    annealed_importance_sampling,
    convergence,
    harmonic_likelihood,
    importance_sampling,
    quadrature_likelihood,
    sequential_monte_carlo,
)
from deeplvm.networks import MLP


@pytest.fixture
def model() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian((1, 8, 8), MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP((1, 8, 8)))}))


def test_a_selection_is_columns_and_a_slice_of_itself() -> None:
    data = load("digits")
    some = data.test[10:40:3]
    assert (some.rows, list(some)) == (10, ["x", "y"])
    assert some["x"].equal(data.test["x"][10:40:3])
    assert some[2:4]["y"].equal(data.test["y"][16:22:3])
    chosen = data.test[torch.tensor([5, 3])]
    assert chosen["y"].equal(data.test["y"][torch.tensor([5, 3])])
    assert chosen[1:]["y"].equal(data.test["y"][3:4])
    assert some.data_rows == data.rows("train")
    assert some.batch(slice(1, 3))["x"].equal(data.batch("test", slice(13, 18, 3))["x"])


def test_rows_of_a_slice_are_those_of_the_whole(model: LatentVariableModel) -> None:
    data = load("digits")
    rows = rows_of(model, data.test[20:30])
    assert (rows.rows, rows.names, rows.data_rows) == (10, ("x",), data.rows("train"))
    assert rows[slice(2, 4)]["x"].equal(data.batch("test", slice(22, 24))["x"])


def test_a_whole_data_set_does_not_say_which_rows(model: LatentVariableModel) -> None:
    with pytest.raises(TypeError, match=re.escape("Say which rows: data.test, data.test[:100]")):
        rows_of(model, load("digits"))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_with_its_rows(
    model: LatentVariableModel, value: float
) -> None:
    def measure(given: dict[str, Tensor], *_: Any) -> dict[str, Tensor]:
        value_of = given["x"].sum((1, 2, 3))
        return {"log_px": value_of, "rate": torch.where(value_of > 3.5, value, -torch.inf)}

    x = torch.zeros(5, 1, 8, 8)
    x[3:, 0, 0, 0] = 4.0
    with pytest.raises(ValueError, match=re.escape("rate is not a number, or +inf, in 1 rows")):
        for_rows(model, {"x": x[:4]}, measure, batch_size=2, seed=0, finite=("rate",))
    assert len(for_rows(model, {"x": x}, measure, batch_size=2, seed=0)["rate"]) == 5


def test_rows_that_stand_for_all_are_random_and_repeat() -> None:
    x = torch.arange(100.0)[:, None]
    some, again, other = (at_random({"x": x}, 10, seed)["x"] for seed in (0, 0, 1))
    assert torch.equal(some, again)
    assert not torch.equal(some, other)
    assert not torch.equal(some, x[:10])
    assert at_random({"x": x}, 100)["x"] is x
    digits = load("digits").test
    chosen: Any = at_random(digits, 5, 0)
    assert chosen.rows == 5
    assert not torch.equal(chosen["y"], digits["y"][:5]) or not torch.equal(
        chosen["x"], digits["x"][:5]
    )


BROKEN: dict[str, Callable[..., Any]] = {
    "importance sampling": lambda m, x: importance_sampling(m, x, 20),
    "annealing": lambda m, x: annealed_importance_sampling(m, x, 2, 4, steps=1),
    "sequential": lambda m, x: sequential_monte_carlo(m, x, 4, steps=1),
    "harmonic": lambda m, x: harmonic_likelihood(m, x, 2, 3, warmup=2),
    "quadrature": lambda m, x: quadrature_likelihood(m, x, 8),
    "rate and distortion": lambda m, x: rate_distortion(m, x, particles=2, temperatures=3),
    "chains": lambda m, x: sample_posterior(m, x, warmup=2, draws=8, chains=2),
    "refinement": lambda m, x: refine(m, x, steps=2),
    "convergence": lambda m, x: convergence(m, x, (1, 4), (2, 3), steps=1),
}


@pytest.mark.parametrize("estimate", BROKEN)
def test_a_decoder_with_a_nan_is_refused_by_every_estimate(estimate: str) -> None:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))
    with torch.no_grad():
        next(p["x"].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"is not a number, or \+inf, in 4 rows|did not move"):
        BROKEN[estimate](model, {"x": torch.randn(4, 3)})
