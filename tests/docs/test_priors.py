"""The page on priors has a row for each that is no posterior as well."""

from __future__ import annotations

from pathlib import Path

from deeplvm.conditionals import posteriors
from deeplvm.conditionals.priors import known

PAGE = Path(__file__).parents[2] / "docs" / "priors.md"


def test_every_prior_has_a_row() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = {row.split("`")[1] for row in rows}
    assert told == {*known()} - ({*posteriors.known()} - {"gaussian", "mixture"})
    assert all([row.count("|") == 6 for row in rows])
