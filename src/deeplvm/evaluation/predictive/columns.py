"""The columns of what a model observes: their titles, and what kind of value each one holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.data.variable import Variable, places
from deeplvm.inference.rows import Rows, inside

ColumnKind = Literal["real", "counts", "binary", "category"]
_KINDS: dict[str, ColumnKind] = {
    "binary": "binary", "counts": "counts", "category": "category", "ordinal": "category",
}  # fmt: skip


@dataclass(frozen=True)
class ObservedColumn:
    """One element of one observed name.

    Attributes:
        name: The name in the model, ``"x"``.
        place: Which element of it, counted through.
        title: What a reader calls it: the column's name, else ``"x[3]"``.
        kind: What its values are. Whole-number levels and dequantized values count as reals.
        categories: What the codes 0, 1, ... of a category stand for.
        length: The name of the length, where a row has a value of it at each step.
    """

    name: str
    place: int
    title: str
    kind: ColumnKind
    categories: tuple[str, ...] = ()
    length: str | None = None


def observed_columns(
    model: LatentVariableModel, rows: Rows, *, inputs: bool = False
) -> tuple[ObservedColumn, ...]:
    """The columns of all names that p gives a density and the data have.

    With ``inputs`` also of what p reads and does not draw, such as a label.

    Kinds and titles are those of the data's variables; of plain tensors they are seen from the
    values: integers are categories, 0 and 1 binary, other whole numbers from 0 on counts.

    Raises:
        ValueError: If p gives a density to none of the names, or one is of texts.
    """
    known_to_p = {*model.p.names, *(model.p.inputs if inputs else ())}
    names = [name for name in rows.names if name in known_to_p]
    if not names:
        raise ValueError(
            f"p gives a density to none of {', '.join(rows.names)}; give the rows of a name that "
            f"it does: {', '.join(model.p.names)}."
        )
    found: list[ObservedColumn] = []
    for name in names:
        variables = known.variables if (known := rows.description) else {}
        variable = variables.get(name)
        if variable is not None and variable.kind == "token":
            raise ValueError(f"{name} is of texts, whose tokens are no columns to compare.")
        each = _seen(name, rows) if variable is None else _told(variable)
        length = rows.lengths.get(name)
        found += each if length not in rows.names else [replace(e, length=length) for e in each]
    return tuple(found)


def matrix(values: Mapping[str, Tensor], columns: Sequence[ObservedColumn]) -> Tensor:
    """The columns side by side, shape ``(rows, columns)``, float64 on the CPU.

    Of sequences all steps, one after another, as if each were a row: ``(steps, columns)``; what is
    of the whole row stands at each of its steps.
    """
    names = {column.name: column.length for column in columns}
    length = next((each for each in names.values() if each is not None), None)
    lengths = None if length is None else values[length].cpu().long()
    flat = []
    for name, own in names.items():
        value = values[name].cpu()
        if own is not None and lengths is not None:
            value = value[inside(lengths, value.shape[1])]
        elif lengths is not None:
            value = value.repeat_interleave(lengths, 0)
        flat.append(value.reshape(len(value), -1).double())
    return torch.cat(flat, 1)


def _told(variable: Variable) -> list[ObservedColumn]:
    found = []
    for place, (title, part) in enumerate(zip(variable.titles, variable.each, strict=True)):
        kind = "real" if part.dequantized else _KINDS.get(part.kind, "real")
        named = _categories(part.categories, part.levels or 0) if kind == "category" else ()
        found.append(ObservedColumn(variable.name, place, title, kind, named))
    return found


def _seen(name: str, rows: Rows) -> list[ObservedColumn]:
    given = rows[slice(0, rows.rows)]
    value, length = given[name].cpu(), given.get(rows.lengths.get(name, ""))
    if length is not None:
        value = value[inside(length.cpu(), value.shape[1])]
    titles = places(name, value.shape[1:])
    classes = known.classes if (known := rows.description) else None
    found = []
    for place, title in enumerate(titles):
        column = value.reshape(len(value), -1)[:, place]
        known = column[~column.isnan()]
        kind = _kind(known)
        levels = int(known.max()) + 1 if kind == "category" and len(known) else 0
        named = classes if name == "y" else None
        found.append(ObservedColumn(name, place, title, kind, _categories(named, levels)))
    return found


def _kind(known: Tensor) -> ColumnKind:
    if not known.is_floating_point():
        return "category"
    if bool(((known == 0) | (known == 1)).all()):
        return "binary"
    whole = bool((known == known.round()).all()) and bool((known >= 0).all())
    return "counts" if whole else "real"


def _categories(named: Sequence[str] | None, levels: int) -> tuple[str, ...]:
    return tuple(named) if named else tuple([str(code) for code in range(levels)])
