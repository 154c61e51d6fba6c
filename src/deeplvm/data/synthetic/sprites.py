r"""Sprites: a white shape on black, drawn from its kind, size, angle and place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deeplvm.data.synthetic.factors import Factors

SIDE = 64
SHAPES = ("square", "ellipse", "heart")
SCALES, ORIENTATIONS, POSITIONS = 6, 40, 32
# In pixels at scale 1. The farthest point of each is nearer than 16 pixels to its centre, so that
# no sprite is cut off; and no edge runs through pixel centres, where rounding would decide.
HALF_SIDE, AXES, HEART = 10.3, (14.1, 8.3), 9.6
FIRST = 16.5  # the centre at position 0: a pixel's centre, and so are all others


def sprites() -> Factors:
    r"""64 × 64 bits: 3 shapes × 6 scales × 40 orientations × 32 × 32 positions, 737,280 images.

    A pixel is 1 where its centre is inside the shape: a square, an ellipse, or the heart
    :math:`(u^2 + w^2 - 1)^3 \le u^2 w^3`. The scales are 0.5, 0.6, .., 1, the orientations
    multiples of 9 degrees, and a position is one pixel, x to the right and y
    down. The factors are those of dSprites
    (Matthey, Higgins, Hassabis & Lerchner, 2017),
    https://github.com/google-deepmind/dsprites-dataset. The images are drawn here and are not
    that set's, so scores on the two need not be the same.

    As there, shapes are symmetric: a square looks the same after 10 orientations and an ellipse
    after 20, so no representation of the image can know the orientation of those.

    Examples:
        >>> factors = sprites()
        >>> f"{factors.combinations:,}", factors.names
        ('737,280', ('shape', 'scale', 'orientation', 'x', 'y'))
        >>> image = factors.draw([[0, 5, 0, 16, 16]])
        >>> image.shape, image.dtype, int(image.sum())
        (torch.Size([1, 1, 64, 64]), torch.uint8, 441)
    """
    return Factors(
        names=("shape", "scale", "orientation", "x", "y"),
        sizes=(len(SHAPES), SCALES, ORIENTATIONS, POSITIONS, POSITIONS),
        shape=(1, SIDE, SIDE),
        make=_images,
        unordered=frozenset({"shape"}),
        values={"shape": SHAPES},
    )


def _images(values: Tensor) -> Tensor:
    """Shape ``(rows, 1, 64, 64)``, uint8."""
    shape, scale, orientation, x, y = values.unbind(1)
    pixels = torch.arange(SIDE, dtype=torch.float64) + 0.5
    size = (0.5 + 0.5 * scale.double() / (SCALES - 1))[:, None, None]
    across = (pixels - (FIRST + x)[:, None])[:, None, :] / size  # (rows, 1, 64)
    up = ((FIRST + y)[:, None] - pixels)[:, :, None] / size  # (rows, 64, 1): rows count down
    angle = (2 * math.pi / ORIENTATIONS * orientation.double())[:, None, None]
    u = across * angle.cos() + up * angle.sin()  # (rows, 64, 64)
    w = up * angle.cos() - across * angle.sin()
    inside = torch.empty(u.shape, dtype=torch.bool)
    for kind, within in enumerate((_in_square, _in_ellipse, _in_heart)):
        chosen = shape == kind
        inside[chosen] = within(u[chosen], w[chosen])
    return inside.to(torch.uint8)[:, None]


def _in_square(u: Tensor, w: Tensor) -> Tensor:
    return torch.maximum(u.abs(), w.abs()) <= HALF_SIDE


def _in_ellipse(u: Tensor, w: Tensor) -> Tensor:
    return (u / AXES[0]).square() + (w / AXES[1]).square() <= 1


def _in_heart(u: Tensor, w: Tensor) -> Tensor:
    u, w = u / HEART, w / HEART + 0.15  # the heart's own origin is above its middle
    return (u.square() + w.square() - 1) ** 3 <= u.square() * w**3
