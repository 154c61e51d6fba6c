"""The likelihood is chosen by looking, and one that does not suit is refused with a way out."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest
import torch

from deeplvm.data import Data, DataError, LikelihoodName, choose_likelihood, likelihood_of, load
from deeplvm.data.likelihood_table import LIKELIHOODS
from deeplvm.distributions.discrete import DiscretizedLogistic
from deeplvm.likelihood.bits_per_dimension import bits_per_dimension
from deeplvm.networks import MLP

rng = np.random.default_rng(0)
BINARY = rng.integers(0, 2, (50, 6)).astype(np.uint8)
PIXELS = rng.integers(0, 256, (50, 1, 4, 4)).astype(np.uint8)
LOW_PIXELS = rng.integers(0, 17, (50, 1, 4, 4))
GREY = rng.uniform(0, 1, (50, 6))
ROUNDED_GREY = rng.integers(0, 256, (50, 6)) / 255
COUNTS = rng.poisson(3.0, (400, 6))
BURSTY = rng.negative_binomial(1, 0.1, (400, 6))
REALS = rng.normal(0, 5, (50, 6))
NEGATIVE = rng.integers(-40, 40, (50, 6))
LARGE = rng.integers(0, 100_000, (50, 6))
HOLES = np.where(rng.uniform(size=(50, 6)) < 0.2, np.nan, REALS)


@pytest.mark.parametrize(
    "values, options, kind, likelihood",
    [
        pytest.param(BINARY, {}, "binary", "bernoulli", id="binary"),
        pytest.param(BINARY.astype(float), {}, "binary", "bernoulli", id="binary floats"),
        pytest.param(PIXELS, {"image": True}, "levels", "discretized-logistic", id="8 bits"),
        pytest.param(PIXELS[:, 0, 0], {}, "levels", "discretized-logistic", id="flat bytes"),
        pytest.param(LOW_PIXELS, {"image": True}, "levels", "discretized-logistic", id="0..16"),
        pytest.param(GREY, {}, "unit", "continuous-bernoulli", id="grey"),
        pytest.param(GREY, {"table": True}, "real", "gaussian", id="proportions in a table"),
        pytest.param(ROUNDED_GREY, {}, "levels", "discretized-logistic", id="8 bits over 255"),
        pytest.param(COUNTS, {}, "counts", "poisson", id="counts"),
        pytest.param(BURSTY, {}, "counts", "negative-binomial", id="overdispersed counts"),
        pytest.param(REALS, {}, "real", "gaussian", id="reals"),
        pytest.param(HOLES, {}, "real", "gaussian", id="reals with holes"),
        pytest.param(NEGATIVE, {}, "real", "gaussian", id="negative whole numbers"),
        pytest.param(LARGE, {}, "real", "gaussian", id="large whole numbers"),
    ],
)
def test_auto_looks_at_the_values(
    values: np.ndarray, options: dict, kind: str, likelihood: str
) -> None:
    choice = choose_likelihood(values, **options)
    assert (choice.kind, choice.likelihood) == (kind, likelihood)
    assert likelihood in choice.reason


def test_levels_are_counted() -> None:
    assert choose_likelihood(PIXELS, image=True).levels == 256
    assert choose_likelihood(np.minimum(LOW_PIXELS, 16), image=True).levels == 17


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_greys_are_recovered_as_levels(dtype: type) -> None:
    choice = choose_likelihood(ROUNDED_GREY.astype(dtype))
    assert choice.step == pytest.approx(1 / 255)
    assert choice.levels == 256
    assert "multiple of 1/255" in choice.reason


def test_whole_numbers_that_no_count_likelihood_suits_are_dequantized_and_it_is_said() -> None:
    for values in (NEGATIVE, LARGE):
        choice = choose_likelihood(values)
        assert choice.dequantize
        assert "lower bound" in choice.reason


def test_less_spread_than_poisson_is_remarked() -> None:
    choice = choose_likelihood(np.tile([[3], [4], [5]], (50, 1)))
    assert "--categories" in choice.reason


@pytest.mark.parametrize(
    "values, likelihood, match",
    [
        pytest.param(GREY, "bernoulli", r"0 and 1 only.*--binarize.*continuous-b", id="grey"),
        pytest.param(PIXELS, "bernoulli", r"0 and 1 only.*discretized-logistic", id="pixels"),
        pytest.param(COUNTS, "bernoulli", r"0 and 1 only.*negative-binomial", id="counts"),
        pytest.param(COUNTS, "gaussian", r"a density.*--dequantize uniform", id="gaussian counts"),
        pytest.param(ROUNDED_GREY, "gaussian", r"multiple of 1/255", id="gaussian rounded"),
        pytest.param(BINARY, "gaussian", r"use --likelihood bernoulli", id="gaussian binary"),
        pytest.param(REALS, "poisson", r"whole numbers of at least 0, found reals", id="poisson"),
        pytest.param(NEGATIVE, "negative-binomial", r"at least 0, found whole", id="nb negative"),
        pytest.param(REALS, "continuous-bernoulli", r"needs reals in \[0, 1\]", id="cb reals"),
        pytest.param(REALS, "gamma", r"needs positive reals", id="gamma"),
        pytest.param(REALS, "beta", r"strictly between 0 and 1", id="beta"),
        pytest.param(REALS, "discretized-logistic", r"whole numbers", id="dl reals"),
        pytest.param(REALS, "categorical", r"whole numbers", id="categorical reals"),
        pytest.param(LARGE, "categorical", r"few levels", id="categorical large"),
    ],
)
def test_a_likelihood_that_does_not_suit_is_refused(
    values: np.ndarray, likelihood: str, match: str
) -> None:
    with pytest.raises(DataError, match=match):
        choose_likelihood(values, likelihood=likelihood)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values, likelihood, kind",
    [
        pytest.param(REALS, "student-t", "real", id="student"),
        pytest.param(REALS, "laplace", "real", id="laplace"),
        pytest.param(np.abs(REALS), "gamma", "real", id="gamma"),
        pytest.param(GREY, "beta", "real", id="beta"),
        pytest.param(GREY, "gaussian", "real", id="gaussian of unrounded greys"),
        pytest.param(ROUNDED_GREY, "continuous-bernoulli", "unit", id="density of rounded greys"),
        pytest.param(COUNTS, "negative-binomial", "counts", id="negative binomial"),
        pytest.param(PIXELS, "poisson", "counts", id="pixels as counts"),
        pytest.param(COUNTS, "categorical", "category", id="categorical"),
    ],
)
def test_a_likelihood_that_suits_is_taken(values: np.ndarray, likelihood: str, kind: str) -> None:
    choice = choose_likelihood(values, likelihood=likelihood)  # type: ignore[arg-type]
    assert (choice.kind, choice.likelihood) == (kind, likelihood)


def test_dequantization_of_reals_is_refused() -> None:
    with pytest.raises(DataError, match="no rounding to dequantize"):
        choose_likelihood(REALS, dequantize=True)


def test_dequantized_levels_in_the_unit_interval_count_their_scale() -> None:
    choice = choose_likelihood(
        PIXELS, image=True, dequantize=True, likelihood="continuous-bernoulli"
    )
    assert choice.divisor == 256
    assert choose_likelihood(PIXELS, image=True, dequantize=True).divisor == 1


def test_only_holes_are_refused() -> None:
    with pytest.raises(DataError, match="every value is missing"):
        choose_likelihood(np.full((3, 2), np.nan))


# values of each likelihood, drawn as it says
OF = {
    "bernoulli": BINARY,
    "discretized-logistic": PIXELS,
    "discretized-logistic-mixture": PIXELS,
    "categorical": COUNTS,
    "ordinal": COUNTS,
    "poisson": COUNTS,
    "negative-binomial": BURSTY,
    "zero-inflated-poisson": COUNTS,
    "zero-inflated-negative-binomial": BURSTY,
    "multinomial": COUNTS,
    "gaussian": REALS,
    "laplace": REALS,
    "mixture": REALS,
    "student-t": REALS,
    "continuous-bernoulli": GREY,
    "beta": GREY,
    "gamma": np.abs(REALS),
}


def test_the_table_has_the_names() -> None:
    assert set(LIKELIHOODS) == set(get_args(LikelihoodName)) - {"auto"} == set(OF)


@pytest.mark.parametrize("name", OF)
def test_a_row_of_the_table_is_all_there_is_of_a_likelihood(name: str) -> None:
    """Values that suit are taken, and make a conditional that scores them; others are refused."""
    row, values = LIKELIHOODS[name], OF[name]
    assert not row.heavier or LIKELIHOODS[row.heavier].kind == row.kind
    data = load(values, likelihood=name, split=(0.8, 0.1, 0.1))  # type: ignore[arg-type]
    x = data.variables["x"]
    assert (x.likelihood, x.kind) == (name, row.kind)
    p = likelihood_of(x, MLP(2, 4))(torch.zeros(len(data.test["x"]), 2))
    assert p.log_prob(data.batch("test", slice(None))["x"]).isfinite().all()
    unsuited = NEGATIVE if row.density or name == "mixture" else REALS
    with pytest.raises(DataError, match="--likelihood"):
        choose_likelihood(unsuited, likelihood=name)  # type: ignore[arg-type]


def images(channels: int = 3, levels: int = 256) -> np.ndarray:
    return rng.integers(0, levels, (40, channels, 4, 4)).astype(np.uint8 if levels < 257 else int)


@pytest.mark.parametrize("scale, numbers", [("'global'", 1), (0.5, 1), ("'dimension'", 48)])
def test_where_the_scale_of_a_gaussian_of_pixels_comes_from(scale: str, numbers: int) -> None:
    """Of an image one scale is one number, in the units of its pixels; stored, it comes back."""
    likelihood = f"gaussian(scale={scale})"
    x = load(images(), likelihood=likelihood, dequantize="uniform").variables["x"]
    again = type(x).from_dict(json.loads(json.dumps(x.to_dict())))
    assert str(again).endswith(likelihood)
    assert likelihood_of(again, MLP(2, 4))(torch.zeros(5, 2)).scale.unique().numel() == numbers


def test_options_of_a_likelihood_reach_its_conditional() -> None:
    pixels = load(images(), likelihood="discretized-logistic-mixture(components=3)")
    x = likelihood_of(pixels)
    assert (x.components, x.coupled, x.levels) == (3, True, 256)
    own = likelihood_of(pixels, None, "discretized-logistic(scale='dimension')")
    assert own.scale.raw.shape == (3, 4, 4)
    table = load(
        {"a": REALS[:, 0], "b": REALS[:, 1], "c": COUNTS[:50, 0]},
        likelihood="gaussian(scale='global')",
        schema={"b": {"likelihood": "gaussian(scale=0.5)"}, "c": {"likelihood": "poisson"}},
    )
    a, b, c = table.variables["x"].parts
    assert a.likelihood_options == {"scale": "global"}
    assert b.likelihood_options == {"scale": 0.5}
    assert c.likelihood_options == {}
    groups = [each for each in likelihood_of(table).groups if hasattr(each, "scale")]
    assert sorted([str(each.scale.source) for each in groups]) == ["0.5", "global"]


@pytest.mark.parametrize(
    "likelihood, message",
    [
        ("gaussian(scale='pixel')", "scale must be one of 'network', 'dimension', 'global' or a"),
        ("gaussian(scale=-1)", "number above 0, not -1"),
        ("gaussian(components=3)", "components is no option of gaussian, which has scale, minimu"),
        ("discretized-logistic-mixture(components=0)", "components must be a whole number, from"),
        ("poisson(scale=1)", "scale is no option of poisson, which has none"),
        ("discretized-logistic-mixtur", r"did you mean discretized-logistic-mixture\?"),
        ("gaussian(scale=)", "is not a likelihood"),
    ],
)
def test_options_that_a_likelihood_has_not_are_refused(likelihood: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(REALS, likelihood=likelihood)


def test_pixels_as_categories_are_numbers_to_networks_and_uniform_at_first() -> None:
    """8.00 bits a pixel of 256 levels, from the end of the file to the number."""
    data = load(images(), likelihood="categorical")
    x = data.variables["x"]
    assert (x.kind, x.levels, x.features) == ("levels", 256, x.elements)
    assert _bits(data) == pytest.approx(8.0, abs=1e-6)
    p = likelihood_of(x, MLP(2, 4))
    assert p.embed(torch.tensor([0.0, 255.0])).tolist() == [-1.0, 1.0]
    distribution = p(torch.zeros(5, 2))
    every = torch.arange(256.0)
    torch.testing.assert_close(
        distribution.mean, (distribution.base_dist.logits.softmax(-1) * every).sum(-1)
    )


def test_many_levels_have_an_eighth_of_a_level_for_the_least_scale() -> None:
    """12 bits have finer levels than 8; 16 bits are refused for what has a number a level."""
    data = load(images(1, 4096), likelihood="discretized-logistic")
    x = likelihood_of(data)
    assert x.scale.minimum * (x.levels - 1) / 2 == pytest.approx(0.1275, rel=0.05)
    for name in ("discretized-logistic", "discretized-logistic-mixture", "categorical"):
        with pytest.raises(DataError, match="dequantize uniform"):
            load(images(1, 65536), likelihood=name)


@pytest.mark.parametrize(
    "greys, levels",
    [
        (np.arange(17) / 16, 17),
        (np.arange(5) / 4, 5),
        (np.array([0, 0.5, 1.0]), 3),
        (np.arange(16) / 15, 16),
        (np.arange(256) / 256, 256),
        (np.arange(257) / 256, 257),
        (np.arange(256) / 255, 256),
    ],
)
def test_no_level_stands_for_a_value_that_never_occurs(greys: np.ndarray, levels: int) -> None:
    """The levels are those of the coarsest grid that has all values; 1 is one of them."""
    values = rng.permutation(np.resize(greys, (64, 16)).ravel()).reshape(64, 16)
    choice = choose_likelihood(values)
    assert (choice.levels, round(1 / choice.step)) == (levels, round(1 / np.diff(greys).min()))
    x = load(values).variables["x"]
    pixel = DiscretizedLogistic(torch.tensor(1.2), torch.tensor(0.02), x.levels or 0)
    stored = torch.arange(0.0, x.maximum + 1)
    assert float(pixel.log_prob(stored).exp().sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_a_uniform_density_of_scaled_whole_numbers_has_their_bits(dtype: type) -> None:
    """log2 of the number of levels, of any type and in tables; and new rows are scaled alike."""
    options = {"likelihood": "continuous-bernoulli", "dequantize": "uniform"}
    x = np.resize(np.arange(17), (68, 4)).astype(dtype)
    data = load(x, **options)  # type: ignore[arg-type]
    assert _bits(data) == pytest.approx(math.log2(17))
    assert load(x, like=data.description).test["x"].max() <= 1
    columns = {n: rng.permutation(np.arange(512) % k) for n, k in (("a", 4), ("b", 256))}
    for names in (["a", "b"], ["b", "a"]):
        table = load({name: columns[name] for name in names}, **options)  # type: ignore[arg-type]
        assert table.train["x"].amax(0).max() <= 1
        assert table.train["x"].amax(0).min() > 0.9
        assert _bits(table) == pytest.approx(5.0)


def _bits(data: Data) -> float:
    rows = data.batch("train", slice(None))["x"]
    log_prob = likelihood_of(data)().log_prob(rows).detach()  # 0 everywhere: uniform
    counts = torch.full((len(rows),), rows[0].numel())
    return bits_per_dimension(log_prob, counts, data.variables).value
