"""The likelihood ``mixture``: of reals and whole numbers of a table, atoms and all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.conditionals import Columns
from deeplvm.data import DataError, Description, likelihood_of, load
from deeplvm.recipes.plain import seen
from deeplvm.recipes.tables import typed


def frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rain = rng.gamma(2.0, 5.0, size=rows)
    return pd.DataFrame(
        {
            "rain": np.where(rng.random(rows) < 0.4, 0.0, rain),
            "age": rng.integers(17, 90, size=rows),
            "weight": rng.integers(10_000, 900_000, size=rows),
            "sky": rng.choice(["blue", "grey", "white"], size=rows),
            "wet": rng.integers(0, 2, size=rows),
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    frame().to_csv(tmp_path / "days.csv", index=False)
    return tmp_path / "days.csv"


def test_each_column_has_what_suits_it(path: Path) -> None:
    data = load(path, likelihood="mixture")
    found = {part.name: (part.kind, part.likelihood) for part in data.variables["x"].parts}
    assert found == {
        "rain": ("real", "mixture"),
        "age": ("counts", "mixture"),
        "weight": ("counts", "mixture"),
        "sky": ("category", "categorical"),
        "wet": ("binary", "bernoulli"),
    }
    x = data.variables["x"]
    assert x.parts[0].atoms == ((0.0,),)
    conditional = likelihood_of(data)
    rows = torch.as_tensor(data.train["x"][0:50])
    assert conditional().log_prob(rows).isfinite().all()
    assert conditional.features == x.features == seen(x)[0]
    draws = conditional().sample((200,))
    assert torch.equal(draws[:, 1:], draws[:, 1:].round())
    assert (draws[:, 1:3] >= 0).all()
    again = Description.from_dict(json.loads(json.dumps(data.to_dict())))
    other = likelihood_of(again)
    other.load_state_dict(conditional.state_dict())
    assert torch.equal(other().log_prob(rows), conditional().log_prob(rows))


def test_a_recipe_for_tables_takes_it_where_nobody_asked_otherwise(path: Path) -> None:
    auto = [part.likelihood for part in typed(load(path)).parts]
    assert auto == ["mixture", "mixture", "mixture", "categorical", "bernoulli"]
    asked = [
        part.likelihood
        for part in typed(load(path, likelihood="student-t", dequantize="uniform")).parts
    ]
    assert "mixture" not in asked
    x = typed(load(path, schema={"age": {"likelihood": "poisson"}}))
    assert [part.likelihood for part in x.parts[:3]] == ["mixture", "poisson", "mixture"]
    alike = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    x = typed(load(alike, schema={"b": {"likelihood": "gaussian"}}))
    assert [part.likelihood for part in x.parts] == ["mixture", "gaussian"]
    assert likelihood_of(x)().sample((3,)).shape == (3, 2)


def test_columns_all_alike_keep_their_own_knots_and_atoms(tmp_path: Path) -> None:
    table = frame()[["age", "weight"]].assign(age=lambda t: t.age % 20)
    table.to_csv(tmp_path / "two.csv", index=False)
    data = load(tmp_path / "two.csv", likelihood="mixture")
    x, conditional = data.variables["x"], likelihood_of(data)
    assert not x.parts
    assert isinstance(conditional, Columns)
    assert conditional.features == x.features == 2 + 20
    assert seen(x) == (22,)


def test_quantiles_that_repeat_make_a_map_all_the_same(tmp_path: Path) -> None:
    """Nearly all rows rounded to one value that is no atom: a few distinct quantiles."""
    rng = np.random.default_rng(0)
    grid = pd.DataFrame({"a": rng.integers(0, 60, 900) ** 2 / 7.0, "b": rng.normal(size=900)})
    grid.to_csv(tmp_path / "grid.csv", index=False)
    data = load(tmp_path / "grid.csv", likelihood="mixture")
    rows = torch.as_tensor(data.train["x"][0:100])
    assert likelihood_of(data)().log_prob(rows).isfinite().all()


def test_whole_numbers_of_any_sign_have_noise_however_it_is_asked_for() -> None:
    """As where nothing is asked, and where a schema asks it of the column."""
    signed = frame().assign(age=lambda t: t.age - 50)
    asked = {"likelihood": "mixture"}
    ways: list[dict[str, Any]] = [{}, asked, {"schema": {"age": asked}}]
    for way in ways:
        part = load(signed, **way).variables["x"].by_column["age"]
        assert (part.kind, part.dequantized) == ("real", True)
        assert part.likelihood == ("mixture" if way else part.likelihood)


def test_it_needs_quantiles() -> None:
    image = load({"x": np.random.default_rng(0).normal(size=(50, 1, 4, 4))})
    with pytest.raises(DataError, match="needs the quantiles of each column"):
        likelihood_of(image, likelihood="mixture")


def test_it_is_in_the_data_s_own_units(path: Path) -> None:
    """A thousandth of the unit, and so a thousand times the density; probabilities stay."""
    metres = (
        frame().drop(columns=["sky", "wet", "age", "weight"]).assign(more=np.arange(400.0) / 7)
    )
    kilometres = metres / 1000
    found = []
    for name, table in (("m", metres), ("km", kilometres)):
        data = load({"x": table.to_numpy()}, likelihood="mixture")
        rows = torch.as_tensor(data.train["x"][0:300]).double()
        log_prob = likelihood_of(data)().log_prob(rows)
        found.append((name, rows, log_prob.detach()))
    zero = found[0][1][:, 0] == 0
    expected = math.log(1000) * torch.where(zero, 1.0, 2.0)
    torch.testing.assert_close(found[1][2] - found[0][2], expected, rtol=0, atol=1e-3)


def test_it_starts_at_the_shares_of_the_training_rows(path: Path) -> None:
    """Of codes and of atoms: before any training as good as columns by themselves."""
    data = load(path, likelihood="mixture")
    rows = torch.as_tensor(data.train["x"][:])
    x, start = data.variables["x"], likelihood_of(data)()
    sky = torch.stack([rows[:, 3] == code for code in range(3)]).double().mean(1)
    torch.testing.assert_close(torch.tensor(x.parts[3].shares[0]), sky)
    zero = rows[0].clone()
    zero[[1, 2, 3, 4]] = math.nan
    zero[0] = 0.0
    share = float((rows[:, 0] == 0).double().mean())
    found = float(start.observed_log_prob(zero, ~zero.isnan()).detach().exp())
    assert found == pytest.approx(share, abs=1e-3)
