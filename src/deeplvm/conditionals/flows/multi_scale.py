"""Transforms of a map at several resolutions: squeeze, transform, factor out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from deeplvm.conditionals.flows.flow import Transform

# From the shape of a map to the transforms of such maps, in the order of a draw.
Steps = Callable[[tuple[int, ...]], Sequence[Transform]]


class MultiScale(Transform):
    r"""Transforms of a map at several resolutions.

    From data to noise: ``fine`` transforms of the map; a squeeze, in which every square of 2x2
    pixels becomes four channels of one; ``squeezed`` transforms of that; then half of the channels
    are done (factored out) and the other half go on to the next scale. A draw goes the other way.
    Values keep the shape of the map throughout, each element at its place.

    Args:
        shape: channels, height and width.
        scales: how many resolutions; height and width are halved from each to the next.
        fine: makes the transforms before a squeeze, and at the last scale.
        squeezed: makes those after it.

    Raises:
        ValueError: height and width cannot be halved as often.

    Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803
    """

    reads_context = True

    def __init__(self, shape: Sequence[int], scales: int, fine: Steps, squeezed: Steps) -> None:
        super().__init__()
        sizes = tuple(shape)
        self.squeezed, self.deeper = nn.ModuleList(), nn.ModuleList()
        if scales > 1:
            squares = 2 ** (scales - 1)
            if len(sizes) != 3 or sizes[1] % squares or sizes[2] % squares:
                raise ValueError(
                    f"{scales} scales need a map whose height and width are multiples of "
                    f"{squares}, and an event of shape {sizes} is none; take fewer scales, or pad "
                    "the map."
                )
            inside = (4 * sizes[0], sizes[1] // 2, sizes[2] // 2)
            self.squeezed.extend(squeezed(inside))
            half = (2 * sizes[0], *inside[1:])
            self.deeper.append(MultiScale(half, scales - 1, fine, squeezed))
        self.fine = nn.ModuleList(fine(sizes))

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        total = value.new_zeros(())
        if self.deeper:
            going, done = pixel_unshuffle(value, 2).chunk(2, -3)
            going, log_det = self.deeper[0](going, context)
            value, more = through(self.squeezed, torch.cat([going, done], -3), context)
            value, total = pixel_shuffle(value, 2), log_det + more
        value, log_det = through(self.fine, value, context)
        return value, total + log_det

    def inverse(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        value, total = back(self.fine, value, context)
        if not self.deeper:
            return value, total
        value, log_det = back(self.squeezed, pixel_unshuffle(value, 2), context)
        going, done = value.chunk(2, -3)
        going, more = self.deeper[0].inverse(going, context)  # type: ignore[operator]
        return pixel_shuffle(torch.cat([going, done], -3), 2), total + log_det + more


def most_scales(shape: Sequence[int], most: int) -> int:
    """So many scales, or as many as height and width can be halved for.

    >>> most_scales((1, 28, 28), 5), most_scales((3, 7, 13), 5)
    (3, 1)
    """
    scales = 1
    while scales < most and not any([size % 2**scales for size in shape[1:]]):
        scales += 1
    return scales


def through(steps: nn.ModuleList, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """A value after transforms, and the sum of their log-determinants."""
    total = value.new_zeros(())
    for step in steps:
        value, log_det = step(value, step.prepare(context))  # type: ignore[operator]
        total = total + log_det
    return value, total


def back(steps: nn.ModuleList, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """A value before transforms, and the sum of their log-determinants."""
    total = value.new_zeros(())
    for step in reversed(steps):  # type: ignore[call-overload]
        value, log_det = step.inverse(value, step.prepare(context))  # type: ignore[operator]
        total = total + log_det
    return value, total
