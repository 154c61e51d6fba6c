"""Tables: escaped, numbers to the right."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deeplvm.core.results import html_table


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
        "import sys; from deeplvm.core.results import html_table; "
        "print([m for m in ('matplotlib', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
