"""What a density of a column needs besides its mean and spread; kinds of columns."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from deeplvm.data import DataError, Description, Variable, likelihood_of, load
from deeplvm.data.records import check_description
from deeplvm.data.schema import schema_of

rng = np.random.default_rng(0)
ROWS = 2000


def rain(rows: int = ROWS) -> pd.DataFrame:
    """Columns of reals: one with a point mass at 0 and a cap, one without."""
    wet = np.minimum(rng.gamma(2.0, 3.0, rows), 12.0)
    return pd.DataFrame(
        {
            "rain": np.where(rng.random(rows) < 0.3, 0.0, wet),
            "wind": rng.normal(10, 2, rows),
            "place": rng.choice(["hill", "vale"], rows),
        }
    )


@pytest.mark.parametrize("columns", [["rain", "wind"], ["rain", "wind", "place"]])
def test_columns_with_a_density_have_knots_and_atoms(columns: list[str]) -> None:
    frame = rain()[columns]
    data = load(frame)
    x = data.variables["x"]
    dry, wind = (x.parts[0], x.parts[1]) if x.parts else (x, x)
    assert dry.atoms[0] == (0.0, 12.0)
    assert wind.atoms[-1] == ()
    knots: list[Any] = [part.knots for part in x.by_column.values()]
    for name, found, atoms in zip(["rain", "wind"], knots[:2], [(0.0, 12.0), ()], strict=True):
        train = data.train["x"][:, columns.index(name)].double().numpy()
        others = train[~np.isin(train, atoms)]
        reach = norm.ppf(1 - 1 / (len(others) + 2))
        scores = np.linspace(-reach, reach, 23)  # of twice the cube root of the rows
        expected = np.quantile(others, norm.cdf(scores), method="weibull")
        np.testing.assert_allclose(found, expected)
        assert found.dtype == torch.float64
    if len(columns) > 2:
        assert (x.parts[2].knots, x.parts[2].atoms) == (None, ())


def test_whole_numbers_under_noise_have_no_atoms() -> None:
    x = load(pd.DataFrame({"a": -rng.poisson(2.0, 300), "b": rng.normal(size=300)}))
    whole = x.variables["x"].parts[0]
    assert whole.dequantized
    assert whole.atoms == ((),)
    assert whole.knots is not None


def test_knots_and_atoms_are_written_and_read() -> None:
    description = load(rain()).description
    back = Description.from_dict(json.loads(json.dumps(description.to_dict())))
    check_description(back)
    for part, other in zip(
        description.variables["x"].parts, back.variables["x"].parts, strict=True
    ):
        assert part.atoms == other.atoms
        if part.knots is not None and other.knots is not None:
            assert torch.equal(part.knots, other.knots)
        assert (part.knots is None) == (other.knots is None)
    plain = description.to_dict()
    for part in (plain["variables"]["x"], *plain["variables"]["x"]["parts"]):
        for name in ("knots", "scores", "bounds", "reason", "atoms", "shares"):
            part.pop(name)  # as versions before wrote it
    check_description(Description.from_dict(plain))


@pytest.mark.parametrize(
    "change", [{"knots": torch.tensor([1.0, 0.0])}, {"atoms": ((), ())}, {"knots": torch.eye(2)}]
)
def test_damaged_knots_are_refused(change: dict) -> None:
    description = load(rain()).description
    x = description.variables["x"]
    broken = replace(x, parts=(replace(x.parts[0], **change), *x.parts[1:]))
    with pytest.raises(DataError, match="damaged"):
        check_description(replace(description, variables={"x": broken}))


def test_ordered_levels_have_an_ordinal_likelihood() -> None:
    grades = rng.integers(0, 4, (100, 3))
    x = load(grades, likelihood="ordinal").variables["x"]
    assert (x.kind, x.likelihood, x.levels, x.features) == ("ordinal", "ordinal", 4, 12)
    p = likelihood_of(x)()
    assert torch.allclose(p.log_prob(torch.zeros(3)).exp(), torch.tensor(0.25**3))
    assert isinstance(Variable.from_dict(x.to_dict()), Variable)


def test_ordered_levels_of_a_file_keep_their_order(tmp_path: Path) -> None:
    sizes = pd.Categorical(
        rng.choice(["small", "big", "mid"], 90), ["small", "mid", "big"], ordered=True
    )
    frame = pd.DataFrame({"size": sizes, "w": rng.normal(size=90)})
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=30)
    part = load(tmp_path / "a.parquet").variables["x"].by_column["size"]
    assert (part.kind, part.categories) == ("ordinal", ("small", "mid", "big"))


draws = np.random.default_rng(3)


@pytest.mark.parametrize(
    "values, likelihood, bounds",
    [
        pytest.param(draws.normal(3, 2, 300), "gaussian", (), id="normal"),
        pytest.param(draws.lognormal(3, 1, 300), "mixture", (0.0, None), id="positive"),
        pytest.param(draws.standard_cauchy(300), "mixture", (None, None), id="tails"),
        pytest.param(draws.beta(0.5, 0.5, 300), "mixture", (0.0, 1.0), id="shares"),
        pytest.param(draws.uniform(0, 100, 300), "mixture", (0.0, 100.0), id="percentages"),
        pytest.param(np.minimum(draws.normal(3, 2, 300), 4), "mixture", (None, 4.0), id="cap"),
        pytest.param(
            draws.gamma(2, 9, 300) * (draws.random(300) < 0.5), "mixture", (0.0, None), id="0"
        ),
        pytest.param(draws.lognormal(9, 1, 300).astype(int) + 5000, "mixture", (), id="whole"),
        pytest.param((30 * draws.standard_cauchy(300)).astype(int), "mixture", (), id="signed"),
    ],
)
def test_a_real_column_has_the_likelihood_that_its_values_ask_for(
    values: Any, likelihood: str, bounds: tuple[float | None, ...]
) -> None:
    """What is drawn lies within the bounds, and a value beyond them is refused in other data."""
    frame = pd.DataFrame({"a": values, "b": draws.normal(size=300)})
    data = load(frame)
    part = data.variables["x"].by_column["a"]
    assert part.reason
    assert part.likelihood == likelihood
    assert part.bounds == ((bounds,) if bounds else ())
    drawn = likelihood_of(data)().sample((500,))[:, 0]
    low, high = (float(end) if end is not None else None for end in bounds or (None, None))
    assert low is None or bool((drawn >= low).all())
    assert high is None or bool((drawn <= high).all())
    if low is not None:
        frame.loc[0, "a"] = low - 1
        with pytest.raises(DataError, match=r"'a': the model was fitted to reals .*wider bounds"):
            load(frame, like=data.description)


def test_a_bound_is_the_same_in_every_precision() -> None:
    """0.7 is less in single precision: the file's own rows stay within what they showed."""
    frame = pd.DataFrame(
        {
            "cap": np.minimum(draws.gamma(2, 0.3, 300), 0.7),
            "floor": np.maximum(draws.normal(size=300), -0.3),
            "noisy": draws.integers(-500, 500, 300),  # dequantized: all columns rest as floats
        }
    )
    data = load(frame)
    found = data.variables["x"].by_column
    assert (found["cap"].bounds, found["floor"].bounds) == (((0.0, 0.7),), ((-0.3, None),))
    schema = tomllib.loads(schema_of(data.description))
    assert load(frame, schema=schema).variables["x"].by_column["cap"].bounds == ((0.0, 0.7),)
    again = load(frame, like=data.description)
    rows = torch.as_tensor(again.test["x"][:])
    assert likelihood_of(data)().log_prob(rows).isfinite().all()


@pytest.mark.parametrize(
    "values, likelihood, largest",
    [
        pytest.param(draws.poisson(3, 600), "poisson", None, id="poisson"),
        pytest.param(draws.negative_binomial(1, 0.05, 600), "negative-binomial", None, id="tail"),
        pytest.param(17 + draws.gamma(1.2, 14, 600).astype(int), "mixture", None, id="ages"),
        pytest.param(draws.binomial(40, 0.7, 600), "mixture", None, id="narrow"),
        pytest.param(np.minimum(draws.poisson(400, 600), 410), "mixture", 410.0, id="cap"),
    ],
)
def test_counts_have_the_likelihood_that_their_values_ask_for(
    values: Any, likelihood: str, largest: float | None
) -> None:
    """Held-out values decide, and a cap; the schema says why, and leads to the same again."""
    frame = pd.DataFrame({"a": values, "b": draws.normal(size=600)})
    data = load(frame)
    part = data.variables["x"].by_column["a"]
    assert (part.kind, part.likelihood) == ("counts", likelihood)
    assert part.bounds == (() if largest is None else ((0.0, largest),))
    assert bool(part.reason) == (likelihood == "mixture")
    drawn = likelihood_of(data)().sample((500,))[:, 0]
    assert bool((drawn >= 0).all())
    assert largest is None or bool((drawn <= largest).all())
    again = load(frame, schema=tomllib.loads(schema_of(data.description)))
    assert again.variables["x"].by_column["a"].likelihood == likelihood
    bounded = load(frame, schema={"a": {"type": "counts", "bounds": [0, 1000]}})
    assert bounded.variables["x"].by_column["a"].bounds == ((0.0, 1000.0),)
    assert "bounds = [0.0, 1000.0]" in schema_of(bounded.description)
