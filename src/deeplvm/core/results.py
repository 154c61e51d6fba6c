"""A table as HTML, escaped; needs neither torch nor matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class RowEstimate:
    r"""Log-likelihood of each row with its error; nats, higher is better.

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``.
        log_px_stderr: Its error, shape ``(rows,)``.
    """

    log_px: Tensor
    log_px_stderr: Tensor

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.log_px)

    @property
    def mean(self) -> float:
        """Mean of ``log_px`` over rows."""
        return float(self.log_px.mean())

    @property
    def stderr(self) -> float:
        """Standard error of :attr:`mean` over rows, with the estimator's noise; NaN for one."""
        return stderr_of(self.log_px)

    @property
    def monte_carlo_stderr(self) -> float:
        """The part of :attr:`stderr` that the estimator adds, rows taken as independent."""
        return float(self.log_px_stderr.square().sum().sqrt() / self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, means over rows; what is not a number is ``None``."""
        return {
            "value": finite(self.mean),
            "stderr": finite(self.stderr),
            "monte_carlo_stderr": finite(self.monte_carlo_stderr),
            "rows": self.rows,
        }

    def __str__(self) -> str:
        plural = "" if self.rows == 1 else "s"
        return (
            f"log p(x)  {number(self.mean, self.stderr)} nats a row over {self.rows:,} row{plural}"
        )


def stderr_of(values: Tensor) -> float:
    """Standard error of the mean over rows; NaN for one row."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def finite(value: float) -> float | None:
    """A number that JSON can hold, or ``None``."""
    return value if math.isfinite(value) else None


def number(value: float, stderr: float, digits: Sequence[int] = (2, 6)) -> str:
    """``-91.24 ± 0.35``: as many decimals as two figures of the error need."""
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:.4f}"
    decimals = min(max(1 - math.floor(math.log10(stderr)), digits[0]), digits[1])
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def mean_of(values: Tensor) -> dict[str, float | None]:
    """``value`` and ``stderr`` of the mean over rows, as JSON can hold them."""
    return {"value": finite(float(values.mean())), "stderr": finite(stderr_of(values))}


def shown_mean(values: Tensor) -> str:
    """The mean over rows with its standard error."""
    return number(float(values.mean()), stderr_of(values))
