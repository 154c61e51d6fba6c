"""The page on diagnosis has a row for each rule, in the order in which faults are told."""

from __future__ import annotations

import inspect
from pathlib import Path

from deeplvm.diagnosis import RULES

PAGE = Path(__file__).parents[2] / "docs" / "diagnosis.md"


def test_every_rule_has_a_row() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert len(rows) == len(RULES)
    for row, rule in zip(rows, RULES, strict=True):
        assert f'"{row.split("`")[1]}",' in inspect.getsource(rule), rule.__name__
