"""Objects in a picture: cut out of it, and put into it, through a window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from deeplvm.networks.attention import SpatialTransformer, placed
from deeplvm.networks.mlp import MLP


class Placement(nn.Module):
    r"""Three standard normal numbers as the size and place of an object's window.

    .. math:: s = a \exp(w_1 / 4), \qquad b = (w_2, w_3) / 2

    Args:
        share: a, the share of each side of the picture that objects take.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, shape ``(*particles, batch)``, and shift, shape ``(*particles, batch, 2)``."""
        return self.share * (0.25 * where[..., 0]).exp(), 0.5 * where[..., 1:]


class Cut(nn.Module):
    """What a window shows of a picture: a node ``"g | x, where"``.

    Args:
        channels: Of the picture.
        window: Side of what is put out.
        placement: From ``where`` to the window.

    Shape:
        A picture ``(*particles, batch, channels, height, width)`` and ``(*particles, batch, 3)``
        give ``(*particles, batch, channels * window ** 2)``.
    """

    def __init__(self, channels: int, window: int, placement: Placement) -> None:
        super().__init__()
        self.out_features = channels * window**2
        self.placement, self.through = placement, SpatialTransformer((window, window))

    def forward(self, picture: Tensor, where: Tensor) -> Tensor:
        """The object as features."""
        return self.through(picture, placed(*self.placement(where))).flatten(-3)


class Paste(nn.Module):
    r"""A canvas with one more object, if it is there: ``"c | present, where, what, c[-1]"``.

    .. math:: c_t = c_{t-1} + n_t\, T_{w_t}(\mathrm{softplus}(f(y_t)))

    Args:
        shape: Of the canvas, ``(channels, height, width)``.
        window: Side of an object.
        what: Width of what is said of it, y.
        hidden: Widths of f's hidden layers.
        placement: From ``where`` to the window.
    """

    def __init__(
        self,
        shape: Sequence[int],
        window: int,
        what: int,
        hidden: Sequence[int],
        placement: Placement,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.out_shape = tuple(shape)
        self.placement, self.through = placement, SpatialTransformer((height, width))
        features = MLP(what, *hidden)
        self.patch = (channels, window, window)
        pixels = torch.Size(self.patch).numel()
        self.network = nn.Sequential(features, nn.Linear(features.out_features, pixels))

    def forward(self, present: Tensor, where: Tensor, what: Tensor, canvas: Tensor) -> Tensor:
        """The canvas, shape ``(*particles, batch, *shape)``."""
        look = softplus(self.network(what)).unflatten(-1, self.patch)
        put = self.through(look, placed(*self.placement(where), back=True))
        return canvas + present[..., None, None] * put
