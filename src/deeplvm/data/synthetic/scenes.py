"""Scenes: pictures of none, one or several objects, anywhere, whose number is known."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_TRIES = 50  # of a place where an object covers no other; then it lies where it was tried last


def scattered(
    objects: Array, rows: int, side: int, most: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Pictures with 0 to ``most`` objects, as many of each number in the mean.

    The multi-MNIST of *Attend, Infer, Repeat* (Eslami et al., 2016),
    https://arxiv.org/abs/1603.08575, has up to two digits on 50 x 50.

    Args:
        objects: Shape ``(objects, height, width)``, 0 where there is nothing.
        rows: How many pictures.
        side: Of a picture, at least that of an object.
        most: The most objects in one.
        generator: What is drawn with.

    Returns:
        The pictures, shape ``(rows, 1, side, side)``, and the numbers of objects.

    Examples:
        >>> ink = np.ones((3, 2, 2), dtype=np.uint8)
        >>> pictures, counts = scattered(ink, 4, 8, 2, np.random.default_rng(0))
        >>> (pictures.sum((1, 2, 3)) == 4 * counts).all()
        np.True_
    """
    counts = generator.integers(0, most + 1, rows)
    pictures = np.zeros((rows, side, side), dtype=objects.dtype)
    _, height, width = objects.shape
    for picture, count in zip(pictures, counts, strict=True):
        for chosen in objects[generator.integers(0, len(objects), count)]:
            for _ in range(_TRIES):
                top = generator.integers(0, side - height + 1)
                left = generator.integers(0, side - width + 1)
                there = picture[top : top + height, left : left + width]
                if not ((there > 0) & (chosen > 0)).any():
                    break
            np.maximum(there, chosen, out=there)
    return pictures[:, None], counts
