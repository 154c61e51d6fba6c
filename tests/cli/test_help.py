"""Help of ``fit`` needs no torch, and says what the code says."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

from deeplvm.cli import main
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


@pytest.mark.parametrize("verb", ["resume", "evaluate", "compress", "recipes", "sample", "fit"])
def test_what_is_off_by_itself_has_no_option_to_turn_it_off(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--json" in said
    assert "--no-json" not in said
    assert main([verb, "--no-json"]) == 2


def test_a_word_too_many_is_named_in_our_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "more"]) == 2
    assert capsys.readouterr().err == (
        "deeplvm: Nothing is known to do with 'more': a value stands behind its option, and a "
        "name with spaces in quotes; deeplvm datasets --help shows what there is.\n"
    )
