"""Independent elements, each of a distribution whose parameters come from a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from deeplvm.conditionals.heads import (
    Head,
    MeanAndStd,
    Network,
    Scale,
    Shape,
    event_shape_of,
    in_units,
    optional_units,
    standardised,
)


class Elementwise(nn.Module):
    r"""A product over elements, :math:`\prod_i p(x_i | \theta_i)`; a family is a subclass.

    The raw parameters of every element come from a linear head on the network's features, or are
    free. A family gives ``distribution``, what they make.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        raw: how many raw numbers of each element the family reads as they are.
        scales: positive parameters by name: where each comes from (``"network"``,
            ``"dimension"``, one learned number an element, ``"global"``, one learned number, or
            the number itself), its lower bound where it is learned, and where it starts; see
            :class:`~deeplvm.conditionals.heads.Scale`.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.
    """

    # of the raw numbers and then the scales, each ``(*particles, batch, *event)``, a Distribution
    distribution: Callable[..., Any]

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        raw: int = 1,
        **scales: tuple[str | float, float] | tuple[str | float, float, float],
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.event_shape = event_shape_of(shape, owner)
        self._raw, self._scales, outputs = raw, tuple(scales), raw
        for name, (source, minimum, *at_zero) in scales.items():
            scale = Scale(source, self.event_shape, minimum, owner, name, *at_zero)
            self.add_module(name, scale)
            outputs += scale.outputs
        self.head = Head(network, self.event_shape, outputs, owner)

    def forward(self, *parents: Tensor) -> Distribution:
        return self.distribution(*self.parameters_of(*parents))

    def parameters_of(self, *parents: Tensor) -> list[Tensor]:
        """What makes the distribution: raw numbers, then scales, each ``(*batch, *event)``."""
        outputs = self.head.each(*parents)
        own, rest = list(outputs[: self._raw]), outputs[self._raw :]
        for name in self._scales:
            scale = getattr(self, name)
            own.append(scale(rest))
            rest = rest[scale.outputs :]
        return own

    def independent(self, elements: Distribution) -> Independent:
        """The elements as one value."""
        return Independent(elements, len(self.event_shape), validate_args=False)


class LocationScale(Elementwise):
    r"""Elements of a location and a scale, :math:`x_i = \mu_i + s_i\, \epsilon_i`.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        scale: where s comes from: ``"network"``, ``"dimension"`` (one learned number an element),
            ``"global"`` (one learned number), or the number itself.
        minimum_scale: the lower bound of a learned scale, in standardised units. A density
            without such a bound has no maximum likelihood: a scale can shrink onto a datum.
        units: mean and standard deviation of the data, broadcastable to ``shape``. The network
            then speaks standardised units and the density stays one of the data.
    """

    scale: Scale
    # of location and scale in the data's own units and then further scales, a Distribution
    located: Callable[..., Any]

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        scale: str | float = "network",
        minimum_scale: float = 1e-3,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__(shape, network, scale=(scale, minimum_scale))
        self.units = optional_units(units, self.event_shape, type(self).__name__)

    def distribution(self, loc: Tensor, scale: Tensor, *more: Tensor) -> Distribution:
        return self.located(*in_units(self.units, loc, scale), *more)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)
