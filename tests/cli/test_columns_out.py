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
    words = ("--draws", 2, "--details", "d.csv", "--particles", 5)
    assert deeplvm("impute", "run", "people.csv", "-o", "none.csv", *words).code == 0
    assert [*pd.read_csv("d.csv").columns][:3] == ["row", "column", "value"]  # nothing was missing
    pd.to_datetime(drawn["since"], format="%d.%m.%Y")
    outcome = deeplvm("sample", "run", "-o", "drawn.csv", "--holes")
    assert (outcome.code, "has no missing values" in outcome.line) == (2, True)
    assert deeplvm("score", "run", "drawn.csv", "-o", "s.csv", "--particles", 5).code == 0
    assert deeplvm("reconstruct", "run", "holes.csv", "-n", 9, "-o", "r.npz").code == 0
    with np.load("r.npz", allow_pickle=False) as arrays:
        assert arrays["city_original"][4] == ""  # missing, not the first city
        assert arrays["east_original"][0] == people["east"][0]


def test_drawn_rows_have_holes_where_they_are_asked_for(
    deeplvm: Run, people: pd.DataFrame
) -> None:
    holes = people.astype(object)
    holes.loc[::2, ["city", "y", "visits"]] = None
    holes.to_csv("holes.csv", index=False)
    words = ("--recipe", "mixture_model", "--out", "run", "--epochs", "1", "--no-evaluate")
    assert deeplvm("fit", "holes.csv", *words).code == 0
    assert deeplvm("sample", "run", "-n", 90, "-o", "drawn.csv", "--holes").code == 0
    drawn = pd.read_csv("drawn.csv", dtype=str)
    missing = drawn[["city", "y", "visits"]].isna()
    assert (missing.nunique(axis=1) == 1).all()  # as in the rows of the file
    assert 0.3 < missing["y"].mean() < 0.7
    assert not drawn[["floor", "since"]].isna().any().any()
    assert set(drawn["city"].dropna()) <= {"Oslo", "Rome"}
    for words, named in ((("--mean",), "--mean"), (("--given", "floor=3"), "--given")):
        assert named in deeplvm("sample", "run", "-o", "x.csv", "--holes", *words).line


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


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_imputing_gives_back_all_columns_of_the_file(
    deeplvm: Run, people: pd.DataFrame, ending: str
) -> None:
    """Identifiers, free text, constants and labels come back as they were."""
    people.insert(0, "id", [f"{place:04d}" for place in range(ROWS)])
    people.insert(3, "remark", [f"said {place}" for place in range(ROWS)])
    people["land"] = "here"
    people.loc[5, "remark"] = None
    people.to_csv("people.csv", index=False)
    people.loc[::7, "y"] = None
    writing = {"csv": people.to_csv, "parquet": people.to_parquet}[ending]
    writing(f"holes.{ending}", index=False)
    assert deeplvm("fit", "people.csv", "--label", "grade", "--out", "run", *TINY).code == 0
    words = ("impute", "run", f"holes.{ending}", "--particles", 5)
    for output, times in (("one.csv", 1), ("more.csv", 2)):
        outcome = deeplvm(*words, "-o", output, *(("--draws", 2) if times > 1 else ()))
        assert outcome.code == 0
        assert "id, remark, grade, land" in outcome.err
        filled = pd.read_csv(output, dtype=str)
        assert list(filled)[-len(people.columns) :] == list(people)
        assert len(filled) == times * ROWS
        for column in ("id", "remark", "grade", "land"):
            expected = people[column].fillna("").astype(str).tolist() * times
            assert filled[column].fillna("").tolist() == expected
        assert not filled["y"].isna().any()


def test_values_where_a_column_has_none_are_told_of(deeplvm: Run) -> None:
    """Failure rate below 1e-9: 400 draws of a Gaussian whose mean is its standard deviation.

    By itself the column has a likelihood that ends where the values do.
    """
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"income": rng.exponential(900, ROWS), "change": rng.normal(size=ROWS)})
    frame.to_csv("money.csv", index=False)
    words = ("fit", "money.csv", "--likelihood", "gaussian", "--out", "run", *TINY)
    assert deeplvm(*words).code == 0
    said = deeplvm("sample", "run", "-n", 400, "-o", "drawn.csv").err
    below = int((pd.read_csv("drawn.csv")["income"] < 0).sum())
    assert below
    assert f"warning: {below} of 400 values that the model made for column 'income'" in said
    assert 'likelihood = "mixture"' in said
    assert "'change'" not in said
    frame.loc[:60, "income"] = None
    frame.to_csv("holes.csv", index=False)
    outcome = deeplvm("impute", "run", "holes.csv", "-o", "f.csv", "--draws", 3, "--particles", 20)
    below = int((pd.read_csv("f.csv")["income"] < 0).sum())
    assert below
    assert f"{below} of 183 values that the model made for column 'income'" in outcome.err
    assert deeplvm("fit", "money.csv", "--out", "again", *TINY).code == 0
    assert "'income'" not in deeplvm("sample", "again", "-n", 400, "-o", "drawn.csv").err
    assert (pd.read_csv("drawn.csv")["income"] > 0).all()
