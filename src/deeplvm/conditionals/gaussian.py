"""Gaussians of independent elements, and the product of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals.heads import Head, Scale, event_shape_of, optional_units
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


class PrecisionWeighted(nn.Module):
    r"""The normalised product of two Gaussians, :math:`q \propto q_1 q_2`, as in the ladder VAE.

    .. math:: \sigma^{-2} = \sigma_1^{-2} + \sigma_2^{-2}, \qquad
              \mu = \sigma^2 (\sigma_1^{-2} \mu_1 + \sigma_2^{-2} \mu_2)

    The first is usually p's own conditional of the same name (the same module, so its parameters
    are shared), the second what the data say.

    Args:
        first: a conditional that returns independent normals.
        second: another, of the same event shape.
        first_parents: how many of the parents go to ``first``; the rest go to ``second``.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282

    Examples:
        >>> merged = PrecisionWeighted(StandardNormal(1), StandardNormal(1), first_parents=0)
        >>> merged().variance
        tensor([0.5000])
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, first_parents: int = 1) -> None:
        super().__init__()
        shapes = [getattr(part, "event_shape", None) for part in (first, second)]
        if None not in shapes and shapes[0] != shapes[1]:
            raise ValueError(
                "PrecisionWeighted expects two conditionals of one event shape, found "
                f"{tuple(shapes[0])} and {tuple(shapes[1])}."  # type: ignore[arg-type]
            )
        self.event_shape = shapes[0] or shapes[1]
        self.first = first
        self.second = second
        self.first_parents = first_parents

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The product, given the parents of ``first`` and then those of ``second``."""
        if len(parents) < self.first_parents:
            raise TypeError(
                f"PrecisionWeighted expects {self.first_parents} parents for its first "
                f"conditional, then those of its second, found {len(parents)} in all; write more "
                "after '|', or set first_parents."
            )
        first = normal_of(
            self.first(*parents[: self.first_parents]), _OWNER, "its first conditional"
        )
        second = normal_of(
            self.second(*parents[self.first_parents :]), _OWNER, "its second conditional"
        )
        return merged(first, second)

    def extra_repr(self) -> str:
        """The division of the parents, for printing."""
        return f"first_parents={self.first_parents}"


_OWNER = "PrecisionWeighted"


def merged(first: DiagonalNormal, second: DiagonalNormal) -> DiagonalNormal:
    """The normalised product of two diagonal normals."""
    # sigma^2 = s1^2 s2^2 / (s1^2 + s2^2), the weight of the second mean is sigma^2 / s2^2
    first_square, second_square = first.scale.square(), second.scale.square()
    total = first_square + second_square
    loc = first.loc + (second.loc - first.loc) * (first_square / total)
    scale = first.scale * second.scale * total.rsqrt()
    return DiagonalNormal(loc, scale, len(first.event_shape))


def normal_of(distribution: Distribution, owner: str, which: str) -> DiagonalNormal:
    """A distribution of independent normals, in the form that :func:`merged` takes.

    Raises:
        TypeError: it is another one.
    """
    if isinstance(distribution, DiagonalNormal):
        return distribution
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        base, dims = distribution.base_dist, len(distribution.event_shape)
        return DiagonalNormal(base.loc, base.scale, dims)
    raise TypeError(
        f"{owner} expects {which} to return independent normals, found "
        f"{type(distribution).__name__}; use Gaussian or StandardNormal."
    )
