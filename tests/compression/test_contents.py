"""Files of every kind come back, with what the model leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from deeplvm.compression import compress, decompress
from deeplvm.runs.run import Run


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    """Columns of every kind: decimals, reals, counts, atoms, categories, flags, dates, holes."""
    draws, n = np.random.default_rng(1), 60
    x = draws.normal(size=n)
    frame = pd.DataFrame({
        "id": [f"p-{number}" for number in range(n)],
        "height": (170 + 10 * x).round(1),
        "weight": 70 + 12 * x + draws.normal(size=n),
        "children": draws.poisson(np.exp(x / 2)),
        "income": np.where(draws.random(n) < 0.3, 0, np.exp(x + 8).round(2)),
        "job": np.where(x > 0.5, "nurse", np.where(x > -0.5, "clerk, senior", "smith")),
        "member": x > 0,
        "drift": np.where(draws.random(n) < 0.2, -0.0, x.round(2)),
        "born": pd.Timestamp("1990-01-01") + pd.to_timedelta(draws.integers(0, 9000, n), unit="D"),
    })  # fmt: skip
    frame.loc[::17, "weight"] = np.nan
    frame.loc[::23, "job"] = None
    return frame


def _back(make: Callable[..., Run], path: Path) -> Path:
    """What comes back of a file, by an untrained model."""
    run, archive, back = make(path, latent=2, hidden=(8,)), path.parent / "x.dlvm", path.parent
    back = back / ("back" + "".join(path.suffixes))
    compress(run, str(path), archive)
    assert decompress(run, archive, back, like=str(path)).same
    return back


@pytest.mark.parametrize("ending, line", [(".csv", "\n"), (".tsv.gz", "\r\n")])
def test_text_comes_back_to_the_byte(
    make: Callable[..., Run], people: pd.DataFrame, tmp_path: Path, ending: str, line: str
) -> None:
    path = tmp_path / f"people{ending}"
    between = "\t" if "tsv" in ending else ","
    people.to_csv(path, index=False, sep=between, lineterminator=line)
    back = _back(make, path)
    if ending == ".csv":
        assert back.read_bytes() == path.read_bytes()
    assert pd.read_csv(back, sep=between).equals(pd.read_csv(path, sep=between))


def test_text_with_other_quotes_has_the_same_cells(
    make: Callable[..., Run], people: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "people.csv"
    people[["height", "job"]].to_csv(path, index=False, quoting=1)
    back = _back(make, path)
    assert back.read_bytes() != path.read_bytes()
    assert pd.read_csv(back).equals(pd.read_csv(path))


def test_parquet_has_the_same_columns_and_schema(
    make: Callable[..., Run], people: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "people.parquet"
    people.assign(single=people["weight"].astype(np.float32)).to_parquet(path)
    back = pq.read_table(_back(make, path))
    assert back.equals(pq.read_table(path), check_metadata=True)
    pd.testing.assert_frame_equal(back.to_pandas(), pd.read_parquet(path))


@pytest.mark.parametrize("kind", ["levels", "colours", "single", "double", "counts", "grey"])
def test_arrays(make: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    draws = np.random.default_rng(0)
    values = {
        "levels": lambda: draws.integers(0, 17, (20, 5, 4)).astype(np.int64),
        "colours": lambda: draws.integers(0, 256, (12, 5, 4, 3)).astype(np.uint8),
        "single": lambda: draws.normal(size=(30, 4)).astype(np.float32),
        "double": lambda: draws.normal(size=(30, 4)),
        "counts": lambda: draws.poisson(30, size=(30, 4)).astype(np.int16),
        "grey": lambda: (draws.integers(0, 256, (20, 5, 4)) / 255).astype(np.float32),
    }[kind]()
    path = tmp_path / "x.npy"
    np.save(path, values)
    back = np.load(_back(make, path))
    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    assert back.tobytes() == values.tobytes()


def test_all_arrays_of_an_npz(make: Callable[..., Run], tmp_path: Path) -> None:
    draws, path = np.random.default_rng(0), tmp_path / "x.npz"
    arrays = {"y": draws.integers(0, 3, 20), "x": draws.integers(0, 17, (20, 4, 4))}
    np.savez(path, **arrays)
    with np.load(_back(make, path)) as back:
        assert back.files == ["y", "x"]
        assert all([back[n].tobytes() == a.tobytes() for n, a in arrays.items()])
