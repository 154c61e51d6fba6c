"""Delimited files as people write them: headers, indices, dressed numbers, codes, flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.data import Data, DataError, load

rng = np.random.default_rng(0)
ROWS = 120
A, B = rng.normal(20, 2, ROWS), rng.normal(50, 5, ROWS)
REALS = [[f"{a:.2f}", f"{b:.2f}", f"{a + b:.2f}"] for a, b in zip(A, B, strict=True)]


def text(folder: Path, rows: Sequence[Sequence[Any]], sep: str = ",", name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text("".join(sep.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def columns(data: Data) -> tuple[str, ...]:
    return data.variables["x"].columns or ()


def kinds(data: Data) -> dict[str, str]:
    return {name: part.kind for name, part in data.variables["x"].by_column.items()}


GROUPS = [["ab"[i % 2], *row[:2]] for i, row in enumerate(REALS)]
WHOLE = [[i % 5, i % 7, i % 11] for i in range(50)]


@pytest.mark.parametrize(
    "first, body, named, clear",
    [
        pytest.param("1990 1991 1992", REALS, True, False, id="years"),
        pytest.param("400 450 500", REALS, True, False, id="wavelengths"),
        pytest.param("group 1990 1991", GROUPS, True, False, id="a word and years"),
        pytest.param("1_1 1_2 1_3", REALS, True, True, id="items"),
        pytest.param("nan inf b", REALS, True, True, id="words that Python calls numbers"),
        pytest.param("17.5 49.1 66.6", REALS, False, True, id="no header"),
        pytest.param("1 2 3", WHOLE, False, False, id="a row that increases"),
    ],
)
def test_the_first_line(
    tmp_path: Path, first: str, body: list[Any], named: bool, clear: bool
) -> None:
    """Names or a row; where that is not plain it is said, and can be said."""
    path = text(tmp_path, [first.split(), *body])
    data = load(path)
    assert columns(data) == (tuple(first.split()) if named else ("0", "1", "2"))
    assert sum(data.description.rows.values()) == len(body) + (not named)
    assert any("the first line" in note for note in data.notes) == (not clear)
    said = load(path, header=True)
    assert columns(said) == tuple(first.split())
    if first[0].isdigit() and "_" not in first:
        assert sum(load(path, header=False).description.rows.values()) == len(body) + 1


@pytest.mark.parametrize("start", [0, 1, 17])
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_index_without_a_name_is_no_column(tmp_path: Path, start: int, shuffled: bool) -> None:
    frame = pd.DataFrame({"t": A.round(2), "h": B.round(2)})
    frame.index += start
    (frame.sample(90, random_state=0) if shuffled else frame).to_csv(tmp_path / "a.csv")
    data = load(tmp_path / "a.csv")
    assert columns(data) == ("t", "h")
    assert any("the rows' numbers" in note for note in data.notes)


def test_rows_that_are_counted_are_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"nr": np.arange(1, ROWS + 1), "t": A, "h": B, "year": 1900 + np.arange(ROWS)}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert columns(load(tmp_path / "a.csv")) == ("t", "h", "year")
    assert columns(load(tmp_path / "a.csv", schema={"nr": "whole"}))[0] == "nr"


@pytest.mark.parametrize(
    "cells, match",
    [
        pytest.param([f"{a:.1f}".replace(".", ",") for a in A], "decimal commas", id="comma"),
        pytest.param([f"{a:.3f}".replace(".", ",") for a in A], "decimal commas", id="commas"),
        pytest.param([f"{1000 + 100 * (i % 40):,}" for i in range(ROWS)], "thousands", id="1,000"),
        pytest.param([f"{1 + i % 9} 000" for i in range(ROWS)], "thousands", id="1 000"),
        pytest.param([f"{i % 60}%" for i in range(ROWS)], "%", id="percent"),
        pytest.param([f"${5 + i % 55}" for i in range(ROWS)], "currency", id="dollars"),
        pytest.param([f"{5 + i % 55} €" for i in range(ROWS)], "currency", id="euros"),
        pytest.param([f"{5 + i % 55} kg" for i in range(ROWS)], "unit.*kg", id="unit"),
        pytest.param([f"{i % 24:02d}:30" for i in range(ROWS)], "times of day", id="time"),
        pytest.param(
            [f"{1 + i % 9:02d}/{1 + i % 8:02d}/2024" for i in range(ROWS)], "two ways", id="d/m"
        ),
    ],
)
def test_dressed_numbers_are_refused_by_what_they_are(
    tmp_path: Path, cells: list[str], match: str
) -> None:
    rows = [["v", "w"], *[[cell, f"{b:.0f}"] for cell, b in zip(cells, B, strict=True)]]
    with pytest.raises(DataError, match=rf"column 'v' holds .*{match}.*--"):
        load(text(tmp_path, rows, ";"))
    if len(set(cells)) <= ROWS // 2:
        assert kinds(load(text(tmp_path, rows, ";"), categories=("v",)))["v"] == "category"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%Y-%m-%d %H:%M:%S"])
def test_dates_are_days_and_come_back(tmp_path: Path, form: str) -> None:
    days = pd.date_range("2020-01-01", periods=ROWS).strftime(form)
    path = text(tmp_path, [["v", "w"], *[[d, f"{b:.2f}"] for d, b in zip(days, B, strict=True)]])
    data = load(path)
    part = data.variables["x"].parts[0]
    assert (part.kind, part.minimum // 1) == ("date", 18262)
    other = load(path, like=data.description)
    found = data.variables["x"].restored(other.test.exact("x"), exact=True)["v"]
    assert found.tolist() == days.tolist()
    with pytest.raises(DataError, match=r"row 1, column 'v': 'soon' is not a date"):
        load(text(tmp_path, [["v", "w"], ["soon", "1"]]), like=data.description)


@pytest.mark.parametrize("sep", [" ", "|", ";", "\t"])
def test_other_delimiters(tmp_path: Path, sep: str) -> None:
    data = load(text(tmp_path, [["a", "b", "c"], *REALS], sep, "a.txt"))
    assert columns(data) == ("a", "b", "c")


def test_an_empty_column_at_the_end_is_left_out(tmp_path: Path) -> None:
    data = load(text(tmp_path, [["a", "b", ""], *[[*row[:2], ""] for row in REALS]]))
    assert columns(data) == ("a", "b")
    assert any("no name and no value" in note for note in data.notes)


def test_a_word_that_means_missing_is_named(tmp_path: Path) -> None:
    rows = [[["None", "Wood", "Wire"][i % 3], f"{b:.2f}"] for i, b in enumerate(B)]
    path = text(tmp_path, [["fence", "w"], *rows])
    assert any("'None' in column 'fence' (40 cells)" in note for note in load(path).notes)
    part = load(path, schema={"fence": {"missing": []}}).variables["x"].parts[0]
    assert part.categories == ("None", "Wire", "Wood")


def test_codes_are_the_text_of_the_cells(tmp_path: Path) -> None:
    words = ["1.1", "1.10", "1.2", "true", "01"]
    rows = [[words[i % 5], f"{b:.2f}"] for i, b in enumerate(B)]
    run = load(text(tmp_path, [["v", "w"], *rows]), categories=("v",))
    assert run.variables["x"].parts[0].categories == tuple(sorted(words))
    for word in words:
        alone = text(tmp_path, [["v", "w"], *[[word, "50.5"]] * 3], name="b.csv")
        other = load(alone, like=run.description)
        assert run.variables["x"].restored(other.test["x"])["v"].tolist() == [word] * 3


def test_leading_zeros_are_codes(tmp_path: Path) -> None:
    rows = [[f"{i % 12:02d}", f"{b:.2f}"] for i, b in enumerate(B)]
    assert kinds(load(text(tmp_path, [["v", "w"], *rows])))["v"] == "category"


def test_declared_categories(tmp_path: Path) -> None:
    sizes = pd.Categorical(["S", "L", "M"] * 40, ["S", "M", "L"], ordered=True)
    frame = pd.DataFrame({"k": pd.Categorical([10, 20, 30] * 40), "size": sizes, "w": B})
    parts = load(frame).variables["x"].parts
    assert [part.kind for part in parts] == ["category", "ordinal", "real"]
    assert parts[1].categories == ("S", "M", "L")
    frame.to_parquet(tmp_path / "a.parquet")
    assert kinds(load(tmp_path / "a.parquet"))["k"] == "category"
    frame = pd.DataFrame({"k": [b"ab", b"cd"] * 60, "w": B})
    assert load(frame).variables["x"].parts[0].categories == ("ab", "cd")


def test_columns_go_by_their_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(rng.normal(size=(50, 3)) * [1, 5, 25], columns=["400", "450", "500"])
    run = load(frame)
    other = load(frame[["500", "400", "450"]], like=run.description)
    np.testing.assert_allclose(other.test["x"].numpy(), frame.to_numpy(), rtol=1e-6)
    with pytest.raises(DataError, match="column '400' of the training data is not there"):
        load(frame.set_axis(["600", "650", "700"], axis=1), like=run.description)
    bare = tmp_path / "bare.csv"
    frame.to_csv(bare, index=False, header=False)
    unnamed = load(bare)
    assert load(bare, like=unnamed.description).test["x"].shape == (50, 3)


def test_physical_quantities_are_no_identifiers() -> None:
    frame = pd.DataFrame({"density": 10 ** rng.normal(19.5, 0.3, ROWS), "w": B})
    x = load(frame).variables["x"].by_column["density"]
    assert (x.kind, x.dequantized) == ("real", False)


def test_notes_of_many_columns_are_short() -> None:
    frame = pd.DataFrame(rng.poisson(0.3, (60, 800))).add_prefix("g")
    assert len(load(frame).notes) < 10


def test_outliers_are_said_of_their_column() -> None:
    frame = pd.DataFrame({"a": A, "b": B})
    frame.loc[7, "a"] = 1e12
    (note,) = [note for note in load(frame).notes if note.startswith("warning")]
    assert "'a' reaches 1e+12" in note


def test_the_only_other_column_is_not_left_out_by_itself() -> None:
    with pytest.raises(DataError, match=r"column 'k' is always 'ash'.*--drop k"):
        load(pd.DataFrame({"k": ["ash"] * ROWS, "w": B}))
    assert columns(load(pd.DataFrame({"k": ["ash"] * ROWS, "w": B}), drop=("k",))) == ("w",)
