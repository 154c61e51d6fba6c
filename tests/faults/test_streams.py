"""What cannot be shown, or is closed, does not end the work; nothing steers a terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from deeplvm.cli import main
from deeplvm.cli.app import _ending
from deeplvm.cli.outputs import save_table
from deeplvm.files import beside, parse_json, shown
from long_form import FULL

pytestmark = pytest.mark.usefixtures("workplace")
SAMPLE = ("sample", "run", "-n", "3", "-o", "a.csv")


def start(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    line = " ".join([sys.executable, "-m", "deeplvm", *words, shell])
    return subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=100,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.usefixtures("run")
# The first two are closed and full alike; both in the long form of these tests.
@pytest.mark.parametrize(
    "shell",
    [*([">&- 2>&-"] if FULL else []),
     ">/dev/full 2>/dev/full", "| true"],
)  # fmt: skip
def test_streams_that_are_closed_or_full(shell: str) -> None:
    found = start(*SAMPLE, shell=shell)
    assert found.returncode == 0, found.stderr
    assert Path("a.csv").exists()
    if "|" not in shell:
        assert start("sample", "none", "-o", "a.csv", shell=shell).returncode == 2
        assert start("recipes", shell=shell).returncode == 0


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_narrow_terminal_with_ascii(columns: str) -> None:
    found = start("--help", COLUMNS=columns)
    assert found.returncode == 0
    found = start("recipes", COLUMNS=columns, PYTHONIOENCODING="ascii")
    assert found.returncode == 0, found.stderr
    assert "\\xf8" in found.stdout  # Sønderby


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    draws = np.random.default_rng(0).normal(size=(60, 3))
    frame = pandas.DataFrame(draws, columns=["a\x1b[2J", "b\x9b31m", "c\u202e"])
    frame.assign(kind=["\x1b]0;x\x07", "w"] * 30).to_csv("a.csv", index=False)
    words = ("fit", "a.csv", "--label", "kind", "--latent", "2", "--hidden", "4", "--epochs", "1",
             "--device", "cpu", "--no-compile", "--no-evaluate", "--out", "r")  # fmt: skip
    assert main(words) == 0
    assert main(["embed", "r", "-o", "z.csv"]) == 0
    assert main(["fit", "a.csv", "--label", "\x1b[2J"]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set("\x1b\x9b\x07\u202e") & set(text)
    assert "\\x1b[2J" in said.err
    assert shown("a\tb\nc é") == "a\tb\nc é"


@pytest.mark.skipif(os.name == "nt", reason="a POSIX signal")
@pytest.mark.usefixtures("run")
def test_a_terminated_verb_leaves_no_temporary_file(end: Any, monkeypatch: Any) -> None:
    def terminated(path: Path, *_: object, **__: object) -> None:
        with beside(path) as temporary:
            assert temporary.exists()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("deeplvm.cli.outputs.save_table", terminated)
    code, line = end(*SAMPLE)
    assert code == 143
    assert "Terminated (SIGTERM)" in line
    assert sorted(os.listdir()) == ["run"]


@pytest.mark.parametrize("device", ["mps", "meta", "xla", "cuda:99", "cpu\0"])
def test_devices(end: Any, run: Path, device: str) -> None:
    shutil.rmtree(run / "checkpoint")
    code, line = end("fit", "--config", run / "config.toml", "--device", device, "--out", "b")
    assert code == 2
    assert "device" in line
    assert "an error of ours" not in line
    assert not Path("b").exists()


def test_foreign_words_are_put_into_ours(end: Any) -> None:
    for words in (("fit", "a\0b.csv"), ("evaluate", "run\0"), ("fit", "digits", "--out", "a\0b")):
        code, line = end(*words)
        assert code == 2
        assert "embedded null byte" not in line or "cannot be done with what was given" in line
        assert len(line) < 500
    code, line = end("fit", "x" * 9_000)
    assert code == 2
    assert len(line) < 1_400
    with pytest.raises(ValueError, match="Expecting") as caught:
        parse_json("x")
    said = _ending(caught.value, [])
    assert said is not None
    assert "cannot be done with what was given" in said[0]


def test_cells_that_a_spreadsheet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"x": np.zeros((2, 1)), "label": np.array(["=cmd()", "plain"], dtype=object)}
    save_table(Path("a.csv"), arrays, {"x": ["@x"]})
    assert "2 texts of a.csv begin with" in capsys.readouterr().err
    assert Path("a.csv").read_text() == "@x,label\n0.0,=cmd()\n0.0,plain\n"
    save_table(Path("a.csv"), arrays, {"x": ["@x"]}, escape=True)
    assert capsys.readouterr().err == ""
    assert Path("a.csv").read_text() == "'@x,label\n0.0,'=cmd()\n0.0,plain\n"


def test_inputs_are_not_overwritten(end: Any, run: Path) -> None:
    source = run.parent / "rows.csv"
    frame = pandas.DataFrame(np.random.default_rng(1).normal(size=(20, 3)))
    frame.to_csv(source, index=False, header=False)
    Path("link.csv").symlink_to(source)
    data = Path(tomllib.loads((run / "config.toml").read_text())["data"])
    kept = {path: path.read_bytes() for path in (source, data)}
    Path("own.csv").hardlink_to(source)
    for verb in ("impute", "score", "embed", "reconstruct"):
        for output in (source, "link.csv", "own.csv"):
            code, line = end(verb, run, source, "-o", output)
            assert code == 2
            assert "would overwrite its own input" in line
    Path("data.csv").symlink_to(data)
    assert end("sample", run, "-o", "data.csv")[0] == 2
    assert end("score", run, source, "-o", "data.csv")[0] == 2
    assert {path: path.read_bytes() for path in kept} == kept
