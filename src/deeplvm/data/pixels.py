"""Which arrays are images, and grey values as probabilities of 1."""

from __future__ import annotations

from typing import Literal

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.raw import Array
from deeplvm.data.statistics import Summary

Layout = Literal["rows", "grey", "first", "last"]
_CHANNELS = (1, 3, 4)


def layout_of(seen: Summary, *, image: bool) -> Layout:
    """How the axes of an array are to be read.

    Returns:
        ``"grey"``: images without an axis of channels. ``"first"``: images with their channels
        first. ``"last"``: images with their channels last. ``"rows"``: no images.
    """
    shape = seen.shape
    if len(shape) == 3:
        return "last" if shape[-1] in _CHANNELS and shape[0] not in _CHANNELS else "first"
    if len(shape) != 2 or not seen.count.any():
        return "rows"
    low, high, whole = float(seen.low.min()), float(seen.high.max()), bool(seen.whole.all())
    return "grey" if image or (low >= 0 and (high <= 1 or (whole and high <= 255))) else "rows"


def laid_out(values: Array, layout: Layout) -> Array:
    """Images of shape ``(rows, channels, height, width)``; what are no images stay as they are."""
    if layout == "grey":
        return values[:, None]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if layout == "last" else values


def layout_notes(shape: tuple[int, ...], layout: Layout) -> list[str]:
    """What was done to the axes of rows of a shape, in words."""
    if layout == "grey":
        return [f"taken as grey images of {shape[0]}x{shape[1]} pixels."]
    if layout == "last":
        return ["channels were last and are now first: (channels, height, width)."]
    return []


def grey_scale(seen: Summary, source: str, levels: int | None, top: float | None) -> float | None:
    """The level of probability 1; ``None`` if the values are binary already.

    Args:
        seen: Of all rows.
        source: For messages.
        levels: How many levels the source itself declares.
        top: The level of probability 1 in the training data, where these are other data.

    Raises:
        DataError: If the values have holes, or are not grey values.
    """
    low, high, whole = float(seen.low.min()), float(seen.high.max()), bool(seen.whole.all())
    if seen.holes:
        raise DataError(f"{source}: --binarize needs values without holes; leave it out.")
    if top is None and whole and low >= 0 and high <= 1 and levels is None:
        return None
    if top is not None:
        if not (low >= 0 and high <= top):
            raise DataError(
                f"{source}: the model was fitted to binarized values 0..{top:g}, found values in "
                f"[{low:g}, {high:g}]."
            )
        return top
    if not (low >= 0 and (high <= 1 or (whole and high <= 255))):
        kinds = "whole numbers" if whole else "reals"
        raise DataError(
            f"{source}: --binarize reads grey values in [0, 1] or levels 0..255 as probabilities, "
            f"but found {kinds} in [{low:g}, {high:g}]; leave it out."
        )
    return float((levels or (int(high) + 1 if high < 32 else 256)) - 1) if whole else 1.0
