"""What is unlike draws from the model is found, and nothing else; statistics against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Poisson

from deeplvm import Joint, LatentVariableModel, conditionals, distributions
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.evaluation.latents.two_sample_tests import holm
from deeplvm.evaluation.predictive import checks as data_statistics
from deeplvm.evaluation.predictive.checks import PredictiveChecks, mid_p, predictive_checks
from deeplvm.evaluation.predictive.columns import ObservedColumn
from deeplvm.networks import MLP
from deeplvm.recipes import vae

RNG = np.random.default_rng(0)


WEIGHT = torch.tensor([[1.0], [-0.5], [0.8]], dtype=torch.float64)
NOISE = 0.5
PRECISION = float(1 + WEIGHT.square().sum() / NOISE**2)  # of z given x


def factor_model() -> LatentVariableModel:
    """One factor, three reals, and their exact posterior."""
    likelihood = Gaussian(3, MLP(1), scale=NOISE)
    posterior = Gaussian(1, MLP(3), scale=PRECISION**-0.5)
    weights = (WEIGHT, WEIGHT.T / NOISE**2 / PRECISION)
    for part, weight in zip((likelihood, posterior), weights, strict=True):
        layer: Any = part.head.layer
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.zero_()
    p = Joint({"z": StandardNormal(1), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def draws(model: LatentVariableModel, rows: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return model.sample(rows)["x"].value


def check_of(checks: PredictiveChecks, statistic: str, column: str = "x[0]") -> Any:
    return next(c for c in checks.checks if (c.column, c.statistic) == (column, statistic))


def test_counts_given_their_total_are_drawn_with_those_of_the_rows() -> None:
    """Rows of very different totals are no surprise to a law that is given them."""
    generator = torch.Generator().manual_seed(0)
    totals = torch.randint(1, 60, (150,), generator=generator)
    shares = torch.tensor([0.6, 0.3, 0.1])
    words = conditionals.Multinomial(3, mean=10 * shares)
    given = distributions.Multinomial(shares.log(), totals)
    counts = given.expand(torch.Size((150,))).sample()
    assert counts.sum(1).tolist() == totals.tolist()
    model = LatentVariableModel(Joint({"x": words}))
    found = predictive_checks(model, {"x": counts}, replicates=99)
    assert min([check.family_wise for check in found.checks]) > 0.01


def test_data_of_the_model_itself() -> None:
    """Of 30 data sets 5 % fail; 6 or more do in 0.3 % of runs, and p-values are uniform."""
    model = factor_model()
    failed, p_values = 0, []
    for seed in range(30):
        checks = predictive_checks(model, {"x": draws(model, 30, seed)}, replicates=59, seed=seed)
        failed += bool(checks.found())
        p_values.append(check_of(checks, "mean").p_value)
    assert failed < 6
    # the largest distance to the uniform law of 30 numbers is above 0.32 in 0.4 % of runs
    ordered = np.sort(p_values)
    assert np.abs(ordered - (np.arange(30) + 0.5) / 40).max() < 0.27


def test_overdispersed_counts() -> None:
    """Gamma rates: the variance is 3 times the mean, which a Poisson model cannot have."""
    torch.manual_seed(0)
    counts = Poisson(Gamma(2.0, 0.5).sample((300, 2))).sample()
    model = LatentVariableModel(Joint({"x": conditionals.Poisson(2, mean=counts.mean(0))}))
    checks = predictive_checks(model, {"x": counts}, replicates=199)
    worst = check_of(checks, "variance-to-mean ratio")
    assert worst.family_wise == worst.p_value == pytest.approx(2 / 200)
    assert worst.observed == pytest.approx(
        float(counts[:, 0].var(correction=0) / counts[:, 0].mean())
    )
    # of a Poisson law the ratio is 1 with error sqrt(2 / n); 5 errors of a mean of 199
    assert worst.mean == pytest.approx(1.0, abs=5 * math.sqrt(2 / 300 / 199) + 1 / 300)
    assert worst.spread == pytest.approx(math.sqrt(2 / 300), rel=0.3)
    assert check_of(checks, "mean").p_value > 0.05  # the model has the mean of the data
    named = {(check.column, check.statistic) for check in checks.found()}
    assert ("x[1]", "share of zeros") in named
    assert ("all counts", "standard deviation of a row's total") in named


def test_skewed_and_zero_inflated_reals() -> None:
    torch.manual_seed(0)
    x = torch.where(torch.rand(400, 1) < 0.3, 0.0, torch.randn(400, 1).exp())
    gaussian = Gaussian(1, scale=float(x.std()))
    with torch.no_grad():
        gaussian.head.free.fill_(float(x.mean()))  # type: ignore[union-attr]
    checks = predictive_checks(LatentVariableModel(Joint({"x": gaussian})), {"x": x})
    named = {check.statistic for check in checks.found()}
    assert {"skewness", "share of zeros", "minimum", "maximum"} <= named
    assert "mean" not in named
    zeros = check_of(checks, "share of zeros")
    text = f"x[0]: share of zeros is {float((x == 0).double().mean()):.3g} in the data, 0 ± 0 in"
    assert str(zeros).startswith(text)
    assert str(zeros) in str(checks)
    assert checks.p_value == pytest.approx(2 / 1001)


def test_missing_correlation() -> None:
    """Independent columns in the model, a correlation of 0.5 in the data."""
    torch.manual_seed(0)
    x = torch.randn(300, 2) @ torch.tensor([[1.0, 0.5], [0.0, math.sqrt(0.75)]])
    model = LatentVariableModel(Joint({"x": Gaussian(2, scale=1.0)}))
    checks = predictive_checks(model, {"x": x}, replicates=199)
    assert [found.column for found in checks.found()] == ["all columns"] * 2
    assert checks.pair is not None
    assert (checks.pair.first, checks.pair.second) == ("x[0]", "x[1]")
    assert checks.pair.data == pytest.approx(float(torch.corrcoef(x.T)[0, 1]), abs=1e-9)


def test_holes_are_in_the_replicates_too() -> None:
    """Rows in which values are missing are those that the data have, for any statistic."""
    model = factor_model()
    x = draws(model, 50)
    x[torch.rand(50, 3) < 0.4] = torch.nan
    x[:, 2] = torch.nan  # a column of which nothing is known has no statistics
    count = {"holes": lambda values: values["x"].isnan().sum(), "sum": _sum}
    for posterior in (False, True):
        checks = predictive_checks(
            model, {"x": x}, statistics=count, posterior=posterior, replicates=49
        )
        titles = {(check.column, check.statistic) for check in checks.checks}
        assert ("data", "holes") not in titles  # the same in every data set
        assert check_of(checks, "sum", "data").observed == pytest.approx(float(x.nansum()))
        assert not [title for title in titles if title[0] == "x[2]"]
        assert checks.posterior == posterior
        assert ("posterior" if posterior else "prior") in str(checks)


def _sum(values: Any) -> Tensor:
    return values["x"].nansum()


@pytest.mark.parametrize("posterior", [False, True])
def test_law_of_the_replicates(posterior: bool) -> None:
    """Mean and spread of a column's mean in closed form: 5 errors of 200 draws, one in 10⁶."""
    model = factor_model()
    x = draws(model, 100) + 1.0
    check = check_of(
        predictive_checks(model, {"x": x}, replicates=200, posterior=posterior), "mean"
    )
    middle, variance = 0.0, float(WEIGHT[0] ** 2) + NOISE**2
    if posterior:  # x' = w z + noise, z from the exact posterior of each row
        middle = float((x @ WEIGHT).mean() * WEIGHT[0] / NOISE**2 / PRECISION)
        variance = float(WEIGHT[0] ** 2) / PRECISION + NOISE**2
    spread = math.sqrt(variance / 100)
    assert check.mean == pytest.approx(middle, abs=5 * spread / math.sqrt(200))
    assert check.spread == pytest.approx(spread, rel=5 / math.sqrt(400))
    assert check.observed == pytest.approx(float(x[:, 0].mean()))
    wide = max(abs(check.observed - middle) / spread, 1e-3)
    assert (check.p_value < 0.02) == (wide > 3)


def test_columns_of_several_kinds_and_inputs() -> None:
    """Names of several kinds; a label that is an input is held."""
    torch.manual_seed(0)
    p = Joint({"b | y": Bernoulli(3, MLP(2)), "c": Categorical(3)})
    y = torch.randn(60, 2)
    data = {"b": (torch.rand(60, 3) < 0.5).double(), "c": torch.randint(3, (60,)), "y": y}
    checks = predictive_checks(LatentVariableModel(p), data, replicates=99)
    titles = {(check.column, check.statistic) for check in checks.checks}
    assert {("b[0]", "share of ones"), ("c", "share of 2")} <= titles
    assert ("all binary columns", "standard deviation of a row's total") in titles
    share = check_of(checks, "share of 2", "c")
    assert share.observed == pytest.approx(float((data["c"] == 2).double().mean()))
    assert share.mean == pytest.approx(1 / 3, abs=0.03)
    assert not checks.found(0.001)


def test_columns_have_their_names(tmp_path: Any) -> None:
    path = tmp_path / "table.csv"
    rows = [f"{RNG.normal():.3f},{RNG.poisson(3)},{'ab'[RNG.integers(2)]}" for _ in range(200)]
    path.write_text("\n".join(["income,visits,town", *rows]))
    data = load(path, split=(0.4, 0.1, 0.5))
    titles = {
        (check.column, check.statistic)
        for check in predictive_checks(vae(data), data.test, replicates=19).checks
    }
    assert {("income", "skewness"), ("visits", "maximum"), ("town", "share of a")} <= titles


@pytest.mark.parametrize(
    "options, count, message",
    [
        ({}, 1, "two rows or more, found 1"),
        ({"replicates": 5}, 5, "at least 19.*found 5"),
        ({"standard": False}, 5, "nothing to check"),
        ({"standard": False, "statistics": {"c": lambda _: 1.0}}, 5, "No statistic is a number"),
    ],
)
def test_refused(options: dict[str, Any], count: int, message: str) -> None:
    model = factor_model()
    with pytest.raises(ValueError, match=message):
        predictive_checks(model, {"x": draws(model, count)}, **options)


def test_nothing_that_p_scores() -> None:
    model = LatentVariableModel(Joint({"x | y": Gaussian(1, MLP(1))}))
    with pytest.raises(ValueError, match="p gives a density to none of y"):
        predictive_checks(model, {"y": torch.ones(4, 1)})


def test_p_values_of_ties() -> None:
    """Against the definition."""
    drawn = np.array([[0.0], [0.0], [1.0], [2.0]])
    assert mid_p(np.array([0.0]), drawn) == pytest.approx(2 * (1 + 0 + 1) / 5)
    assert mid_p(np.array([2.0]), drawn) == pytest.approx(2 * (1 + 0.5) / 5)
    assert mid_p(np.array([1.0]), drawn) == 1.0
    many = RNG.integers(0, 5, size=(100, 100)).astype(float)
    share = (mid_p(many[0], many[1:]) <= 0.05).mean()
    assert share == 0.0  # no value of five, each with probability 1/5, is rare


def test_adjusted_p_values() -> None:
    """Against the definitions, one by one."""
    p = RNG.uniform(size=20) ** 3
    order = np.sort(p)
    expected = [max((20 - j) * order[j] for j in range(i + 1)) for i in range(20)]
    assert np.allclose(np.sort(holm(p)), np.minimum(expected, 1))
    assert np.array_equal(np.argsort(p, kind="stable"), np.argsort(holm(p) + 1e-12 * p))


def test_statistics_against_numpy() -> None:
    """With holes, column by column, as numpy and its masked arrays compute them."""
    x = RNG.gamma(2.0, size=(40, 3))
    x[RNG.uniform(size=x.shape) < 0.2] = np.nan
    x[:5] = np.where(np.isnan(x[:5]), np.nan, 0.0)
    found = dict(zip(data_statistics.REAL, data_statistics.of_reals(x), strict=True))
    for j in range(3):
        known = x[~np.isnan(x[:, j]), j]
        centred = known - known.mean()
        assert found["skewness"][j] == pytest.approx((centred**3).mean() / known.std() ** 3)
        assert found["5 % quantile"][j] == pytest.approx(np.quantile(known, 0.05))
        assert found["75 % quantile"][j] == pytest.approx(np.quantile(known, 0.75))
        assert found["maximum"][j] == known.max()
        assert found["share of zeros"][j] == pytest.approx((known == 0).mean())
    full = RNG.normal(size=(30, 4))
    assert np.allclose(data_statistics.correlations(full), np.corrcoef(full.T))
    counts = RNG.poisson(2.0, size=(30, 2)).astype(float)
    ratio = data_statistics.of_counts(counts)[1]
    assert np.allclose(ratio, counts.var(0) / counts.mean(0))
    zero = data_statistics.of_counts(np.zeros((4, 1)))
    assert zero.ravel().tolist() == [0, 1, 0, 1]
    assert data_statistics.by_row(counts)[1] == counts.sum(1).max()
    assert data_statistics.of_reals(np.full((4, 1), 0.1))[2] == 0.0


def test_very_many_columns_have_no_matrix() -> None:
    columns = [ObservedColumn("x", i, f"x[{i}]", "real") for i in range(301)]
    chosen = data_statistics.standard_statistics(columns, [np.zeros((2, 301))], np.zeros((2, 301)))
    assert not [title for title in chosen.titles if title[0] == "all columns"]
    assert len(chosen(RNG.normal(size=(5, 301)))) == len(chosen.titles) == 301 * 11
