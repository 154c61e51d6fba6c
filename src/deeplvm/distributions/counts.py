"""Counts, whose digits are kept where they are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor, distributions
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from deeplvm.distributions.elements import Elements
from deeplvm.distributions.gamma_functions import log_binomial, log_poisson


def _counted(law: Callable[..., Tensor], x: Tensor, *of: Tensor, zero: Tensor) -> Tensor:
    """Log-probabilities of counts, in full only where something was counted.

    Most counts of genes and of words are 0, of which the law is one line and its gradient cheap.
    On a GPU, where to gather them waits for the device, and inside a graph, all are computed.

    Args:
        law: From counts and parameters to log-probabilities.
        x: The counts, NaN where one is missing.
        of: The parameters.
        zero: The log-probability of 0, broadcastable to the others.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return torch.where(x == 0, zero, law(x, *of))
    x, zero, *of_all = torch.broadcast_tensors(x, zero, *of)
    at = (x != 0).flatten().nonzero().squeeze(-1)  # NaN is not 0
    if len(at) == x.numel():
        return law(x, *of)
    found = law(*[each.flatten()[at] for each in (x, *of_all)])
    return zero.flatten().index_copy(0, at, found).reshape(x.shape)


def _log_negative_binomial(x: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    # r successes among r + x trials, the last of which is one
    share, rest = dispersion / (dispersion + mean), mean / (dispersion + mean)
    trials = log_binomial(dispersion, x, share, rest, share * (mean - x))
    return trials - torch.log1p(x / dispersion)


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
        return _counted(log_poisson, value.to(self.rate.dtype), self.rate, zero=-self.rate)


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
        mean, dispersion = self._mean, self.dispersion
        zero = -dispersion * torch.log1p(mean / dispersion)
        return _counted(_log_negative_binomial, value.to(mean.dtype), mean, dispersion, zero=zero)


class ZeroInflated(Elements):
    r"""Counts of which some are 0 whatever their law says: with probability :math:`\pi`.

    .. math:: p(0) = \pi + (1 - \pi)\, f(0), \qquad p(x) = (1 - \pi)\, f(x), \quad x > 0

    Args:
        counts: Elements of the law f, batch shape ``(*batch,)``.
        logits: :math:`\log \pi - \log (1 - \pi)`, broadcastable to it.

    Examples:
        >>> half = ZeroInflated(Poisson(torch.tensor(2.0)), torch.tensor(0.0))
        >>> half.mean, half.log_prob(torch.tensor([0.0, 1.0])).exp()  # (1 + e^-2) / 2, e^-2
        (tensor(1.), tensor([0.5677, 0.1353]))
    """

    names = ("logits",)
    support = constraints.nonnegative_integer
    logits: Tensor

    def __init__(self, counts: Distribution, logits: Tensor) -> None:
        super().__init__(logits.expand(counts.batch_shape))
        self.counts = counts

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Elements:
        new = super().expand(batch_shape, _instance)
        new.__dict__["counts"] = self.counts.expand(Size(batch_shape))
        return new

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.logits) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        share, mean = torch.sigmoid(self.logits), self.counts.mean
        return (1 - share) * (self.counts.variance + share * mean.square())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            drawn = self.counts.sample(Size(sample_shape))
            silent = torch.rand_like(drawn) < torch.sigmoid(self.logits)
            return torch.where(silent, 0.0, drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        some = logsigmoid(-self.logits) + self.counts.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.logits), some), some)


class Multinomial(Distribution):
    r"""How often each of D things is counted among :math:`n = \sum_d x_d`, given that total.

    .. math:: \log p(x | n) = \log \frac{n!}{\prod_d x_d!} + \sum_d x_d \log \pi_d

    Torch's own has one total for all rows; here each value brings its own, of which the density
    is: :math:`p(x | n)` sums to 1 over the values of that total. Draws have ``total`` things.

    Args:
        logits: Logarithms of the shares up to a constant, shape ``(*batch, D)``.
        total: Things in a draw, or in each, broadcastable to ``(*batch,)``.

    Examples:
        >>> words = Multinomial(torch.zeros(3), total=4)
        >>> words.log_prob(torch.tensor([[4.0, 0.0, 0.0], [2.0, 1.0, 1.0]])).exp() * 81
        tensor([ 1.0000, 12.0000])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  (torch's own name)
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, logits: Tensor, total: Tensor | int) -> None:
        self.logits, self.total = logits.log_softmax(-1), total
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return _beside(self.total) * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        shares = self.logits.exp()
        return _beside(self.total) * shares * (1 - shares)

    def given_total(self, total: Tensor) -> Multinomial:
        """The same law, of whose draws each has a total of its own, shape ``(*batch,)``."""
        return Multinomial(_for_each(self.logits, total), total)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Multinomial:
        return Multinomial(self.logits.expand(*batch_shape, -1), self.total)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            shares = self.logits.exp().expand(shape).reshape(-1, shape[-1])
            total = torch.as_tensor(self.total, device=shares.device).expand(shape[:-1])
            most = max(1, int(total.max()))
            drawn = torch.multinomial(shares, most, replacement=True)
            taken = torch.arange(most, device=drawn.device) < total.reshape(-1, 1)
            counts = torch.zeros_like(shares).scatter_add_(1, drawn, taken.to(shares))
            return counts.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.logits).sum(-1)


class OfTotal(Distribution):
    r"""Counts whose means are shares of each value's own total :math:`n = \sum_d x_d`.

    .. math:: \log p(x) = \sum_d \log f(x_d; n \pi_d + c), \qquad \pi = \mathrm{softmax}(\eta)

    n is taken as known. Over the values of a total it sums to the probability that counts of
    these means have it.

    Args:
        logits: :math:`\eta`, shape ``(*batch, D)``.
        law: From means to counts, element by element.
        total: n in a draw, or in each, broadcastable to ``(*batch,)``.
        minimum: c.

    Examples:
        >>> words = OfTotal(torch.zeros(2), lambda mean: Poisson(mean, validate_args=False), 4)
        >>> words.log_prob(torch.tensor([1.0, 1.0])).exp()  # exp(-2)
        tensor(0.1353)
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  (torch's own name)
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self,
        logits: Tensor,
        law: Callable[[Tensor], Distribution],
        total: Tensor | int,
        minimum: float = 0.0,
    ) -> None:
        self.logits, self.law, self.total, self.minimum = logits, law, total, minimum
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def counts(self, total: Tensor | int) -> Distribution:
        """The counts of a total, shape ``(*batch, 1)``, element by element."""
        return self.law(total * self.logits.softmax(-1) + self.minimum)

    @property
    def mean(self) -> Tensor:
        return self.counts(_beside(self.total)).mean

    @property
    def variance(self) -> Tensor:
        return self.counts(_beside(self.total)).variance

    def given_total(self, total: Tensor) -> OfTotal:
        """The same law, of whose draws each has a total of its own, shape ``(*batch,)``."""
        return OfTotal(_for_each(self.logits, total), self.law, total, self.minimum)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> OfTotal:
        logits = self.logits.expand(*batch_shape, -1)
        return OfTotal(logits, self.law, self.total, self.minimum)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.counts(_beside(self.total)).sample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype)
        return self.counts(value.sum(-1, keepdim=True)).log_prob(value).sum(-1)


def _for_each(logits: Tensor, total: Tensor) -> Tensor:
    return logits.expand(*torch.broadcast_shapes(logits.shape[:-1], total.shape), -1)


def _beside(total: Tensor | int) -> Tensor | int:
    return total.unsqueeze(-1) if isinstance(total, Tensor) else total
