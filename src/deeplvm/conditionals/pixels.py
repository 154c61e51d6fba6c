"""Pixels of a given number of levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import Head, Scale, at_least, event_shape_of
from deeplvm.distributions.discretized_logistic import (
    DiscretizedLogistic as DiscretizedLogisticDistribution,
)


class DiscretizedLogistic(nn.Module):
    r"""Independent levels 0 .. n-1 of a rounded logistic variable; a probability of each level.

    The network speaks the levels scaled to [-1, 1], and so do other networks that see the value.
    The lowest level takes everything below it and the highest everything above.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        levels: n; values are the integers 0 .. n-1 in any dtype.
        scale: where the scale comes from: ``"network"``, ``"dimension"``, ``"global"`` or the
            number itself, in units of [-1, 1].
        minimum_scale: the lower bound of a learned scale; 1e-3 is an eighth of an 8-bit level.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    Examples:
        >>> import torch
        >>> pixels = DiscretizedLogistic(3)
        >>> pixels.embed(torch.tensor([0, 51, 255]))
        tensor([-1.0000, -0.6000,  1.0000])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        levels: int = 256,
        scale: str | float = "network",
        minimum_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        owner = "DiscretizedLogistic"
        self.event_shape = event_shape_of(shape, owner)
        self.levels = at_least(levels, 2, owner, "levels")
        # a quarter of the half range at first: every level is then possible, none improbable
        self.scale = Scale(scale, self.event_shape, minimum_scale, owner, at_zero=0.25)
        self.head = Head(network, self.event_shape, 1 + self.scale.outputs, owner)

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        loc, *raw = self.head.each(*parents)
        elements = DiscretizedLogisticDistribution(loc, self.scale(raw), self.levels)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, scaled to [-1, 1], same shape."""
        return value.to(self.head.dtype) * (2 / (self.levels - 1)) - 1
