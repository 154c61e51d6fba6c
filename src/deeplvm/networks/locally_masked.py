"""Convolutions masked pixel by pixel, for any order of the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.rnn import pad_sequence

from deeplvm.networks.masked_convolutions import (
    Answer,
    Conditioning,
    Pixelwise,
    Place,
    window_of,
)
from deeplvm.networks.shifted_convolutions import two_sided


class LocallyMaskedPixelCNN(Pixelwise):
    r"""Gated residual blocks of convolutions whose masks differ from pixel to pixel.

    .. math:: y_p = b + \sum_t 1[\pi(p + t) \le \pi(p)]\, W_t x_{p + t}

    :math:`\pi` is the place in the order and t goes over a square; the first layer leaves out the
    pixel itself. The same weights serve all orders: S-curves along the rows and along the
    columns, from each corner. Training takes one of them at a time; a likelihood is the mean over
    all, and a pixel is drawn given others the better, the more of them come first in some order.

    Args:
        inputs, outputs, shape, context: as :class:`Pixelwise` has them.
        width: channels of the hidden layers.
        blocks: how many there are, of two convolutions each.
        kernel: the side of the square, an odd number; of the first layer 4 more.
        curves: how many orders, 1 to 8.

    Raises:
        ValueError: another number of orders, or an even kernel.

    Locally Masked Convolution for Autoregressive Models (Jain et al., 2020),
    https://arxiv.org/abs/2006.12486
    """

    curves: Tensor
    masks: Tensor
    which: Tensor

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        shape: Sequence[int],
        context: Sequence[int] = (),
        width: int = 16,
        blocks: int = 4,
        kernel: int = 3,
        curves: int = 8,
    ) -> None:
        super().__init__(inputs, outputs, shape, context)
        window_of((1, 1), kernel, "LocallyMaskedPixelCNN")
        if not 1 <= curves <= 8:
            raise ValueError(
                f"LocallyMaskedPixelCNN has 1 to 8 orders of the pixels, found curves={curves}."
            )
        order = s_curves(self.size)[:curves]
        self.kernel, first = kernel, kernel + 4
        found = [local_masks(each, first) for each in order]
        channel = torch.arange(self.groups).repeat_interleave(order[0].numel())
        for name, buffer in {
            "curves": order,
            "orders": order.flatten(1).repeat(1, self.groups) * self.groups + channel,
            "masks": pad_sequence([masks for masks, _ in found], batch_first=True),
            "which": torch.stack([which for _, which in found]),
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.path = order[0].flatten().argsort().tolist() if curves == 1 else None
        self.first = _Convolution(len(self.reads), width, first)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            block = {
                "inner": _Convolution(2 * width, width, kernel),
                "outer": _Convolution(2 * width, 2 * width, kernel),
                "context": Conditioning(self.channels, 2 * width),
            }
            self.blocks.append(nn.ModuleDict(block))
        self.last = Answer(width, self)

    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place."""
        curve = (self.curves == order).flatten(1).all(1).to(torch.uint8).argmax(0, keepdim=True)
        masks, which = self.masks[curve].squeeze(0), self.which[curve].squeeze(0)
        hidden = self.first(image, masks, which, place)
        # the first layer's are wider, and leave out the pixel itself
        masks = masks[:, 2:-2, 2:-2].clone()
        masks[:, self.kernel // 2, self.kernel // 2] = 1
        for block in self.blocks:
            change = block["inner"](two_sided(hidden), masks, which, place)  # type: ignore[index,operator]
            change = block["outer"](two_sided(change), masks, which, place)  # type: ignore[index,operator]
            change = block["context"](change, context, place)  # type: ignore[index,operator]
            content, gate = change.chunk(2, 1)
            hidden = hidden + content * torch.sigmoid(gate)
        return self.last(hidden, image, place)


class _Convolution(nn.Module):
    """A convolution with a mask of its own at each pixel, of a few that there are."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int) -> None:
        super().__init__()
        side = kernel // 2
        self.pads = (side, side, side, side)
        std = (0.5 * fan_in * kernel**2) ** -0.5  # about half of the square comes before
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel) * std)
        self.bias = nn.Parameter(torch.zeros(fan_out))

    def forward(self, maps: Tensor, masks: Tensor, which: Tensor, place: Place | None) -> Tensor:
        """The convolution, of the whole map or at a place.

        Args:
            masks: those that there are, ``(masks, kernel, kernel)``.
            which: the mask of each pixel, ``(height, width)``.
        """
        if place is not None:
            height, width = self.weight.shape[2:]
            kept = place.kept(self, self.pads, maps)[..., place.row : place.row + height, :]
            around = kept[..., place.start : place.stop + width - 1]
            mask = masks[which[place.row, place.start]]
            return conv2d(around, self.weight * mask, self.bias)
        around = pad(maps, self.pads)
        total = conv2d(around, self.weight * masks[0], self.bias)
        for index in range(1, len(masks)):
            other = conv2d(around, self.weight * masks[index], self.bias)
            total = torch.where(which == index, other, total)
        return total


def local_masks(order: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Which of the pixels around each one come before it, by as few masks as there need be.

    Pixels share a mask where it says the same of what is inside the image for both.

    Args:
        order: the place of each pixel, ``(height, width)``.
        kernel: the side of the square around a pixel.

    Returns:
        The masks, ``(masks, kernel, kernel)``, and the mask of each pixel, ``(height, width)``.

    Examples:
        >>> masks, which = local_masks(s_curves((3, 3))[0], 3)
        >>> masks
        tensor([[[1., 1., 1.],
                 [0., 0., 1.],
                 [0., 0., 0.]],
        <BLANKLINE>
                [[1., 1., 1.],
                 [1., 0., 0.],
                 [0., 0., 0.]]])
        >>> which
        tensor([[1, 1, 1],
                [0, 0, 0],
                [1, 1, 1]])
    """
    side = kernel // 2
    around = pad(order, (side,) * 4, value=-1).unfold(0, kernel, 1).unfold(1, kernel, 1)
    inside = around >= 0
    seen = (around < order[..., None, None]) & inside
    masks: list[tuple[Tensor, Tensor]] = []  # what is seen, and what is known of it
    which = torch.empty(order.numel(), dtype=torch.long)
    # the inner pixels know most of a mask
    ranked = inside.flatten(2).sum(-1).flatten().argsort(descending=True, stable=True)
    for pixel in ranked.tolist():
        own, known = seen.flatten(0, 1)[pixel], inside.flatten(0, 1)[pixel]
        for index, (mask, said) in enumerate(masks):
            if not ((own != mask) & known & said).any():
                masks[index] = mask | own, said | known
                which[pixel] = index
                break
        else:
            which[pixel] = len(masks)
            masks.append((own, known))
    found = torch.stack([mask for mask, _ in masks]).to(torch.get_default_dtype())
    return found, which.reshape(order.shape)


def s_curves(size: tuple[int, int]) -> Tensor:
    """Eight orders of the pixels: there and back along rows or columns, from each corner.

    Returns:
        The place of each pixel in each order, ``(8, height, width)``.

    Examples:
        >>> s_curves((3, 3))[0]
        tensor([[0, 1, 2],
                [5, 4, 3],
                [6, 7, 8]])
    """
    orders = []
    for along_columns in (False, True):
        height, width = reversed(size) if along_columns else size
        curve = torch.arange(height * width).reshape(height, width)
        curve[1::2] = curve[1::2].flip(1)
        curve = curve.T if along_columns else curve
        orders += [curve, curve.flip(1), curve.flip(0), curve.flip(0, 1)]
    return torch.stack(orders)
