"""Gaussians of independent elements, and the product of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import (
    Head,
    Scale,
    at_least,
    event_shape_of,
    optional_units,
    positive,
)
from deeplvm.distributions.diagonal_normal import DiagonalNormal


class StandardNormal(nn.Module):
    r"""The normal :math:`N(0, I)` of any shape: no parents, no parameters.

    Args:
        shape: the event shape.

    Examples:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))  # - log 2 pi
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "StandardNormal")
        # not saved: they only carry the dtype and the device that the module was moved to
        self.register_buffer("loc", torch.zeros(self.event_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.event_shape), persistent=False)

    def forward(self) -> DiagonalNormal:
        """The distribution, batch shape ``()``."""
        dims = len(self.event_shape)
        return DiagonalNormal(self.loc, self.scale, dims, Size(), standard=True)

    def extra_repr(self) -> str:
        """The event shape, for printing."""
        return str(tuple(self.event_shape))


class Gaussian(nn.Module):
    r"""Gaussian of independent elements, :math:`\prod_i N(x_i; \mu_i, \sigma_i^2)`.

    :math:`(\mu, \sigma)` are computed from the parents by a network, or, without one, are free
    parameters (a learned normal). :math:`\sigma` is a standard deviation. The second parameter
    of the monograph's eq. 2.4 must be read so; its eq. 2.36 is right.

    Args:
        shape: the event shape.
        network: maps the parents to features; a linear head is added.
        scale: where the standard deviation comes from: ``"network"``, ``"dimension"`` (one
            learned number an element), ``"global"`` (one learned number), or the number itself.
        minimum_scale: the lower bound of a learned scale, in standardised units. A density
            without such a bound has no maximum likelihood: a scale can shrink onto a datum.
        units: mean and standard deviation of the data, broadcastable to ``shape``. The network
            then speaks standardised units and the density stays one of the data.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = Gaussian(20, MLP(784, 500))
        >>> posterior(torch.zeros(100, 784)).batch_shape
        torch.Size([100])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        scale: str | float = "network",
        minimum_scale: float = 1e-3,
        units: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Gaussian")
        self.scale = Scale(scale, self.event_shape, minimum_scale, "Gaussian")
        self.head = Head(network, self.event_shape, 1 + self.scale.outputs, "Gaussian")
        self.units = optional_units(units, self.event_shape, "Gaussian")

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        loc, *raw = self.head.each(*parents)
        scale = self.scale(raw)
        if self.units is not None:
            loc, scale = self.units.mean + self.units.std * loc, self.units.std * scale
        return DiagonalNormal(loc, scale, len(self.event_shape))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return value if self.units is None else self.units.standardise(value)


class MeanField(nn.Module):
    r"""Gaussian of independent elements that reads its parameters, :math:`q(z | \lambda)`.

    .. math:: q(z | \lambda) = \prod_{i=1}^D N(z_i; \lambda_i, \sigma(\lambda_{D+i})^2), \qquad
              \sigma(r) = m + \log(1 + e^{r + c}), \quad \sigma(0) = 1 + m

    It has nothing to learn. With a random :math:`\lambda` the elements of z depend on each other
    through it, and :math:`q(z) = \int q(z | \lambda)\, q(\lambda)\, d\lambda` is an infinite
    mixture. p must then give :math:`\lambda` a density, such as ``"l | x, z"``.

    Hierarchical Variational Models (Ranganath et al., 2016), https://arxiv.org/abs/1511.02386

    Args:
        features: D, the dimensions of the value.
        minimum_scale: m, the lower bound of the standard deviation.

    Shape:
        One parent ``(*particles, batch, 2 D)`` gives batch shape ``(*particles, batch)``, event
        ``(D,)``.

    Raises:
        ValueError: the parent has another width.

    Examples:
        >>> import torch
        >>> MeanField(2)(torch.tensor([3.0, 4.0, 0.0, 0.0])).mean
        tensor([3., 4.])
    """

    def __init__(self, features: int, *, minimum_scale: float = 1e-3) -> None:
        super().__init__()
        self.event_shape = Size((at_least(features, 1, "MeanField", "features"),))
        self.minimum_scale = minimum_scale

    def forward(self, parameters: Tensor) -> DiagonalNormal:
        """The distribution of the value given its parameters."""
        features = self.event_shape[0]
        if parameters.shape[-1] != 2 * features:
            raise ValueError(
                f"MeanField({features}) reads {2 * features} numbers, a mean and a scale for each "
                f"dimension, found {parameters.shape[-1]}; make its parent that wide."
            )
        loc, raw = parameters.chunk(2, -1)
        return DiagonalNormal(loc, positive(raw, self.minimum_scale), 1)
