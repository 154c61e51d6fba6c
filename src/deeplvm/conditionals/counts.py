"""Counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import Head, Scale, event_shape_of, positive, raw_of
from deeplvm.distributions.negative_binomial import (
    NegativeBinomial as NegativeBinomialDistribution,
)
from deeplvm.distributions.poisson import Poisson as PoissonDistribution

_MINIMUM_RATE = 1e-6  # a rate of 0 would make a count of 1 impossible, its gradient infinite


class Poisson(nn.Module):
    r"""Independent counts of mean and variance :math:`\lambda`.

    The rate is a softplus of the network, linear for large outputs, at least 1e-6.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free rates.
        mean: the data's mean, broadcastable to ``shape``: the output starts there.

    Other networks see log(1 + x).

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> Poisson(2, mean=3.0)().mean.double().round(decimals=3).tolist()
        [3.0, 3.0]
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Poisson")
        self.head = Head(network, self.event_shape, 1, "Poisson")
        if mean is not None:
            self.head.start_at(raw_of(torch.as_tensor(mean).clamp_min(0.01)))

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        (raw,) = self.head.each(*parents)
        elements = PoissonDistribution(positive(raw, _MINIMUM_RATE), validate_args=False)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(1 + x), same shape."""
        return torch.log1p(value.to(self.head.dtype))


class NegativeBinomial(nn.Module):
    r"""Independent overdispersed counts of mean m and variance :math:`m + m^2 / r`.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free means.
        dispersion: where r comes from: ``"network"``, ``"dimension"`` (one learned number an
            element, as for genes), ``"global"``, or the number itself.
        minimum_dispersion: the lower bound of a learned r.
        mean: the data's mean, broadcastable to ``shape``: the output starts there.

    Other networks see log(1 + x).

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> NegativeBinomial(1, mean=3.0, dispersion=2.0)().variance.round(decimals=3).tolist()
        [7.5]
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        dispersion: str | float = "dimension",
        minimum_dispersion: float = 1e-3,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        owner = "NegativeBinomial"
        self.event_shape = event_shape_of(shape, owner)
        self.dispersion = Scale(
            dispersion, self.event_shape, minimum_dispersion, owner, "dispersion"
        )
        self.head = Head(network, self.event_shape, 1 + self.dispersion.outputs, owner)
        if mean is not None:
            self.head.start_at(raw_of(torch.as_tensor(mean).clamp_min(0.01)))

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        raw_mean, *raw = self.head.each(*parents)
        mean, dispersion = positive(raw_mean, _MINIMUM_RATE), self.dispersion(raw)
        elements = NegativeBinomialDistribution(mean, dispersion)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(1 + x), same shape."""
        return torch.log1p(value.to(self.head.dtype))
