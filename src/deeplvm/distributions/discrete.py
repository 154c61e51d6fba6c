"""Binary, categorical and ordered values, and pixels of a given number of levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor, distributions
from torch.distributions import Categorical, Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid

from deeplvm.core.trace import same_shape
from deeplvm.distributions.elements import Elements


class Bernoulli(torch.distributions.Bernoulli):
    r"""Bernoulli, :math:`\log p(x) = x \eta - \log(1 + e^\eta)`, finite for every logit.

    Torch's own, except that the value may be of integer or boolean dtype.

    Args:
        logits: :math:`\eta`, shape ``(*batch,)``.

    Examples:
        >>> Bernoulli(logits=torch.tensor([0.0, -1e4])).log_prob(torch.tensor([1, 1]))
        tensor([-6.9315e-01, -1.0000e+04])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits
        value = value.to(logits.dtype)
        if not same_shape(value.shape, logits.shape):
            logits, value = torch.broadcast_tensors(logits, value)
        # log sigma(eta) + (x - 1) eta: the digits of 1 - x are kept, and nothing is negated
        return torch.addcmul(logsigmoid(logits), value - 1, logits)


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoullis(q: Bernoulli, p: Bernoulli) -> Tensor:
    # torch's own formula cannot broadcast q against p, and is infinite where a sigmoid rounds to 0
    one = q.logits.sigmoid() * (logsigmoid(q.logits) - logsigmoid(p.logits))
    zero = (-q.logits).sigmoid() * (logsigmoid(-q.logits) - logsigmoid(-p.logits))
    return one + zero


class OneHotCategorical(torch.distributions.OneHotCategorical):
    r"""One category, as a vector of a single 1, :math:`\log p(x) = \sum_k x_k \log p_k`.

    Torch's own, with the exact marginal of some of the elements, log-densities linear in the
    value instead of its largest element, and no look at the content, so that it can be traced.

    Args:
        logits: shape ``(*batch, classes)``.
    """

    def __init__(self, logits: Tensor) -> None:
        self._categorical = Categorical(logits=logits, validate_args=False)
        batch_shape, event_shape = logits.shape[:-1], logits.shape[-1:]
        Distribution.__init__(self, batch_shape, event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> OneHotCategorical:
        return OneHotCategorical(self.logits.expand(*batch_shape, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits  # normalised by torch: logarithms of the probabilities
        return (value.to(logits.dtype) * logits).sum(-1)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        r"""Log-probability of the observed elements.

        The 1 is either among the observed elements, or in one of the missing:
        :math:`\log \sum_{k\,\text{missing}} p_k`.

        Args:
            value: shape ``(*batch, classes)``; what stands at missing elements is not read.
            observed: which elements are known, same shape.

        Returns:
            Shape ``(*batch,)``, in nats; 0 where nothing is observed.
        """
        logits = self.logits.expand(observed.shape)
        found = observed & (value > 0.5)
        possible = torch.where(found.any(-1, keepdim=True), found, ~observed)
        # -1e30 and not -inf: a gradient of logsumexp over nothing but -inf is NaN
        return torch.where(possible, logits, -1e30).logsumexp(-1)


def log_sigmoid_difference(upper: Tensor, lower: Tensor) -> Tensor:
    r""":math:`\log(\sigma(b) - \sigma(a))` for :math:`b > a`, without cancellation.

    .. math:: \sigma(b) - \sigma(a) = \sigma(b) \, \sigma(-a) \, (1 - e^{-(b - a)})

    Examples:
        >>> log_sigmoid_difference(torch.tensor(101.0), torch.tensor(100.0))
        tensor(-100.4587)
    """
    return logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))


class DiscretizedLogistic(Elements):
    r"""A logistic variable rounded to the levels 0 .. n-1; it sums to one exactly.

    Levels are scaled to :math:`u \in [-1, 1]`, with bins of width :math:`2h = 2 / (n - 1)`:

    .. math:: p(x) = \sigma((u + h - \mu) / s) - \sigma((u - h - \mu) / s)

    where the lowest level takes everything below its upper edge and the highest everything above
    its lower edge. (The formula printed in the IAF paper leaves the tails out and does not sum to
    one.)

    Args:
        loc: :math:`\mu` in scaled units, shape ``(*batch,)``.
        scale: s in scaled units, broadcastable to ``loc``.
        levels: n.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    Examples:
        >>> pixel = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.05))
        >>> print(f"{pixel.log_prob(torch.arange(256)).exp().sum():.6f}")
        1.000000
    """

    names = ("loc", "scale")
    has_enumerate_support = True
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256) -> None:
        self.levels = levels
        super().__init__(loc, scale)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        r""":math:`\sum_{k<n-1} P(x > k)`, in levels; costs one sigmoid a level."""
        total = torch.zeros_like(self.loc)
        for start in range(0, self.levels - 1, 16):  # in pieces, so that memory stays small
            stop = min(start + 16, self.levels - 1)
            level = torch.arange(start, stop, dtype=self.loc.dtype, device=self.loc.device)
            edge = (2 * level + 1) / (self.levels - 1) - 1
            above = (self.loc.unsqueeze(-1) - edge) / self.scale.unsqueeze(-1)
            total = total + above.sigmoid().sum(-1)
        return total

    @property
    def mode(self) -> Tensor:
        """The most probable level: an end, which has a tail, or the nearest to the centre."""
        ends = torch.zeros_like(self.loc), torch.full_like(self.loc, self.levels - 1)
        levels = torch.stack([nearest_level(self.loc, self.levels), *ends])
        return levels.gather(0, self.log_prob(levels).argmax(0, keepdim=True)).squeeze(0)

    @property
    def variance(self) -> Tensor:
        """Costs all the levels in memory."""
        levels = self.enumerate_support()
        return (self.log_prob(levels).exp() * (levels - self.mean).square()).sum(0)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            noise = uniform.clamp_min(torch.finfo(uniform.dtype).tiny).logit()
            return nearest_level(self.loc + self.scale * noise, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.loc.dtype)
        half = 1 / (self.levels - 1)
        centred = scaled_level(value, self.levels) - self.loc
        # the three parts of log_sigmoid_difference; the edge bins drop the tail that is not there
        below_upper = logsigmoid((centred + half) / self.scale)
        above_lower = logsigmoid((half - centred) / self.scale)
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        lowest, highest = value <= 0, value >= self.levels - 1
        upper = torch.where(highest, 0.0, below_upper)
        lower = torch.where(lowest, 0.0, above_lower)
        return upper + lower + torch.where(lowest | highest, 0.0, width)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002
        dtype, device = self.loc.dtype, self.loc.device
        values = torch.arange(self.levels, dtype=dtype, device=device)
        values = values.reshape(-1, *[1 for _ in self.batch_shape])
        return values.expand(-1, *self.batch_shape) if expand else values


def scaled_level(level: Tensor, levels: int) -> Tensor:
    """Levels 0 .. n-1 in units of [-1, 1]."""
    return level * (2 / (levels - 1)) - 1


def nearest_level(scaled: Tensor, levels: int) -> Tensor:
    """The level that is nearest to a number in units of [-1, 1]."""
    top = levels - 1
    return ((scaled + 1) * (0.5 * top)).round().clamp(0, top)


class LevelCategorical(Distribution):
    r"""Levels 0 .. n-1 with a probability each, :math:`p(x = k) = \mathrm{softmax}(\eta)_k`.

    As torch's Categorical, but levels have a mean, and the logits are kept as they are: of images
    of 256 levels they are the largest tensor there is, and a second one is made only where a
    gradient needs it. Moments and draws go through some of the elements at a time.

    Args:
        logits: :math:`\eta`, shape ``(*batch, n)``.

    Examples:
        >>> import math
        >>> pixel = LevelCategorical(torch.zeros(256))
        >>> pixel.mean, pixel.log_prob(torch.tensor(3)) / math.log(2.0)
        (tensor(127.5000), tensor(-8.))
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_enumerate_support = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> LevelCategorical:
        return LevelCategorical(self.logits.expand(*batch_shape, -1))

    @property
    def mean(self) -> Tensor:
        return self._of_some(lambda p, levels: p @ levels)

    @property
    def variance(self) -> Tensor:
        return self._of_some(
            lambda p, levels: (p * (levels - (p @ levels).unsqueeze(-1)).square()).sum(-1)
        )

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        index = value.long().expand(shape).unsqueeze(-1)
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        return logits.gather(-1, index).squeeze(-1) - self.logits.logsumexp(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002
        dtype, device = self.logits.dtype, self.logits.device
        values = torch.arange(self.logits.shape[-1], dtype=dtype, device=device)
        values = values.reshape(-1, *[1 for _ in self.batch_shape])
        return values.expand(-1, *self.batch_shape) if expand else values

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)

            def drawn(p: Tensor, _: Tensor, u: Tensor) -> Tensor:
                below = p.cumsum(-1)
                return (below < (u * below[..., -1]).unsqueeze(-1)).sum(-1).to(p)

            return self._of_some(drawn, uniform)

    def _of_some(self, what: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """What is said of probabilities, and of tensors beside them, part by part."""
        levels = self.enumerate_support(expand=False).flatten()
        shape = torch.broadcast_shapes(self.batch_shape, *[each.shape for each in beside])
        if not shape:
            return what(self.logits.softmax(-1), levels, *beside)
        logits = self.logits.expand(*shape, len(levels))
        rows = max(1, _AT_ONCE * len(logits) // max(1, logits.numel()))
        parts = [each.expand(shape).split(rows) for each in beside]
        found = [
            what(each.softmax(-1), levels, *some)
            for each, *some in zip(logits.split(rows), *parts, strict=True)
        ]
        return torch.cat(found)


_AT_ONCE = 2**22  # probabilities


class Ordinal(distributions.Categorical):
    r"""Ordered levels 0 .. n-1 with :math:`P(x \le k) = \sigma(t_k - f)`.

    Args:
        logits: the logarithms of the probabilities, as :func:`cumulative_logits` makes them from
            f and the thresholds, shape ``(*batch, n)``.

    Regression Models for Ordinal Data (McCullagh, 1980),
    https://doi.org/10.1111/j.2517-6161.1980.tb01109.x
    """

    @property
    def support(self) -> distributions.constraints.Constraint:
        return distributions.constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return (self.probs * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        return (self.probs * (self._levels() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def _levels(self) -> Tensor:
        logits = self.logits
        return torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)


def cumulative_logits(location: Tensor, thresholds: Tensor) -> Tensor:
    r"""Log-probabilities of n ordered levels from n-1 rising thresholds.

    .. math:: \log p_k = \log (\sigma(t_k - f) - \sigma(t_{k-1} - f)),
              \quad t_{-1} = -\infty, \; t_{n-1} = \infty

    Args:
        location: f, shape ``(*batch,)``.
        thresholds: t, shape ``(*batch, n - 1)``, broadcastable.

    Returns:
        Shape ``(*batch, n)``; finite however far f is from the thresholds.

    Examples:
        >>> cumulative_logits(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """
    edges = thresholds - location.unsqueeze(-1)
    lowest, highest = logsigmoid(edges[..., :1]), logsigmoid(-edges[..., -1:])
    between = log_sigmoid_difference(edges[..., 1:], edges[..., :-1])
    return torch.cat([lowest, between, highest], -1)
