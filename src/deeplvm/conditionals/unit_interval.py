"""Real values between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import Head, event_shape_of, positive
from deeplvm.distributions.beta import Beta as BetaDistribution
from deeplvm.distributions.continuous_bernoulli import (
    ContinuousBernoulli as ContinuousBernoulliDistribution,
)


class ContinuousBernoulli(nn.Module):
    r"""Independent grey values in [0, 1] with density :math:`\propto e^{\eta x}`.

    The normalised form of the "Bernoulli" likelihood on grey pixels.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free logits.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem &
    Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Examples:
        >>> ContinuousBernoulli(2)().mean.tolist()
        [0.5, 0.5]
    """

    def __init__(self, shape: int | Sequence[int], network: nn.Module | None = None) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "ContinuousBernoulli")
        self.head = Head(network, self.event_shape, 1, "ContinuousBernoulli")

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        (logits,) = self.head.each(*parents)
        elements = ContinuousBernoulliDistribution(logits)
        return Independent(elements, len(self.event_shape), validate_args=False)


class Beta(nn.Module):
    r"""Independent values in (0, 1), :math:`p(x) \propto x^{a - 1} (1 - x)^{b - 1}`.

    For values strictly between 0 and 1: at 0 and 1 the density is zero or infinite. Data that
    reach them want :class:`ContinuousBernoulli`.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        minimum_concentration: the lower bound of a and b; below it draws round to 0 and 1.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> Beta(2)().mean.tolist()
        [0.5, 0.5]
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        minimum_concentration: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Beta")
        self.minimum_concentration = minimum_concentration
        self.head = Head(network, self.event_shape, 2, "Beta")

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        concentrations = self.head.each(*parents)
        up, down = [positive(raw, self.minimum_concentration) for raw in concentrations]
        elements = BetaDistribution(up, down)
        return Independent(elements, len(self.event_shape), validate_args=False)
