"""A table as HTML, escaped; needs neither torch nor matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_NUMBER = re.compile(r"[-+−±~≈<>]?\s*\d[\d\s.,eE+\-−±%]*")


def html_table(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> str:
    """A table; every cell is text and is escaped, numbers are set right.

    Args:
        header: One title a column; empty for a table without a head.
        rows: The cells, each row as long as the header; anything, shown as ``str`` shows it.
        caption: A line above the table.

    Raises:
        ValueError: If a row has another number of cells than the header.

    Examples:
        >>> print(html_table(["name", "nats"], [["p(x | z)", -91.2]], "log p < 0"))
        <table class="deeplvm">
        <caption>log p &lt; 0</caption>
        <thead><tr><th scope="col">name</th><th scope="col" class="number"
        style="text-align:right">nats</th></tr></thead>
        <tbody>
        <tr><td>p(x | z)</td><td class="number" style="text-align:right">-91.2</td></tr>
        </tbody>
        </table>
    """
    for row in rows:
        if header and len(row) != len(header):
            raise ValueError(
                f"html_table expects {len(header)} cells a row, one for each of "
                f"{list(header)}; found {len(row)}: {list(row)}."
            )
    cells = [[str(cell) for cell in row] for row in rows]
    columns = max([len(row) for row in cells], default=len(header))
    right = [_is_numeric([row[i] for row in cells if i < len(row)]) for i in range(columns)]
    # the style is inline too, because a notebook strips what it does not know
    align = [' class="number" style="text-align:right"' if number else "" for number in right]
    parts = ['<table class="deeplvm">']
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if header:
        titles = [
            f'<th scope="col"{align[i] if i < columns else ""}>{escape(str(title))}</th>'
            for i, title in enumerate(header)
        ]
        parts.append(f"<thead><tr>{''.join(titles)}</tr></thead>")
    parts.append("<tbody>")
    for row in cells:
        shown = [f"<td{align[i]}>{escape(cell)}</td>" for i, cell in enumerate(row)]
        parts.append(f"<tr>{''.join(shown)}</tr>")
    parts += ["</tbody>", "</table>"]
    return "\n".join(parts)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether every cell that is not empty is a number, with its error and its sign."""
    filled = [cell.strip() for cell in cells if cell.strip() not in {"", "-", "–", "—"}]
    return bool(filled) and all([_NUMBER.fullmatch(cell) is not None for cell in filled])
