"""PixelRNN: a row of pixels after another, each remembering the rows above."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deeplvm.networks.masked_convolutions import (
    Answer,
    Conditioning,
    MaskedConvolution,
    Pixelwise,
    Place,
    over,
    window_of,
)


class RowLSTM(Pixelwise):
    r"""Long short-term memories that go down the rows, with convolutions along them.

    .. math:: (o, f, i, g) = K_s * h_{r-1} + K_x * x_r, \qquad
              c_r = \sigma(f) c_{r-1} + \sigma(i) \tanh(g), \qquad h_r = \sigma(o) \tanh(c_r)

    :math:`K_x` is masked; so a pixel remembers the triangle above it and what is before it in the
    row. A first masked convolution reads the image, and layers are residual. In training the rows
    follow each other, and the pixels of a row are computed together.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: channels of each layer.
        layers: how many there are.
        window: rows, with the pixel's own, and columns that the first convolution reads.
        kernel: columns that the others read.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 16,
        layers: int = 2,
        window: tuple[int, int] = (4, 7),
        kernel: int = 3,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        window_of(window, kernel, "RowLSTM")
        all_of = torch.zeros(width, dtype=torch.long)
        before = torch.zeros_like(self.reads)  # no channel of the pixel itself
        self.first = over(before, all_of, window, strict=True)
        self.conditioning = Conditioning(self.channels, width)
        self.layers = nn.ModuleList([_Layer(width, kernel) for _ in range(layers)])
        self.last = Answer(width, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""
        hidden = self.conditioning(self.first(image, place), context, place)
        for layer in self.layers:
            hidden = hidden + layer(hidden, place)
        return self.last(hidden, image, place)


class _Layer(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        side, every = kernel // 2, torch.zeros(4 * width, dtype=torch.long)
        self.width = width
        self.input = over(every[:width], every, (1, kernel))
        self.state = MaskedConvolution(width, 4 * width, columns=(-side, side))

    def forward(self, features: Tensor, place: Place | None) -> Tensor:
        """The states of all rows, or of a pixel."""
        said = self.input(features, place)
        if place is None:
            state = cell = said.new_zeros(len(said), self.width, 1, said.shape[-1])
            states = []
            for row in said.split(1, 2):
                state, cell = _step(row + self.state(state), cell)
                states.append(state)
            return torch.cat(states, 2)
        height, columns = place.size
        if self not in place.memory:  # states and cells, after a row of zeros
            shape = (2, len(said), self.width, height + 1, columns)
            place.memory[self] = said.new_zeros(shape)
        kept: Tensor = place.memory[self]
        states, cells = kept[..., place.row : place.row + 1, :]
        state, cell = _step(said + place.here(self.state(states)), place.here(cells))
        kept[..., place.row + 1, place.start : place.stop] = torch.stack([state, cell])[..., 0, :]
        return state


def _step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    output, forget, enter, content = gates.chunk(4, 1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(content)
    return torch.sigmoid(output) * torch.tanh(cell), cell
