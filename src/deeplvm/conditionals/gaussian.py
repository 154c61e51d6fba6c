"""Gaussians of independent elements, and the product of two."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.elementwise import LocationScale
from deeplvm.conditionals.heads import Shape, at_least, event_shape_of, positive
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

    def __init__(self, shape: Shape) -> None:
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
        return str(tuple(self.event_shape))


class Gaussian(LocationScale):
    r"""Gaussian of independent elements, :math:`\prod_i N(x_i; \mu_i, \sigma_i^2)`.

    :math:`(\mu, \sigma)` are computed from the parents by a network, or, without one, are free
    parameters (a learned normal). :math:`\sigma` is a standard deviation. The second parameter
    of the monograph's eq. 2.4 must be read so; its eq. 2.36 is right.

    Arguments and shapes are those of
    :class:`~deeplvm.conditionals.elementwise.LocationScale`.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Examples:
        >>> from deeplvm.networks import MLP
        >>> posterior = Gaussian(20, MLP(784, 500))
        >>> posterior(torch.zeros(100, 784)).batch_shape
        torch.Size([100])
    """

    def located(self, loc: Tensor, scale: Tensor) -> DiagonalNormal:
        return DiagonalNormal(loc, scale, len(self.event_shape))

    @property
    def affine(self) -> bool:
        """Whether its mean is affine in the parents, and its scale the same for all."""
        return self.head.affine and not self.scale.outputs


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
