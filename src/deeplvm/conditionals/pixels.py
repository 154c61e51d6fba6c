"""Pixels of a given number of levels."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape, at_least
from deeplvm.distributions.discretized_logistic import (
    DiscretizedLogistic as DiscretizedLogisticDistribution,
)


class DiscretizedLogistic(Elementwise):
    r"""Independent levels 0 .. n-1 of a rounded logistic variable; a probability of each level.

    The network speaks the levels scaled to [-1, 1], and so do other networks that see the value.
    The lowest level takes everything below it and the highest everything above.

    Args:
        levels: n; values are the integers 0 .. n-1 in any dtype.
        scale: where the scale comes from: ``"network"``, ``"dimension"``, ``"global"`` or the
            number itself, in units of [-1, 1].
        minimum_scale: the lower bound of a learned scale; 1e-3 is an eighth of an 8-bit level.

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
        shape: Shape,
        network: Network = None,
        *,
        levels: int = 256,
        scale: str | float = "network",
        minimum_scale: float = 1e-3,
    ) -> None:
        # a quarter of the half range at first: every level is then possible, none improbable
        super().__init__(shape, network, scale=(scale, minimum_scale, 0.25))
        self.levels = at_least(levels, 2, type(self).__name__, "levels")

    def distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self.independent(DiscretizedLogisticDistribution(loc, scale, self.levels))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, scaled to [-1, 1], same shape."""
        return value.to(self.head.dtype) * (2 / (self.levels - 1)) - 1
