"""What the columns of a table are, said by the user and written for editing."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.data import DataError, Description, load
from deeplvm.data.schema import rules_of, schema_of, traits

rng = np.random.default_rng(0)
ROWS = 240


def messy() -> pd.DataFrame:
    """A column of every kind that people have, with holes."""
    frame = pd.DataFrame(
        {
            "customer_id": rng.permutation(10_000)[:ROWS],
            "mail": [f"someone{i}@example.org" for i in range(ROWS)],
            "country": ["NL"] * ROWS,
            "joined": pd.date_range("2019-01-01", periods=ROWS).strftime("%Y-%m-%d"),
            "income": np.exp(rng.normal(10, 1, ROWS)).round(2),
            "rain": np.where(rng.random(ROWS) < 0.4, 0.0, rng.gamma(2, 3, ROWS)).round(3),
            "share": rng.random(ROWS),
            "children": rng.poisson(2, ROWS),
            "balance": rng.integers(-500, 500, ROWS),
            "city": rng.choice([f"city {i}" for i in range(40)], ROWS),
            "grade": rng.choice(["low", "middle", "high"], ROWS),
            "member": rng.random(ROWS) < 0.3,
            "age": rng.integers(18, 90, ROWS).astype(float),
        }
    )  # fmt: skip
    frame.loc[::9, "age"] = -999
    frame.loc[::7, "income"] = np.nan
    frame.loc[3::11, "city"] = None
    return frame


@pytest.fixture
def file(tmp_path: Path) -> Path:
    messy().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def kinds(description: Description) -> dict[str, str]:
    return {part.name: part.kind for part in description.variables["x"].parts}


def test_columns_are_understood_and_what_is_left_out_is_said(file: Path) -> None:
    data = load(file)
    assert kinds(data.description) == {
        "joined": "date", "income": "real", "rain": "real", "share": "real",
        "children": "counts", "balance": "real", "city": "category", "grade": "category",
        "member": "binary", "age": "real",
    }  # fmt: skip
    assert set(data.description.left) == {"mail", "customer_id", "country"}
    (note,) = [note for note in data.notes if note.startswith("left out")]
    for words in ("240 different values", "identifier", "always 'NL'"):
        assert words in note
    assert any("'age' is exactly -999" in note for note in data.notes)
    assert len(data.notes) < 20


def test_the_schema_that_is_written_says_what_was_done(file: Path, tmp_path: Path) -> None:
    """Read again with it as it stands, everything is as before; and so are the other forms."""
    data = load(file)
    text = schema_of(data.description)
    (tmp_path / "schema.toml").write_text(text)
    assert "heavy-tailed" not in text.split("share")[1].split("\n")[0]
    assert "often exactly 0" in text.split("rain")[1].split("\n")[0]
    for schema in (tmp_path / "schema.toml", tomllib.loads(text)):
        again = load(file, schema=schema)
        assert kinds(again.description) == kinds(data.description)
        assert again.fingerprint == data.fingerprint
        assert load(**again.options).fingerprint == data.fingerprint
        assert tomllib.loads(schema_of(again.description)) == tomllib.loads(text)


def test_a_schema_corrects(file: Path) -> None:
    schema: dict[str, Any] = {
        "age": {"missing": ["-999"]},
        "grade": {"type": "ordinal", "levels": ["low", "middle", "high"]},
        "children": {"type": "category"},
        "rain": {"likelihood": "student-t"},
        "balance": "drop",
        "city": {"type": "label", "missing": ["nothing"]},
    }
    frame = pd.read_csv(file)
    frame["city"] = frame["city"].fillna("none")
    data = load(frame, schema=schema)
    parts = {part.name: part for part in data.variables["x"].parts}
    assert parts["age"].missing
    assert (parts["age"].kind, parts["age"].minimum) == ("counts", 18)
    assert (parts["grade"].likelihood, parts["grade"].categories) == (
        "ordinal", ("low", "middle", "high"),
    )  # fmt: skip
    assert parts["children"].likelihood == "categorical"
    assert parts["rain"].likelihood == "student-t"
    assert "balance" not in parts
    assert data.classes is not None
    assert "city 3" in data.classes
    other = load(frame, like=data.description)
    assert other.variables["x"].restored(other.test.exact("x"), exact=True)["grade"].tolist() == (
        frame["grade"].tolist()
    )


@pytest.mark.parametrize(
    "schema, options, match",
    [
        ({"agee": {"type": "real"}}, {}, r"no column 'agee'; did you mean age"),
        ({"age": {"typ": "real"}}, {}, r"no entry 'typ'; did you mean type"),
        ({"age": {"type": "number"}}, {}, r"no type 'number'; choose real, whole"),
        ({"age": {"likelihood": "gausian"}}, {}, r"no likelihood 'gausian'; did you mean gauss"),
        ({"age": {"missing": -999}}, {}, r"missing must be a list of words"),
        ({"age": {"levels": ["a"]}}, {}, r"levels are those of type = 'ordinal'"),
        ({"grade": {"type": "ordinal", "levels": ["low"]}}, {}, r"'grade' has 'high', which is"),
        ({"age": {"type": "drop"}}, {"categories": ("age",)}, r"leave out one of the two"),
        ({"age": {"type": "counts"}}, {"drop": ("age",)}, r"leave out one of the two"),
        ({"grade": {"type": "label"}}, {"label": "city"}, r"there is one label"),
        ({"age": {"type": "counts"}}, {}, r"declared as counts, but holds whole numbers -999"),
        (
            {"grade": {"likelihood": "poisson"}},
            {},
            r"'grade'.*categorical or ordinal, not poisson",
        ),
        ("no.toml", {}, r"no such file"),
    ],
)
def test_what_a_schema_cannot_say(
    file: Path, schema: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        load(file, schema=schema, **options)


def test_a_schema_is_for_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rng.normal(size=(20, 2)))
    with pytest.raises(DataError, match="--schema does not apply"):
        load(tmp_path / "a.npy", schema={"0": {"type": "real"}})
    (tmp_path / "bad.toml").write_text("age = {")
    with pytest.raises(DataError, match="no TOML file"):
        rules_of(tmp_path / "bad.toml")


def test_few_dates_are_asked_about(file: Path) -> None:
    frame = pd.DataFrame({"month": ["2024-01-01", "2024-02-01"] * 30, "n": rng.normal(size=60)})
    with pytest.raises(DataError, match=r"'month' holds dates, 2 different ones: .* --categories"):
        load(frame)
    assert kinds(load(frame, schema={"month": "date"}).description)["month"] == "date"
    assert kinds(load(frame, categories=("month",)).description)["month"] == "category"


def test_plain_counts_are_not_called_heavy_tailed() -> None:
    """Nearly all of their values repeat, so that the others are rare ones alone."""
    table = pd.DataFrame(
        {
            "visits": np.append(np.arange(799) % 9, 9),
            "income": np.exp(rng.normal(10, 2, 800)),
            "size": rng.normal(5, 1, 800),
        }
    )
    columns = load(table).variables["x"].by_column
    found = {name: "heavy-tailed" in traits(part) for name, part in columns.items()}
    assert found == {"visits": False, "income": True, "size": False}


def test_bounds_that_are_said_hold() -> None:
    frame = pd.DataFrame({"a": rng.lognormal(size=90), "b": rng.normal(size=90)})
    x = load(frame, schema={"a": {"bounds": [-1, math.inf]}}).variables["x"]
    assert (x.by_column["a"].likelihood, x.by_column["a"].bounds) == ("mixture", ((-1.0, None),))
    for bounds, said in (
        ([3, 1], "the least and the largest value"),
        ([1, 2, 3], "the least and the largest value"),
        ([0, 1], r"column 'a': the schema says bounds = \[0, 1\], but it holds numbers from"),
    ):
        with pytest.raises(DataError, match=said):
            load(frame, schema={"a": {"bounds": bounds}})
    with pytest.raises(DataError, match="under likelihood = 'mixture'"):
        load(frame, schema={"a": {"bounds": [0, 99], "likelihood": "gaussian"}})
