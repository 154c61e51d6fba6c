"""A Gaussian whose parameters are themselves random: the last link of a hierarchical posterior."""

from __future__ import annotations

from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import at_least, positive
from deeplvm.distributions.diagonal_normal import DiagonalNormal


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
