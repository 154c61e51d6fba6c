"""Tables: escaped, numbers to the right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from deeplvm.results import Estimate, Record, html_table, text_table


def test_everything_is_escaped() -> None:
    table = html_table(["<b>"], [["<script>alert(1)</script>"], ['"&']], "a < b")
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    assert '<th scope="col">&lt;b&gt;</th>' in table
    assert "<caption>a &lt; b</caption>" in table


def test_columns_of_numbers_are_set_right() -> None:
    table = html_table(["name", "value"], [["a", "-1.5 ± 0.2"], ["b", "1,024"], ["c", ""]])
    assert table.count('class="number"') == 4  # the head too
    assert "<td>a</td>" in table


def test_a_table_without_a_head_and_one_without_rows() -> None:
    assert "thead" not in html_table([], [["a", "b"]])
    assert "<tbody>\n</tbody>" in html_table(["a"], [])


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expects 2 cells a row.*found 1"):
        html_table(["a", "b"], [["a"]])


def test_it_is_light() -> None:
    """A notebook that shows a model does not load the plotting library."""
    code = (
        "import sys; from deeplvm.results import html_table; "
        "print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@dataclass(frozen=True, eq=False)
class _Inner(Record, flat=True):
    score: Estimate
    count: int


@dataclass(frozen=True, eq=False)
class _Outer(
    Record,
    also="gap",
    without="draws",
    means="ess",
    least="ess",
    lists="p",
    keys={"steps": "leapfrog_steps"},
):
    draws: torch.Tensor
    lower: torch.Tensor
    ess: torch.Tensor
    p: torch.Tensor
    steps: int
    inner: dict[str, _Inner]
    matrix: np.ndarray

    @property
    def gap(self) -> Estimate:
        return Estimate(0.5, math.nan)

    def notes(self) -> list[str]:
        return ["<careful>"]


def test_a_record_writes_its_fields_as_json_holds_them() -> None:
    outer = _Outer(
        torch.randn(5),
        torch.tensor([-1.0, -3.0]),
        torch.tensor([2.0, 4.0, math.nan]),
        torch.tensor([0.5, math.nan]),
        3,
        {"a": _Inner(Estimate(0.9, 0.1), 1_000)},
        np.eye(2),
    )
    plain = {
        "gap": {"value": 0.5, "stderr": None},
        "lower": {"value": -2.0, "stderr": 1.0},
        "ess_minimum": 2.0,
        "ess": 3.0,
        "p": [0.5, None],
        "leapfrog_steps": 3,
        "inner": {"a": {"score": 0.9, "score_stderr": 0.1, "count": 1_000}},
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
    }
    assert json.loads(json.dumps(outer.to_dict(), allow_nan=False)) == plain
    assert "-2.00 ± 1.00" in str(outer)
    assert "<careful>" in str(outer)
    assert "&lt;careful&gt;" in outer._repr_html_()
    assert "-2.00 ± 1.00" in outer._repr_html_()


def test_a_record_that_is_no_dataclass_is_refused() -> None:
    class Bare(Record):
        pass

    with pytest.raises(TypeError, match="Bare is a Record and must be a dataclass"):
        Bare().to_dict()


def test_text_is_aligned_by_the_places_it_fills() -> None:
    lines = text_table([("Pareto k̂", "0.5"), ("ess", "12")], ("", "value")).split("\n")
    assert lines == ["          value", "Pareto k̂    0.5", "ess          12"]
