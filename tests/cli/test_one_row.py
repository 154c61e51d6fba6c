"""What a verb writes of a row: the same in any order and part of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    "verb, options",
    [
        ("score", ("--particles", 40)),
        ("embed", ("--scales",)),
        ("impute", ("--particles", 20)),
        ("reconstruct", ("--rows", 100)),
    ],
)
def test_a_row_has_one_number_whatever_it_comes_with(
    deeplvm: Run, table_run: Path, table: Callable[..., pandas.DataFrame], verb: str, options: Any
) -> None:
    """In float64, to 1e-9; for float32 rounding is all that differs."""
    people = table().drop_duplicates().head(30)
    first = people.select_dtypes("number").columns[0]
    people[first] = people[first].astype(float)
    people.loc[people.index[::3], first] = np.nan
    parts = {"whole": people, "turned": people.iloc[::-1], "part": people.iloc[11:19]}
    found = {}
    for name, rows in parts.items():
        rows.to_csv(f"{name}.csv", index=False)
        outcome = deeplvm(
            verb, table_run, f"{name}.csv", "-o", f"{name}.npz", "--precision", "float64",
            "--device", "cpu", *options,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        found[name] = dict(np.load(f"{name}.npz", allow_pickle=False))
    for key, whole in found["whole"].items():
        if whole.dtype.kind != "f":
            continue
        np.testing.assert_allclose(found["turned"][key][::-1], whole, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found["part"][key], whole[11:19], rtol=0, atol=1e-9)


def test_a_pilot_chooses_the_particles(deeplvm: Run, table_run: Path) -> None:
    words = ("score", table_run, "-o", "s.npz", "--device", "cpu")
    outcome = deeplvm(*words)
    assert outcome.code == 0, outcome.err
    assert "particles: their draws add about" in outcome.err
    told = next(line for line in outcome.err.splitlines() if "particles: " in line)
    assert told.split("; about")[0] in deeplvm(*words).err  # the same number each time
    few = deeplvm(*words, "--tolerance", 1e-6, "--most-particles", 100)
    assert "100 particles, the most that the budget allows" in few.err
    refused = deeplvm(*words, "--particles", 20, "--tolerance", 0.1)
    assert refused.code == 2
    assert "--tolerance is for --particles auto" in refused.err
