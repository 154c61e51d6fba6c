"""Images in a grid, as PNG."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from deeplvm.results import Array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from deeplvm.data.variable import Variable


def brightness(variable: Variable | None, values: Array) -> tuple[float, float]:
    """The values that black and white stand for."""
    if variable is not None and variable.kind == "levels" and variable.levels:
        return 0.0, float(variable.levels - 1)
    if variable is not None and variable.kind in ("binary", "unit"):
        return 0.0, 1.0
    known = values[np.isfinite(values)]
    low, high = (
        (variable.minimum, variable.maximum)
        if variable is not None
        else (float(known.min()), float(known.max()))
        if known.size
        else (0.0, 1.0)
    )
    return (low, high) if high > low else (low, low + 1.0)


def grid_png(
    images: ArrayLike,
    *,
    columns: int | None = None,
    variable: Variable | None = None,
    gap: int = 1,
    side: int = 0,
    group: int = 0,
    opaque: bool = False,
) -> bytes:
    """Images in a grid as PNG, transparent between them; a missing pixel is red.

    Args:
        images: Values in the data's own units, shape ``(rows, channels, height, width)``.
        columns: Images in a line; a square if left out.
        variable: What they are, which says the values of black and white.
        gap: Pixels between images, before enlarging.
        side: Small images are enlarged by a whole number until the longer side of the grid is
            about this long; 0 for no enlarging.
        group: A wider gap after so many lines; 0 for none.
        opaque: White between them, for a file of its own; without colours it is a grey picture.

    Raises:
        ValueError: If they are no images.
    """
    from PIL import Image

    values = np.asarray(images, dtype=float)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(
            f"A grid is of images (rows, 1 or 3 channels, height, width), found shape "
            f"{values.shape}."
        )
    low, high = brightness(variable, values)
    holes: NDArray[np.bool_] = np.any(np.isnan(values), axis=1)
    shades = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    shades = np.round(255 * np.repeat(shades, 4 - values.shape[1], axis=1)[:, :3]).astype(np.uint8)
    rows, _, height, width = shades.shape
    columns = columns or max(1, round(math.sqrt(rows)))
    lines = -(-rows // columns)

    def top(line: int) -> int:
        return gap + line * (height + gap) + (line // group * 3 * gap if group else 0)

    canvas = np.zeros((top(lines - 1) + height + gap, columns * (width + gap) + gap, 4), np.uint8)
    for i in range(rows):
        y, x = top(i // columns), gap + (i % columns) * (width + gap)
        canvas[y : y + height, x : x + width, :3] = shades[i].transpose(1, 2, 0)
        canvas[y : y + height, x : x + width, 3] = 255
        canvas[y : y + height, x : x + width][holes[i]] = (196, 60, 60, 255)
    if opaque:
        canvas[canvas[..., 3] == 0] = 255
        canvas = canvas[..., :3] if values.shape[1] == 3 or holes.any() else canvas[..., 0]
    scale = max(1, side // max(canvas.shape[:2]))
    buffer = io.BytesIO()
    Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_grid(
    images: ArrayLike,
    alt: str,
    *,
    columns: int,
    variable: Variable | None = None,
    group: int = 0,
    width: int = 0,
) -> Markup:
    """An ``<img>`` element that carries its own picture, shown at a whole multiple of its size."""
    values = np.asarray(images)
    content = grid_png(values, columns=columns, variable=variable, group=group)
    natural = columns * (values.shape[-1] + 1) + 1
    factor = max(1, (width or 720) // natural)
    data = base64.b64encode(content).decode()
    return Markup(
        '<img class="pixels" alt="{}" style="width:{}px" src="data:image/png;base64,{}">'
    ).format(alt, natural * factor, data)
