"""A variable gives the conditional of its likelihood; a table's row has one density."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal

from deeplvm.conditionals import Categorical, Gaussian
from deeplvm.conditionals.columns import Columns
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import Data, DataError, likelihood_of, load
from deeplvm.evaluation import evaluate
from deeplvm.likelihood.bits_per_dimension import offset_of
from deeplvm.networks import MLP


@pytest.fixture
def mixed(tmp_path: Path) -> Data:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, 60),
            "city": rng.choice(["Oslo", "Rome", "Lima"], 60),
            "children": rng.poisson(2.0, 60),
            "visits": rng.negative_binomial(1, 0.1, 60),
            "weight": rng.normal(70, 9, 60),
            "smoker": rng.integers(0, 2, 60),
        }
    )
    frame.loc[:8, "height"] = np.nan
    frame.loc[5:20, "city"] = None
    frame.to_csv(tmp_path / "a.csv", index=False)
    return load(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "options, name",
    [
        ({}, "DiscretizedLogistic"),
        ({"binarize": "static"}, "Bernoulli"),
        ({"dequantize": "uniform"}, "Gaussian"),
        ({"dequantize": "uniform", "likelihood": "laplace"}, "Laplace"),
        ({"dequantize": "uniform", "likelihood": "student-t"}, "StudentT"),
        ({"dequantize": "uniform", "likelihood": "continuous-bernoulli"}, "ContinuousBernoulli"),
        ({"likelihood": "poisson"}, "Poisson"),
        ({"likelihood": "negative-binomial"}, "NegativeBinomial"),
        ({"likelihood": "categorical"}, "Categorical"),
    ],
)
def test_each_likelihood_scores_its_data(options: dict, name: str) -> None:
    data = load("digits", **options)
    decoder = likelihood_of(data, MLP(2, 8))
    assert type(decoder).__name__ == name
    x = data.batch("train", slice(7))["x"]
    log_prob = decoder(torch.randn(3, 7, 2)).log_prob(x)
    assert log_prob.shape == (3, 7)
    assert torch.isfinite(log_prob).all()


def test_another_likelihood_of_the_same_kind_is_allowed_and_of_another_refused() -> None:
    iris = load("iris")
    assert type(likelihood_of(iris, MLP(2, 8), "laplace")).__name__ == "Laplace"
    with pytest.raises(DataError, match=r"load the data with likelihood='gamma'"):
        likelihood_of(iris, MLP(2, 8), "gamma")
    with pytest.raises(DataError, match=r"no likelihood for levels values"):
        likelihood_of(load("digits"), MLP(2, 8), "gaussian")


def test_a_mixed_row_has_one_density(mixed: Data) -> None:
    decoder = likelihood_of(mixed, MLP(2, 8))
    assert isinstance(decoder, Columns)
    assert decoder.features == mixed.variables["x"].features == 1 + 3 + 1 + 1 + 1 + 1
    x = mixed.batch("train", slice(None))["x"]
    row = decoder(torch.randn(3, len(x), 2))
    draw = row.sample()
    assert draw.shape == (3, len(x), 6)
    assert row.log_prob(draw).shape == (3, len(x))
    assert set(draw[..., 1].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert torch.isfinite(row.mean).all()
    seen = decoder.embed(x)
    assert seen.shape == (len(x), 8)


def test_holes_are_left_out_of_a_mixed_row(mixed: Data) -> None:
    """The marginal of the observed elements: refilling the others must not change it."""
    decoder = likelihood_of(mixed, MLP(2, 8))
    row = decoder(torch.randn(4, 2))
    full = row.sample()
    observed = torch.tensor([True, False, True, True, False, True]).expand(4, 6)
    holes = torch.where(observed, full, torch.nan)
    partial_score = row.observed_log_prob(holes, ~holes.isnan())
    city = torch.zeros(4)
    for category in range(3):  # sum the category out and integrate the real on a grid
        grid = torch.linspace(-150, 300, 20001)
        value = full.expand(len(grid), 4, 6).clone()
        value[..., 1], value[..., 4] = category, grid[:, None]
        city += torch.trapezoid(row.log_prob(value).exp(), grid, dim=0)
    torch.testing.assert_close(partial_score, city.log(), rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.grad(partial_score.sum(), list(decoder.parameters()))
    assert all(torch.isfinite(part).all() for part in gradient)


def test_columns_is_the_sum_of_its_parts() -> None:
    groups = [((2, 0), partial(Gaussian, 2)), ((1,), partial(Categorical, 3, shape=1))]
    columns = Columns(groups, MLP(2, 8))
    z = torch.randn(5, 2)
    row = columns(z)
    x = torch.tensor([0.3, 2.0, -1.0])
    features = columns.network(z)  # type: ignore[misc]
    real, category = (group(features) for group in columns.groups)
    normal = Normal(real.mean, real.stddev)
    code = TorchCategorical(logits=category.base_dist.logits.squeeze(-2))
    expected = normal.log_prob(torch.tensor([-1.0, 0.3])).sum(-1) + code.log_prob(
        torch.tensor(2.0)
    )
    torch.testing.assert_close(row.log_prob(x), expected)
    torch.testing.assert_close(row.expand((7, 5)).log_prob(x), expected.expand(7, 5))
    assert len(list(columns.parameters())) == len({id(p) for p in columns.parameters()})


def test_columns_without_a_network_are_free() -> None:
    groups = [((0,), partial(Gaussian, 1)), ((1,), partial(Categorical, 3, shape=1))]
    row = Columns(groups)()
    assert row.batch_shape == ()
    assert row.sample((4,)).shape == (4, 2)


def test_columns_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="each in one group"):
        Columns([((0,), partial(Gaussian, 1)), ((0,), partial(Gaussian, 1))], MLP(2, 8))
    with pytest.raises(ValueError, match=r"event of shape \(1,\)"):
        Columns([((0,), partial(Gaussian, 3))], MLP(2, 8))


def test_columns_trace_into_one_graph(mixed: Data) -> None:
    decoder = likelihood_of(mixed, MLP(2, 8))
    x = mixed.batch("train", slice(5))["x"]

    def step(z: torch.Tensor) -> torch.Tensor:
        row = decoder(z)
        return row.log_prob(torch.nan_to_num(x)) + decoder.embed(x).nansum(-1)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    z = torch.randn(5, 2)
    torch.testing.assert_close(compiled(z), step(z))


def test_noise_scaled_to_the_unit_interval_has_the_bits_of_the_levels() -> None:
    """A uniform density on the levels costs log2 of their number, whichever way it is written."""
    scaled = load("digits", likelihood="continuous-bernoulli", dequantize="uniform")
    assert scaled.variables["x"].divisor == 17
    assert offset_of(scaled.variables)[0] == pytest.approx(math.log2(17))
    assert offset_of(load("digits", dequantize="uniform").variables)[0] == 0
    assert offset_of(load("digits").variables)[0] == 0
    x = scaled.batch("train", slice(None))["x"]
    assert 0 <= x.min() <= x.max() < 1


def test_a_multinomial_is_of_all_columns_together() -> None:
    """And what is reported says that the total is given."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.poisson(2.0, (60, 3)), columns=["a", "b", "c"])
    data = load(frame, likelihood="multinomial")
    model = LatentVariableModel(Joint({"x": likelihood_of(data)}))
    found = evaluate(model, data.test)
    assert found.data["conditions"] == ["total of x"]
    assert found.table()[0][0] == "log p(x | total of x)"
    again = load(frame, schema={name: {"likelihood": "multinomial"} for name in "abc"})
    assert again.variables["x"].likelihood == "multinomial"
    with pytest.raises(DataError, match="'a': multinomial is of all columns of a row together"):
        load(frame, schema={"a": {"likelihood": "multinomial"}})
