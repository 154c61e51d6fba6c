"""A canvas that a picture is drawn on in steps, and what there is left to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from deeplvm.networks.attention import GaussianAttention
from deeplvm.networks.broadcasting import join
from deeplvm.networks.features import out_shape_of


class LastStep(nn.Module):
    """The last step of a name of a Recurrent, as a node ``"l | c"``.

    Args:
        shape: Of one step.

    Shape:
        ``(*particles, batch, steps, *shape)`` to ``(*particles, batch, *shape)``.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.out_shape = tuple(shape)

    def forward(self, steps: Tensor) -> Tensor:
        """The value of the last step."""
        return steps.select(-1 - len(self.out_shape), -1)


class Canvas(nn.Module):
    """A picture as the features of a likelihood, which starts with it as its first parameter.

    Args:
        shape: ``(channels, height, width)``.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.out_shape = tuple(shape)

    @staticmethod
    def initialization(layer: Any) -> None:
        """The 1x1 convolution to a likelihood's parameters, at first of the canvas itself."""
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)

    def forward(self, canvas: Tensor) -> Tensor:
        """The canvas itself."""
        return canvas


class ErrorImage(nn.Module):
    r"""A picture beside what a canvas lacks of it, :math:`(x, x - E[x | c])`.

    Args:
        likelihood: The conditional ``"x | c"``, of a distribution with a mean.

    Shape:
        Pictures ``(*particles, batch, channels, height, width)`` and canvases ``(*particles,
        batch, *canvas)`` give ``(*particles, batch, 2 * channels, height, width)``.
    """

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, x: Tensor, canvas: Tensor) -> Tensor:
        """The picture, and what is left of it."""
        mean = self.likelihood(canvas).mean
        embed = getattr(self.likelihood, "embed", None)
        left = x - (mean if embed is None else embed(mean))
        return join((x, left), 2 * x.shape[-3], left, "ErrorImage", 3)


class AddToCanvas(nn.Module):
    r"""A canvas that a network adds to, :math:`c_t = c_{t-1} + f(h_t)`: a node ``"c | h, c[-1]"``.

    Args:
        network: f, from maps or vectors to a canvas; it says its ``out_shape``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.out_shape = out_shape_of(network)

    def forward(self, features: Tensor, canvas: Tensor) -> Tensor:
        """The canvas with what is added, shape ``(*particles, batch, *canvas)``."""
        return canvas + self.network(features)


class Read(nn.Module):
    r"""What a step of DRAW reads: the picture and what is left of it, whole or through a window.

    Args:
        likelihood: The conditional ``"x | c"``.
        shape: Of a picture, ``(channels, height, width)``.
        hidden: Width of the decoder's output, which chooses the window.
        filters: Side of the glimpse; ``None`` reads all.

    Shape:
        x, the canvas and the decoder's output give ``(*particles, batch, out_features)``.
    """

    def __init__(
        self, likelihood: nn.Module, shape: Sequence[int], hidden: int, filters: int | None
    ) -> None:
        super().__init__()
        channels, *size = shape
        self.left = ErrorImage(likelihood)
        self.window = _window(hidden, size, filters)
        pixels = math.prod(size) if filters is None else filters**2
        self.out_features = 2 * channels * pixels + hidden

    def forward(self, x: Tensor, canvas: Tensor, hidden: Tensor) -> Tensor:
        """Pixels, and the decoder's output."""
        seen = self.left(x, canvas)
        if self.window is not None:
            seen = self.window(hidden).read(seen)
        return join((seen.flatten(-3), hidden), self.out_features, hidden, "Read")


class Write(nn.Module):
    r"""What a step of DRAW adds to the canvas, :math:`c_t = c_{t-1} + \mathrm{write}(h_t)`.

    Args:
        hidden: Width of the decoder's output.
        shape: Of the canvas, ``(channels, height, width)``.
        filters: Side of the patch; ``None`` writes all.

    Shape:
        The decoder's output and the canvas before give the canvas.
    """

    def __init__(self, hidden: int, shape: Sequence[int], filters: int | None) -> None:
        super().__init__()
        channels, *size = shape
        self.out_shape = tuple(shape)
        self.window = _window(hidden, size, filters)
        self.patch = (channels, *(size if filters is None else (filters, filters)))
        self.layer = nn.Linear(hidden, math.prod(self.patch))

    def forward(self, hidden: Tensor, canvas: Tensor) -> Tensor:
        """The canvas with what is added."""
        added = self.layer(hidden).unflatten(-1, self.patch)
        return canvas + (added if self.window is None else self.window(hidden).write(added))


def _window(hidden: int, size: Sequence[int], filters: int | None) -> GaussianAttention | None:
    return None if filters is None else GaussianAttention(hidden, (size[0], size[1]), filters)
