"""An option that is not what its signature says is refused by name, before anything is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("workplace")

# words after `deeplvm fit a.npy`, and what the line must have
FIT: dict[str, tuple[tuple[object, ...], str]] = {
    "half an epoch": (("--epochs", "1.5"), "'1.5' is not a whole number"),
    "half a layer": (("--hidden", "4", "2.5"), "'2.5' is not a whole number"),
    "a latent of 70 bits": (("--latent", 10**21), "--latent cannot be 1000000000000000000000"),
    "a latent larger than the memory": (("--latent", 10**12), "memory"),
    "particles of 70 bits": (("--particles", 10**21), "--particles cannot be"),
    "particles beyond the memory": (("--particles", 10**9), "memory"),
    "a learning rate": (("--learning-rate", "1e308"), "--learning-rate cannot be 1e+308"),
    "no transforms": (("--posterior", "maf(transforms=0)"), "transforms must be a whole number"),
    "a million transforms": (("--posterior", "iaf(transforms=1000000)"), "from 1 to 1,000"),
    "ten million": (("--posterior", "planar(transforms=10**7)"), "cannot be"),
    "ten million, said": (("--posterior", "planar(transforms=10000000)"), "from 1 to 1,000"),
    "part of a transform": (("--posterior", "iaf(transforms=1.5)"), "a whole number"),
    "an option of none": (("--posterior", "iaf(steps=3)"), "steps is no option"),
    "text for the base": (
        ("--posterior", "planar(minimum_scale='x')"),
        "minimum_scale must be a number",
    ),
    "through a wrapper": (("--posterior", "sylvester(transforms=0)"), "transforms"),
    "a temperature": (
        ("--estimator", "gumbel_softmax(temperature=-1)"),
        "temperature must be a number above 0, not -1",
    ),
    "another temperature": (("--estimator", "rebar(temperature=0)"), "temperature must be"),
    "text for a switch": (
        ("--estimator", "score_function(running_mean='x')"),
        "running_mean must be True or False, not 'x'",
    ),
    "a long warm-up": (("--kl-weight", "linear(1e308)"), "epochs cannot be 1e+308"),
    "a warm-up of no time": (("--kl-weight", "linear(0)"), "epochs must be a number above 0"),
    "text for nats": (("--objective", "free_bits(minimum='x')"), "minimum must be a number"),
    "a tuple for names": (("--objective", "soft_free_bits(targets=(0.5,))"), "targets must be"),
    "a hundred million repeats": (("--phases", "aggressive(repeats=100000000)"), "1 to 1,000"),
    "too many brackets": (("--objective", "(" * 300), "cannot be"),
    "not a number": (("--learning-rate", "nan"), "learning-rate"),
}


@pytest.mark.parametrize("case", FIT)
def test_a_fit(end: Any, case: str) -> None:
    words, said = FIT[case]
    np.save("a.npy", np.random.default_rng(0).normal(size=(60, 3)))
    code, line = end("fit", "a.npy", "--no-compile", "--device", "cpu", *words)
    assert code == 2
    assert said in line
    assert len(line) < 600
    assert os.listdir() == ["a.npy"]


VERBS: dict[str, tuple[tuple[object, ...], str]] = {
    "half a row": (("sample", "run", "-n", "1.5", "-o", "a.csv"), "not a whole number"),
    "many rows": (("sample", "run", "-n", 10**12, "-o", "a.csv"), "--rows must be"),
    "rows beyond the memory": (("sample", "run", "-n", 10**9, "-o", "a.csv"), "memory"),
    "particles": (("evaluate", "run", "--particles", 10**9), "1 to 10,000,000"),
    "no particles": (("score", "run", "--particles", 0, "-o", "a.csv"), "not 0"),
    "particles of 70 bits": (("score", "run", "--particles", 10**21, "-o", "a.csv"), "cannot be"),
    "a seed of 70 bits": (("sample", "run", "--seed", 2**70, "-o", "a.csv"), "--seed cannot be"),
    "epochs": (("resume", "run", "--epochs", 0), "--epochs must be"),
}


@pytest.mark.parametrize("case", VERBS)
def test_a_verb(end: Any, run: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, said = VERBS[case]
    monkeypatch.setattr("deeplvm.files.memory", lambda: 1e9)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, line = end(*words)
    assert code == 2
    assert said in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not Path("a.csv").exists()


@pytest.mark.parametrize(
    "table, line, said",
    [
        ("recipe_options", "latent = 2.5", "latent"),
        ("recipe_options", 'posterior = "iaf(transforms=1000000)"', "from 1 to 1,000"),
        ("training", 'learning_rate = "fast"', "must be a number, not 'fast'"),
        ("training", "colour = 1", "colour in [training]"),
    ],
)
def test_a_file(end: Any, run: Path, table: str, line: str, said: str) -> None:
    path = run / "config.toml"
    name = line.split()[0]
    kept = [each for each in path.read_text().splitlines() if each.split(" ")[0] != name]
    path.write_text("\n".join(kept).replace(f"[{table}]", f"[{table}]\n{line}"))
    code, found = end("sample", run, "-o", "a.csv")
    assert code == 2
    assert said in found
