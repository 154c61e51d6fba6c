"""Latents as embedding viewers open them: a plane, the row, its picture and its columns."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeplvm.report.figures.images import brightness
from deeplvm.report.material import principal_plane

if TYPE_CHECKING:
    from deeplvm.data.records import Selection
    from deeplvm.data.variable import Variable

_SIDE = 64  # pixels of a picture


def save_atlas(
    path: Path,
    latents: Mapping[str, Any],
    rows: Selection,
    variables: Mapping[str, Variable],
    other: Mapping[str, Any],
) -> None:
    """Write a parquet with a line a row: ``row``, ``x``, ``y``, columns, and ``image``.

    x and y are the latents where these are two, else their first two principal axes. Pictures are
    PNG in a struct of ``bytes`` and ``path``, the form of data sets of images.

    Args:
        path: Where; written whole or not at all.
        latents: Their means, shape ``(rows, *event)`` by name.
        rows: The rows themselves.
        variables: What they are.
        other: More columns, such as labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deeplvm.files import beside

    flat = [torch.as_tensor(np.asarray(v)).reshape(len(v), -1).double() for v in latents.values()]
    points = torch.cat(flat, 1)
    if points.shape[1] > 2 and len(points) > 2:
        points, _ = principal_plane(points)
    plane = torch.nn.functional.pad(points, (0, max(0, 2 - points.shape[1]))).numpy()
    table: dict[str, Any] = {
        "row": np.arange(len(plane)), "x": plane[:, 0], "y": plane[:, 1],
    }  # fmt: skip
    label = {"y": "label_code"}  # y is a place here
    table |= {label.get(name, name): values for name, values in other.items()}
    for name, variable in variables.items():
        if variable.columns is not None and variable.length is None:
            columns = variable.restored(rows.exact(name), exact=True)
            for title, values in columns.items():
                table[_free(str(title), table)] = values
        elif len(variable.shape) == 3 and variable.shape[0] in (1, 3) and "image" not in table:
            table["image"] = [
                {"bytes": _png(row.double().numpy(), variable), "path": f"{i}.png"}
                for i, row in enumerate(rows.exact(name))
            ]
    with beside(path) as temporary:
        pq.write_table(pa.table({name: pa.array(v) for name, v in table.items()}), temporary)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that no other column has."""
    while name in taken:
        name += "_"
    return name


def _png(values: Any, variable: Variable) -> bytes:
    from PIL import Image

    low, high = brightness(variable, values)
    shades = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    pixels = np.round(255 * shades).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
