"""Real values with heavier tails than a Gaussian's, and positive ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm import distributions
from deeplvm.conditionals.elementwise import Elementwise, LocationScale
from deeplvm.conditionals.heads import MeanAndStd, Network, Shape, optional_units, positive


class Laplace(LocationScale):
    r"""Independent Laplace elements, :math:`p(x) = e^{-|x - \mu| / b} / (2b)`.

    Arguments and shapes are those of
    :class:`~deeplvm.conditionals.elementwise.LocationScale`; the scale is b, and the standard
    deviation :math:`\sqrt{2} b`.

    Examples:
        >>> Laplace(2, scale=0.5)().log_prob(torch.zeros(2)).item()  # each -log(2b) = 0
        0.0
    """

    def located(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self.independent(torch.distributions.Laplace(loc, scale, validate_args=False))


class StudentT(LocationScale):
    r"""Independent Student-t elements: a Gaussian that forgives outliers.

    .. math:: p(x) \propto \left(1 + \frac{1}{\nu} \left(\frac{x - \mu}{s}\right)^2
              \right)^{-(\nu + 1) / 2}

    Args:
        df: where the degrees of freedom :math:`\nu` come from, as the scale s; the variance is
            :math:`s^2 \nu / (\nu - 2)`.
        minimum_df: the lower bound of learned degrees of freedom; above 2 the variance exists.

    Further arguments and shapes are those of
    :class:`~deeplvm.conditionals.elementwise.LocationScale`.

    Examples:
        >>> StudentT(1, scale=1.0, df=4.0)().variance
        tensor([2.])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        scale: str | float = "network",
        df: str | float = "dimension",
        minimum_scale: float = 1e-3,
        minimum_df: float = 2.1,
        units: MeanAndStd | None = None,
    ) -> None:
        # about 7 degrees of freedom at first: heavier than a Gaussian, every moment to the 6th
        scales = {"scale": (scale, minimum_scale), "df": (df, minimum_df, 5.0)}
        Elementwise.__init__(self, shape, network, **scales)  # one scale more than its parent has
        self.units = optional_units(units, self.event_shape, "StudentT")

    def located(self, loc: Tensor, scale: Tensor, df: Tensor) -> Distribution:
        return self.independent(distributions.StudentT(df, loc, scale))


class Gamma(Elementwise):
    r"""Independent positive elements by mean m and concentration a (variance :math:`m^2 / a`).

    .. math:: p(x) \propto x^{a - 1} e^{-a x / m}

    For values above 0: at 0 the density is zero or infinite.

    Args:
        concentration: where a comes from: ``"network"``, ``"dimension"``, ``"global"`` or the
            number itself.
        minimum_concentration: the lower bound of a learned a; below it draws round to 0.
        unit: what the network's mean is measured in, broadcastable to ``shape``; the data's mean
            is a good one. The density stays one of the data.

    Other networks see log(x / unit).

    Shapes are those of :class:`~deeplvm.conditionals.elementwise.Elementwise`.

    Examples:
        >>> Gamma(1, concentration=4.0, unit=10.0)().variance.round().tolist()
        [25.0]
    """

    unit: Tensor

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        concentration: str | float = "network",
        minimum_concentration: float = 0.1,
        unit: Tensor | float = 1.0,
    ) -> None:
        super().__init__(shape, network, concentration=(concentration, minimum_concentration))
        unit = torch.as_tensor(unit, dtype=torch.get_default_dtype()).expand(self.event_shape)
        if not bool(((unit > 0) & unit.isfinite()).all()):
            raise ValueError(
                f"Gamma expects a unit that is positive and finite, found {unit.min().item():g}; "
                "the mean of positive data is one."
            )
        self.register_buffer("unit", unit.clone())

    def distribution(self, raw: Tensor, concentration: Tensor) -> Distribution:
        rate = concentration / (self.unit * positive(raw, 1e-3))
        return self.independent(distributions.Gamma(concentration, rate, validate_args=False))

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(x / unit), same shape."""
        return torch.log(value / self.unit)
