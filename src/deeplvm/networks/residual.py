"""Residual networks of feature maps: joined, halved, doubled, and refined at one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from deeplvm.networks.broadcasting import fold_particles

MapShape = Sequence[int]  # (channels, height, width)
# made with the arguments of nn.Conv2d: (fan_in, fan_out, kernel, *, stride, padding)
Convolution = Callable[..., nn.Module]


class Residual(nn.Module):
    r"""Pre-activation residual block :math:`h + s\, f(a(f(a(h))))`, f a 3x3 convolution.

    Identity Mappings in Deep Residual Networks (He et al., 2016),
    https://arxiv.org/abs/1603.05027

    Args:
        channels: of the maps.
        activation: a, a module class or function without arguments.
        gated: whether what is added goes through a gate, :math:`u \odot \sigma(v)` with
            :math:`(u, v)` a 1x1 convolution of it. Conditional Image Generation with PixelCNN
            Decoders (van den Oord et al., 2016), https://arxiv.org/abs/1606.05328
        convolution: f.
        width: channels of the convolutions inside, where they are not as many: 1x1 convolutions
            lead there and back.
        scale: s; one over the root of the number of blocks keeps the variance of a deep stack.
    """

    def __init__(
        self,
        channels: int,
        activation: Callable[[], nn.Module],
        *,
        gated: bool = False,
        convolution: Convolution = nn.Conv2d,
        width: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        inside = channels if width is None else width
        narrow = [] if width is None else [activation(), convolution(channels, width, 1)]
        wide = [] if width is None else [activation(), convolution(width, channels, 1)]
        self.layers = nn.Sequential(
            *narrow,
            activation(),
            convolution(inside, inside, 3, padding=1),
            activation(),
            convolution(inside, inside, 3, padding=1),
            *wide,
        )
        if gated:
            self.layers.extend([convolution(channels, 2 * channels, 1), nn.GLU(-3)])

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, ``(rows, channels, height, width)``."""
        return torch.add(features, self.layers(features), alpha=self.scale)


class ResidualNetwork(nn.Module):
    r"""Maps of one size joined, brought to the size of the result, and sent through blocks.

    .. math:: h_0 = r\bigl(m_1 + s \textstyle\sum_{i > 1} W_i m_i\bigr), \qquad
              h_k = h_{k-1} + s\, f_k(h_{k-1})

    The first map is carried on as it is, where it has as many channels as the result, so that a
    stack of such networks is one residual path from end to end; all others are projected by 1x1
    convolutions W. r halves the size (a convolution of stride 2, rounding up), doubles it
    (:class:`DepthToSpace`) or leaves it.

    Args:
        in_shapes: the shape of each parent, ``(channels, height, width)``, all of one size.
        out_shape: the shape of the result: of that size, half or twice as high and wide.
        blocks: how many residual blocks; without any it only joins and resizes.
        gated, activation, convolution, width: of the blocks; see :class:`Residual`.
        scale: s, of the blocks and of what joins; one over the root of the depth for a deep stack,
            whose variance would grow from network to network.

    Shape:
        Parents ``(*particles, batch, *in_shapes[i])`` that broadcast give
        ``(*particles, batch, *out_shape)``.

    Raises:
        ValueError: the sizes do not go together, or parents have other shapes.

    Examples:
        >>> network = ResidualNetwork([(8, 4, 4), (2, 4, 4)], (8, 7, 7))
        >>> network(torch.zeros(3, 8, 4, 4), torch.zeros(5, 3, 2, 4, 4)).shape
        torch.Size([5, 3, 8, 7, 7])
    """

    def __init__(
        self,
        in_shapes: Sequence[MapShape],
        out_shape: MapShape,
        blocks: int = 1,
        *,
        gated: bool = True,
        activation: Callable[[], nn.Module] = nn.ELU,
        convolution: Convolution = nn.Conv2d,
        width: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_shapes = [tuple(shape) for shape in in_shapes]
        self.out_shape = tuple(out_shape)
        self.scale = scale
        channels, *to = self.out_shape
        sizes = {shape[1:] for shape in self.in_shapes}
        if len(sizes) != 1:
            raise ValueError(
                f"ResidualNetwork joins maps of one size, found {self.in_shapes}; bring the "
                "others to it first, each by a network of its own."
            )
        at = list(*sizes)
        self.joined = nn.ModuleList(
            [
                nn.Identity() if place == 0 and own == channels else convolution(own, channels, 1)
                for place, (own, *_) in enumerate(self.in_shapes)
            ]
        )
        self.layers = nn.Sequential()
        if at != to and at == [half(size) for size in to]:
            self.layers.append(DepthToSpace(channels, self.out_shape, convolution=convolution))
        elif at != to and to == [half(size) for size in at]:
            self.layers.append(convolution(channels, channels, 3, stride=2, padding=1))
        elif at != to:
            raise ValueError(
                f"ResidualNetwork halves a size, doubles it or leaves it, but {tuple(at)} to "
                f"{tuple(to)} is none of these; go there in steps."
            )
        block = partial(
            Residual, channels, activation, gated=gated, convolution=convolution, width=width
        )
        self.layers.extend([block(scale=scale) for _ in range(blocks)])

    @staticmethod
    @torch.no_grad()
    def initialization(head: nn.Linear | nn.Conv2d) -> None:
        """A conditional's map to its own parameters starts near zero.

        So latents start near a standard normal in q and in p alike, however deep the path.
        """
        head.weight.mul_(0.1)
        if head.bias is not None:
            nn.init.zeros_(head.bias)

    def forward(self, *maps: Tensor) -> Tensor:
        """The features, shape ``(*particles, batch, *out_shape)``."""
        found = [tuple(each.shape[-3:]) for each in maps]
        if found != self.in_shapes:
            raise ValueError(
                f"ResidualNetwork expects maps of the shapes {self.in_shapes}, found {found}."
            )
        features = _last(self.joined[0], maps[0])
        for layer, each in zip(self.joined[1:], maps[1:], strict=True):
            features = torch.add(features, _last(layer, each), alpha=self.scale)
        return _last(self.layers, features) if len(self.layers) else features


class SpaceToDepth(nn.Module):
    r"""An image as features of half its size: four neighbours each, and a 3x3 convolution.

    A quarter of the pixels cost a quarter of the multiplications in all that follows. Odd sizes
    are filled up with zeros.

    Args:
        shape: the image, ``(channels, height, width)`` or ``(height, width)``; a flat one of as
            many elements is accepted too.
        channels: of the result.
        convolution: made with the arguments of ``nn.Conv2d``.

    Shape:
        ``(*particles, batch, *shape)`` gives ``(*particles, batch, channels, height', width')``
        with half the height and width, rounded up.

    Examples:
        >>> SpaceToDepth((3, 17, 30), 8)(torch.zeros(5, 3, 17, 30)).shape
        torch.Size([5, 8, 9, 15])
    """

    def __init__(
        self, shape: Sequence[int], channels: int, *, convolution: Convolution = nn.Conv2d
    ) -> None:
        super().__init__()
        self.in_shape = image_shape(shape, "SpaceToDepth")
        own, height, width = self.in_shape
        self.out_shape = (channels, half(height), half(width))
        self.layer = convolution(4 * own, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Features of the image, ``(*particles, batch, *out_shape)``."""
        image = as_image(image, self.in_shape, "SpaceToDepth")
        return _last(self._halved, image.to(next(self.layer.parameters()).dtype))

    def _halved(self, image: Tensor) -> Tensor:
        _, height, width = self.in_shape
        return self.layer(pixel_unshuffle(pad(image, (0, width % 2, 0, height % 2)), 2))


class DepthToSpace(nn.Module):
    r"""Features of twice the size: a 3x3 convolution whose channels are shuffled into space.

    The mirror of :class:`SpaceToDepth`, cut to the size that was halved.

    Args:
        in_channels: of the maps.
        out_shape: the shape of the result, ``(channels, height, width)``.
        activation: what the maps go through before and after; nothing by default.
        convolution: made with the arguments of ``nn.Conv2d``.

    Shape:
        ``(*particles, batch, in_channels, height', width')`` gives ``(*particles, batch,
        *out_shape)``.

    Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network (Shi et al., 2016), https://arxiv.org/abs/1609.05158
    """

    def __init__(
        self,
        in_channels: int,
        out_shape: MapShape,
        *,
        activation: Callable[[], nn.Module] = nn.Identity,
        convolution: Convolution = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.activation = activation()
        self.layer = convolution(in_channels, 4 * self.out_shape[0], 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """The features at twice their size, ``(*particles, batch, *out_shape)``."""
        return _last(self._doubled, features)

    def _doubled(self, features: Tensor) -> Tensor:
        _, height, width = self.out_shape
        doubled = pixel_shuffle(self.layer(self.activation(features)), 2)[..., :height, :width]
        return self.activation(doubled)


def _last(function: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """A function of maps whose channels lie last in memory: convolutions are faster so.

    A compiler chooses for itself.
    """

    def folded(rows: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            rows = rows.contiguous(memory_format=torch.channels_last)
        return function(rows)

    return fold_particles(folded, 3)(maps)


def half(size: int) -> int:
    """Half of it, rounded up."""
    return (size + 1) // 2


def image_shape(shape: Sequence[int], owner: str) -> tuple[int, int, int]:
    """The shape of an image, ``(channels, height, width)``.

    Raises:
        ValueError: it is that of something else.
    """
    sizes = tuple(shape)
    if len(sizes) == 2:
        sizes = (1, *sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"{owner} expects the shape of an image, (channels, height, width) or (height, "
            f"width), found {tuple(shape)}; for a vector use MLP."
        )
    return sizes


def as_image(image: Tensor, shape: tuple[int, int, int], owner: str) -> Tensor:
    """An image, flat or without its one channel as it may be, in the shape that it has.

    Raises:
        ValueError: it has another.
    """
    if image.shape[-3:] == shape:
        return image
    if image.ndim > 0 and image.shape[-1] == math.prod(shape):
        return image.unflatten(-1, shape)
    if shape[0] == 1 and image.shape[-2:] == shape[1:]:
        return image.unsqueeze(-3)
    raise ValueError(
        f"{owner} expects an image of shape (*particles, batch, {', '.join(map(str, shape))}), "
        f"or flat with {math.prod(shape)} elements, found {tuple(image.shape)}."
    )
