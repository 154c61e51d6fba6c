"""Images as PNG grids."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from deeplvm.data.records import Variable
    from deeplvm.model import LatentVariableModel
    from deeplvm.run import Run

# Small images are enlarged until the grid has about this many pixels a side.
_SIDE = 800
_GAP = 1  # between images, before enlarging


def grid(images: Tensor, variable: Variable, columns: int | None = None) -> bytes:
    """A PNG of images, shape ``(rows, channels, height, width)``, in the data's own units.

    Args:
        images: Values as the model has them.
        variable: What they are: the range that black to white stands for.
        columns: Images in a row of the grid; a square if left out.
    """
    from PIL import Image

    low, high = brightness(variable)
    pixels = ((images.detach().cpu().double() - low) / (high - low)).clamp(0, 1).nan_to_num(0)
    rows, channels, height, width = pixels.shape
    columns = columns or max(1, round(math.sqrt(rows)))
    lines = -(-rows // columns)
    depth = 3 if channels == 3 else 1
    canvas = np.ones((lines * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, depth))
    for i, picture in enumerate(pixels[:, :depth].permute(0, 2, 3, 1).numpy()):
        top = _GAP + (i // columns) * (height + _GAP)
        left = _GAP + (i % columns) * (width + _GAP)
        canvas[top : top + height, left : left + width] = picture
    scale = max(1, _SIDE // max(canvas.shape[:2]))
    shades = np.round(255 * canvas).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(shades if depth == 3 else shades[..., 0]).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def brightness(variable: Variable) -> tuple[float, float]:
    """The values that black and white stand for."""
    if variable.kind == "levels" and variable.levels:
        return 0.0, float(variable.levels - 1)
    if variable.kind in ("binary", "unit"):
        return 0.0, 1.0
    low, high = variable.minimum, variable.maximum
    return (low, high) if high > low else (low, low + 1.0)


def save_samples(run: Run, model: LatentVariableModel, count: int = 64) -> Path:
    """Write ``samples.png``: the means of p(x | z) at draws of z from its prior."""
    from deeplvm.cli.values import sampled
    from deeplvm.run import write_atomically

    path = run.folder / "samples.png"
    values = sampled(model, run.description, count, seed=0, mean=True)
    write_atomically(path, grid(values["x"], run.description.variables["x"]))
    return path
