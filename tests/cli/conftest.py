"""Two small runs that every test of the command line reads, and a way to call it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from deeplvm.cli import main

TINY = ["--epochs", "2", "--latent", "2", "--hidden", "8", "--evaluation-particles", "20"]


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that a bad command line must leave: the last, below the progress."""
        assert "Traceback" not in self.err
        assert "╭" not in self.err
        return self.err.rstrip("\n").split("\n")[-1]


@pytest.fixture(autouse=True)
def float32(float64: None) -> None:
    """Users have float32."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def deeplvm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def people(rows: int = 80) -> pandas.DataFrame:
    """Two real columns that go together, one that does not, and a label."""
    draws = np.random.default_rng(0).normal(size=(rows, 3))
    draws[:, 1] += 2 * draws[:, 0]
    frame = pandas.DataFrame(draws, columns=["height", "weight", "age"])
    return frame.assign(kind=np.where(draws[:, 0] > 0, "tall", "small"))


@pytest.fixture
def table() -> Callable[[int], pandas.DataFrame]:
    return people


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "people.csv"
    people().to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def table_run(tmp_path_factory: pytest.TempPathFactory, csv: Path) -> Path:
    """A finished run on a table with labels."""
    folder = tmp_path_factory.mktemp("runs") / "people"
    words = ["fit", csv, "--label", "kind", "--out", folder, "--device", "cpu", *TINY]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on images with labels."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    words = ["fit", "digits", "--limit", "40", "--out", folder, "--device", "cpu", *TINY]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def copy_of() -> Callable[[Path], Path]:
    """A copy of a run that a test may damage."""
    import shutil

    def copy(folder: Path) -> Path:
        target = Path(os.getcwd()) / "copy"
        shutil.copytree(folder, target)
        return target

    return copy
