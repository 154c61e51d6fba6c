"""What is given comes back as it was: the inverse of what was done to store it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.cli.outputs import given, save_table
from deeplvm.data import Data, Variable, load
from deeplvm.data.schema import schema_of

rng = np.random.default_rng(0)
ROWS = 60
DIGITS = rng.integers(0, 17, (ROWS, 4))
REALS = rng.normal(5e6, 900.0, (ROWS, 4)).round(2)
UNIFORM = {"dequantize": "uniform"}
SCALED = {**UNIFORM, "likelihood": "continuous-bernoulli"}
ARRAYS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "bits": (rng.integers(0, 2, (ROWS, 4)), {}),
    "flags": (rng.random((ROWS, 4)) < 0.5, {}),
    "bytes": (DIGITS.astype(np.uint8), {}),
    "bytes under noise": (DIGITS.astype(np.uint8), UNIFORM),
    "bytes scaled": (DIGITS.astype(np.uint8), SCALED),
    "int16": (DIGITS.astype(np.int16), {}),
    "int64 scaled": (DIGITS.astype(np.int64), SCALED),
    "below zero": (DIGITS.astype(np.int64) - 8, {}),
    "large": (DIGITS.astype(np.int64) * 100_003, {}),
    "floats under noise": (DIGITS.astype(np.float64) - 8, {}),
    "scaled floats": (DIGITS.astype(np.float64), SCALED),
    "grey": ((DIGITS / 16).astype(np.float32), {}),
    "grey in double": (DIGITS / 16, {}),
    "pixels over 255": (rng.integers(0, 256, (ROWS, 4)) / 255, {}),
    "pixels over 255 under noise": (rng.integers(0, 256, (ROWS, 4)) / 255, UNIFORM),
    "reals": (REALS, {}),
    "singles": (REALS.astype(np.float32) / 7, {}),
    "halves": (rng.normal(size=(ROWS, 4)).astype(np.float16), {}),
    "proportions": (rng.random((ROWS, 4)), {}),
    "holes": (np.where(rng.random((ROWS, 4)) < 0.1, np.nan, REALS), {}),
    "whole with holes": (np.where(rng.random((ROWS, 4)) < 0.1, np.nan, DIGITS - 8.0), {}),
    "categories": (DIGITS.astype(np.int32), {"likelihood": "categorical"}),
}


def restored(data: Data) -> dict[str, np.ndarray]:
    """All rows of other data, by column or by name."""
    return data.variables["x"].restored(data.test.exact("x"), exact=True)


@pytest.mark.parametrize("form", ["memory", "file", "stream"])
@pytest.mark.parametrize("values, options", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_back(
    tmp_path: Path, values: np.ndarray, options: dict[str, Any], form: str
) -> None:
    np.save(tmp_path / "a.npy", values)
    source: Any = values if form == "memory" else tmp_path / "a.npy"
    run = load(source, **options)
    again = load(source, like=run.description, stream=form == "stream")
    found = restored(again)["x"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype


def table() -> pd.DataFrame:
    """A column of each kind, most with missing cells."""
    frame = pd.DataFrame(
        {
            "height": REALS[:, 0],
            "floor": DIGITS[:, 0] - 8,
            "price": DIGITS[:, 1] * 100_003 + 25_000_000,
            "children": DIGITS[:, 2],
            "smoker": rng.random(ROWS) < 0.4,
            "city": rng.choice(["Oslo", "Rome", "None yet"], ROWS),
            "code": rng.choice(["01", "1", "001"], ROWS),
            "version": rng.choice(["1.1", "1.10", "2b"], ROWS),
            "answer": rng.choice(["true", "false"], ROWS),
            "day": pd.Timestamp("2021-03-05") + pd.to_timedelta(np.arange(ROWS), "D"),
            "moment": pd.Timestamp("2021-03-05 10:30:15")
            + pd.to_timedelta(75 * np.arange(ROWS), "h"),
        }
    )
    frame["day"] = frame["day"].dt.strftime("%Y-%m-%d")
    for place, column in enumerate(frame.columns):
        if column not in ("floor", "smoker"):
            frame[column] = frame[column].astype(object)
            frame.loc[[place, place + 20], column] = None
    return frame


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_come_back(tmp_path: Path, ending: str) -> None:
    """Every cell of every kind, missing ones too, through a file and back."""
    frame = table()
    files = [tmp_path / f"{name}.{ending}" for name in ("in", "out")]
    if ending == "parquet":
        for name in ("height", "price", "children"):
            frame[name] = frame[name].astype("Int64" if name != "height" else float)
        frame["moment"] = pd.to_datetime(frame["moment"])
        frame.to_parquet(files[0], index=False)
    else:
        frame.to_csv(files[0], index=False, sep="," if ending == "csv" else "\t")
    run = load(files[0], categories=("version",))
    again = load(files[0], like=run.description)
    x = run.variables["x"]
    assert [part.kind for part in x.parts] == [
        "real", "real", "real", "counts", "binary", "category", "category", "category", "binary",
        "date", "date",
    ]  # fmt: skip
    filled = torch.full((ROWS, len(x.parts)), 1.0)
    kept = given({"x": filled}, run.description, again.test)
    for name, column in restored(again).items():
        missing = frame[name].isna().to_numpy()
        expected = frame[name].to_numpy(object)
        got = np.where(missing, expected, column.astype(object))
        if name in ("day", "moment"):
            got, expected = got.astype(str), frame[name].astype(str).to_numpy()
            got = np.where(missing, expected, got)
        assert [a for a, b in zip(got, missing, strict=True) if not b] == [
            a for a, b in zip(expected, missing, strict=True) if not b
        ], name
        assert pd.isna(pd.Series(column)[missing]).all(), name
        assert not pd.isna(pd.Series(kept["x"][name])).any(), name
    save_table(tmp_path / "out.csv", {"x": restored(again)})
    if ending == "csv":
        assert (tmp_path / "out.csv").read_text() == files[0].read_text()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_draws_have_the_digits_of_the_source(kind: type) -> None:
    """Cents stay cents; what has no last digit keeps all."""
    income = rng.gamma(2.0, 30_000.0, ROWS).round(2) if kind == np.float64 else DIGITS[:, 0] / 4
    frame = pd.DataFrame({"income": income, "speed": rng.normal(size=ROWS)}).astype(kind)
    data = load(frame)
    x = Variable.from_dict(data.variables["x"].to_dict())
    assert x.digits == (2, None)
    found = x.restored(torch.tensor([[31237.645, 63.79999923706055], [-0.001, 0.1]]))
    assert found["income"].tolist() == [pytest.approx(31237.64, abs=0.011), 0.0]
    assert all(len(str(cell).partition(".")[2]) <= 2 for cell in found["income"])
    assert not np.signbit(found["income"]).any()
    assert found["speed"].tolist() == [pytest.approx(63.8), pytest.approx(0.1)]
    assert "2 digits after the point" in schema_of(data.description)


def test_draws_are_in_the_types_of_the_source() -> None:
    x = load(table(), categories=("version",)).variables["x"]
    draw = torch.rand(5, len(x.parts), dtype=torch.float32) * 1.4
    found = x.restored(draw)
    assert found["floor"].dtype == found["children"].dtype == np.int64
    assert found["smoker"].dtype == bool
    assert set(found["code"]) <= {"01", "1", "001"}
    assert set(found["answer"]) <= {"true", "false"}
    assert all(len(day) == len("2021-03-05") for day in found["day"])
    # single precision written in the digits that it has
    assert all(len(str(value)) < 14 for value in found["height"])


def test_a_table_of_words_needs_no_pickle(tmp_path: Path) -> None:
    frame = pd.DataFrame({"k": ["p", "q", None] * 20, "n": [3, None, 4] * 20})
    run = load(frame)
    everything = load(frame, like=run.description)
    save_table(tmp_path / "a.npz", {"x": restored(everything)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["k"].tolist() == ["p", "q", ""] * 20
        assert np.isnan(arrays["n"][1])
    again = load(tmp_path / "a.npz", like=run.description)
    assert torch.equal(
        again.test.exact("x").nan_to_num(-9), everything.test.exact("x").nan_to_num(-9)
    )


def test_means_of_counts_are_no_counts() -> None:
    """Neither in a table nor in an array, whatever type of whole numbers it had."""
    draws = np.random.default_rng(0)
    counts = draws.poisson(3, (60, 2))
    for kind in (np.uint8, np.int64, np.float64):
        (found,) = load(counts.astype(kind)).variables["x"].restored(MEANS, mean=True).values()
        assert found.tolist() == MEANS.tolist()
    frame = pd.DataFrame({"n": counts[:, 0], "signed": counts[:, 1] - 3, "is": counts[:, 0] > 2})
    x = load(frame).variables["x"]
    means = x.restored(np.array([[2.7, 1.7, 0.7]]), mean=True)  # signed ones have noise above them
    assert [each.tolist() for each in means.values()] == [[2.7], [1.2], [True]]
    whole = x.restored(np.array([[2.7, 1.7, 0.7]]))
    assert [each.tolist() for each in whole.values()] == [[3], [1], [True]]


MEANS = np.array([[2.7, 0.4]])


@pytest.mark.parametrize("form", ["", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"])
def test_times_within_a_few_days_are_counted_from_the_first(form: str, tmp_path: Path) -> None:
    """Single precision would count them from 1970 in steps of three minutes."""
    draws = np.random.default_rng(0)
    after = pd.to_timedelta(draws.integers(0, 3 * 86_400, 90), "s")
    times = pd.Series(pd.Timestamp("2024-03-01 08:00:00") + after)
    times = times.dt.strftime(form) if form else times
    frame = pd.DataFrame({"at": times, "x": draws.normal(size=90)})
    frame.loc[3, "at"] = None
    schema = {"at": {"type": "date"}}  # four days alone may be names of periods
    data = load(frame, schema=schema)
    part = data.variables["x"].by_column["at"]
    assert (part.kind, part.origin) == ("date", 19783.0)  # the first of March
    assert Variable.from_dict(part.to_dict()).origin == part.origin
    assert "2024-03-01 .. 2024-03-04" in schema_of(data.description)
    frame.to_csv(tmp_path / "again.csv", index=False)
    frame.to_parquet(tmp_path / "again.parquet")
    for other in (frame, tmp_path / "again.csv", tmp_path / "again.parquet"):
        again = load(other, like=data.description)
        found = pd.Series(restored(again)["at"])
        found = found if form else found.astype("datetime64[us]")
        assert found.equals(frame["at"] if form else frame["at"].astype("datetime64[us]"))
    drawn = data.variables["x"].restored(np.array([[1.5, 0.0]], np.float32))["at"][0]
    assert drawn == (pd.Timestamp("2024-03-02 12:00").strftime(form) if form else drawn)
    assert form or drawn == np.datetime64("2024-03-02T12:00")


def test_milliseconds_come_back_as_they_were() -> None:
    texts = [f"2024-03-0{day} 08:00:{second:02d}.815" for day in (1, 2) for second in range(30)]
    frame = pd.DataFrame({"at": texts, "x": np.random.default_rng(0).normal(size=60)})
    data = load(frame)
    assert restored(load(frame, like=data.description))["at"].tolist() == texts
    assert data.variables["x"].by_column["at"].types == ("date %Y-%m-%d %H:%M:%S.%3f",)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_in_parts_is_the_table(tmp_path: Path, ending: str) -> None:
    """A column of which the first rows say nothing is text."""
    columns = {"size": np.arange(5.0), "name": np.array([None, None, "a", "=b", None])}
    slices = slice(0, 2), slice(2, 5)
    parts = ({"x": {n: each[at] for n, each in columns.items()}} for at in slices)
    paths = [tmp_path / f"{what}{ending}" for what in ("parts", "whole")]
    save_table(paths[0], parts)
    save_table(paths[1], {"x": columns})
    read = pd.read_csv if ending == ".csv" else pd.read_parquet
    found, right = (read(path) for path in paths)
    pd.testing.assert_frame_equal(found, right)


def test_a_table_of_one_column_keeps_its_categories() -> None:
    table = pd.DataFrame({"grade": ["low", "high", "mid"] * 9})
    data = load(table)
    assert data.variables["x"].categories == ("high", "low", "mid")
    restored = data.variables["x"].restored(data.train["x"])["grade"]
    assert set(restored) == {"low", "high", "mid"}
    again = load(table[:2], like=data.description.to_dict())
    assert again.test["x"].flatten().tolist() == [1, 0]
