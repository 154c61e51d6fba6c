"""The real thing: processes, pipes, and how long help takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deeplvm as package

SOURCE = Path(package.__file__).parents[1]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """``python -m deeplvm`` with the package that is tested."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, check=False
    )


def test_help_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from deeplvm.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'pandas', 'matplotlib', 'sklearn', 'zuko', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = call("-c", code)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


def test_bad_usage_is_exit_code_2_and_one_line() -> None:
    done = call("-m", "deeplvm", "fit", "digits", "--recipe", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m deeplvm datasets | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
