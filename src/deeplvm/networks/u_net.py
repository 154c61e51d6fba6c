"""Networks of a value and a time: a small U-Net for images, a perceptron for vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from deeplvm.networks.broadcasting import fold_particles
from deeplvm.networks.mlp import MLP

TIME_FEATURES = 32


def time_features(time: Tensor, count: int = TIME_FEATURES) -> Tensor:
    r"""Sines and cosines of a time in [0, 1], :math:`\sin \omega_k t, \cos \omega_k t`.

    The angular frequencies grow from 1 to 1000 by a constant factor.

    >>> time_features(torch.zeros(5), 8).shape
    torch.Size([5, 8])
    """
    steps = torch.linspace(0, math.log(1000.0), count // 2, dtype=time.dtype, device=time.device)
    angles = time[..., None] * steps.exp()
    return torch.cat([angles.sin(), angles.cos()], -1)


class TimedMLP(nn.Module):
    """A perceptron of a vector and a time, which gives a vector as long.

    Args:
        shape: the event shape of the value.
        hidden: widths of the hidden layers.

    Shape:
        A value ``(*leading, *shape)`` and a time ``(*leading)`` give ``(*leading, *shape)``.
    """

    def __init__(self, shape: Sequence[int], hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.shape = tuple(shape)
        size = math.prod(self.shape)
        self.layers = MLP(size + TIME_FEATURES, *hidden, activation=nn.SiLU)
        self.last = _zero(nn.Linear(self.layers.out_features, size))

    def forward(self, value: Tensor, time: Tensor) -> Tensor:
        flat = value.flatten(value.dim() - len(self.shape))
        return self.last(self.layers(flat, time_features(time))).reshape(value.shape)


class UNet(nn.Module):
    r"""An image and a time to an image: down in resolution, and up again past what was there.

    At each stage a residual block whose units are shifted and stretched by features of the time;
    between stages the size is halved, rounding up. On the way up each stage sees the maps of the
    same size from the way down too.

    Args:
        shape: the image, ``(channels, height, width)``, of any size.
        channels: the width of each stage.

    Shape:
        A value ``(*leading, *shape)`` and a time ``(*leading)`` give ``(*leading, *shape)``.

    U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger et al., 2015),
    https://arxiv.org/abs/1505.04597; Denoising Diffusion Probabilistic Models (Ho et al., 2020),
    https://arxiv.org/abs/2006.11239

    Examples:
        >>> UNet((3, 7, 13), (8, 8))(torch.zeros(2, 5, 3, 7, 13), torch.zeros(2, 5)).shape
        torch.Size([2, 5, 3, 7, 13])
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, 4 * TIME_FEATURES), nn.SiLU())
        self.first = nn.Conv2d(self.shape[0], channels[0], 3, padding=1)
        before = [channels[0], *channels[:-1]]
        self.down = nn.ModuleList(map(_Timed, before, channels))
        self.middle = _Timed(channels[-1], channels[-1])
        beyond = [*channels[1:], channels[-1]]
        self.up = nn.ModuleList(
            [_Timed(own + deep, own) for own, deep in zip(channels, beyond, strict=True)]
        )
        self.last = _zero(nn.Conv2d(channels[0], self.shape[0], 3, padding=1))

    def forward(self, value: Tensor, time: Tensor) -> Tensor:
        features = self.time(time_features(time))
        flat = features.reshape(-1, features.shape[-1])
        return fold_particles(lambda maps: self._image(maps, flat), 3)(value)

    def _image(self, value: Tensor, time: Tensor) -> Tensor:
        features, passed = self.first(value), []
        for stage, block in enumerate(self.down):
            features = avg_pool2d(features, 2, ceil_mode=True) if stage else features
            features = block(features, time)
            passed.append(features)
        features = self.middle(features, time)
        for block, there in zip(reversed(self.up), reversed(passed), strict=True):  # type: ignore[call-overload]
            if features.shape[-2:] != there.shape[-2:]:
                features = interpolate(features, there.shape[-2:])
            features = block(torch.cat([there, features], -3), time)
        return self.last(silu(features))


class _Timed(nn.Module):
    """A residual block that the time shifts and stretches."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.second = _zero(nn.Conv2d(fan_out, fan_out, 3, padding=1))
        self.time = nn.Linear(4 * TIME_FEATURES, 2 * fan_out)
        self.skip = nn.Identity() if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        shift, stretch = self.time(time)[..., None, None].chunk(2, -3)
        hidden = self.first(silu(features)) * (1 + stretch) + shift
        return self.skip(features) + self.second(silu(hidden))


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A layer that starts small, so that what it is added to comes out first."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
