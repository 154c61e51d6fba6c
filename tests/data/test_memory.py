"""Arrays, tensors, data frames and mappings of them load as the files that hold the same do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.data import Data, DataError, load
from deeplvm.data.records import SPLITS

RNG = np.random.default_rng(0)
REALS = RNG.normal(size=(50, 5))
LABELS = RNG.integers(3, 6, 50)
FRAME = pd.DataFrame(
    {
        "height": REALS[:, 0],
        "children": RNG.poisson(2.0, 50),
        "city": RNG.choice(["Oslo", "Rome"], 50),
        "group": RNG.choice(["a", "b"], 50),
    }
)


def same(ours: Data, theirs: Data) -> None:
    """Rows, likelihoods and words; only the name and the place differ."""
    assert ours.fingerprint == theirs.fingerprint
    assert ours.notes == theirs.notes
    assert ours.classes == theirs.classes
    for split in SPLITS:
        one, other = (each.batch(split, slice(None)) for each in (ours, theirs))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "made", [np.asarray, torch.tensor, np.ndarray.tolist], ids=["array", "tensor", "list"]
)
def test_rows(tmp_path: Path, made: Any) -> None:
    np.save(tmp_path / "x.npy", REALS)
    data = load(made(REALS))
    same(data, load(tmp_path / "x.npy"))
    assert data.source == data.name == "memory"


def test_images() -> None:
    x = load(RNG.integers(0, 256, (30, 6, 5)).astype(np.uint8)).variables["x"]
    assert (x.shape, x.likelihood) == ((1, 6, 5), "discretized-logistic")


def test_a_frame(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    same(load(FRAME, label="group"), load(tmp_path / "a.csv", label="group"))
    same(load(dict(FRAME.items()), label="group"), load(FRAME, label="group"))


def test_cells_of_several_types() -> None:
    frame = pd.DataFrame({"a": REALS[:, 0], "b": [1, "x", True, None] * 12 + [1, "x"]})
    x = load(frame, categories=("b",)).variables["x"]
    assert x.parts[1].categories == ("1", "True", "x")
    with pytest.raises(DataError, match=r"memory, row 2, column 'b': 'x' is not a number"):
        load(frame)


def test_arrays_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=REALS, y=LABELS)
    same(load({"x": REALS, "y": torch.tensor(LABELS)}), load(tmp_path / "x.npz"))


def test_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=REALS[:30], x_valid=REALS[30:40], x_test=REALS[40:])
    parts = {"train": REALS[:30], "valid": REALS[30:40], "test": REALS[40:]}
    data = load({"x_train": REALS[:30], "x_valid": REALS[30:40], "x_test": REALS[40:]})
    same(data, load(tmp_path / "x.npz"))
    same(load(parts), data)
    frames = load({split: pd.DataFrame(rows) for split, rows in parts.items()})
    assert torch.equal(frames.test["x"], data.test["x"])


def test_other_rows_are_read_like_the_training_rows() -> None:
    data = load(FRAME, label="group")
    other = load(FRAME[:7].drop(columns="group"), like=data.description)
    assert dict(other.description.rows) == {"train": 0, "valid": 0, "test": 7}
    assert other.variables["x"].columns == ("height", "children", "city")


@pytest.mark.parametrize(
    "source, options, match",
    [
        (REALS, {"stream": True}, "what is in memory is not streamed"),
        (REALS, {"label": "a"}, "--label a does not apply"),
        ({"a": REALS, "b": REALS[1:]}, {}, r"a has \d+, b has \d+ rows"),
        ({"test": REALS}, {}, "splits without training rows"),
        (np.array(["a", "b"]), {}, "2 rows cannot be split"),  # texts
        (REALS * 1j, {}, "complex"),
        (FRAME.assign(z=1j), {}, "column 'z' holds complex numbers"),
        (FRAME[:0], {}, "no rows"),
        (object(), {}, "Python objects, not numbers"),
        (np.full((9, 2), np.inf), {}, r"memory, row 1, element \(0,\): the value is infinite"),
    ],
)
def test_what_is_no_data(source: Any, options: dict, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
