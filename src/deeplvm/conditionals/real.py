"""Real values with heavier tails than a Gaussian's, and positive ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributions, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import Head, Scale, event_shape_of, optional_units, positive
from deeplvm.distributions.gamma import Gamma as GammaDistribution
from deeplvm.distributions.student_t import StudentT as StudentTDistribution


class Laplace(nn.Module):
    r"""Independent Laplace elements, :math:`p(x) = e^{-|x - \mu| / b} / (2b)`.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        scale: where b comes from: ``"network"``, ``"dimension"``, ``"global"`` or the number
            itself. The standard deviation is :math:`\sqrt{2} b`.
        minimum_scale: the lower bound of a learned b, in standardised units.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> Laplace(2, scale=0.5)().log_prob(torch.zeros(2)).item()  # each -log(2b) = 0
        0.0
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
        self.event_shape = event_shape_of(shape, "Laplace")
        self.scale = Scale(scale, self.event_shape, minimum_scale, "Laplace")
        self.head = Head(network, self.event_shape, 1 + self.scale.outputs, "Laplace")
        self.units = optional_units(units, self.event_shape, "Laplace")

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        loc, *raw = self.head.each(*parents)
        scale = self.scale(raw)
        if self.units is not None:
            loc, scale = self.units.mean + self.units.std * loc, self.units.std * scale
        elements = distributions.Laplace(loc, scale, validate_args=False)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return value if self.units is None else self.units.standardise(value)


class StudentT(nn.Module):
    r"""Independent Student-t elements: a Gaussian that forgives outliers.

    .. math:: p(x) \propto \left(1 + \frac{1}{\nu} \left(\frac{x - \mu}{s}\right)^2
              \right)^{-(\nu + 1) / 2}

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        scale: where s comes from: ``"network"``, ``"dimension"``, ``"global"`` or the number
            itself. The variance is :math:`s^2 \nu / (\nu - 2)`.
        df: where the degrees of freedom :math:`\nu` come from, likewise.
        minimum_scale: the lower bound of a learned s, in standardised units.
        minimum_df: the lower bound of learned degrees of freedom; above 2 the variance exists.
        units: mean and standard deviation of the data, broadcastable to ``shape``.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> StudentT(1, scale=1.0, df=4.0)().variance
        tensor([2.])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        scale: str | float = "network",
        df: str | float = "dimension",
        minimum_scale: float = 1e-3,
        minimum_df: float = 2.1,
        units: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "StudentT")
        self.scale = Scale(scale, self.event_shape, minimum_scale, "StudentT")
        # about 7 degrees of freedom at first: heavier than a Gaussian, every moment to the 6th
        self.df = Scale(df, self.event_shape, minimum_df, "StudentT", "df", at_zero=5.0)
        outputs = 1 + self.scale.outputs + self.df.outputs
        self.head = Head(network, self.event_shape, outputs, "StudentT")
        self.units = optional_units(units, self.event_shape, "StudentT")

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        loc, *raw = self.head.each(*parents)
        scale, df = self.scale(raw), self.df(raw[self.scale.outputs :])
        if self.units is not None:
            loc, scale = self.units.mean + self.units.std * loc, self.units.std * scale
        elements = StudentTDistribution(df, loc, scale)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return value if self.units is None else self.units.standardise(value)


class Gamma(nn.Module):
    r"""Independent positive elements by mean m and concentration a (variance :math:`m^2 / a`).

    .. math:: p(x) \propto x^{a - 1} e^{-a x / m}

    For values above 0: at 0 the density is zero or infinite.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        concentration: where a comes from: ``"network"``, ``"dimension"``, ``"global"`` or the
            number itself.
        minimum_concentration: the lower bound of a learned a; below it draws round to 0.
        unit: what the network's mean is measured in, broadcastable to ``shape``; the data's mean
            is a good one. The density stays one of the data.

    Other networks see log(x / unit).

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.

    Examples:
        >>> Gamma(1, concentration=4.0, unit=10.0)().variance.round().tolist()
        [25.0]
    """

    unit: Tensor

    def __init__(
        self,
        shape: int | Sequence[int],
        network: nn.Module | None = None,
        *,
        concentration: str | float = "network",
        minimum_concentration: float = 0.1,
        unit: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Gamma")
        self.concentration = Scale(
            concentration, self.event_shape, minimum_concentration, "Gamma", "concentration"
        )
        self.head = Head(network, self.event_shape, 1 + self.concentration.outputs, "Gamma")
        unit = torch.as_tensor(unit, dtype=torch.get_default_dtype()).expand(self.event_shape)
        if not bool(((unit > 0) & unit.isfinite()).all()):
            raise ValueError(
                f"Gamma expects a unit that is positive and finite, found {unit.min().item():g}; "
                "the mean of positive data is one."
            )
        self.register_buffer("unit", unit.clone())

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        raw_mean, *raw = self.head.each(*parents)
        mean = self.unit * positive(raw_mean, 1e-3)
        concentration = self.concentration(raw)
        elements = GammaDistribution(concentration, concentration / mean, validate_args=False)
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, log(x / unit), same shape."""
        return torch.log(value / self.unit)
