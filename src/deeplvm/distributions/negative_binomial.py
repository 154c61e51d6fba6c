"""Negative binomial distribution by mean and dispersion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from deeplvm.distributions.gamma_functions import log_binomial


class NegativeBinomial(Distribution):
    r"""Counts with mean m and variance :math:`m + m^2 / r`; r the dispersion.

    .. math:: p(x) = \frac{\Gamma(r + x)}{\Gamma(r) \, x!}
              \left(\frac{r}{r + m}\right)^r \left(\frac{m}{r + m}\right)^x

    A Poisson variable whose rate is a gamma variable of shape r and mean m; Poisson in the limit
    of large r.

    Args:
        mean: m > 0, shape ``(*batch,)``.
        dispersion: r > 0, broadcastable to ``mean``.

    Examples:
        >>> NegativeBinomial(torch.tensor(3.0), torch.tensor(2.0)).variance
        tensor(7.5000)
    """

    arg_constraints = {  # noqa: RUF012  (torch's own name)
        "mean": constraints.positive,
        "dispersion": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, dispersion: Tensor) -> None:
        self._mean, self.dispersion = torch.broadcast_tensors(mean, dispersion)
        super().__init__(self._mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self._mean + self._mean.square() / self.dispersion

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> NegativeBinomial:
        return NegativeBinomial(
            self._mean.expand(batch_shape), self.dispersion.expand(batch_shape)
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            shape_, mean = self.dispersion.expand(shape), self._mean.expand(shape)
            return torch.poisson(torch._standard_gamma(shape_) * (mean / shape_))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self._mean.dtype)
        mean, dispersion = self._mean, self.dispersion
        # r successes among r + x trials, the last of which is one
        share, rest = dispersion / (dispersion + mean), mean / (dispersion + mean)
        trials = log_binomial(dispersion, value, share, rest, share * (mean - value))
        return trials - torch.log1p(value / dispersion)
