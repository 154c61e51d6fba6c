"""Labels that some rows do not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.data import Data, DataError, load
from deeplvm.data.records import SPLITS

X = np.random.default_rng(0).normal(size=(60, 2))
Y = np.arange(60) % 3
NONE = np.arange(60) % 4 != 0  # rows without a label


def frame(labels: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": labels})


def csv(path: Path) -> Any:
    frame(np.where(NONE, "", Y.astype(str))).to_csv(path / "t.csv", index=False)
    return path / "t.csv"


def parquet(path: Path) -> Any:
    frame(pd.Series(Y).mask(NONE).astype("Int64")).to_parquet(path / "t.parquet")
    return path / "t.parquet"


def reals(path: Path) -> Any:
    frame(np.where(NONE, np.nan, Y)).to_parquet(path / "t.parquet")
    return path / "t.parquet"


def npz(path: Path, labels: Any) -> Any:
    np.savez(path / "t.npz", x=X, y=labels)
    return path / "t.npz"


WAYS: dict[str, Callable[[Path], Any]] = {
    "an empty cell": csv,
    "a null": parquet,
    "NaN in a file": reals,
    "NaN in a frame": lambda _: frame(np.where(NONE, np.nan, Y)),
    "-1 in a frame": lambda _: frame(np.where(NONE, -1, Y)),
    "NaN in an array": lambda path: npz(path, np.where(NONE, np.nan, Y)),
    "-1 in an array": lambda path: npz(path, np.where(NONE, -1, Y)),
    "an empty word in an array": lambda path: npz(path, np.where(NONE, "", Y.astype(str))),
    "NaN in memory": lambda _: {
        "x": torch.tensor(X),
        "y": torch.tensor(np.where(NONE, np.nan, Y)),
    },
}


def read(path: Path, way: str, **options: Any) -> Data:
    source = WAYS[way](path)
    table = isinstance(source, pd.DataFrame) or str(source).endswith((".csv", ".parquet"))
    named: dict[str, Any] = {"label": "kind"} if table else {}
    return load(source, **named, **options)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_leaving_a_label_out_is_one(tmp_path: Path, way: str) -> None:
    data, other = read(tmp_path, way), read(tmp_path, "NaN in a frame")
    assert data.classes == ("0", "1", "2")
    assert data.missing == {"y"}
    assert data.description.unlabelled == other.description.unlabelled
    assert sum(data.description.unlabelled.values()) == NONE.sum()
    for split in SPLITS:
        torch.testing.assert_close(
            getattr(data, split)["y"], getattr(other, split)["y"], equal_nan=True
        )
    assert "missing in" in data.describe()
    assert any("−1 is taken for" in note for note in data.notes) == ("-1" in way)


def test_labelled_and_unlabelled_rows_are_in_each_split(tmp_path: Path) -> None:
    rows = read(tmp_path, "a null").description
    shares = [rows.unlabelled[split] / rows.rows[split] for split in SPLITS]
    assert max(shares) - min(shares) < 0.2


def test_minus_one_beside_one_is_a_class() -> None:
    data = load(frame(2 * (Y > 0) - 1), label="kind")
    assert (data.classes, data.missing) == (("-1", "1"), frozenset())


def test_a_schema_makes_minus_one_a_class() -> None:
    rules = {"kind": {"type": "label", "missing": []}}
    assert load(frame(Y - 1), schema=rules).classes == ("-1", "0", "1")


@pytest.mark.parametrize("form", ["frame", "array"])
def test_other_rows_have_the_codes_of_the_training_data(form: str) -> None:
    def rows(labels: Any) -> tuple[Any, dict[str, Any]]:
        if form == "frame":
            return frame(labels), {"label": "kind"}
        return {"x": X, "y": np.asarray(labels)}, {}

    source, options = rows(Y)
    known = load(source, **options).description
    some = load(rows(np.where(NONE, -1, 2))[0], like=known)
    assert some.classes == known.classes
    assert set(some.test["y"][~NONE].tolist()) == {2.0}
    assert some.test["y"].isnan().sum() == NONE.sum()
    none = load(rows(np.full(60, np.nan))[0], like=known)
    assert "y" not in none.test
    assert none.classes is None


def test_words_are_numbered_as_the_classes_are() -> None:
    known = load({"x": X, "y": np.array(["ash", "birch", "oak"])[Y]}).description
    assert load({"x": X, "y": np.full(60, 2)}, like=known).test["y"].unique().tolist() == [2]
    other = load({"x": X, "y": np.array(["fir", "yew"])[Y % 2]}, like=known)
    assert other.classes == ("fir", "yew")  # a model that reads labels refuses them


def test_no_label_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no row has a label"):
        load(frame(np.full(60, np.nan)), label="kind")


def test_few_labels_are_kept_as_many_of_each_class() -> None:
    data = load(frame(Y), label="kind", keep_labels=7, seed=1)
    labels = data.train["y"]
    assert sorted(labels[~labels.isnan()].long().bincount().tolist()) == [2, 2, 3]
    assert not any(getattr(data, split)["y"].isnan().any() for split in ("valid", "test"))
    again = load(frame(Y), label="kind", keep_labels=7, seed=1)
    torch.testing.assert_close(again.train["y"], labels, equal_nan=True)
    assert torch.equal(again.train["x"], load(frame(Y), label="kind", seed=1).train["x"])
    with pytest.raises(DataError, match="only 48 training rows have a label"):
        load(frame(Y), label="kind", keep_labels=50)
