"""Attention from each pixel to those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from deeplvm.networks.masked_convolutions import Answer, Conditioning, Pixelwise, Place


class CausalAttention(Pixelwise):
    r"""A transformer over the pixels: each attends to itself and to those before it.

    A token is the pixel before, with what is learned of the place of its own; so all earlier
    pixels are in sight from the first block on. A block is
    :math:`h \leftarrow h + \mathrm{attention}(n(h))`, :math:`h \leftarrow h + f(n(h))`, n the
    layer normalisation and f two layers with a GELU between.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: of a token; a multiple of the heads.
        blocks: how many there are.
        heads: of the attention of each.

    Raises:
        ValueError: the width is no multiple of the heads.

    Image Transformer (Parmar et al., 2018), https://arxiv.org/abs/1802.05751, without its limits
    of what is attended to; Generative Pretraining from Pixels (Chen et al., 2020)
    """

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 32,
        blocks: int = 4,
        heads: int = 2,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        if width % heads:
            raise ValueError(
                f"CausalAttention expects a width that is a multiple of its heads, found "
                f"width={width} and heads={heads}."
            )
        self.token = nn.Conv2d(len(self.reads), width, 1)
        # of the rows and of the columns
        self.rows = nn.Parameter(0.1 * torch.randn(width, self.size[0], 1))
        self.columns = nn.Parameter(0.1 * torch.randn(width, 1, self.size[1]))
        self.conditioning = Conditioning(self.channels, width)
        self.blocks = nn.ModuleList([_Block(width, heads) for _ in range(blocks)])
        self.normalise = nn.LayerNorm(width)
        self.last = Answer(width, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""
        # the first pixel has zeros before it
        before = pad(image.flatten(2), (1, -1)).unflatten(-1, self.size)
        own = (self.rows + self.columns).unsqueeze(0)
        if place is not None:
            before, own = place.here(before), place.here(own)
        tokens = self.conditioning(self.token(before) + own, context, place)
        sizes = tokens.shape[-2:]
        hidden = tokens.flatten(2).transpose(1, 2)  # (rows, pixels, width)
        for block in self.blocks:
            hidden = block(hidden, place)
        features = self.normalise(hidden).transpose(1, 2).unflatten(-1, sizes)
        return self.last(features, image, place)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.normalise = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.asked = nn.Linear(width, 3 * width)
        self.answered = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor, place: Place | None) -> Tensor:
        """Tokens ``(rows, pixels, width)``; at a place one, whose keys and values are kept."""
        asked = self.asked(self.normalise[0](hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = asked.permute(2, 0, 3, 1, 4)  # each (rows, heads, pixels, features)
        if place is not None:
            pixel = place.row * place.size[1] + place.start
            if self not in place.memory:
                rows, heads, _, features = key.shape
                shape = (2, rows, heads, math.prod(place.size), features)
                place.memory[self] = key.new_zeros(shape)
            kept: Tensor = place.memory[self]
            kept[..., pixel, :] = torch.stack([key, value])[..., 0, :]
            key, value = kept[..., : pixel + 1, :]
        found = scaled_dot_product_attention(query, key, value, is_causal=place is None)
        hidden = hidden + self.answered(found.transpose(1, 2).flatten(2))
        return hidden + self.outer(gelu(self.inner(self.normalise[1](hidden))))
