"""Processes that a test may kill, command lines, and a finished run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm.cli import main
from long_form import FULL
from servers import forked

_CHILD = Path(__file__).parent / "child.py"

TINY = ("--latent", 2, "--hidden", 4, "--epochs", 1, "--device", "cpu", "--no-compile")

Born = Callable[..., BaseProcess]


def born(folder: Path, **order: Any) -> BaseProcess:
    """A process that works in a folder as ``child.py`` says; what it says goes to ``said``."""
    return forked(_CHILD, {"folder": str(folder), **order})


@pytest.fixture(name="born", scope="session")
def _born() -> Born:
    return born


@pytest.fixture(name="full", scope="session")
def _full() -> bool:
    return FULL


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say what the long form has done."""

    def say(line: str) -> None:
        if FULL:
            with capsys.disabled():
                sys.stderr.write(f"\n{line}\n")

    return say


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float64: None) -> Iterator[Path]:
    """A folder with data; users have float32."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path  # nothing that a folder holds is found by itself
    for name in set(sys.modules) - before:
        if name.startswith(("own_", "beside_")) or name.endswith(".py"):
            del sys.modules[name]


@pytest.fixture
def end(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command line's exit code and last line."""

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said.rstrip("\n").split("\n")[-1]

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, evaluated; copied, never written to."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(60, 3)))
    words = ("fit", folder / "a.npy", *TINY, "--evaluation-particles", 5, "--out", folder / "run")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    assert main([str(word) for word in words]) == 0
    torch.set_default_dtype(before)
    return folder / "run"


@pytest.fixture
def run(finished: Path, workplace: Path) -> Path:
    return Path(shutil.copytree(finished, workplace / "run"))
