"""Sets: rows with the same label as the members of one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from deeplvm.data.readers.images import laid_out, layout_notes, layout_of
from deeplvm.data.readers.source import Array, Held
from deeplvm.data.statistics import Summary
from deeplvm.data.variable import DataError


def as_sets(found: Mapping[str, Any], members: int, seed: int, name: str) -> dict[str, Any]:
    """Rows of so many members each, which have the label of the row; no member is in two.

    Members are drawn within each part of the data, without putting back; what is left over of a
    label is left out.

    Args:
        found: The rows by name.
        members: How many rows make one.
        seed: Of who goes with whom.
        name: Of the data, for messages.

    Returns:
        Rows of shape ``(sets, members, *event)``, with the label of each set.

    Raises:
        DataError: If the data are not one array in memory, or no label has enough rows.
    """
    flag = f"--members {members}"
    only, *others = found.values()
    if others or not isinstance(only, Held) or only.is_sparse or only.facts.columns is not None:
        raise DataError(
            f"{name}: {flag} makes sets of the rows of one array, or of pictures, in memory; "
            f"leave it out."
        )
    if only.labels is None:
        raise DataError(
            f"{name}: {flag} puts rows with the same label into a set, and these have no labels; "
            f"give an .npz with the arrays x and y."
        )
    facts, values, rng = only.facts, only.values, np.random.default_rng(seed)
    if values.ndim in (3, 4):
        layout = layout_of(Summary.of(values), image=facts.image)
        notes = (*facts.notes, *layout_notes(values.shape[1:], layout))
        facts = replace(facts, image=facts.image or layout != "rows", notes=notes)
        values = laid_out(values, layout)
    if values.ndim not in (2, 4):
        raise DataError(
            f"{name}: {flag} makes sets of vectors or of pictures, and these rows have the shape "
            f"{values.shape[1:]}; leave it out, or flatten them."
        )
    sets: dict[str, Array] = {}
    labels: dict[str, Array] = {}
    for part, places in only.parts.items():
        rows = places.all()
        chosen = []
        for code in np.unique(only.labels[rows]):
            alike = rng.permutation(rows[only.labels[rows] == code])
            whole = len(alike) // members * members if code >= 0 else 0
            chosen.append(alike[:whole].reshape(-1, members))
        numbers = rng.permutation(np.concatenate(chosen))
        if not len(numbers):
            raise DataError(
                f"{name}: {flag}, but no label has so many {'' if part == 'all' else part + ' '}"
                f"rows; ask for fewer."
            )
        sets[part], labels[part] = values[numbers], only.labels[numbers[:, 0]]
    kept = sum([len(each) for each in sets.values()]) * members
    said = f"sets of {members} rows with the same label (--members)"
    left = only.total - kept
    said += f"; {left} rows are left over." if left else "."
    return {next(iter(found)): Held(replace(facts, notes=(*facts.notes, said)), sets, labels)}
