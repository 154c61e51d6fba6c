"""The page on posteriors has a row for each that there is."""

from __future__ import annotations

from pathlib import Path

from deeplvm.conditionals.posteriors import known

PAGE = Path(__file__).parents[2] / "docs" / "flows.md"


def test_every_posterior_has_a_row() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(known())
    assert all([row.count("|") == 6 for row in rows])
