"""Student's t distribution, accurate for many degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import _standard_normal

from deeplvm.distributions.gamma_functions import log_rising


class StudentT(Distribution):
    r"""Student's t with :math:`\nu` degrees of freedom, location :math:`\mu` and scale s.

    .. math:: p(x) = \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\pi \nu} \, s}
              \left(1 + \frac{1}{\nu} \left(\frac{x - \mu}{s}\right)^2 \right)^{-(\nu + 1) / 2}

    The ratio of gamma functions keeps its digits for large :math:`\nu`, where torch's class
    subtracts two large logarithms; and this class can be traced.

    Args:
        df: :math:`\nu`, broadcastable to ``loc``.
        loc: :math:`\mu`, shape ``(*batch,)``.
        scale: s, broadcastable to ``loc``.

    Examples:
        >>> StudentT(torch.tensor(1e7), torch.tensor(0.0), torch.tensor(1.0)).log_prob(
        ...     torch.tensor(0.0)  # a standard normal has -0.9189
        ... )
        tensor(-0.9189)
    """

    arg_constraints = {  # noqa: RUF012  (torch's own name)
        "df": constraints.positive,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.df > 1, self.loc, math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        finite = self.scale.square() * self.df / (self.df - 2)
        return torch.where(self.df > 2, finite, torch.where(self.df > 1, math.inf, math.nan))

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> StudentT:
        shape = Size(batch_shape)
        return StudentT(self.df.expand(shape), self.loc.expand(shape), self.scale.expand(shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        noise = _standard_normal(shape, dtype=self.loc.dtype, device=self.loc.device)
        half_df = (0.5 * self.df).expand(shape)
        precision = torch._standard_gamma(half_df) / half_df
        precision = precision.clamp_min(torch.finfo(precision.dtype).tiny)
        return self.loc + self.scale * noise * precision.rsqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        df, scale = self.df, self.scale
        noise = (value - self.loc) / scale
        normaliser = log_rising(0.5 * df, torch.full_like(df, 0.5)) - 0.5 * (df * math.pi).log()
        return normaliser - scale.log() - 0.5 * (df + 1) * torch.log1p(noise.square() / df)
