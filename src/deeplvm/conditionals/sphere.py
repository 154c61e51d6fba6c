"""Directions: unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from deeplvm import distributions
from deeplvm.conditionals.heads import Head, Scale, event_shape_of


class VonMisesFisher(nn.Module):
    r"""A direction about a mean direction, :math:`p(x) \propto e^{\kappa \mu^\top x}`.

    As a posterior beside :class:`UniformSphere` its divergence has a closed form, and does not
    depend on the direction: where :math:`\kappa` is fixed it is a constant.

    Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
    https://arxiv.org/abs/1804.00891

    Args:
        dimensions: d, of the space around the sphere, at least 2.
        network: maps the parents to features; ``None`` for free parameters.
        concentration: where :math:`\kappa` comes from: ``"network"`` (one for a direction),
            ``"global"`` or the number itself.
        minimum_concentration: the lower bound of a learned :math:`\kappa`.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``(d,)``.

    Raises:
        ValueError: there are less than two dimensions, or the concentration is none of these.

    Examples:
        >>> directions = VonMisesFisher(3, concentration=10.0)()
        >>> print(f"{directions.sample().norm():.4f}")
        1.0000
    """

    def __init__(
        self,
        dimensions: int,
        network: nn.Module | None = None,
        *,
        concentration: str | float = "network",
        minimum_concentration: float = 1e-2,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(dimensions, "VonMisesFisher")
        if dimensions < 2:
            raise ValueError(f"VonMisesFisher expects 2 dimensions or more, found {dimensions}.")
        if concentration == "dimension":
            raise ValueError(
                "VonMisesFisher has one concentration a direction, so 'dimension' means nothing; "
                "use 'network', 'global' or a positive number."
            )
        self.concentration = Scale(
            concentration, torch.Size(()), minimum_concentration, "VonMisesFisher", "concentration"
        )
        outputs = torch.Size([dimensions + self.concentration.outputs])
        self.head = Head(network, outputs, 1, "VonMisesFisher")
        if network is None:
            # a direction of length zero has no gradient
            nn.init.normal_(self.head.free)

    def forward(self, *parents: Tensor) -> distributions.VonMisesFisher:
        (raw,) = self.head.each(*parents)
        dimensions = self.event_shape[0]
        loc = normalize(raw[..., :dimensions], dim=-1)
        return distributions.VonMisesFisher(loc, self.concentration([raw[..., -1]]))


class UniformSphere(nn.Module):
    """Every direction alike: the prior beside :class:`VonMisesFisher`.

    Args:
        dimensions: d, of the space around the sphere, at least 2.

    Raises:
        ValueError: there are less than two dimensions.

    Examples:
        >>> UniformSphere(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    like: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.event_shape = event_shape_of(dimensions, "UniformSphere")
        if dimensions < 2:
            raise ValueError(f"UniformSphere expects 2 dimensions or more, found {dimensions}.")
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self) -> distributions.UniformSphere:
        """The distribution of the value; it has no parents."""
        return distributions.UniformSphere(self.event_shape[0], like=self.like)
