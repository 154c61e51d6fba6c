"""PixelCNN and its gated form without a blind spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from deeplvm.networks.masked_convolutions import (
    Answer,
    Conditioning,
    MaskedConvolution,
    Pixelwise,
    Place,
    over,
    spread,
    window_of,
    within,
)


class PixelCNN(Pixelwise):
    r"""Masked convolutions in residual blocks, :math:`h + W_3 a(W_2 * a(W_1 a(h)))`.

    The first convolution reads a window of earlier elements (mask A), the others their own too
    (mask B); a is the rectifier. However many blocks there are, some pixels to the right above
    are out of sight (its blind spot), which costs flexibility and not exactness.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: channels of the hidden layers; inside a block there are half as many.
        blocks: how many there are.
        window: rows, with the pixel's own, and columns that the first convolution reads.
        kernel: columns that the others read, and half as many rows above; with 1 the network
            sees the window and nothing else.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759;
    windows: Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 32,
        blocks: int = 7,
        window: tuple[int, int] = (4, 7),
        kernel: int = 3,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        window_of(window, kernel, "PixelCNN")
        all_of, half = spread(width, self.groups), spread(-(-width // 2), self.groups)
        self.first = over(self.reads, all_of, window, strict=True)
        self.conditioning = Conditioning(self.channels, width)
        inner = (kernel // 2 + 1, kernel)
        self.blocks = nn.ModuleList(
            [
                nn.ModuleList(
                    [within(all_of, half), over(half, half, inner), within(half, all_of)]
                )
                for _ in range(blocks)
            ]
        )
        self.last = Answer(all_of, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""
        hidden = self.conditioning(self.first(image, place), context, place)
        for block in self.blocks:
            change = hidden
            for layer in block:  # type: ignore[attr-defined]
                change = layer(relu(change), place)
            hidden = hidden + change
        return self.last(hidden, image, place)


class GatedPixelCNN(Pixelwise):
    r"""Two stacks of gated convolutions: of the rows above, and of the pixel's own row.

    .. math:: v \leftarrow g(W_v * v, c), \qquad
              h \leftarrow h + W_o\, g(W_h * h + W_{vh} (W_v * v), c), \qquad
              g(a, c) = \tanh(a_1 + V_1 c) \odot \sigma(a_2 + V_2 c)

    The first reads every pixel of the rows above within its reach, to the right too; so no pixel
    is out of sight for long (no blind spot). The context is c.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: channels of each stack.
        layers: how many there are.
        window: rows, with the pixel's own, and columns that the first layer reads.
        kernel: columns that the others read, and half as many rows above; with 1 the network
            sees the window and nothing else.

    Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016),
    https://arxiv.org/abs/1606.05328
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 16,
        layers: int = 8,
        window: tuple[int, int] = (4, 7),
        kernel: int = 3,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        window_of(window, kernel, "GatedPixelCNN", rows=2)
        stack = spread(width, self.groups)
        self.layers = nn.ModuleList()
        for depth in range(layers):
            reads, reach = (stack, (kernel // 2 + 1, kernel)) if depth else (self.reads, window)
            ends = {"first": depth == 0, "last": depth == layers - 1}
            self.layers.append(_Layer(reads, stack, reach, self.channels, **ends))
        self.last = Answer(stack, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""
        layers = cast("list[_Layer]", list(self.layers))

        def above(place: Place | None) -> list[Tensor]:
            """What the rows above say to each layer."""
            said, hidden = [], image
            for layer in layers:
                hidden, to_row = layer.from_above(hidden, context, place)
                said.append(to_row)
            return said

        hidden, all_said = image, above(None) if place is None else place.once_a_row(above)
        for layer, said in zip(layers, all_said, strict=True):
            hidden = layer(hidden, said if place is None else place.here(said), context, place)
        return self.last(hidden, image, place)


class _Layer(nn.Module):
    """One layer of both stacks."""

    def __init__(
        self,
        reads: Tensor,
        stack: Tensor,
        reach: tuple[int, int],
        context: int,
        *,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__()
        rows, columns = reach
        twice, width = stack.repeat(2), 2 * len(stack)  # to be gated
        self.first = first
        # the first layer leaves out the pixel's own row, which those after it may read then
        self.above = MaskedConvolution(
            len(reads),
            width,
            rows=(1 - rows, -1 if first else 0),
            columns=(-(columns // 2), columns // 2),
        )
        self.across = nn.Conv2d(width, width, 1)
        self.beside = over(reads, twice, (1, columns), strict=first)
        self.out = within(stack, stack)
        self.above_context = Conditioning(0 if last else context, width)  # which nothing reads
        self.beside_context = Conditioning(context, width)

    def from_above(
        self, hidden: Tensor, context: Tensor | None, place: Place | None
    ) -> tuple[Tensor, Tensor]:
        """The stack of the rows above, and what it says to the other one."""
        hidden = self.above(hidden, place)
        return gated(self.above_context(hidden, context, place)), self.across(hidden)

    def forward(
        self, hidden: Tensor, said: Tensor, context: Tensor | None, place: Place | None
    ) -> Tensor:
        """The stack of the pixel's own row."""
        change = self.beside_context(self.beside(hidden, place) + said, context, place)
        change = self.out(gated(change), place)
        return change if self.first else hidden + change


def gated(features: Tensor) -> Tensor:
    r""":math:`\tanh(a_1) \odot \sigma(a_2)`, of the halves of the channels."""
    content, gate = features.chunk(2, 1)
    return torch.tanh(content) * torch.sigmoid(gate)
