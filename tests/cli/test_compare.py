"""Runs side by side, as a user would call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
TINY = ("--epochs", "1", "--hidden", "8", "--no-evaluate")


@pytest.fixture
def other(deeplvm: Run, csv: Path, tmp_path: Path) -> Callable[..., Path]:
    """Another run of the same table."""

    def fitted(name: str, *words: object) -> Path:
        outcome = deeplvm("fit", csv, "--label", "kind", "--out", tmp_path / name, *TINY, *words)
        assert outcome.code == 0, outcome.err
        return tmp_path / name

    return fitted


def test_two_models_one_of_two_seeds(
    deeplvm: Run, other: Callable[..., Path], tmp_path: Path
) -> None:
    runs = other("a"), other("a-again", "--seed", "1"), other("wide", "--latent", "3")
    page = tmp_path / "page.html"
    outcome = deeplvm("compare", *runs, "--particles", "10", "-o", page)
    assert outcome.code == 0, outcome.err
    assert "2 models on the same 8 rows, the test rows of people" in outcome.out
    assert "latent" in outcome.out
    assert "seed  " not in outcome.out
    assert "<svg" in page.read_text()
    assert "behind the best" in page.read_text()
    again = deeplvm("compare", *runs, "--particles", "10", "--json")
    found = {each["name"]: each for each in json.loads(again.out)["models"]}
    assert (found["a"]["seeds"], found["wide"]["seeds"]) == (2, 1)
    assert min([each["behind"]["value"] for each in found.values()]) == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (("--data-seed", "1"), "the likelihood of the first is of rows of"),
        (("--given-label",), "the first is given nothing, that of the second is given y. Fit b"),
    ],
)
def test_what_is_not_comparable(
    deeplvm: Run, other: Callable[..., Path], words: tuple[str, ...], said: str
) -> None:
    runs = other("a"), other("b", *words)
    outcome = deeplvm("compare", *runs, "--particles", "2")
    assert outcome.code == 2
    assert said in outcome.line
    assert "log p(x)" not in outcome.err  # before anything takes its time


def test_fewer_than_two_runs(deeplvm: Run, table_run: Path, image_run: Path) -> None:
    assert "two different RUN folders or more" in deeplvm("compare").line
    assert "two different RUN folders or more" in deeplvm("compare", table_run, table_run).line
    assert "cannot be compared" in deeplvm("compare", table_run, image_run).line
