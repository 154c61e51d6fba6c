"""Estimators and lists of phases as they are written on the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deeplvm.gradients.score_function import Learned, LeaveOneOut, ScoreFunction
from deeplvm.registry import known, meant

Run = Callable[..., Any]

FEW = (
    "digits", "--limit", 30, "--binarize", "static", "--device", "cpu", "--batch-size", 15,
    "--no-evaluate",
)  # fmt: skip
SMALL = (*FEW, "--epochs", 2, "--out", "run")
BELIEFS = ("--recipe", "sigmoid_belief_network", "--units", 3, 2)
PLAIN = ("--latent", 2, "--hidden", 8)


def learned(folder: str = "run") -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def stored(option: str) -> str:
    """An option of the run, as its configuration keeps it."""
    return tomllib.loads(Path("run/config.toml").read_text())["training"][option]


def test_an_estimator_with_its_options() -> None:
    nvil = meant("estimator", "nvil(hidden=(7, 5), normalise=False)")
    assert isinstance(nvil, ScoreFunction)
    assert isinstance(nvil.baseline, Learned)
    assert (tuple(nvil.baseline.hidden), nvil.normalise) == ((7, 5), False)
    assert isinstance(meant("estimator", "vimco").baseline, LeaveOneOut)


@pytest.mark.parametrize("text", ["vimco", "nvil(hidden=(4,))"])
def test_fit_with_an_estimator(deeplvm: Run, text: str) -> None:
    words = (*SMALL, *BELIEFS, "--estimator", text, "--particles", 2)
    outcome = deeplvm("fit", *words)
    assert outcome.code == 0, outcome.err
    assert len(learned()) == 2
    assert stored("estimator") == text


@pytest.mark.parametrize("text", ["wake_sleep", "reweighted_wake_sleep(particles=3)"])
def test_fit_with_the_phases_of_a_belief_network(deeplvm: Run, text: str) -> None:
    outcome = deeplvm("fit", *SMALL, *BELIEFS, "--phases", text)
    assert outcome.code == 0, outcome.err
    assert stored("phases") == text


def test_fit_with_lagging_phases_goes_on_with_resume(deeplvm: Run) -> None:
    """A run of four epochs, and two that are resumed with two more: the same numbers."""
    text = "aggressive(repeats=2)"
    words = (*FEW, *PLAIN, "--phases", text)
    assert deeplvm("fit", *words, "--epochs", 4, "--out", "whole").code == 0
    assert deeplvm("fit", *words, "--epochs", 2, "--out", "run").code == 0
    outcome = deeplvm("resume", "run", "--epochs", 4, "--no-evaluate")
    assert outcome.code == 0, outcome.err
    assert [r["train"] for r in learned()] == [r["train"] for r in learned("whole")]
    assert stored("phases") == text


def test_expectation_maximisation_goes_on_with_resume(deeplvm: Run) -> None:
    """What the recipe says of gradients has no part in it; what a person says is refused."""
    words = (
        "digits", "--limit", 60, "--recipe", "factor_analysis", "--likelihood", "gaussian",
        "--phases", "exact_em", "--dequantize", "uniform", "--no-evaluate",
    )  # fmt: skip
    outcome = deeplvm("fit", *words, "--epochs", 2, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert deeplvm("resume", "run", "--epochs", 4, "--no-evaluate").code == 0
    bounds = [record["objective"] for record in learned()]
    assert len(bounds) == 4
    assert bounds[0] < bounds[-1]
    outcome = deeplvm("fit", *words, "--clip", 1.0, "--out", "other")
    assert outcome.code == 2
    assert "clip has no part in a phase" in outcome.err


REFUSED = {
    "no such estimator": (("--estimator", "vinco"), "--estimator cannot be 'vinco'"),
    "what there are": (("--estimator", "vinco"), "vimco"),
    "no such option of one": (("--estimator", "nvil(hiden=3)"), "hiden"),
    "code in one": (("--estimator", "nvil(hidden=__import__('os'))"), "cannot be"),
    "no such phases": (("--phases", "dreaming"), "--phases cannot be 'dreaming'"),
    "what phases there are": (("--phases", "dreaming"), "wake_sleep, reweighted_wake_sleep"),
    "no such option of phases": (("--phases", "aggressive(repeat=5)"), "repeat"),
    "bad option of phases": (
        ("--phases", "aggressive(repeats=0)"),
        "repeats must be a whole number",
    ),
    "phases that are no call": (("--phases", "aggressive(repeats=5"), "cannot be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(deeplvm: Run, case: str) -> None:
    words, said = REFUSED[case]
    outcome = deeplvm("fit", *SMALL, *PLAIN, *words)
    assert outcome.code == 2
    assert said in outcome.line
    assert not Path("run").exists()


def test_all_are_in_the_help(deeplvm: Run) -> None:
    outcome = deeplvm("fit", "--help")
    said = " ".join(outcome.out.replace("│", " ").split())
    for name in ("estimator", "phases"):
        assert f"one of {', '.join(known(name))}" in said
