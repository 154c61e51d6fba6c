"""Negative binomial distribution by mean and dispersion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints


def log_rising(start: Tensor, steps: Tensor) -> Tensor:
    r""":math:`\log \Gamma(a + n) - \log \Gamma(a)` for :math:`a > 0`, accurate for large a too.

    The two logarithms cancel for large a: with float32 and a = 1e6 their difference has no
    correct digit. From a = 20 on the difference of Stirling's series is taken term by term.

    Examples:
        >>> log_rising(torch.tensor(1e6), torch.tensor(2.0))  # 2 log(1e6), and a little
        tensor(27.6310)
    """
    large = start > 20
    small = torch.where(large, 1.0, start)
    big = torch.where(large, start, 20.0)
    end = big + steps
    direct = torch.lgamma(small + steps) - torch.lgamma(small)
    series = (big - 0.5) * torch.log1p(steps / big) + steps * end.log() - steps
    return torch.where(large, series + _stirling(end) - _stirling(big), direct)


def _stirling(a: Tensor) -> Tensor:
    # log Gamma(a) = (a - 1/2) log a - a + log(2 pi)/2 + 1/(12 a) - 1/(360 a^3) + 1/(1260 a^5)
    inverse = a.reciprocal()
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


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
        # log of r/(r+m) is -log1p(m/r): no difference of near-equal logarithms
        nothing = -dispersion * torch.log1p(mean / dispersion)
        each = mean.log() - (mean + dispersion).log()
        ways = log_rising(dispersion, value) - torch.lgamma(value + 1)
        return ways + nothing + value * each
