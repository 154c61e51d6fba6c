"""A RUN folder of a stranger is data: it runs no code, and names no file that is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deeplvm.runs.run import open_run

pytestmark = pytest.mark.usefixtures("workplace")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


VERBS = {
    "evaluate": ("evaluate", "run", "--particles", 2),
    "sample": ("sample", "run", "-o", "a.csv"),
    "embed": ("embed", "run", "-o", "a.csv"),
    "reconstruct": ("reconstruct", "run", "-o", "a.csv"),
    "score": ("score", "run", "-o", "a.csv"),
    "impute": ("impute", "run", "finished.npy", "-o", "a.csv"),
    "diagnose": ("diagnose", "run"),
    "report": ("report", "run"),
    "resume": ("resume", "run"),
    "config": ("fit", "--config", "run/config.toml", "--out", "b"),
    "help": ("fit", "--config", "run/config.toml", "--help"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_recipe_that_is_not_ours_is_shown_and_not_run(end: Any, run: Path, verb: str) -> None:
    """The standard library suffices: ``logging.basicConfig`` truncates the file that it names."""
    Path("thesis.tex").write_text("...")
    options = '[recipe_options]\nfilename = "thesis.tex"\nfilemode = "w"\nforce = true\n'
    config = run / "config.toml"
    text = config.read_text().replace('recipe = "vae"', 'recipe = "logging:basicConfig"')
    head, _, tail = text.partition("[recipe_options]")
    config.write_text(f"{head}{options}[training]{tail.partition('[training]')[2]}")
    code, line = end(*VERBS[verb])
    assert code == 2
    assert "logging:basicConfig" in line
    assert "basicConfig(data, filename='thesis.tex'" in line
    assert "--trust" in line
    assert Path("thesis.tex").read_text() == "..."


def test_it_is_run_where_somebody_says_so(end: Any, run: Path) -> None:
    """By ``--recipe`` on this command line, or ``--trust``; with the modules beside it."""
    Path("beside_it.py").write_text("from deeplvm.recipes import vae\n")
    Path("own_recipe.py").write_text(
        "def model(data, *, latent: int = 2):\n"
        "    from beside_it import vae\n"
        "    return vae(data, latent=latent, hidden=(4,))\n"
    )
    Path("numpy.py").write_text("raise SystemExit('beside the data')\n")
    words = (run.parent / "run/config.toml", "--no-evaluate", "--out")
    edit(run / "config.toml", 'recipe = "vae"', 'recipe = "own_recipe:model"')
    edit(run / "config.toml", "hidden = [\n    4,\n]\n", "")
    edit(run / "config.toml", 'posterior = "gaussian"\n', "")
    assert end("fit", "--config", words[0], "--no-evaluate", "--out", "a")[0] == 2
    assert not Path("a").exists()
    assert end("fit", "--config", *words, "a", "--trust")[0] == 0
    assert end("fit", "--config", *words, "b", "--recipe", "own_recipe:model")[0] == 0
    assert end("sample", "a", "-o", "a.csv", "--trust")[0] == 0
    assert end("sample", "a", "-o", "a.csv")[0] == 2
    with pytest.raises(ValueError, match="trust=True"):
        _ = open_run("a").model
    assert open_run("a", trust=True).model.q.names == ("z",)


@pytest.mark.parametrize(
    "table, line",
    [
        ("training", 'folder = "elsewhere"'),
        ("training", "resume = true"),
        ("training", "quiet = true"),
        ("data_options", 'source = "/etc/passwd"'),
    ],
)
def test_a_file_cannot_say_what_a_run_decides(end: Any, run: Path, table: str, line: str) -> None:
    edit(run / "config.toml", f"[{table}]\n", f"[{table}]\n{line}\n")
    code, said = end("resume", "run", "--epochs", 2)
    assert code == 2
    assert line.split()[0] in said
    assert not Path("elsewhere").exists()


def test_nothing_is_imported_from_the_folder_of_the_data() -> None:
    """As torchrun starts each of its workers."""
    for name in ("json", "tempfile", "numpy", "torch", "cyclopts"):
        Path(f"{name}.py").write_text(f"raise SystemExit('{name} beside the data')\n")
    found = subprocess.run(
        [sys.executable, "-m", "deeplvm", "--help"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert found.returncode == 0, found.stderr
    assert "evaluate" in found.stdout
