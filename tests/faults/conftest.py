"""Processes that a test may kill, from a server that has imported torch once for all of them."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

# The long form: more deaths, more files.
FULL = os.environ.get("DEEPLVM_FAULTS") == "full"
_CHILD = str(Path(__file__).parent / "child.py")
_PRELOADED = ["torch", "deeplvm.cli.fit", "deeplvm.training", "deeplvm.data", "pyarrow.parquet"]

Born = Callable[..., BaseProcess]


def born(folder: Path, **order: Any) -> BaseProcess:
    """A process that works in a folder as ``child.py`` says; what it says goes to ``said``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    whole = {"folder": str(folder), **order}
    child = context.Process(
        target=runpy.run_path, args=(_CHILD, {"order": whole}, "__main__"), daemon=True
    )
    child.start()
    return child


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
