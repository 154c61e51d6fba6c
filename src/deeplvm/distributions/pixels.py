"""Mixtures of discretised logistics: of single elements, and of the channels of a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from deeplvm.distributions.discrete import DiscretizedLogistic, nearest_level, scaled_level
from deeplvm.distributions.mixture import Weighted

_POINTS, _AT_ONCE = 256, 16  # of a mean over the channels before, and in memory


class DiscretizedLogisticMixture(Weighted):
    r"""One of several rounded logistic variables, :math:`\sum_k w_k\, p_k(x)`, levels 0 .. n-1.

    The components are those of :class:`~deeplvm.distributions.discrete.DiscretizedLogistic`, the
    tails in the lowest and the highest level, so that it sums to one exactly.

    Args:
        logits: raw weights, shape ``(*batch, components)``.
        loc, scale: in units of [-1, 1], same shape.
        levels: n.

    PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Examples:
        >>> grey = DiscretizedLogisticMixture(torch.zeros(2), torch.tensor([-0.5, 0.5]),
        ...                                   torch.tensor([0.1, 0.01]))
        >>> print(f"{grey.log_prob(torch.arange(256)).exp().sum():.4f}, {grey.mode:.0f}")
        1.0000, 191
    """

    has_enumerate_support = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int = 256) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.each = DiscretizedLogistic(loc, scale, levels)
        self.levels = levels
        super().__init__(self.each.batch_shape[:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return self.each.support

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> DiscretizedLogisticMixture:
        parts = (self.log_weights, self.each.loc, self.each.scale)
        logits, loc, scale = [part.expand(*batch_shape, part.shape[-1]) for part in parts]
        return DiscretizedLogisticMixture(logits, loc, scale, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of a level, shape ``(*sample, *batch)``, nats."""
        return self._sum(self.each.log_prob(value.unsqueeze(-1)))

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 - torch's own
        """The levels, shape ``(n, *batch)``."""
        values = self.each.enumerate_support(expand=False)[..., 0]
        return values.expand(-1, *self.batch_shape) if expand else values

    @property
    def mode(self) -> Tensor:
        """The most probable level; costs one score a level."""
        best = level = torch.zeros_like(self.each.loc[..., 0])
        highest = torch.full_like(best, -torch.inf)
        for each in self.enumerate_support(expand=False):
            found = self.log_prob(each.expand(self.batch_shape))
            level, highest = torch.where(found > highest, each, level), found.maximum(highest)
        return level.expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            index = _component(self.log_weights.expand(*shape, -1), -1)
            parts = [each.expand(*shape, -1) for each in (self.each.loc, self.each.scale)]
            loc, scale = [each.take_along_dim(index, -1).squeeze(-1) for each in parts]
            return DiscretizedLogistic(loc, scale, self.levels).sample()

    def _of_each(self, moment: str) -> Tensor:
        return getattr(self.each, moment)


class CoupledLogisticMixture(Distribution):
    r"""Pixels of several channels: of K components one, whose channels follow from each other.

    .. math:: p(x) = \sum_k w_k \prod_c p(x_c | m_{kc}, s_{kc}), \qquad
              m_{kc} = \mu_{kc} + \sum_{j < c} a_{kcj}\, u_j

    for each pixel, where p is a discretised logistic, and u the levels scaled to [-1, 1]. All
    channels of a pixel are of the same component: green is given red, and blue red and green.

    Args:
        logits: raw weights, shape ``(*batch, K, *pixels)``.
        loc, scale: :math:`\mu` and s, shape ``(*batch, K, channels, *pixels)``.
        coefficients: a, shape ``(*batch, K, channels (channels - 1) / 2, *pixels)``, in the order
            :math:`a_{10}, a_{20}, a_{21}, \dots`.
        levels: n.
        pixel_dims: how many dimensions ``pixels`` has.
        known: levels that are given, NaN elsewhere, ``(*batch, channels, *pixels)``: then it is
            the distribution of the others.

    A mean is over 256 fixed points of a component's channels, and wrong by a tenth of a level of
    256 or so, at most by one. A mode is not known: it would be the best of all combinations.

    PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        levels: int = 256,
        pixel_dims: int = 2,
        known: Tensor | None = None,
    ) -> None:
        self.log_weights = logits.log_softmax(-1 - pixel_dims)
        self.loc, self.scale, self.coefficients = loc, scale, coefficients
        self.levels, self.pixel_dims, self.known = levels, pixel_dims, known
        cut = loc.dim() - pixel_dims - 1
        super().__init__(loc.shape[: cut - 1], loc.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.event_shape))

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> CoupledLogisticMixture:
        parts = [each.expand(*batch_shape, *own) for each, own in self._parts()]
        return self._with(parts, known=self.known)

    def _parts(self) -> list[tuple[Tensor, Size]]:
        """What it is made of, each with its shape beside the batch."""
        every = (self.log_weights, self.loc, self.scale, self.coefficients)
        dims = [1 + self.pixel_dims, *[2 + self.pixel_dims] * 3]
        return [(each, each.shape[each.dim() - n :]) for each, n in zip(every, dims, strict=True)]

    def _with(
        self, parts: Sequence[Tensor], pixel_dims: int | None = None, known: Tensor | None = None
    ) -> CoupledLogisticMixture:
        dims = self.pixel_dims if pixel_dims is None else pixel_dims
        logits, loc, scale, pairs = parts
        return CoupledLogisticMixture(logits, loc, scale, pairs, self.levels, dims, known)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of a value, shape ``(*sample, *batch)``, nats."""
        log_prob = self._whole(self._each(value).logsumexp(self._axis))
        if self.known is None:
            return log_prob
        return log_prob - self.observed_log_prob(self.known, ~self.known.isnan())

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the channels that are not missing; exact.

        A channel that is missing before another of its pixel is summed over its levels.

        Raises:
            ValueError: two such channels are missing in a pixel, which would be the square.
        """
        value = torch.where(observed, value, 0)
        each = self._each(value, observed).logsumexp(self._axis)
        gaps = self._gaps(observed)
        found = gaps.any(self._axis).expand(each.shape)
        if bool(found.any()):  # no graph goes through here: there is none with missing values
            at, (value, observed, gaps) = self._at(found, value, observed, gaps)
            total = at._of_levels(value, observed, gaps).logsumexp(0)
            each = each.masked_scatter(found, total)
        return self._whole(each)

    def conditioned(self, value: Tensor, observed: Tensor) -> CoupledLogisticMixture:
        """That of what is not observed, given what is."""
        known = torch.where(observed, value, torch.nan)
        return self._with([part for part, _ in self._parts()], known=known)

    @property
    def mean(self) -> Tensor:
        return self._moments[0]

    @property
    def variance(self) -> Tensor:
        mean, square = self._moments
        return (square - mean.square()).clamp(min=0.0)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means of the levels and of their squares, over points that are spread evenly."""
        if self.known is not None:
            raise NotImplementedError  # draws tell
        channels, total = self.event_shape[0], [torch.zeros_like(self.loc) for _ in range(2)]
        ratio = 2.0  # of x^(channels + 1) = x + 1, a golden ratio of so many dimensions
        for _ in range(50):
            ratio = (1 + ratio) ** (1 / (channels + 1))
        steps = ratio ** -torch.arange(1.0, channels + 1, dtype=torch.float64)
        points = (0.5 + torch.arange(1.0, 1 + _POINTS // 2)[:, None] * steps) % 1
        noise = torch.cat([points, 1 - points]).logit().to(self.loc)  # each, and its opposite
        beside = [1] * (self.loc.dim() - 1 - self.pixel_dims)
        for part in noise.split(_AT_ONCE):
            shaped = part.reshape(-1, *beside, channels, *[1] * self.pixel_dims)
            levels = self._levels(shaped)
            total = [total[0] + levels.sum(0), total[1] + levels.square().sum(0)]
        weights = self.log_weights.exp().unsqueeze(self._axis)
        mean, square = [(weights * each).sum(self._axis - 1) / _POINTS for each in total]
        return mean, square

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            lead = shape[: len(shape) - len(self.event_shape)]
            log_weights, known = self.log_weights, None
            if self.known is not None:
                known = self._completed(self.known.expand(shape))
                log_weights = self._each(known.nan_to_num(), ~known.isnan())
            own = log_weights.shape[log_weights.dim() - 1 - self.pixel_dims :]
            index = _component(log_weights.expand(*lead, *own), self._axis).unsqueeze(self._axis)
            one = []
            for part, own in self._parts()[1:]:
                picked = part.expand(*lead, *own).take_along_dim(index, self._axis - 1)
                one.append(picked)
            weight = torch.zeros_like(one[0].select(self._axis, 0))
            alone = self._with([weight, *one])  # of one component
            noise = _logistic(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))
            noise = noise.unsqueeze(self._axis - 1)
            return alone._levels(noise, known).squeeze(self._axis - 1)

    @property
    def _axis(self) -> int:
        """Of the components in weights, of the channels in locations and values."""
        return -1 - self.pixel_dims

    def _each(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        """Joint with each component, ``(*lead, K, *pixels)``; of the observed channels alone."""
        value = value.to(self.loc.dtype).unsqueeze(self._axis - 1)
        before = scaled_level(value, self.levels).unbind(self._axis)
        loc = [self._located(channel, before) for channel in range(len(before))]
        loc = torch.stack(torch.broadcast_tensors(*loc), self._axis)
        each = DiscretizedLogistic(loc, self.scale, self.levels).log_prob(value)
        if observed is not None:
            each = torch.where(observed.unsqueeze(self._axis - 1), each, 0.0)
        return each.sum(self._axis) + self.log_weights

    def _whole(self, each: Tensor) -> Tensor:
        """The sum over pixels."""
        total = each.flatten(each.dim() - self.pixel_dims).sum(-1) if self.pixel_dims else each
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def _located(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """Where a channel is, given the scaled levels of those before it, ``(..., *pixels)``."""
        loc, first = self.loc.select(self._axis, channel), channel * (channel - 1) // 2
        for place in range(channel):
            coefficient = self.coefficients.select(self._axis, first + place)
            loc = loc + coefficient * before[place]
        return loc

    def _levels(self, noise: Tensor, known: Tensor | None = None) -> Tensor:
        """Levels of each component by logistic noise, channel by channel; of those not known."""
        axis, found, before = self._axis, [], []
        for channel in range(self.event_shape[0]):
            spread = self.scale.select(axis, channel) * noise.select(axis, channel)
            level = nearest_level(self._located(channel, before) + spread, self.levels)
            if known is not None:
                given = known.unsqueeze(axis - 1).select(axis, channel)
                level = torch.where(given.isnan(), level, given)
            found.append(level)
            before.append(scaled_level(level, self.levels))
        return torch.stack(found, axis)

    def _gaps(self, observed: Tensor) -> Tensor:
        """Whether a channel is missing, and one after it in its pixel is not."""
        after = observed.flip(self._axis).to(torch.int8).cumsum(self._axis).flip(self._axis)
        return ~observed & (after > 0)

    def _at(self, which: Tensor, *values: Tensor) -> tuple[CoupledLogisticMixture, list[Tensor]]:
        """Some pixels as rows, and what stands there of values: ``(N, channels)``."""
        lead = which.shape[: which.dim() - self.pixel_dims]

        def rows(part: Tensor, own: Size) -> Tensor:
            wide, dims = part.expand(*lead, *own), len(own) - self.pixel_dims
            last = range(-dims, 0)
            return wide.movedim([each - self.pixel_dims for each in last], [*last])[which]

        parts = [rows(part, own) for part, own in self._parts()]
        return self._with(parts, 0), [rows(value, self.event_shape) for value in values]

    def _of_levels(self, value: Tensor, observed: Tensor, gaps: Tensor) -> Tensor:
        """Joint probability of what is observed and each level of a gap, ``(n, N)``."""
        if bool((gaps.sum(-1) > 1).any()):
            raise ValueError(
                "Two channels of a pixel are missing and a later one is not, so that all pairs of "
                "levels would have to be summed over: leave out whole pixels, or fill in these."
            )
        levels = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device)
        found = []
        for some in levels.split(_AT_ONCE):
            filled = torch.where(gaps, some[:, None, None], value.to(some))
            found.append(self._each(filled, observed | gaps).logsumexp(-1))
        return torch.cat(found)

    def _completed(self, known: Tensor) -> Tensor:
        """A draw where a channel is missing before others that are known."""
        observed = ~known.isnan()
        gaps = self._gaps(observed)
        found = gaps.any(self._axis)
        # a number of each pixel, also of those without a gap: a row's do not depend on the others
        uniform = torch.rand(found.shape, dtype=self.loc.dtype, device=self.loc.device)
        if not bool(found.any()):
            return known
        at, (value, seen, missing) = self._at(found, known.nan_to_num(), observed, gaps)
        below = at._of_levels(value, seen, missing).softmax(0).cumsum(0)
        level = (below < uniform[found] * below[-1]).sum(0).to(known)
        drawn = torch.zeros(found.shape).to(known).masked_scatter(found, level)
        return torch.where(gaps, drawn.unsqueeze(self._axis), known)


def _component(log_weights: Tensor, axis: int) -> Tensor:
    """One along an axis, in proportion to its weight; the axis stays, of length 1."""
    uniform = torch.rand_like(log_weights).clamp(min=torch.finfo(log_weights.dtype).tiny)
    return (log_weights - (-uniform.log()).log()).argmax(axis, keepdim=True)


def _logistic(uniform: Tensor) -> Tensor:
    return uniform.clamp_min(torch.finfo(uniform.dtype).tiny).logit()
