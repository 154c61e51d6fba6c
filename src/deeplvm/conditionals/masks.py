"""Conditionals of missing values: an encoder that sees them, and a model of why they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import MeanAndStd, Shape, Units, event_shape_of
from deeplvm.distributions import Bernoulli


class ValueAndMask(nn.Module):
    """A deterministic node ``"f | x"``: the features of a value, and which elements are there.

    Where an element is missing its features are zero, as some values' are too. A joint that reads
    this node and not x itself has a density of what is observed, given which elements are, also
    where what comes after depends on what is missing (``"h | f, h[-1]"``).

    Args:
        shape: Event shape of the parent, which is flattened.
        view: From the parent to its features, where it is not read as it is: ``embed`` of the
            conditional that owns it in p.
        mask: Whether the mask is put beside the features.

    Examples:
        >>> ValueAndMask(2)(torch.tensor([[3.0, torch.nan]]))
        tensor([[3., 0., 1., 0.]])
    """

    accepts_missing = True

    def __init__(
        self, shape: Shape, view: Callable[[Tensor], Tensor] | None = None, *, mask: bool = True
    ) -> None:
        super().__init__()
        self.view, self.mask = view, mask
        self._dims = len(event_shape_of(shape, "ValueAndMask"))

    def forward(self, value: Tensor) -> Tensor:
        """Of a value, NaN where missing, ``(*particles, batch, *shape)``, one vector each."""
        lead = value.dim() - self._dims
        features = value if self.view is None else self.view(value)
        features = torch.nan_to_num(features, nan=0.0).flatten(lead)
        if not self.mask:
            return features
        there = (~value.isnan()).to(features).flatten(lead)
        return torch.cat([features, there], -1)


class WithMask(nn.Module):
    """A conditional that reads beside a value which of its elements are missing.

    Without, q(z | x) reads zeros in their place, which may be values too.

    Args:
        conditional: Reads features and mask side by side, one vector.
        shape, view: As of :class:`ValueAndMask`.

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> encoder = WithMask(Gaussian(1, nn.Linear(4, 4)), 2)
        >>> encoder(torch.tensor([[0.0, 0.0], [0.0, torch.nan]])).mean.unique().numel()
        2
    """

    accepts_missing = True

    def __init__(
        self, conditional: nn.Module, shape: Shape, view: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.conditional, self.seen = conditional, ValueAndMask(shape, view)
        self.event_shape = conditional.event_shape

    def forward(self, value: Tensor) -> Independent:
        """The distribution given a value, NaN where missing, ``(*particles, batch, *shape)``."""
        return self.conditional(self.seen(value))


class SelfMasking(nn.Module):
    r"""Which elements are observed, by what they are: :math:`p(s_d = 1) = \sigma(a_d u_d + b_d)`.

    u are the values in standardised units. A name ``"x_observed | x"`` of p with it makes a model
    of values that are missing not at random; q then draws what is missing of x
    (``"x | z": p["x"]``) and reads ``x_seen``.

    not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen, Mattei & Frellsen,
    2021), https://arxiv.org/abs/2006.12871

    Args:
        shape: The event shape.
        units: Mean and standard deviation of the values.

    Shape:
        A value ``(*particles, batch, *shape)`` gives that batch shape, event ``shape``.
    """

    def __init__(self, shape: Shape, units: MeanAndStd) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "SelfMasking")
        self.units = Units(units, self.event_shape, "SelfMasking")
        self.slope = nn.Parameter(torch.zeros(self.event_shape))
        self.offset = nn.Parameter(torch.zeros(self.event_shape))

    def forward(self, value: Tensor) -> Independent:
        """The distribution of ones and zeros given the values, none of them missing."""
        logits = self.slope * self.units.standardise(value) + self.offset
        return Independent(
            Bernoulli(logits=logits, validate_args=False),
            len(self.event_shape),
            validate_args=False,
        )
