"""Residual convolutional networks for images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from deeplvm.networks.broadcasting import fold_particles, join
from deeplvm.networks.residual import DepthToSpace, Residual, as_image, half, image_shape


class ConvolutionalEncoder(nn.Module):
    r"""Image to features: at each stage a convolution of stride 2 and a residual block.

    Sizes are halved rounding up, so that any size goes, odd ones too.

    Args:
        shape: the image, ``(channels, height, width)`` or ``(height, width)``. A flat image of as
            many elements is accepted too.
        channels: the width of each stage.
        features: the width of the result.
        context: the width of all further parents together (vectors such as a one-hot label),
            joined to the picture's features before the last layer.
        activation: a module class or function without arguments.

    Shape:
        An image ``(*particles, batch, *shape)``, then vectors ``(*particles, batch, ...)``, give
        ``(*particles, batch, features)``.

    Raises:
        ValueError: the image has another shape, or a further parent another width.

    Examples:
        >>> import torch
        >>> network = ConvolutionalEncoder((3, 17, 30), context=10)
        >>> network(torch.zeros(5, 3, 17, 30), torch.zeros(5, 10)).shape
        torch.Size([5, 256])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        features: int = 256,
        *,
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        self.in_shape = image_shape(shape, "ConvolutionalEncoder")
        self.context = context
        self.out_features = features
        layers: list[nn.Module] = []
        before, height, width = self.in_shape
        for now in channels:
            layers += [nn.Conv2d(before, now, 3, stride=2, padding=1), Residual(now, activation)]
            before, height, width = now, half(height), half(width)
        self.layers = nn.Sequential(*layers, activation(), nn.Flatten())
        pixels = before * height * width
        self.last = nn.Linear(pixels + context, features)
        self.activation = activation()

    def forward(self, image: Tensor, *context: Tensor) -> Tensor:
        """Features of the image and its context, ``(*particles, batch, features)``."""
        weight = self.last.weight
        image = as_image(image, self.in_shape, "ConvolutionalEncoder")
        image = image if image.is_floating_point() else image.to(weight.dtype)
        features = fold_particles(self.layers, 3)(image)
        if self.context or context:
            joined = join(context, self.context, weight, "ConvolutionalEncoder's context")
            total = self.last.in_features
            features = join((features, joined), total, weight, "ConvolutionalEncoder")
        return self.activation(self.last(features))


class ConvolutionalDecoder(nn.Module):
    r"""Features to a map of an image's size: at each stage a residual block and a doubling.

    The mirror of :class:`ConvolutionalEncoder`. Doubling is a convolution whose channels are
    shuffled into space, cut to the size that was halved. The result is a map of features; a
    conditional adds a 1x1 convolution to its parameters.

    Args:
        in_features: the width of all parents together.
        shape: the image, ``(channels, height, width)`` or ``(height, width)``.
        channels: the width of each stage, from the image inwards, as the encoder has them.
        features: the channels of the map that is returned; as many as the first stage's halved,
            at least 8, by default.
        activation: a module class or function without arguments.

    Shape:
        Parents ``(*particles, batch, features_i)`` give ``(*particles, batch, features, height,
        width)``.

    Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network (Shi et al., 2016), https://arxiv.org/abs/1609.05158

    Examples:
        >>> import torch
        >>> ConvolutionalDecoder(20, (3, 17, 30))(torch.zeros(2, 5, 20)).shape
        torch.Size([2, 5, 16, 17, 30])
    """

    def __init__(
        self,
        in_features: int,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        features: int | None = None,
        *,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        _, height, width = image_shape(shape, "ConvolutionalDecoder")
        features = max(8, channels[0] // 2) if features is None else features
        self.in_features = in_features
        self.out_shape = (features, height, width)
        sizes = [(height, width)]
        for _ in channels:
            sizes.append((half(sizes[-1][0]), half(sizes[-1][1])))
        self.first = nn.Linear(in_features, channels[-1] * math.prod(sizes[-1]))
        widths = [features, *channels]
        stages: list[nn.Module] = [nn.Unflatten(-1, (channels[-1], *sizes[-1]))]
        for depth in reversed(range(len(channels))):
            stages += [
                Residual(widths[depth + 1], activation),
                activation(),
                DepthToSpace(widths[depth + 1], (widths[depth], *sizes[depth])),
            ]
        self.layers = nn.Sequential(self.first, *stages, activation())

    def forward(self, *parents: Tensor) -> Tensor:
        """A map of features, ``(*particles, batch, features, height, width)``."""
        joined = join(parents, self.in_features, self.first.weight, "ConvolutionalDecoder")
        return fold_particles(self.layers, 1)(joined)
