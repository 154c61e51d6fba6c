"""Counts, whose digits are kept where they are large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, distributions
from torch.distributions import Distribution, constraints

from deeplvm.distributions.elements import Elements
from deeplvm.distributions.gamma_functions import log_binomial, log_poisson


class Poisson(distributions.Poisson):
    r"""Counts of mean and variance :math:`\lambda`, :math:`p(x) = \lambda^x e^{-\lambda} / x!`.

    torch's law; its log-probability at a mean of 1e6 is wrong by up to 3 nats in single precision.

    Examples:
        >>> import torch
        >>> Poisson(torch.tensor(1e6)).log_prob(torch.tensor(1e6))  # -log(2 pi 1e6) / 2
        tensor(-7.8267)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return log_poisson(value.to(self.rate.dtype), self.rate)


class NegativeBinomial(Elements):
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

    names = ("_mean", "dispersion")
    support = constraints.nonnegative_integer
    _mean: Tensor
    dispersion: Tensor

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self._mean + self._mean.square() / self.dispersion

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


class Multinomial(Distribution):
    r"""How often each of D things is counted among :math:`n = \sum_d x_d`, given that total.

    .. math:: \log p(x | n) = \log \frac{n!}{\prod_d x_d!} + \sum_d x_d \log \pi_d

    Torch's own has one total for all rows; here each value brings its own, of which the density
    is: :math:`p(x | n)` sums to 1 over the values of that total. Draws have ``total`` things.

    Args:
        logits: Logarithms of the shares up to a constant, shape ``(*batch, D)``.
        total: Things in a draw.

    Examples:
        >>> words = Multinomial(torch.zeros(3), total=4)
        >>> words.log_prob(torch.tensor([[4.0, 0.0, 0.0], [2.0, 1.0, 1.0]])).exp() * 81
        tensor([ 1.0000, 12.0000])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  (torch's own name)
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total: int) -> None:
        self.logits, self.total = logits.log_softmax(-1), total
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.total * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        shares = self.logits.exp()
        return self.total * shares * (1 - shares)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Multinomial:
        return Multinomial(self.logits.expand(*batch_shape, -1), self.total)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            shares = self.logits.exp().expand(shape).reshape(-1, shape[-1])
            drawn = torch.multinomial(shares, self.total, replacement=True)
            counts = torch.zeros_like(shares).scatter_add_(
                1, drawn, torch.ones_like(drawn, dtype=shares.dtype)
            )
            return counts.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.logits).sum(-1)
