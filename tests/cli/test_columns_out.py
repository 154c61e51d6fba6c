"""A table goes through the verbs and comes out in its own types, cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

Run = Callable[..., Any]
ROWS = 120
TINY = ("--epochs", "1", "--latent", "2", "--hidden", "8", "--no-evaluate")


@pytest.fixture
def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "floor": rng.integers(-5, 9, ROWS),
            "east": (5_456_789.01 + 900 * rng.normal(size=ROWS)).round(2),
            "member": rng.random(ROWS) < 0.4,
            "visits": rng.poisson(3, ROWS),
            "city": rng.choice(["Oslo", "Rome"], ROWS),
            "since": pd.date_range("2020-01-01", periods=ROWS).strftime("%d.%m.%Y"),
            "grade": rng.choice([1, 2, 3], ROWS),
            "y": rng.normal(10, 1, ROWS),
        }
    )
    frame.to_csv("people.csv", index=False)
    return frame


def test_cells_come_out_as_they_came_in(deeplvm: Run, people: pd.DataFrame) -> None:
    holes = people.astype(object)
    for place, column in enumerate(people.columns):
        holes.loc[place :: len(people.columns) + 3, column] = None
    holes.to_csv("holes.csv", index=False)
    assert deeplvm("fit", "people.csv", "--out", "run", *TINY).code == 0
    assert deeplvm("impute", "run", "holes.csv", "-o", "filled.csv", "--particles", 5).code == 0
    filled, given = pd.read_csv("filled.csv", dtype=str), pd.read_csv("holes.csv", dtype=str)
    there = given.notna().to_numpy()
    assert (filled.to_numpy()[there] == given.to_numpy()[there]).all()
    assert not filled.isna().any().any()
    assert set(filled["member"]) == {"True", "False"}
    assert not filled[["floor", "visits"]].stack().str.contains(".", regex=False).any()
    assert deeplvm("sample", "run", "-n", 20, "-o", "drawn.csv").code == 0
    drawn = pd.read_csv("drawn.csv")
    assert (drawn["floor"].dtype, drawn["visits"].dtype) == (np.int64, np.int64)
    assert drawn["member"].dtype == bool
    pd.to_datetime(drawn["since"], format="%d.%m.%Y")
    assert deeplvm("score", "run", "drawn.csv", "-o", "s.csv", "--particles", 5).code == 0
    assert deeplvm("reconstruct", "run", "holes.csv", "-n", 9, "-o", "r.npz").code == 0
    with np.load("r.npz", allow_pickle=False) as arrays:
        assert arrays["city_original"][4] == ""  # missing, not the first city
        assert arrays["east_original"][0] == people["east"][0]


def test_labels_have_their_own_names(deeplvm: Run, people: pd.DataFrame) -> None:
    words = ("--recipe", "conditional_vae", "--label", "grade", "--out", "run", *TINY)
    assert deeplvm("fit", "people.csv", *words).code == 0
    assert deeplvm("sample", "run", "-n", 6, "-o", "all.csv").code == 0
    drawn = pd.read_csv("all.csv")
    assert drawn["grade"].tolist() == [1, 2, 3, 1, 2, 3]
    assert abs(drawn["y"].mean() - 10) < 4  # a column of its own, not the label's
    people.drop(columns="grade").to_csv("bare.csv", index=False)
    outcome = deeplvm("score", "run", "bare.csv", "-o", "s.csv", "--particles", 5)
    assert outcome.code == 2
    assert "'grade'" in outcome.line
