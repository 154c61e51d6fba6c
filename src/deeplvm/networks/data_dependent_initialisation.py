"""Layers that start from the statistics of data: once, before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class StartsFromData(Protocol):
    """A layer whose first parameters are set by what arrives at it.

    While it is ``watching``, a pass through it sets them by the values that it meets, and goes on
    with what it then makes of these.

    Attributes:
        watching: Whether the next pass sets them.
        started: Whether they are no longer where they were made: such a layer stays as it is.
    """

    watching: bool

    @property
    def started(self) -> bool:
        """Whether it has been set, or trained."""
        ...


def waiting(*modules: nn.Module) -> list[StartsFromData]:
    """The layers in some modules that have not started."""
    found = {id(each): each for module in modules for each in module.modules()}
    layers = [e for e in found.values() if isinstance(e, StartsFromData)]  # type: ignore[misc]
    return [each for each in layers if not each.started]


@contextmanager
def starting(*modules: nn.Module) -> Iterator[None]:
    """A pass through the modules in here sets what waits in them; no gradient.

    The same numbers as long as rows, parameters and noise are: to be done on every process alike.
    """
    layers = waiting(*modules)
    for each in layers:
        each.watching = True
    try:
        with torch.no_grad():
            yield
    finally:
        for each in layers:
            each.watching = False


class WeightNormalisedConvolution(nn.Conv2d):
    r"""A convolution whose weights have their length apart, :math:`W_c = g_c\, v_c / \|v_c\|`.

    Length and bias start from data, such that the first batch gives every channel mean 0 and
    standard deviation 1: :func:`deeplvm.training.fit` sees to it before its first step.

    Args:
        fan_in: channels of the maps.
        fan_out: channels of the result.
        kernel: height and width.
        stride, padding: as of ``nn.Conv2d``.

    Weight Normalization: A Simple Reparameterization to Accelerate Training of Deep Neural
    Networks (Salimans & Kingma, 2016), https://arxiv.org/abs/1602.07868
    """

    least = 1e-3  # smaller standard deviations count as this

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(fan_in, fan_out, kernel, stride=stride, padding=padding)
        nn.init.normal_(self.weight, std=0.05)
        self.gain = nn.Parameter(torch.ones(fan_out, 1, 1, 1))
        self.shift = nn.Parameter(torch.zeros(fan_out))
        self.register_parameter("bias", None)
        self.watching = False

    @property
    def started(self) -> bool:
        """Whether length and bias are no longer 1 and 0."""
        return bool((self.gain != 1).any() or self.shift.any())

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """As of ``nn.Conv2d``."""
        direction = self.weight / self.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        if self.watching:
            self.watching = False
            seen = self._conv_forward(features, direction, None)
            std, mean = torch.std_mean(seen, (0, 2, 3), correction=0)
            std = std.clamp(min=self.least)
            self.gain.copy_(std.reciprocal().reshape(self.gain.shape))
            self.shift.copy_(-mean / std)
        return self._conv_forward(features, self.gain * direction, self.shift)
