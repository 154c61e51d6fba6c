"""PixelCNN++: shifted convolutions at several resolutions, with skip connections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, pixel_shuffle

from deeplvm.networks.masked_convolutions import (
    Answer,
    Conditioning,
    MaskedConvolution,
    Pixelwise,
    Place,
)

Rows = tuple[int, int]
Said = dict[tuple[int, int], Tensor]  # the features of a stream, by level and block


class ShiftedPixelCNN(Pixelwise):
    r"""Two streams of gated residual blocks, of the rows above and of those before in the row.

    Nothing is masked: kernels lie above and to the left, and the streams start a row below and a
    pixel to the right of what they read. Each goes down to smaller maps and up again; a block on
    the way up also reads what its like said on the way down, and one of the second stream what
    its like in the first said. An element is a pixel, or its channels follow each other in the
    last layers.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: channels of each stream.
        blocks: how many there are at each size, on the way down and as many on the way up.
        levels: how many sizes there are, each half the one before, rounded up.

    PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517. Halved maps come back
    by shuffled channels, where the paper has strided transposed convolutions.
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 16,
        blocks: int = 2,
        levels: int = 3,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        if levels > (most := 1 + (max(shape[-2:]) - 1).bit_length()):
            raise ValueError(
                f"an image of {shape[-2]} by {shape[-1]} pixels has at most {most} sizes, each "
                f"half the one before, found levels={levels}."
            )
        fan_in = len(self.reads)
        self.above = MaskedConvolution(fan_in, width, rows=(-2, -1), columns=(-1, 1))
        self.row_above = MaskedConvolution(fan_in, width, rows=(-1, -1), columns=(-1, 1))
        self.beside = MaskedConvolution(fan_in, width, rows=(-1, 0), columns=(-1, -1))
        sizes = (width, blocks, levels, self.channels)
        self.first = _Level(*sizes, columns=(-1, 1), further=0)
        self.second = _Level(*sizes, columns=(-1, 0), further=width)
        self.last = Answer(width, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""

        def above(place: Place | None) -> Said:
            """What the rows above say to each block."""
            said: Said = {}
            self.first(self.above(image, place), {}, said, context, place)
            return said

        said = above(None) if place is None else place.once_a_row(above)
        hidden = self.row_above(image, place) + self.beside(image, place)
        return self.last(self.second(hidden, said, {}, context, place), image, place)


class _Level(nn.Module):
    """The blocks at one size, around those at smaller ones."""

    def __init__(
        self, width: int, blocks: int, levels: int, context: int, *, columns: Rows, further: int
    ) -> None:
        super().__init__()
        self.level = levels
        self.down = nn.ModuleList(
            [_Block(width, further, context, columns) for _ in range(blocks)]
        )
        self.up = nn.ModuleList(
            [_Block(width, width + further, context, columns) for _ in range(blocks)]
        )
        self.smaller = None
        if levels > 1:
            level = _Level(width, blocks, levels - 1, context, columns=columns, further=further)
            self.smaller = _Halved(level, width, columns)

    def forward(
        self, hidden: Tensor, other: Said, said: Said, context: Tensor | None, place: Place | None
    ) -> Tensor:
        """The features after the last block; what each block says goes into ``said``.

        Args:
            hidden: features, ``(rows, width, height, width)``.
            other: what the blocks of the other stream said, none of the first.
        """
        skipped: list[Tensor] = []
        for index, block in enumerate([*self.down, *self.up]):
            if index == len(self.down) and self.smaller is not None:
                hidden = hidden + self.smaller(hidden, other, said, context, place)
            further = [skipped.pop()] if index >= len(self.down) else []
            if other:
                maps = other[self.level, index]
                further.append(maps if place is None else place.here(maps))
            hidden = said[self.level, index] = block(hidden, further, context, place)
            if index < len(self.down):
                skipped.append(hidden)
        return hidden


class _Halved(nn.Module):
    """A level of half the size, with the ways down to it and up again."""

    def __init__(self, level: _Level, width: int, columns: Rows) -> None:
        super().__init__()
        self.level = level
        self.halving = MaskedConvolution(width, width, rows=(-1, 0), columns=columns, stride=2)
        self.doubling = nn.Conv2d(width, 4 * width, 1)

    def forward(
        self, hidden: Tensor, other: Said, said: Said, context: Tensor | None, place: Place | None
    ) -> Tensor:
        """What the smaller maps say; those of a pixel serve the four that it is halved from."""
        if context is not None and max(context.shape[-2:]) > 1:
            context = avg_pool2d(context, 2, ceil_mode=True)
        if place is None:
            small = self.level(self.halving(hidden), other, said, context, None)
            height, width = hidden.shape[-2:]
            return pixel_shuffle(self.doubling(small), 2)[..., :height, :width]
        row, start, stop, memory = place.row, place.start, place.stop, place.memory
        place.kept(self.halving, self.halving.pads, hidden)
        if row % 2 == 0 and start % 2 == 0:
            size = ((place.size[0] + 1) // 2, (place.size[1] + 1) // 2)
            half = Place(size, row // 2, start // 2, (stop + 1) // 2, memory)
            small = self.level(self.halving(hidden, place), other, said, context, half)
            block = pixel_shuffle(self.doubling(small), 2)
            if self not in memory:
                memory[self] = block.new_zeros(*block.shape[:2], 2 * size[0], 2 * size[1])
            memory[self][..., row : row + 2, start : start + block.shape[-1]] = block
        doubled: Tensor = memory[self]
        return doubled[..., row : row + 1, start:stop]


class _Block(nn.Module):
    r"""A gated residual block, :math:`h + a \odot \sigma(b)`.

    .. math:: (a, b) = W_2 * e(W_1 * e(h) + W_3 e(u)) + V c, \qquad
              e(h) = \mathrm{elu}([h, -h])

    Further features are u, the context is c.
    """

    def __init__(self, width: int, further: int, context: int, columns: Rows) -> None:
        super().__init__()
        self.inner = MaskedConvolution(2 * width, width, rows=(-1, 0), columns=columns)
        self.further = nn.Conv2d(2 * further, width, 1) if further else None
        self.outer = MaskedConvolution(2 * width, 2 * width, rows=(-1, 0), columns=columns)
        self.conditioning = Conditioning(context, 2 * width)
        with torch.no_grad():  # blocks change little at first
            self.outer.weight.mul_(0.1)

    def forward(
        self, hidden: Tensor, further: list[Tensor], context: Tensor | None, place: Place | None
    ) -> Tensor:
        """The features, of the same shape."""
        change = self.inner(two_sided(hidden), place)
        if self.further is not None:
            change = change + self.further(two_sided(torch.cat(further, 1)))
        change = self.conditioning(self.outer(two_sided(change), place), context, place)
        content, gate = change.chunk(2, 1)
        return hidden + content * torch.sigmoid(gate)


def two_sided(features: Tensor) -> Tensor:
    """Exponential linear units of the features and of their negatives, side by side."""
    return elu(torch.cat([features, -features], 1))
