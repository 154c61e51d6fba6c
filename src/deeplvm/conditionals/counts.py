"""Counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm import distributions
from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape, at_least, positive, raw_of

_MINIMUM_RATE = 1e-6  # a rate of 0 would make a count of 1 impossible, its gradient infinite


class _Counts(Elementwise):
    """Counts whose mean is a softplus of the first raw number."""

    def _start_at(self, mean: Tensor | float | None) -> None:
        if mean is not None:
            self.head.start_at(raw_of(torch.as_tensor(mean).clamp_min(0.01)))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(1 + x), same shape."""
        return torch.log1p(value.to(self.head.dtype))


class Poisson(_Counts):
    r"""Independent counts of mean and variance :math:`\lambda`.

    The rate is a softplus of the network, linear for large outputs, at least 1e-6.

    Args:
        mean: the data's mean, broadcastable to ``shape``: the output starts there.

    Other networks see log(1 + x).

    Examples:
        >>> Poisson(2, mean=3.0)().mean.double().round(decimals=3).tolist()
        [3.0, 3.0]
    """

    def __init__(
        self, shape: Shape, network: Network = None, *, mean: Tensor | float | None = None
    ) -> None:
        super().__init__(shape, network)
        self._start_at(mean)

    def distribution(self, raw: Tensor) -> Distribution:
        rate = positive(raw, _MINIMUM_RATE)
        return self.independent(distributions.Poisson(rate, validate_args=False))


class NegativeBinomial(_Counts):
    r"""Independent overdispersed counts of mean m and variance :math:`m + m^2 / r`.

    Args:
        dispersion: where r comes from: ``"network"``, ``"dimension"`` (one learned number an
            element, as for genes), ``"global"``, or the number itself.
        minimum_dispersion: the lower bound of a learned r.
        mean: the data's mean, broadcastable to ``shape``: the output starts there.

    Other networks see log(1 + x).

    Examples:
        >>> NegativeBinomial(1, mean=3.0, dispersion=2.0)().variance.round(decimals=3).tolist()
        [7.5]
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        dispersion: str | float = "dimension",
        minimum_dispersion: float = 1e-3,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__(shape, network, dispersion=(dispersion, minimum_dispersion))
        self._start_at(mean)

    def distribution(self, raw: Tensor, dispersion: Tensor) -> Distribution:
        mean = positive(raw, _MINIMUM_RATE)
        return self.independent(distributions.NegativeBinomial(mean, dispersion))


class Multinomial(_Counts):
    r"""Counts given their total, in the shares :math:`\pi = \mathrm{softmax}(\eta)`.

    The density is that of a value given its own total: how long a document is, or how much was
    read of a cell, tells nothing about the latents.

    Args:
        total: things in a draw.
        mean: the data's mean, broadcastable to ``shape``: the shares start there.

    Other networks see log(1 + x).

    Examples:
        >>> Multinomial(3, mean=torch.tensor([1.0, 1.0, 2.0]), total=8)().mean
        tensor([2., 2., 4.], grad_fn=<MulBackward0>)
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        total: int = 100,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__(shape, network)
        self.total = at_least(total, 1, "Multinomial", "total")
        if len(self.event_shape) != 1:
            raise ValueError(
                f"Multinomial expects a vector of counts, found {tuple(self.event_shape)}."
            )
        if mean is not None:
            self.head.start_at(torch.as_tensor(mean).clamp_min(1e-3).log())

    def distribution(self, logits: Tensor) -> Distribution:
        return distributions.Multinomial(logits, self.total)
