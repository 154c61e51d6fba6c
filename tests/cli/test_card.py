"""The model card of a run: what was measured, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_fit_leaves_a_card_of_what_was_measured(table_run: Path, csv: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = (table_run / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["library_name"] == "deeplvm"
    (result,) = about["model-index"][0]["results"]
    measured = json.loads((table_run / "evaluation.json").read_text())
    found = {each["type"]: each["value"] for each in result["metrics"]}
    assert found["log_px"] == measured["log_px"]["value"]
    assert found["elbo"] == measured["elbo"]["value"]
    assert result["dataset"]["split"] == "test"
    assert "importance sampling with 20 particles" in body
    assert "Auto-Encoding Variational Bayes" in body
    assert "latent = 2" in body
    assert "a density in their own units" in body
    assert "Not looked for" in body
    assert str(csv.parent) not in text


def test_a_card_says_what_was_not_measured(
    deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]
) -> None:
    run = copy_of(table_run)
    evaluation = run / "evaluation.json"
    measured = json.loads(evaluation.read_text())
    measured["settings"]["model"] = "another"
    evaluation.write_text(json.dumps(measured))
    assert deeplvm("card", run).code == 0
    text = (run / "README.md").read_text()
    assert "belongs to an earlier model" in text
    assert "model-index" not in text
    evaluation.unlink()
    assert deeplvm("card", run).code == 0
    assert "Its likelihood is not known." in (run / "README.md").read_text()


def test_evaluate_renews_the_card(
    deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]
) -> None:
    run = copy_of(table_run)
    words = ("--particles", "7", "--precision", "float64")
    assert deeplvm("evaluate", run, *words).code == 0
    text = (run / "README.md").read_text()
    assert "importance sampling with 7 particles" in text
    assert deeplvm("card", run).code == 0
    assert (run / "README.md").read_text() == text
    (run / "README.md").write_text("mine")
    outcome = deeplvm("evaluate", run, *words)
    assert (outcome.code, (run / "README.md").read_text()) == (0, "mine")
    assert "stays as it is" in outcome.err


def test_somebodys_own_readme_stays(
    deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]
) -> None:
    run = copy_of(table_run)
    (run / "README.md").write_text("mine")
    outcome = deeplvm("card", run)
    assert outcome.code == 2
    assert "is not a card that deeplvm wrote, and stays as it is" in outcome.line
    assert (run / "README.md").read_text() == "mine"
