"""``--posterior`` and ``--prior``: a family of q and one of p by name, through every verb."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

Run = Callable[..., Any]
TINY = ("--epochs", "1", "--latent", "2", "--hidden", "8", "--evaluation-particles", "20")


def test_a_flow_goes_through_every_verb(deeplvm: Run, csv: Path) -> None:
    """Its text is what the configuration keeps; its moments, which it has not, are of draws."""
    words = (
        "--label",
        "kind",
        "--posterior",
        "iaf(transforms=2, hidden=(4,))",
        "--out",
        "run",
        "--prior",
        "vamp(components=4)",
    )
    outcome = deeplvm("fit", csv, *words, "--objective", "iwae", "--particles", 3, *TINY)
    assert outcome.code == 0, outcome.err
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert config["recipe_options"]["posterior"] == "iaf(transforms=2, hidden=(4,))"
    assert config["recipe_options"]["prior"] == "vamp(components=4)"
    assert Path("run/report.html").exists()
    assert deeplvm("evaluate", "run", "--particles", 20).code == 0
    assert json.loads(Path("run/evaluation.json").read_text())["active_units"]["z"]
    assert deeplvm("embed", "run", "--scales", "-o", "z.csv").code == 0
    codes = pandas.read_csv("z.csv")
    assert {"z_0", "z_1", "z_sd_0", "z_sd_1"} <= set(codes)
    assert (codes["z_sd_0"] > 0).all()
    assert deeplvm("sample", "run", "-n", 5, "-o", "draws.csv").code == 0
    assert deeplvm("reconstruct", "run", "-o", "again.csv").code == 0
    assert deeplvm("score", "run", "-o", "scores.csv").code == 0


def test_what_there_is_not_is_said_in_one_line(deeplvm: Run, csv: Path) -> None:
    for flag, text, said in (
        (
            "--prior",
            "vam",
            "--prior cannot be 'vam'; it is one of gaussian, learned, mixture, vamp",
        ),
        ("--prior", "vamp(components=0)", "components must be a whole number, from 1 to"),
        ("--prior", "boltzmann", "the prior boltzmann is of binary units, and these latents are"),
        (
            "--posterior",
            "iaff",
            "--posterior cannot be 'iaff'; it is one of gaussian, full_covariance, low_rank",
        ),
        ("--posterior", "iaf(steps=2)", "posterior 'iaf(steps=2)': "),
    ):
        outcome = deeplvm("fit", csv, flag, text, "--out", "run", *TINY)
        assert outcome.code == 2
        assert said in outcome.line
        assert not Path("run").exists()
