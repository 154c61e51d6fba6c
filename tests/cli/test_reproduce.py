"""Published numbers: the table, its page, and one of them run and judged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.decomposition import PCA

from deeplvm.data import load
from deeplvm.data.catalogue import NAMED
from deeplvm.recipes import find
from deeplvm.registry import meant, why
from deeplvm.results import Estimate
from deeplvm.runs.reproduction import page, table
from deeplvm.runs.run import open_run
from deeplvm.training import fit, unfolded

Run = Callable[..., Any]


def test_the_page_is_the_table() -> None:
    """Written anew by ``python -m deeplvm.runs.reproduction``."""
    text = Path(__file__).parents[2] / "docs" / "reproductions.md"
    assert page() in text.read_text("utf-8")


@pytest.mark.parametrize("name", table())
def test_an_entry_is_one_that_can_be_run(name: str) -> None:
    """Its data and recipe exist, and each option is one that they take."""
    entry = table()[name]
    config = entry.config(0)
    assert entry.data in NAMED
    assert entry.link.startswith("https://")
    functions = {
        "data_options": load, "recipe_options": find(entry.recipe), "training": unfolded(fit)
    }  # fmt: skip
    for options, function in functions.items():
        for option, value in getattr(config, options).items():
            assert why(function, option, value) is None, option
            meant(option, value)


def test_the_target_of_principal_components_is_their_closed_form() -> None:
    x = load("iris", likelihood="gaussian").train["x"][:].double().numpy()
    exact = PCA(2).fit(x).score(x)
    assert table()["probabilistic-pca"].target == pytest.approx(exact, abs=1e-6)


def test_one_is_run_and_judged(deeplvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = deeplvm("reproduce", "probabilistic-pca", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("probabilistic-pca: met. log_px -2.643")
    folder = Path("runs/reproduce-probabilistic-pca")
    assert open_run(folder / "seed-0").finished
    assert json.loads((folder / "reproduction.json").read_text())["met"]
    # what is done is not done again; another target is judged by the same runs
    entry = replace(table()["probabilistic-pca"], target=-2.6)
    monkeypatch.setattr("deeplvm.runs.reproduction.table", lambda: {entry.name: entry})
    outcome = deeplvm("reproduce", entry.name, "--device", "cpu")
    assert outcome.code == 1
    assert "not met, by 0.042 beyond the tolerance" in outcome.line
    assert "epoch" not in outcome.err
    longer = deeplvm("reproduce", entry.name, "--minutes", "1")
    assert longer.code == 2
    assert "is of other settings (" in longer.line


def test_sides() -> None:
    """A likelihood may be better than is asked for, and worse by the tolerance."""
    entry = replace(table()["made-500"], target=-91.2, tolerance=0.3)
    for value, met in ((-90.0, True), (-91.4, True), (-91.6, False)):
        assert entry.judge(Estimate(value, 0.2)).met == met
    error = replace(entry, better="lower", target=3.3)
    assert error.judge(Estimate(3.0, 0.1)).met
    assert not error.judge(Estimate(3.7, 0.1)).met
    assert "3 runs" in error.judge(Estimate(3.7, 0.1), 3).heading()
    assert not entry.judge(Estimate(math.nan, math.nan)).met


def test_what_there_is(deeplvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made-500" in deeplvm("reproduce", "--list").out
    assert json.loads(deeplvm("reproduce", "--list", "--json").out)["made-500"]["minutes"] == 10
    one = deeplvm("reproduce", "made-500", "--list").out.splitlines()
    assert [line.split()[0] for line in one[1:]] == ["made-500"]
    assert [*json.loads(deeplvm("reproduce", "gae-cora", "--list", "--json").out)] == ["gae-cora"]
    assert "There is no reproduction 'mad'" in deeplvm("reproduce", "mad", "--list").line
    never = replace(table()["gae-cora"], reached="")
    monkeypatch.setattr("deeplvm.runs.reproduction.table", lambda: {"gae-cora": never})
    assert "not run to its end yet" in deeplvm("reproduce", "--list").out
    assert "| not run to its end yet |" in page()
    monkeypatch.undo()
    assert "deeplvm reproduce --list shows all" in deeplvm("reproduce").line
    assert "There is no reproduction 'mad'; there are" in deeplvm("reproduce", "mad").line
    bad = deeplvm("reproduce", "made-500", "--minutes", "0")
    assert "--minutes must be a positive number, not 0" in bad.line
