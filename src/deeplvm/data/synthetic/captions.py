"""Digits in the corners of a picture, and a caption that says which and where."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CORNERS = ("top left", "top right", "bottom left", "bottom right")


def caption(digits: Array, corners: Array) -> str:
    """What a picture shows.

    >>> caption(np.array([3, 7]), np.array([0, 3]))
    'a three at the top left and a seven at the bottom right'
    """
    each = [(DIGITS[d], CORNERS[c]) for d, c in zip(digits, corners, strict=True)]
    said = [f"{'an' if d == 'eight' else 'a'} {d} at the {c}" for d, c in each]
    return " and ".join(said)


def captioned(
    objects: Array, labels: Array, rows: int, side: int, generator: np.random.Generator, *,
    apart: bool = False,
) -> tuple[Array, list[str]]:  # fmt: skip
    """Pictures of one or two digits, each somewhere in a corner of its own, and their captions.

    A digit d is never in the corner d mod 4; ``apart``, it always is. So two sets have no caption
    in common, but all words. The captioned MNIST of *Generating Images from Captions with
    Attention* (Mansimov et al., 2016), https://arxiv.org/abs/1511.02793, is of the same kind.

    Args:
        objects: Digits, shape ``(objects, height, width)``, 0 where there is nothing.
        labels: Which they are, shape ``(objects,)``.
        rows: How many pictures.
        side: Of a picture, at least twice that of an object.
        generator: What is drawn with.
        apart: Whether digits are where they else never are.

    Returns:
        The pictures, shape ``(rows, 1, side, side)``, and their captions.

    Examples:
        >>> ink = np.ones((10, 2, 2), dtype=np.uint8)
        >>> pictures, said = captioned(ink, np.arange(10), 50, 8, np.random.default_rng(0))
        >>> [4 * text.count(" at ") for text in said] == pictures.sum((1, 2, 3)).tolist()
        True
        >>> any("zero at the top left" in text for text in said)
        False
    """
    pictures = np.zeros((rows, side, side), dtype=objects.dtype)
    height, width = objects.shape[1:]
    half, said, places = side // 2, list[str](), range(len(CORNERS))
    pools = [np.flatnonzero((labels % len(CORNERS) == each) == apart) for each in places]
    for picture in pictures:
        corners = generator.permutation(len(CORNERS))[: generator.integers(1, 3)]
        chosen = []
        for corner in np.sort(corners):
            chosen.append(pools[corner][generator.integers(0, len(pools[corner]))])
            top = half * (corner // 2) + generator.integers(0, half - height + 1)
            left = half * (corner % 2) + generator.integers(0, half - width + 1)
            picture[top : top + height, left : left + width] = objects[chosen[-1]]
        said.append(caption(labels[chosen], np.sort(corners)))
    return pictures[:, None], said
