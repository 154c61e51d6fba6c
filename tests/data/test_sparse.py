"""Sparse rows: what is known of them is what is known of the same rows written out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from deeplvm.data import DataError, load
from deeplvm.data.readers.counts import Stored, held_cells
from deeplvm.data.sparse import SparseColumn
from deeplvm.data.statistics import Summary
from h5ad_files import Dataset, Group, file_of_cells, write

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.5, 1.0, (80, 1)) * np.append(RNG.random(11), 0.0))
HOLES = np.where(RNG.random((80, 12)) < 0.05, np.nan, COUNTS / 8 - 1)
KINDS: dict[str, Any] = {
    "counts": COUNTS,
    "large": COUNTS * 40_000,
    "reals": np.where(COUNTS > 0, RNG.normal(size=COUNTS.shape), 0.0),
    "holes": HOLES,
    "shares": np.minimum(COUNTS, 4) / 4,
    "flags": np.minimum(COUNTS, 1).astype(bool),
    "bytes": COUNTS.astype(np.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_of_sparse_rows_is_that_of_all_their_elements(kind: str) -> None:
    values = KINDS[kind].astype(np.uint8) if kind == "flags" else KINDS[kind]
    full, found = Summary.of(values), Summary.of(sparse.csr_array(values))
    for name in ("rows", "count", "low", "high", "whole", "narrow", "steps", "holes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(full, name), err_msg=name)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(full, name), 1e-12, 1e-12)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"reals", "holes", "large"}))
def test_sparse_rows_are_loaded_as_the_same_rows_written_out(kind: str) -> None:
    values = KINDS[kind]
    full, found = load(values), load(sparse.coo_array(values))
    assert isinstance(found.train["x"], SparseColumn)
    assert found.fingerprint == full.fingerprint
    own, other = found.variables["x"].to_dict(), full.variables["x"].to_dict()
    for name in ("mean", "std"):
        np.testing.assert_allclose(own.pop(name), other.pop(name), 1e-12)
    assert own == other
    for split in ("train", "valid", "test"):
        assert torch.equal(found.batch(split, slice(5))["x"], full.batch(split, slice(5))["x"])
        assert torch.equal(found.test.exact("x"), full.test.exact("x"))


def test_sparse_rows_have_labels_splits_and_what_a_run_knows() -> None:
    labels = np.arange(80) % 3
    data = load({"x": sparse.csr_array(COUNTS), "y": labels})
    rows = [int(row) for part in (data.train, data.valid, data.test) for row in part["y"]]
    assert sorted(rows) == sorted(labels.tolist())
    parts = load({"train": sparse.csr_array(COUNTS[:60]), "test": COUNTS[60:]})
    assert torch.equal(parts.batch("test", slice(None))["x"], torch.tensor(COUNTS[60:]).float())
    other = load(sparse.csr_array(COUNTS), like=load(COUNTS).description)
    assert torch.equal(other.test["x"][:], torch.tensor(COUNTS))
    noisy = load(COUNTS, likelihood="gaussian", dequantize="uniform")
    assert load(sparse.csr_array(COUNTS), like=noisy.description).test["x"].shape == (80, 12)


def test_noise_in_every_zero_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"dequantization would put noise into every zero.*toarray"
    ):
        load(sparse.csr_array(COUNTS), likelihood="gaussian", dequantize="uniform")


def test_what_no_number_is_is_named_by_its_place() -> None:
    values = COUNTS.astype(float)
    values[7, 3] = np.inf
    with pytest.raises(DataError, match=r"row 8, element \(3,\): the value is infinite"):
        load(sparse.csr_array(values))
    notes = load(sparse.csr_array(HOLES[:, :11])).notes
    assert any("NaN is a missing value; the first is in memory, row" in note for note in notes)


def test_a_damaged_sparse_file_is_refused(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "format": np.array(b"csr"),
        "shape": np.array([2, 3]),
        "data": np.ones(2),
    }
    parts |= {"indices": np.array([0, 9]), "indptr": np.array([0, 1, 2])}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(DataError, match="the sparse matrix is damaged"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **parts | {"shape": np.array([2, 10**12])})
    with pytest.raises(DataError, match="memory"):
        load(tmp_path / "a.npz")


def cells(**changes: Any) -> Any:
    """What an AnnData object has."""
    genes = pd.Index([f"g{i}" for i in range(11)] + ["g0"])
    obs = pd.DataFrame({"batch": pd.Categorical(["b", "a"] * 40), "depth": COUNTS.sum(1)})
    layers = {"counts": sparse.csc_matrix(COUNTS)}
    return SimpleNamespace(
        **{"X": np.log1p(COUNTS), "layers": layers, "obs": obs, "var_names": genes} | changes
    )


def test_cells_are_rows_with_the_genes_names() -> None:
    data = load(cells(), layer="counts", label="batch", drop=("g3",), likelihood="poisson")
    x = data.variables["x"]
    assert isinstance(data.train["x"], SparseColumn)
    assert x.columns is not None
    assert x.columns[0] == "g0"
    assert x.columns[-1] == "g0-1"
    assert "g3" not in x.columns
    assert (x.kind, x.likelihood, data.classes) == ("counts", "poisson", ("a", "b"))
    kept = [i for i in range(12) if i != 3]
    assert data.train["x"][:].sum() + data.valid["x"][:].sum() + data.test["x"][:].sum() == int(
        COUNTS[:, kept].sum()
    )
    order = [11, 3, *range(1, 3), *range(4, 11), 0]  # other genes first; no obs
    names = ["g0-1", "new", *[f"g{i}" for i in order[2:]]]
    other = cells(X=COUNTS[:, order], layers={"counts": COUNTS[:, order]}, var_names=names)
    other.obs = pd.DataFrame({"other": np.zeros(80)})
    again = load(other, like=data.description)
    assert torch.equal(again.test["x"][:], torch.tensor(COUNTS[:, kept]).to(torch.int16))
    assert "y" not in again.test


@pytest.mark.parametrize(
    "options, said",
    [
        ({"layer": "count"}, "no layer 'count'; it has counts"),
        ({"label": "bach"}, "obs: there is no column 'bach'; did you mean batch"),
        ({"schema": {"g1": {"type": "counts"}}}, "--schema does not apply"),
    ],
)
def test_what_cells_have_not_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(cells(), **options)


def test_cells_unlike_those_of_the_run_are_refused() -> None:
    known = load(cells(), layer="counts", label="batch").description
    fewer = cells(X=COUNTS[:, :5], layers={"counts": COUNTS[:, :5]}, var_names=list("abcde"))
    with pytest.raises(DataError, match=r"gene 'g0' of the training data is not there \(12"):
        load(fewer, like=known)
    obs = pd.DataFrame({"batch": ["a", "c"] * 40})
    with pytest.raises(DataError, match=r"'c' is none of the labels of the training data.*a, b"):
        load(cells(obs=obs), like=known)
    half = load(cells(obs=pd.DataFrame({"batch": ["b", None] * 40})), like=known)
    assert half.test["y"].tolist()[::2] == [1.0] * 40
    assert bool(half.test["y"][1::2].isnan().all())
    with pytest.raises(DataError, match=r"only \.h5ad files and AnnData objects have layers"):
        load(COUNTS, layer="counts")


def test_genes_with_many_reads_are_counts() -> None:
    data = load(cells(layers={"counts": 5_000 * COUNTS}), layer="counts")
    assert data.variables["x"].likelihood == "negative-binomial"
    assert any("counts up to" in note for note in data.notes)


def test_columns_that_hold_no_counts_say_where_counts_may_be() -> None:
    data = load(cells())
    assert any("X holds no counts; of the layers counts one may" in note for note in data.notes)
    assert data.variables["x"].kind == "real"
    assert dataclasses.asdict(data.description)["left"].keys() == {"g0-1"}  # always 0


def test_a_file_of_cells_is_read_as_its_format_says() -> None:
    file = Stored(file_of_cells(COUNTS))
    found = held_cells(file, "cells", "cells", "counts", "batch", None)
    np.testing.assert_array_equal(found.values.toarray(), COUNTS)
    assert found.labels is not None
    assert (found.facts.classes, found.labels.tolist()) == (("a", "b"), [1, 0] * 40)
    assert found.facts.columns == tuple([f"g{i}" for i in range(12)])
    full = held_cells(file, "cells", "cells", None, None, None)
    np.testing.assert_array_equal(full.values, np.log1p(COUNTS))
    stages = held_cells(file, "cells", "cells", None, "stage", None)
    assert stages.labels is not None
    assert np.flatnonzero(stages.labels < 0).tolist() == [3]
    file.obs._group["old"] = Dataset([0, 1], categories="a reference")
    with pytest.raises(DataError, match=r"as an anndata before 0\.8 wrote them"):
        held_cells(file, "cells", "cells", None, "old", None)
    with pytest.raises(DataError, match="obs is not there as a table"):
        Stored(Group("anndata", {"obs": Dataset([1])}))


def test_a_file_of_cells_is_read_by_h5py(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "cells.h5ad", "w") as file:
        write(file, file_of_cells(COUNTS))
    data = load(tmp_path / "cells.h5ad", layer="counts", label="batch")
    assert data.classes == ("a", "b")
    assert sum([int(each["x"][:].sum()) for each in (data.train, data.valid, data.test)]) == int(
        COUNTS.sum()
    )
    (tmp_path / "no.h5ad").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"no readable \.h5ad file"):
        load(tmp_path / "no.h5ad")


def test_without_h5py_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "cells.h5ad").write_bytes(b"x")
    with pytest.raises(DataError, match=r"h5py, which is not installed: pip install 'deeplvm"):
        load(tmp_path / "cells.h5ad")
