"""Convolutions that read earlier pixels only, and what networks made of them have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import conv2d, pad, relu

from deeplvm.networks.causal import Step

Shared = TypeVar("Shared")
Pads = tuple[int, int, int, int]  # left, right, above, below


@dataclass(frozen=True)
class Place:
    """The part of a map that a draw is at, and what layers computed of the parts before it.

    A network that is given one computes a row, or one pixel of it, in place of the whole map.

    Args:
        size: height and width of the map.
        row: the row that is computed.
        start, stop: its columns.
        memory: what is kept from place to place, by layer.
    """

    size: tuple[int, int]
    row: int
    start: int
    stop: int
    memory: dict[object, Any] = field(default_factory=dict)

    def here(self, maps: Tensor) -> Tensor:
        """This part of maps of the whole image or of its row; of one vector for all, that one."""
        if maps.shape[-2] > 1:
            maps = maps[..., self.row : self.row + 1, :]
        return maps[..., self.start : self.stop] if maps.shape[-1] > 1 else maps

    def kept(self, layer: nn.Module, pads: Pads, maps: Tensor) -> Tensor:
        """What a layer reads, with all that came before and with the border that it pads."""
        left, right, top, bottom = [max(0, size) for size in pads]
        if maps.shape[-2:] == self.size:
            return pad(maps, (left, right, top, bottom))
        if layer not in self.memory:
            height, width = self.size
            shape = (*maps.shape[:2], top + height + bottom, left + width + right)
            self.memory[layer] = maps.new_zeros(shape)
        kept: Tensor = self.memory[layer]
        kept[..., top + self.row, left + self.start : left + self.stop] = maps[..., 0, :]
        return kept

    def once_a_row(self, compute: Callable[[Place], Shared]) -> Shared:
        """What the pixels of a row share, computed for all of it at the first of them."""
        row, shared = self.memory.get("row", (None, None))
        if row != self.row:
            shared = compute(replace(self, start=0, stop=self.size[1]))
            self.memory["row"] = self.row, shared
        return shared


class MaskedConvolution(nn.Module):
    r"""A convolution over some rows above a pixel and some columns beside it.

    .. math:: y_{ij} = b + \sum_{r = r_0}^{r_1} \sum_{c = c_0}^{c_1} (M \odot W)_{rc}\,
              x_{i + r, j + c}, \qquad r_1 \le 0

    Args:
        fan_in, fan_out: channels.
        rows: :math:`(r_0, r_1)`; those above are negative, and none is below.
        columns: :math:`(c_0, c_1)`.
        own: which channels of the pixel itself are read, shape ``(fan_out, fan_in)``; nothing to
            the right of it is then. By default nothing is masked.
        stride: 2 for a result of half the size, rounded up.

    Shape:
        ``(rows, fan_in, height, width)`` gives ``(rows, fan_out, height, width)``; at a place,
        that part of the maps gives that part of the result.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759

    Examples:
        >>> layer = MaskedConvolution(1, 1, rows=(-1, 0), columns=(-1, 1), own=torch.zeros(1, 1))
        >>> layer.mask[0, 0].int()
        tensor([[1, 1, 1],
                [1, 0, 0]], dtype=torch.int32)
    """

    mask: Tensor | None

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        *,
        rows: tuple[int, int] = (0, 0),
        columns: tuple[int, int] = (0, 0),
        own: Tensor | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.pads = (-columns[0], columns[1], -rows[0], rows[1])
        self.stride = stride
        height, width = rows[1] - rows[0] + 1, columns[1] - columns[0] + 1
        mask = None
        if own is not None:
            mask = torch.ones(fan_out, fan_in, height, width)
            mask[..., -1, -columns[0] + 1 :] = 0
            mask[..., -1, -columns[0]] = own
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, height, width))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        read = fan_in * height * width if mask is None else float(mask.sum()) / fan_out
        nn.init.normal_(self.weight, std=max(1.0, read) ** -0.5)

    def forward(self, maps: Tensor, place: Place | None = None) -> Tensor:
        """The convolution, of the whole map or at a place."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        if place is None:
            return conv2d(pad(maps, self.pads), weight, self.bias, self.stride)
        height, width = weight.shape[2:]
        kept = place.kept(self, self.pads, maps)[..., place.row : place.row + height, :]
        around = kept[..., place.start : place.stop + width - 1]
        return conv2d(around, weight, self.bias, self.stride)


class Pixelwise(nn.Module, ABC):
    r"""A causal network of images: pixels row after row, and in a pixel its channels in order.

    An element is a channel of a pixel, or all of a pixel; which one, the inputs say.

    Args:
        inputs, outputs: the element that each of them belongs to.
        shape: the image, ``(channels, height, width)``.
        context: shape of the features of the parents: a vector, that every pixel sees, or a map
            of the image's height and width; ``()`` without.

    Attributes:
        size: height and width.
        reads, writes: by input and output of a pixel, the channel that it belongs to, 0 where an
            element is a pixel.
        channels: of the context.

    Raises:
        ValueError: the elements are neither the channels nor the pixels of such an image, or the
            context is neither a vector nor a map of the image's size.
    """

    orders: Tensor
    gather: Tensor
    scatter: Tensor

    def __init__(
        self, inputs: Tensor, outputs: Tensor, shape: Sequence[int], context: Sequence[int]
    ) -> None:
        super().__init__()
        name = type(self).__name__
        elements = int(outputs.max()) + 1
        *_, height, width = self.shape = tuple(shape)
        self.size, pixels = (height, width), height * width
        if len(shape) != 3 or elements not in (pixels, math.prod(shape)):
            raise ValueError(
                f"{name} is of images (channels, height, width), found shape {tuple(shape)} for "
                f"{elements} elements; for vectors and tables take MaskedNetwork."
            )
        if len(context) not in (0, 1) and tuple(context[1:]) != self.size:
            raise ValueError(
                f"{name} takes a context of a vector or of a map of {height} x {width}, found "
                f"shape {tuple(context)}."
            )
        self.context_shape = tuple(context)
        self.channels = context[0] if context else 0
        groups = elements // pixels
        # (inputs or outputs of a pixel, pixels), as places in the flat rows
        gather, scatter = (
            (flat % pixels).argsort(stable=True).reshape(pixels, -1).T
            for flat in (inputs, outputs)
        )
        self.reads, self.writes = inputs[gather[:, 0]] // pixels, outputs[scatter[:, 0]] // pixels
        order = torch.arange(pixels) * groups + torch.arange(groups).unsqueeze(-1)
        for buffer, value in {
            "orders": order.reshape(1, -1),
            "gather": gather.flatten(),
            "scatter": scatter.flatten().argsort(),
        }.items():
            self.register_buffer(buffer, value, persistent=False)
        self.groups = groups
        # the pixels in order, where there is one order: so a graph need not look it up
        self.path: list[int] | None = list(range(pixels))

    @abstractmethod
    def maps(
        self, image: Tensor, context: Tensor | None, order: Tensor, place: Place | None
    ) -> Tensor:
        """The outputs of every pixel, or of that at a place, ``(rows, outputs, height, width)``.

        Args:
            image: ``(rows, inputs, height, width)``.
            context: ``(rows, channels, height, width)``, or of height and width 1.
            order: the place of each pixel in the order, ``(height, width)``.
            place: where a draw is.
        """

    def forward(self, seen: Tensor, positions: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs; :class:`~deeplvm.networks.causal.CausalNetwork` says the shapes."""
        lead = seen.shape[:-1]
        if context is not None:
            lead = torch.broadcast_shapes(lead, context.shape[: self._leading(context)])
        maps = self.maps(
            self._image(seen, lead), self._context(context, lead), self._order(positions), None
        )
        return self._flat(maps, lead)

    def steps(self, lead: Size, positions: Tensor, context: Tensor | None = None) -> Step:
        """A draw that computes at each pixel what is new there, and keeps it."""
        memory: dict[object, Any] = {}
        context, order = self._context(context, lead), self._order(positions)
        pixels = self.path or order.flatten().argsort().tolist()

        def step(seen: Tensor, place: int) -> Tensor:
            row, column = divmod(pixels[place // self.groups], self.size[1])
            here = Place(self.size, row, column, column + 1, memory)
            maps = self.maps(self._image(seen, lead), context, order, here)
            return self._flat(maps.expand(-1, -1, *self.size), lead)

        return step

    def _leading(self, context: Tensor) -> int:
        return context.dim() - len(self.context_shape)

    def _image(self, seen: Tensor, lead: Size) -> Tensor:
        flat = seen[..., self.gather].expand(*lead, -1)
        return flat.reshape(-1, len(self.reads), *self.size)

    def _context(self, context: Tensor | None, lead: Size) -> Tensor | None:
        """With one dimension of rows; a vector is a map of one pixel."""
        if context is None or not self.channels:
            return None
        context = context.expand(*lead, *self.context_shape)
        return context.reshape(-1, *(*self.context_shape, 1, 1)[:3])

    def _order(self, positions: Tensor) -> Tensor:
        return (positions[: math.prod(self.size)] // self.groups).reshape(self.size)

    def _flat(self, maps: Tensor, lead: Size) -> Tensor:
        return maps.flatten(1)[:, self.scatter].reshape(*lead, len(self.scatter))


class Answer(nn.Module):
    r"""From features to outputs, :math:`W_2 a(W_1 a(h + V x))`, a the rectifier.

    Args:
        features: the channel of the image that each feature is for; or, of features that read
            nothing of the pixel itself, how many there are. To these is added what the channels
            x of the pixel say to later ones.
        network: whose inputs and outputs.
    """

    def __init__(self, features: Tensor | int, network: Pixelwise) -> None:
        super().__init__()
        self.own = None
        if isinstance(features, int):
            features = spread(features, network.groups)
            if network.groups > 1:
                self.own = over(network.reads, features, (1, 1), strict=True)
        self.layers = nn.ModuleList([within(features, features), within(features, network.writes)])
        with torch.no_grad():  # small, so that it starts near what there is without it
            self.layers[1].weight.mul_(0.1)  # type: ignore[union-attr,operator]

    def forward(self, features: Tensor, image: Tensor, place: Place | None) -> Tensor:
        """The outputs, of the size of the features."""
        if self.own is not None:
            features = features + self.own(image if place is None else place.here(image))
        for layer in self.layers:
            features = layer(relu(features))
        return features


def spread(width: int, groups: int) -> Tensor:
    """The channel of an image that each hidden channel is for, in order."""
    return torch.arange(width) * groups // width


def over(
    reads: Tensor, writes: Tensor, window: tuple[int, int], *, strict: bool = False
) -> MaskedConvolution:
    """A convolution over a window of rows above and columns, and in the pixel earlier channels.

    Args:
        reads, writes: the channel of the image that each channel of the maps is for.
        window: how many rows, with the pixel's own, and columns, an odd number.
        strict: whether a channel of the image reads those before it alone (mask A) or its own
            too (mask B).
    """
    rows, side = window[0], window[1] // 2
    own = reads < writes.unsqueeze(-1) if strict else reads <= writes.unsqueeze(-1)
    return MaskedConvolution(
        len(reads), len(writes), rows=(1 - rows, 0), columns=(-side, side), own=own
    )


def within(reads: Tensor, writes: Tensor) -> MaskedConvolution:
    """A 1x1 convolution that keeps the order of the channels."""
    return over(reads, writes, (1, 1))


class Conditioning(nn.Module):
    """A linear map of the context, added to features; nothing where there is no context."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, width, 1, bias=False) if channels else None

    def forward(self, features: Tensor, context: Tensor | None, place: Place | None) -> Tensor:
        """The features with what the context adds to them, all of them or at a place."""
        if self.layer is None or context is None:
            return features
        return features + self.layer(context if place is None else place.here(context))


def window_of(window: tuple[int, int], kernel: int, owner: str, rows: int = 1) -> None:
    """Refuse a window or a kernel that no pixel is the middle of."""
    if window[0] < rows or min(window[1], kernel) < 1 or window[1] % 2 == 0 or kernel % 2 == 0:
        raise ValueError(
            f"{owner} expects a window of at least {rows} rows and an odd number of columns, and "
            f"an odd kernel; found window={tuple(window)} and kernel={kernel}."
        )
