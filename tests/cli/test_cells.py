"""Cells of an .h5ad file go through the verbs, and what is found of them into a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.data.readers import counts as reader
from h5ad_files import Group, file_of_cells, write

Run = Callable[..., Any]
RNG = np.random.default_rng(0)
CELLS, GENES = 60, 8
COUNTS = RNG.poisson(RNG.gamma(1.0, 2.0, (CELLS, 1)) * np.where(
    (np.arange(CELLS) % 2)[:, None] == 0, np.linspace(0.2, 2, GENES), np.linspace(2, 0.2, GENES)
))  # fmt: skip


class Fake:
    """Files whose content is in memory: a copy of one is a copy."""

    def __init__(self) -> None:
        self.files: dict[bytes, Group] = {b"cells": file_of_cells(COUNTS)}
        Path("cells.h5ad").write_bytes(b"cells")

    @contextmanager
    def opened(self, path: Path, mode: str = "r") -> Iterator[Group]:
        if mode == "r+":
            path.write_bytes(b"%d" % len(self.files))
            self.files[path.read_bytes()] = file_of_cells(COUNTS)
        yield self.files[path.read_bytes()]


@pytest.fixture(params=["in memory", "h5py"])
def opened(request: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "in memory":
        fake = Fake()
        monkeypatch.setattr(reader, "opened", fake.opened)
        return fake.opened
    h5py = pytest.importorskip("h5py")
    with h5py.File("cells.h5ad", "w") as file:
        write(file, file_of_cells(COUNTS))
    return reader.opened


def test_cells_go_through_the_verbs(deeplvm: Run, opened: Any) -> None:
    options = ("--layer", "counts", "--label", "batch", "--most-variable", 6, "--seed", 1)
    small = ("--recipe", "scvi", "--latent", 2, "--hidden", 8, "--library", "latent")
    quick = ("--epochs", 5, "--batch-size", 16, "--learning-rate", 0.02, "--no-evaluate")
    fitted = deeplvm("fit", "cells.h5ad", *options, *small, *quick, "--out", "run")
    assert fitted.code == 0, fitted.err
    assert deeplvm("embed", "run", "cells.h5ad", "-o", "z.h5ad").code == 0
    assert deeplvm("embed", "run", "cells.h5ad", "-o", "z.npz").code == 0
    with opened(Path("z.h5ad")) as file, np.load("z.npz") as arrays:
        np.testing.assert_allclose(file["obsm"]["X_deeplvm"][:], arrays["z"], 1e-6)
        np.testing.assert_allclose(file["obsm"]["X_deeplvm_s"][:], arrays["s"], 1e-6)
        assert file["obsm"]["X_deeplvm"].attrs["encoding-type"] == "array"
    assert deeplvm("reconstruct", "run", "cells.h5ad", "-o", "x.h5ad").code == 0
    assert deeplvm("reconstruct", "run", "cells.h5ad", "-n", CELLS, "-o", "x.csv").code == 0
    means = pd.read_csv("x.csv")
    with opened(Path("x.h5ad")) as file:
        layer = pd.DataFrame(file["layers"]["deeplvm"][:], columns=[f"g{i}" for i in range(GENES)])
        assert set(file["layers"]) == {"counts", "deeplvm"}
    assert layer.isna().all().sum() == 2  # genes that the model does not have
    np.testing.assert_allclose(layer[means.columns], means, rtol=1e-6)
    between = ("reconstruct", "run", "cells.h5ad", "--between", "a", "b")
    assert deeplvm(*between, "-o", "rates.csv").code == 0
    rates = pd.read_csv("rates.csv").set_index("column")
    np.testing.assert_allclose(rates[["rate_a", "rate_b"]].sum(), 1)
    found = np.log2(rates["rate_a"] / rates["rate_b"])
    np.testing.assert_allclose(rates["log2_fold_change"], found, atol=0.1)
    assert (rates["stderr"] > 0).all()


@pytest.mark.parametrize(
    "words, said",
    [
        (("embed", "run", "-o", "z.h5ad"), "would be a copy of DATA, an .h5ad file"),
        (("embed", "run", "a.h5ad", "b.h5ad", "-o", "z.h5ad"), "name the one file"),
        (("reconstruct", "run", "a.csv", "-o", "z.h5ad"), "would be a copy of DATA"),
        (("reconstruct", "run", "--between", "a", "b", "-o", "z.h5ad"), ".npz, .csv, .parquet"),
    ],
)
def test_what_no_copy_can_be_of_is_refused(deeplvm: Run, words: Any, said: str) -> None:
    outcome = deeplvm(*words)
    assert (outcome.code, said in outcome.line) == (2, True)
