"""Counts."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm import distributions
from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape, at_least, positive, raw_of

_MINIMUM_RATE = 1e-6  # a rate of 0 would make a count of 1 impossible, its gradient infinite
_SELDOM = -3.0  # logits of a zero that the law does not say, at the start


class _Counts(Elementwise):
    r"""Counts of a law with a mean; what is said here holds for all of them.

    The mean is a softplus of the network, linear for large outputs, at least 1e-6. Where there is
    a total t, it is the share :math:`\mathrm{softmax}(\eta)` of it, at least 1e-6.

    Args:
        zero_inflated: also a probability of 0 whatever the law says, from the network.
        total: what the shares are of. A number is that of a draw, and the density is that of a
            value given its own total, taken as known: how deep a cell was read tells nothing
            about the latents. ``"parent"`` reads its logarithm, of shape ``(*batch, 1)``, from
            the last parent, such as a latent.
        mean: the data's mean, broadcastable to ``shape``: the output starts there.

    Under a total that is each value's own :math:`\sum_x p(x | t)`, over the values of that total,
    is the probability of the total, not 1: what is reported is a lower bound of the logarithm of
    the probability given the total.

    Other networks see log(1 + x).
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        zero_inflated: bool,
        total: int | Literal["parent"] | None,
        mean: Tensor | float | None,
        **scales: tuple[str | float, float],
    ) -> None:
        super().__init__(shape, network, 2 if zero_inflated else 1, **scales)
        owner = type(self).__name__
        self.total = total if total in (None, "parent") else at_least(total, 1, owner, "total")
        self.zero_inflated = zero_inflated
        if total is not None and len(self.event_shape) != 1:
            raise ValueError(
                f"{owner} with a total expects a vector of counts, found "
                f"{tuple(self.event_shape)}."
            )
        if mean is not None:
            mean = torch.as_tensor(mean)
            # with a total logits of the shares, none of which is 0
            self.head.start_at(
                mean.clamp_min(1e-3).log() if total else raw_of(mean.clamp_min(0.01))
            )
        if zero_inflated:
            self.head.start_at(_SELDOM, index=1)

    @property
    def of_total(self) -> bool:
        """Whether the density is that of a value given its own total."""
        return isinstance(self.total, int)

    def law(self, mean: Tensor, *scales: Tensor) -> Distribution:
        """Counts of a mean, element by element."""
        raise NotImplementedError

    def forward(self, *parents: Tensor) -> Distribution:
        size = None
        if self.total == "parent":
            *rest, size = parents
            parents = tuple(rest)
        raw, *more = self.parameters_of(*parents)
        logits = more.pop(0) if self.zero_inflated else None

        def counts(mean: Tensor) -> Distribution:
            law = self.law(mean, *more)
            return law if logits is None else distributions.ZeroInflated(law, logits)

        if isinstance(self.total, int):
            return distributions.OfTotal(raw, counts, self.total, _MINIMUM_RATE)
        if size is None:
            return self.independent(counts(positive(raw, _MINIMUM_RATE)))
        return self.independent(counts(size.exp() * raw.softmax(-1) + _MINIMUM_RATE))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(1 + x), same shape."""
        return torch.log1p(value.to(self.head.dtype))


class Poisson(_Counts):
    r"""Independent counts of mean and variance :math:`\lambda`.

    Args:
        zero_inflated, total, mean: see :class:`_Counts`.

    Examples:
        >>> Poisson(2, mean=3.0)().mean.double().round(decimals=3).tolist()
        [3.0, 3.0]
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        zero_inflated: bool = False,
        total: int | Literal["parent"] | None = None,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__(shape, network, zero_inflated=zero_inflated, total=total, mean=mean)

    def law(self, mean: Tensor, *scales: Tensor) -> Distribution:
        return distributions.Poisson(mean, validate_args=False)


class NegativeBinomial(_Counts):
    r"""Independent overdispersed counts of mean m and variance :math:`m + m^2 / r`.

    Args:
        dispersion: where r comes from: ``"network"``, ``"dimension"`` (one learned number an
            element, as for genes), ``"global"``, or the number itself.
        minimum_dispersion: the lower bound of a learned r.
        zero_inflated, total, mean: see :class:`_Counts`.

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
        zero_inflated: bool = False,
        total: int | Literal["parent"] | None = None,
        mean: Tensor | float | None = None,
    ) -> None:
        super().__init__(
            shape,
            network,
            zero_inflated=zero_inflated,
            total=total,
            mean=mean,
            dispersion=(dispersion, minimum_dispersion),
        )

    def law(self, mean: Tensor, *scales: Tensor) -> Distribution:
        return distributions.NegativeBinomial(mean, *scales)


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
        super().__init__(shape, network, zero_inflated=False, total=total, mean=mean)

    def forward(self, *parents: Tensor) -> Distribution:
        (logits,) = self.parameters_of(*parents)
        return distributions.Multinomial(logits, cast("int", self.total))
