"""Many files in, as many out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from deeplvm.cli.bulk import Job, jobs_of
from deeplvm.cli.outputs import FileError

Run = Callable[..., Any]


def test_a_file_keeps_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert jobs_of(["a.csv", "in/b.PARQUET", "c.npy", "d"], out) == [
        Job("a.csv", out / "a.csv"),
        Job("in/b.PARQUET", out / "b.parquet"),
        Job("c.npy", out / "c.npz"),
        Job("d", out / "d.npz"),
    ]
    assert jobs_of([], tmp_path / "own.csv") == [Job(None, tmp_path / "own.csv")]
    assert jobs_of(["a.npy"], tmp_path / "a.csv") == [Job("a.npy", tmp_path / "a.csv")]


@pytest.mark.parametrize(
    "sources, output, text",
    [
        (["a.csv", "b.csv"], "all.csv", "all.csv is one file, and there are 2 of input; name a"),
        (["a.csv", "b/a.csv"], "out", "a.csv and b/a.csv would both become out/a.csv"),
        (["a.csv", "b.csv"], ".", "a.csv would overwrite its own input"),
        (["a.csv", "b.csv"], "no/out", "no does not exist; make the folder first"),
        (["a.csv"], ".", ". has no ending"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    here: Path, sources: list[str], output: str, text: str
) -> None:
    with pytest.raises(FileError, match=text.replace(".", r"\.")):
        jobs_of(sources, Path(output))


def test_many_files_as_each_alone(deeplvm: Run, table_run: Path, csv: Path) -> None:
    frame = pandas.read_csv(csv)
    frame[:9].to_csv("a.csv", index=False)
    frame[5:].to_csv("b.csv", index=False)
    words = ("score", table_run, "--particles", 5)
    outcome = deeplvm(*words, "a.csv", "b.csv", "-o", "out")
    assert outcome.code == 0, outcome.err
    assert outcome.err.endswith("out: 2 files\n")
    assert deeplvm(*words, "b.csv", "-o", "alone.csv").code == 0
    assert Path("out/b.csv").read_bytes() == Path("alone.csv").read_bytes()
    assert len(pandas.read_csv("out/a.csv")) == 9


def test_a_bad_file_is_named(deeplvm: Run, table_run: Path, csv: Path) -> None:
    np.save("bad.npy", np.zeros((3, 77)))
    outcome = deeplvm("embed", table_run, csv, "bad.npy", "-o", "out")
    assert outcome.code == 2
    assert "bad.npy" in outcome.err.splitlines()[-1]


def test_what_to_impute_must_be_said(deeplvm: Run, table_run: Path) -> None:
    outcome = deeplvm("impute", table_run, "-o", "filled.csv")
    assert outcome.code == 2
    assert "Which file has the holes?" in outcome.err
