"""What a result is: a number with its error, and a record that writes itself.

Text, plain numbers for a file and HTML for a notebook come from the fields; no plotting library
is needed for any of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]

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


def text_table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """The same table as lines of text: numbers are set right, but for the first column.

    Examples:
        >>> print(text_table([("ELBO", "-91.2 ± 0.3", "a bound"), ("KL", "19.5 ± 0.1", "")]))
        ELBO  -91.2 ± 0.3  a bound
        KL     19.5 ± 0.1
    """
    cells = [[str(cell) for cell in row] for row in rows]
    right = [i > 0 and _is_numeric(column) for i, column in enumerate(zip(*cells, strict=True))]
    lines = [list(header), *cells] if any(header) else cells
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        blank = [" " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)]
        each = [b + c if r else c + b for b, c, r in zip(blank, line, right, strict=True)]
        shown.append("  ".join(each).rstrip())
    return "\n".join(shown)


def _width(text: str) -> int:
    """Places that a text fills: the hat of k̂ fills none."""
    return sum([not unicodedata.combining(letter) for letter in text])


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error.

    Examples:
        >>> print(Estimate(-91.2437, 0.35))
        -91.24 ± 0.35
    """

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """The mean of a number a row, shape ``(rows,)``, with its standard error over rows."""
        return cls(float(values.mean()), stderr_of(values))

    def above(self, least: float = 0.0, errors: float = 2.0) -> bool:
        """Whether it is more than ``least``, and more than so many errors above zero."""
        return self.value > least and self.value > errors * self.stderr

    def to_dict(self) -> dict[str, Any]:
        """``value``, ``stderr`` and what a subclass adds; what is not a number is ``None``."""
        return {name: plain(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        return number(self.value, self.stderr)


class Record:
    r"""A result: a frozen dataclass that writes itself as plain numbers, as text and as HTML.

    A subclass says in its class line what differs from its fields, names apart by blanks:

    - ``also``: properties that the dict holds too;
    - ``without``: fields that it does not, such as draws;
    - ``means``: tensors of which it holds the mean over rows without an error, those that are not
      a number left aside; any other tensor is a number a row, and is written as
      :class:`Estimate`;
    - ``least``: those of ``means`` whose smallest is written too, as ``a_minimum``;
    - ``lists``: tensors that are written out;
    - ``keys``: names in the dict that differ from those of the fields;
    - ``flat``: whether an :class:`Estimate` ``a`` is written as ``a`` and ``a_stderr``.

    Text and HTML are :meth:`heading`, :meth:`table` under :attr:`header`, and :meth:`notes`.

    Examples:
        >>> import torch
        >>> @dataclass(frozen=True, eq=False)
        ... class Bound(Record, also="rows"):
        ...     elbo: Tensor
        ...     @property
        ...     def rows(self) -> int:
        ...         return len(self.elbo)
        >>> print(Bound(torch.tensor([-1.0, -3.0])))
        rows            2
        elbo  -2.00 ± 1.00
        >>> Bound(torch.tensor([-1.0, -3.0])).to_dict()
        {'rows': 2, 'elbo': {'value': -2.0, 'stderr': 1.0}}
    """

    header: ClassVar[Sequence[str]] = ()
    _also: ClassVar[tuple[str, ...]] = ()
    _without: ClassVar[tuple[str, ...]] = ()
    _means: ClassVar[tuple[str, ...]] = ()
    _least: ClassVar[tuple[str, ...]] = ()
    _lists: ClassVar[tuple[str, ...]] = ()
    _keys: ClassVar[Mapping[str, str]] = {}
    _flat: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        also: str = "",
        without: str = "",
        means: str = "",
        least: str = "",
        lists: str = "",
        keys: Mapping[str, str] | None = None,
        flat: bool = False,
        **rest: Any,
    ) -> None:
        super().__init_subclass__(**rest)
        cls._also += tuple(also.split())
        cls._without += tuple(without.split())
        cls._means += tuple(means.split())
        cls._least += tuple(least.split())
        cls._lists += tuple(lists.split())
        cls._keys = {**cls._keys, **(keys or {})}
        cls._flat |= flat

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and words, as JSON holds them; what is not a number is ``None``."""
        if not is_dataclass(self):
            raise TypeError(f"{type(self).__name__} is a Record and must be a dataclass.")
        names = [each.name for each in fields(self) if each.name not in self._without]
        shown: dict[str, Any] = {}
        for name in [*self._also, *names]:
            value, key = getattr(self, name), self._keys.get(name, name)
            if isinstance(value, Tensor):
                if name in self._means:
                    known = value[~value.isnan()].double()
                    if name in self._least:
                        shown[f"{key}_minimum"] = (
                            finite(float(known.min())) if len(known) else None
                        )
                    value = float(known.mean())
                elif value.ndim and name not in self._lists:
                    value = Estimate.of(value)
            if self._flat and isinstance(value, Estimate):
                shown |= {key: finite(value.value), f"{key}_stderr": finite(value.stderr)}
            else:
                shown[key] = plain(value)
        return shown

    def to_json(self) -> str:
        """The dict as the text of a file, such as ``evaluation.json``."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def heading(self) -> str:
        """A line above the table."""
        return ""

    def table(self) -> Sequence[Sequence[str]]:
        """Rows of text under :attr:`header`: every number of the dict with its name."""
        return [(key, shown) for key, value in self.to_dict().items() if (shown := _shown(value))]

    def notes(self) -> Sequence[str]:
        """Sentences below the table."""
        return ()

    def __str__(self) -> str:
        rows = self.table()
        lines = [self.heading(), text_table(rows, self.header) if rows else "", *self.notes()]
        return "\n".join([line for line in lines if line])

    def _repr_html_(self) -> str:
        below = "".join([f"<li>{escape(note)}</li>" for note in self.notes()])
        table = html_table(self.header, self.table(), self.heading())
        return table + (f"<ul>{below}</ul>" if below else "")


def plain(value: Any) -> Any:
    """Numbers, lists, dicts and words that JSON can hold."""
    if isinstance(value, Record | Estimate):
        return value.to_dict()
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return finite(value) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    """A number of a dict as text, with its error if it has one; else nothing."""
    if isinstance(value, Mapping) and set(value) == {"value", "stderr"}:
        found, stderr = (math.nan if value[key] is None else value[key] for key in value)
        return number(found, stderr)
    if isinstance(value, bool | str):
        return str(value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else (f"{value:.4f}" if isinstance(value, float) else "")
    )


@dataclass(frozen=True, eq=False)
class RowEstimate(
    Record,
    also="mean stderr monte_carlo_stderr rows",
    without="log_px log_px_stderr",
    keys={"mean": "value"},
):
    r"""Log-likelihood of each row with its error; nats, higher is better.

    Attributes:
        log_px: :math:`\log \hat p(x)`, shape ``(rows,)``.
        log_px_stderr: Its error, shape ``(rows,)``.
    """

    log_px: Tensor
    log_px_stderr: Tensor

    symbol: ClassVar[str] = "log p(x)"

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

    def __str__(self) -> str:
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        return f"{self.symbol}  {shown_mean(self.log_px)} nats a row over {rows}"


def digest_of(model: nn.Module) -> str:
    """SHA-256 of the weights, by name: by it a result says which model it measured.

    Real numbers count in single precision, so that a model moved to double is the same model.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        plain_value = value.detach().cpu()
        if plain_value.is_floating_point():
            plain_value = plain_value.float()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(plain_value.contiguous().numpy().tobytes())
    return digest.hexdigest()


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


def shown_plain(plain: Mapping[str, Any], infinite: str = "∞") -> str:
    """The ``value`` and ``stderr`` of :meth:`Estimate.to_dict` as text."""
    value, stderr = plain["value"], plain["stderr"]
    return infinite if value is None else number(value, math.nan if stderr is None else stderr)


def mean_of(values: Tensor) -> dict[str, float | None]:
    """``value`` and ``stderr`` of the mean over rows, as JSON can hold them."""
    return Estimate.of(values).to_dict()


def shown_mean(values: Tensor) -> str:
    """The mean over rows with its standard error."""
    return str(Estimate.of(values))
