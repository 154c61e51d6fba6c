"""Help of ``fit`` needs no torch, and says what the code says."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

from deeplvm.cli.flags import current


def test_the_flags_that_are_kept_are_those_of_the_code() -> None:
    """Written anew by ``python -m deeplvm.cli.flags``."""
    assert files("deeplvm.cli").joinpath("flags.json").read_text("utf-8") == current()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from deeplvm.cli import main\n"
        "assert main(['fit', '--recipe', 'iwae', '--help']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "--layers" in found.stdout
    assert "50" in found.stdout
