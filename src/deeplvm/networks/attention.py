"""Where a network looks and draws: grids of Gaussian filters, affine windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from deeplvm.networks.broadcasting import fold_particles


@dataclass(frozen=True)
class Window:
    """A grid of N x N Gaussian filters over a picture of height A and width B.

    Attributes:
        rows: Shape ``(*particles, batch, N, A)``; each filter sums to 1.
        columns: Shape ``(*particles, batch, N, B)``; each filter sums to 1.
        intensity: Shape ``(*particles, batch, 1, 1, 1)``.
    """

    rows: Tensor
    columns: Tensor
    intensity: Tensor

    def read(self, image: Tensor) -> Tensor:
        r"""The glimpse :math:`\gamma F_Y x F_X^\top` of each channel.

        From ``(*particles, batch, channels, A, B)`` to ``(*particles, batch, channels, N, N)``.
        """
        rows, columns = self.rows.unsqueeze(-3), self.columns.unsqueeze(-3)
        return self.intensity * (rows @ image @ columns.mT)

    def write(self, patch: Tensor) -> Tensor:
        r"""The picture :math:`\gamma^{-1} F_Y^\top w F_X` of a patch, the other way."""
        rows, columns = self.rows.unsqueeze(-3), self.columns.unsqueeze(-3)
        return (rows.mT @ patch @ columns) / self.intensity


def filter_bank(centre: Tensor, stride: Tensor, scale: Tensor, filters: int, size: int) -> Tensor:
    r"""Gaussian filters at equal distances along an axis, each of sum 1.

    .. math:: F_{ia} \propto \exp(-(a - \mu_i)^2 / 2 \sigma^2), \qquad
              \mu_i = g + (i - N / 2 + 1 / 2) \delta

    A filter whose centre lies outside the axis weighs its nearest end, and still sums to 1.

    Args:
        centre, stride, scale: g, delta and sigma in pixels, 0 the middle of the first one; shape
            ``(*particles, batch)``.
        filters: N.
        size: Pixels of the axis.

    Returns:
        Shape ``(*particles, batch, filters, size)``.

    Examples:
        >>> bank = filter_bank(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(0.1), 4, 4)
        >>> torch.allclose(bank, torch.eye(4))
        True
    """
    steps = torch.arange(filters, dtype=centre.dtype, device=centre.device) - (filters - 1) / 2
    pixels = torch.arange(size, dtype=centre.dtype, device=centre.device)
    means = centre.unsqueeze(-1) + steps * stride.unsqueeze(-1)
    distance = (pixels - means.unsqueeze(-1)) / scale[..., None, None]
    return (-0.5 * distance.square()).softmax(-1)


class GaussianAttention(nn.Module):
    r"""A :class:`Window` that features choose: its middle, stride, width and intensity.

    Five numbers are linear in the features: :math:`(\tilde g_X, \tilde g_Y, \log \sigma^2, \log
    \tilde\delta, \log \gamma)`. With all of them 0 the window is the whole picture.

    DRAW: A Recurrent Neural Network For Image Generation (Gregor et al., 2015),
    https://arxiv.org/abs/1502.04623, section 3.2

    Args:
        in_features: Width of the features.
        size: Height and width of the picture.
        filters: N, the side of a glimpse.

    Examples:
        >>> window = GaussianAttention(8, (28, 28), 5)(torch.zeros(3, 8))
        >>> window.read(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 1, 5, 5])
    """

    def __init__(self, in_features: int, size: tuple[int, int], filters: int) -> None:
        super().__init__()
        if filters < 1:
            raise ValueError(f"GaussianAttention expects filters of at least 1, found {filters}.")
        self.size, self.filters = size, filters
        self.numbers = nn.Linear(in_features, 5)

    def forward(self, features: Tensor) -> Window:
        """The window for features of shape ``(*particles, batch, in_features)``."""
        numbers = self.numbers(features)
        middle, (log_variance, log_stride, log_intensity) = (
            numbers[..., :2],
            numbers[..., 2:].unbind(-1),
        )
        stride = (max(self.size) - 1) / max(self.filters - 1, 1) * log_stride.exp()
        banks = [
            filter_bank(
                (side + 1) / 2 * (place + 1) - 1,
                stride,
                (0.5 * log_variance).exp(),
                self.filters,
                side,
            )
            for side, place in zip(self.size, middle.flip(-1).unbind(-1), strict=True)
        ]
        return Window(banks[0], banks[1], log_intensity.exp()[..., None, None, None])


class SpatialTransformer(nn.Module):
    r"""A picture seen through an affine window: output(u) = picture(A u + b), bilinear.

    Coordinates go from -1 to 1 along each axis, as (x, y); outside the picture all is 0.

    Spatial Transformer Networks (Jaderberg et al., 2015), https://arxiv.org/abs/1506.02025

    Args:
        size: Height and width of what is put out.

    Shape:
        Pictures ``(*particles, batch, channels, height, width)`` and maps (A b) of shape
        ``(*particles, batch, 2, 3)`` give ``(*particles, batch, channels, *size)``.

    Examples:
        >>> image, identity = torch.rand(5, 1, 8, 8), torch.eye(2, 3)
        >>> torch.allclose(SpatialTransformer((8, 8))(image, identity), image, atol=1e-6)
        True
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor, affine: Tensor) -> Tensor:
        """The picture through the window, zero where the window leaves it."""
        leading = torch.broadcast_shapes(image.shape[:-3], affine.shape[:-2])
        image = image.expand(*leading, *image.shape[-3:])
        affine = affine.expand(*leading, 2, 3).to(image.dtype)
        rows = math.prod(leading)
        grid = affine_grid(affine.reshape(rows, 2, 3), [rows, 1, *self.size], align_corners=False)

        def through(rows_of_images: Tensor) -> Tensor:
            return grid_sample(rows_of_images, grid, align_corners=False)

        return fold_particles(through, 3)(image)


def placed(scale: Tensor, shift: Tensor, *, back: bool = False) -> Tensor:
    r"""The window of a square object, :math:`(s I, b)`; ``back`` the map that puts it there.

    Reading, ``SpatialTransformer(small)(picture, placed(scale, shift))`` cuts out the object that
    takes the share ``scale`` of each side, with its middle at ``shift``; writing,
    ``SpatialTransformer(large)(object, placed(scale, shift, back=True))`` is its inverse.

    Args:
        scale: s > 0, shape ``(*particles, batch)``.
        shift: b = (x, y), between -1 and 1 inside the picture, shape ``(*particles, batch, 2)``.

    Returns:
        Shape ``(*particles, batch, 2, 3)``.
    """
    if back:
        scale = 1 / scale
        shift = -shift * scale.unsqueeze(-1)
    eye = torch.eye(2, dtype=scale.dtype, device=scale.device)
    return torch.cat([scale[..., None, None] * eye, shift.unsqueeze(-1)], -1)
