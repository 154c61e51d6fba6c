"""A real number some values of which have probabilities of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid, softplus

# Edges at infinity, in scores: far enough for a probability of 0, and finite, as gradients want.
_FAR = 1e4


class PiecewiseLinear:
    r"""A rising map g of the reals through knots, :math:`g(k_i) = s_i`, linear between and beyond.

    Args:
        knots: :math:`k_i`, rising, shape ``(*event, n)``, n of at least 2.
        scores: :math:`s_i`, rising, broadcastable to it.
    """

    def __init__(self, knots: Tensor, scores: Tensor) -> None:
        self.knots = knots
        self.scores = scores.expand_as(knots)
        self.slopes = self.scores.diff(dim=-1) / self.knots.diff(dim=-1)

    def __call__(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """g(x) and its slope there, both of the shape ``(*batch, *event)`` of x."""
        return self._line(value, self.knots, self.scores, self.slopes)

    def inverse(self, score: Tensor) -> Tensor:
        """X where g(x) is ``score``, shape ``(*batch, *event)``."""
        return self._line(score, self.scores, self.knots, 1 / self.slopes)[0]

    def _line(
        self, value: Tensor, start: Tensor, end: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        event = self.knots.shape[:-1]
        rows = value.expand(torch.broadcast_shapes(value.shape, event)).reshape(-1, event.numel())
        columns = rows.t().contiguous()  # (elements, rows)
        start, end, slopes = (each.reshape(event.numel(), -1) for each in (start, end, slopes))
        place = torch.searchsorted(start.contiguous(), columns.detach(), right=True) - 1
        place = place.clamp(0, slopes.shape[-1] - 1)
        slope = slopes.gather(-1, place)
        mapped = end.gather(-1, place) + slope * (columns - start.gather(-1, place))
        shape = torch.broadcast_shapes(value.shape, event)
        return mapped.t().reshape(shape), slope.t().reshape(shape)


_LEVELS = 8  # of the quantiles behind a variance, at a time


class Spiked(Distribution):
    r"""Point masses at atoms; elsewhere a mixture of logistics on a monotone map g.

    .. math:: P(x = a_j) = w_j, \qquad
              p(x) = g'(x) \sum_k w_k\, l((g(x) - \mu_k) / s_k) / s_k, \qquad
              \sum_j w_j + \sum_k w_k = 1

    l is the standard logistic density. The log-density is with respect to counting at the atoms
    and length elsewhere, in the units of x. What lies beyond a bound is probability of the bound
    itself, or each logistic is truncated there: then nothing lies beyond, and the bounds have a
    density. With a ``step`` the values are its multiples, of which each gets the probability of
    what rounds to it, beside that of an atom there: nothing but probabilities.

    Args:
        logits: Raw weights of the atoms and then of the logistics, ``(*batch, atoms +
            components)``.
        loc: :math:`\mu`, shape ``(*batch, components)``.
        scale: s, the same shape.
        atoms: a, broadcastable to ``(*batch, atoms)``, different from each other; NaN is none.
        transform: g, of events that are the last of ``batch``.
        bounds: The least and the largest value, broadcastable to ``batch``, infinite where there
            is none; ``None`` for all reals.
        step: Distance of the values, which are its multiples; ``None`` for reals.
        truncated: Whether the logistics end at the bounds; of reals alone.

    Examples:
        >>> identity = PiecewiseLinear(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
        >>> half = Spiked(
        ...     torch.zeros(2), torch.tensor([3.0]), torch.ones(1), torch.zeros(1), identity
        ... )
        >>> half.log_prob(torch.tensor([0.0, 3.0])).exp()  # P(x = 0), and the density at 3
        tensor([0.5000, 0.1250])
        >>> half.mean, half.icdf(torch.tensor([0.3, 0.75]))
        (tensor(1.5000), tensor([0.0000, 3.0000]))
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        atoms: Tensor,
        transform: PiecewiseLinear,
        bounds: tuple[Tensor, Tensor] | None = None,
        step: float | None = None,
        *,
        truncated: bool = False,
    ) -> None:
        self.loc, self.scale, self.atoms = loc, scale, atoms
        self.transform, self.bounds, self.step = transform, bounds, step
        self.truncated = truncated
        absent = torch.nn.functional.pad(atoms.isnan(), (0, loc.shape[-1]))
        self.logits = logits.masked_fill(absent, -torch.inf)
        weights = self.logits.log_softmax(-1)
        self.spikes, self.slabs = weights.split([atoms.shape[-1], loc.shape[-1]], -1)
        super().__init__(loc.shape[:-1], validate_args=False)

    def _of(self, logits: Tensor, loc: Tensor, scale: Tensor) -> Spiked:
        """The same atoms, map and bounds."""
        atoms, bounds, step = self.atoms, self.bounds, self.step
        return Spiked(
            logits, loc, scale, atoms, self.transform, bounds, step, truncated=self.truncated
        )

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Spiked:
        each = (self.logits, self.loc, self.scale)
        logits, loc, scale = (part.expand(*batch_shape, part.shape[-1]) for part in each)
        return self._of(logits, loc, scale)

    def mixed(self, log_weights: Tensor) -> Spiked:
        """A mixture of elements with the same atoms and map is one of more logistics.

        Args:
            log_weights: Normalised, shape ``(*lead, classes)``.

        Returns:
            From a batch shape ``(*lead, classes, elements)``, or without the lead, that of
            ``(*lead, elements)``.
        """
        weights = log_weights[..., None, None]
        spikes = (weights + self.spikes).logsumexp(-3)
        slabs = (weights + self.slabs).transpose(-3, -2)  # (*lead, elements, classes, components)
        parts = [part.transpose(-3, -2).expand_as(slabs) for part in (self.loc, self.scale)]
        slabs, loc, scale = [part.flatten(-2) for part in (slabs, *parts)]
        logits = torch.cat([spikes, slabs], -1)
        return self._of(logits, loc, scale)

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The scores of the bounds, finite, ``(*event, 1)``."""
        assert self.bounds is not None
        low, high = (
            self.transform(bound)[0].clamp(-_FAR, _FAR).unsqueeze(-1) for bound in self.bounds
        )
        return low, high

    def _log_within(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        """Log of each logistic's probability between two scores; ``width`` is their distance."""
        lower, upper, width = lower / self.scale, upper / self.scale, width / self.scale
        centre = self.loc / self.scale
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), without cancellation
        each = logsigmoid(upper - centre) + logsigmoid(centre - lower)
        return each + torch.log(-torch.expm1(-width))

    @property
    def _log_kept(self) -> Tensor | float:
        """Log of what truncation leaves of each logistic."""
        if not self.truncated:
            return 0.0
        low, high = self._ends
        return self._log_within(low, high, high - low)

    def log_prob(self, value: Tensor, spike: Tensor | None = None) -> Tensor:
        """Nats: of a probability at atoms, bounds and multiples of a step, else of a density.

        Args:
            value: Shape ``(*sample, *batch)``.
            spike: The logarithm of the weight of the atom that a value is, where that is known.
        """
        value = value.to(self.loc.dtype)
        known = None
        if self.atoms.shape[-1]:
            hit = value.unsqueeze(-1) == self.atoms
            known = hit.any(-1)
            if spike is None:
                spike = torch.where(hit, self.spikes, 0.0).sum(-1)
        inside = None
        if self.step is None:
            inside = self._log_density(value)
            if known is not None and spike is not None:
                inside = torch.where(known, spike, inside)
            if self.bounds is None or self.truncated:
                return inside
        mass = self._log_mass(value)
        if known is not None and spike is not None:
            mass = torch.where(known, torch.logaddexp(spike, mass), mass)
        if inside is None or self.bounds is None:
            return mass
        low, high = self.bounds
        return torch.where((value <= low) | (value >= high), mass, inside)

    def _log_density(self, value: Tensor) -> Tensor:
        """Of the mixture alone, in the units of the value."""
        score, slope = self.transform(value)
        slope = slope.log()
        if self.truncated and self.bounds is not None:
            beyond = (value < self.bounds[0]) | (value > self.bounds[1])
            slope = torch.where(beyond, -torch.inf, slope)
        # every operation here is one of each value under each component, so there are few of them
        noise = (self.loc - score.unsqueeze(-1)) / self.scale
        each = (self.slabs - self._log_kept - self.scale.log()) + noise
        each = torch.add(each, softplus(noise), alpha=-2)
        return (each.squeeze(-1) if each.shape[-1] == 1 else each.logsumexp(-1)) + slope

    def _edges(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The scores between which everything is this value, and their distance.

        Of a multiple of a step, or of a bound; elsewhere they are one, and the distance says 1.
        """
        half = (self.step or 0.0) / 2
        lower, left = self.transform(value - half)
        upper, right = self.transform(value + half)
        # between two knots the difference of two near scores would lose its digits
        width = torch.where(left == right, 2 * half * left, upper - lower)
        if self.bounds is not None:
            below, above = value <= self.bounds[0], value >= self.bounds[1]
            lower, upper = torch.where(below, -_FAR, lower), torch.where(above, _FAR, upper)
            width = torch.where(below | above, upper - lower, width if self.step else 1.0)
        return lower, upper, width

    def _log_mass(self, value: Tensor) -> Tensor:
        """The logarithm of the mixture's probability of a multiple of a step, or of a bound."""
        each = self._log_within(*(edge.unsqueeze(-1) for edge in self._edges(value)))
        return (self.slabs + each).logsumexp(-1)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x), of any real x, atoms and all."""
        value = value.to(self.loc.dtype)
        if self.step is not None:
            value = self._multiple_below(value)
        if self.truncated:
            low, high = self._ends
            upper = self.transform(value)[0].unsqueeze(-1).clamp(low, high)
            within = self._log_within(low, upper, upper - low)
            mass = (self.slabs + within - self._log_kept).exp().sum(-1)
        else:
            noise = (self._edges(value)[1].unsqueeze(-1) - self.loc) / self.scale
            mass = (self.slabs.exp() * noise.sigmoid()).sum(-1)
        below = self.atoms <= value.unsqueeze(-1)
        spikes = torch.where(below, self.spikes.exp(), 0.0).sum(-1)
        if self.bounds is None:
            return spikes + mass
        return torch.where(value < self.bounds[0], 0.0, spikes + mass)

    def icdf(self, probability: Tensor) -> Tensor:
        """The least x with P(X <= x) of at least ``probability``, by halving an interval."""
        probability = torch.as_tensor(probability, dtype=self.loc.dtype, device=self.loc.device)
        shape = torch.broadcast_shapes(probability.shape, self.batch_shape)
        low = (self.loc - 60 * self.scale).amin(-1).expand(shape)
        high = (self.loc + 60 * self.scale).amax(-1).expand(shape)
        for atom in self.atoms.unbind(-1):
            score = self.transform(atom)[0].expand(shape)
            low, high = torch.fmin(low, score - 1), torch.fmax(high, score + 1)
        for _ in range(80):
            middle = (low + high) / 2
            enough = self.cdf(self._value(middle)) >= probability
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        found = self._value(high)
        if self.step is not None:
            return self._multiple_below(found)
        for atom, spike in zip(self.atoms.unbind(-1), self.spikes.exp().unbind(-1), strict=True):
            at = self.cdf(atom.expand(shape))
            found = torch.where((at - spike < probability) & (probability <= at), atom, found)
        return found

    def _multiple_below(self, value: Tensor) -> Tensor:
        """The largest multiple of the step that is at most x; 0.3 / 0.1 is below 3 in floats."""
        assert self.step is not None
        count = value / self.step
        near = count.round()
        rounding = 4 * torch.finfo(count.dtype).eps * (1 + near.abs())
        return torch.where((count - near).abs() <= rounding, near, count.floor()) * self.step

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """A value that has a probability in (low, high], which are near each other; else high."""
        if self.step is not None:
            return self._multiple_below(high)
        ends = () if self.bounds is None or self.truncated else self.bounds
        for point in (*self.atoms.unbind(-1), *ends):
            high = torch.where((low < point) & (point <= high), point, high)
        return high

    def _value(self, score: Tensor) -> Tensor:
        """X where g(x) is ``score``, within the bounds."""
        value = self.transform.inverse(score)
        return value if self.bounds is None else value.clamp(*self.bounds)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            like = {"dtype": self.loc.dtype, "device": self.loc.device}
            uniform = torch.rand((*shape, 2), **like)  # a pair a draw: more rows begin alike
            limits = torch.cat([self.spikes, self.slabs], -1).exp().cumsum(-1)[..., :-1]
            chosen = (uniform[..., :1] > limits).sum(-1, keepdim=True)
            count = self.atoms.shape[-1]
            place = (chosen - count).clamp(min=0)
            loc, scale = (
                part.expand(*shape, -1).gather(-1, place).squeeze(-1)
                for part in (self.loc, self.scale)
            )
            level = uniform[..., 1]
            if self.truncated:
                low, high = (((end.squeeze(-1) - loc) / scale).sigmoid() for end in self._ends)
                level = low + (high - low) * level
            tiny, near = torch.finfo(self.loc.dtype).tiny, torch.finfo(self.loc.dtype).eps / 2
            value = self._value(loc + scale * level.clamp(tiny, 1 - near).logit())
            if self.step is not None:
                value = (value / self.step).round() * self.step
            if not count:
                return value
            atoms = self.atoms.expand(*shape, count)
            atom = atoms.gather(-1, chosen.clamp(max=count - 1)).squeeze(-1)
            return torch.where(chosen.squeeze(-1) < count, atom, value)

    @property
    def mean(self) -> Tensor:
        r"""In closed form, by :math:`E(U - t)_+ = s \log(1 + e^{(\mu - t) / s})` of a logistic U.

        With a step, of what is not yet rounded: within half a step.
        """
        knots, scores = self.transform.knots, self.transform.scores
        widths = 1 / self.transform.slopes
        above = self.scale.unsqueeze(-1) * softplus(
            (self.loc.unsqueeze(-1) - scores[..., 1:-1].unsqueeze(-2)) / self.scale.unsqueeze(-1)
        )
        line = knots[..., :1] + widths[..., :1] * (self.loc - scores[..., :1])
        each = line + (widths.diff(dim=-1).unsqueeze(-2) * above).sum(-1)
        if self.truncated:
            each = self._truncated_mean()
        elif self.bounds is not None:
            low, high = self._ends
            under = self.scale * softplus((low - self.loc) / self.scale)
            over = self.scale * softplus((self.loc - high) / self.scale)
            each = each + widths[..., :1] * under - widths[..., -1:] * over
        atoms = (self.atoms.nan_to_num() * self.spikes.exp()).sum(-1)
        return atoms + (self.slabs.exp() * each).sum(-1)

    def _truncated_mean(self) -> Tensor:
        r"""Of each truncated logistic, shape ``(*batch, components)``, within the bounds.

        .. math:: E[(U - t); a < U < b] = I(a) + (a - t) S(a) - I(b) - (b - t) S(b), \quad
                  I(a) = s \log(1 + e^{(\mu - a) / s}), \quad S(a) = P(U > a)
        """
        assert self.bounds is not None
        knots, scores = self.transform.knots, self.transform.scores
        widths = 1 / self.transform.slopes
        loc, scale = self.loc.unsqueeze(-1), self.scale.unsqueeze(-1)
        low, high = (end.unsqueeze(-1) for end in self._ends)  # (*event, 1, 1)

        def above(start: Tensor, corner: Tensor) -> Tensor:
            noise = (loc - start) / scale
            return scale * softplus(noise) + (start - corner) * noise.sigmoid()

        corners = torch.cat([low.squeeze(-1), scores[..., 1:-1]], -1).unsqueeze(-2)
        start = torch.minimum(torch.maximum(corners, low), high)
        parts = above(start, corners) - above(high, corners)
        kept = torch.as_tensor(self._log_kept).exp().unsqueeze(-1)
        parts = parts / kept.clamp(min=torch.finfo(kept.dtype).tiny)
        first = low.squeeze(-1) + parts[..., 0]
        line = knots[..., :1] + widths[..., :1] * (first - scores[..., :1])
        mean = line + (widths.diff(dim=-1).unsqueeze(-2) * parts[..., 1:]).sum(-1)
        return mean.clamp(*(bound.unsqueeze(-1) for bound in self.bounds))

    @property
    def variance(self) -> Tensor:
        """By the mean over 256 equally probable values of each logistic."""
        level = (torch.arange(256, dtype=self.loc.dtype, device=self.loc.device) + 0.5) / 256
        levels = level.reshape(-1, *[1] * self.loc.dim())
        if self.truncated:
            low, high = (((end - self.loc) / self.scale).sigmoid() for end in self._ends)
            levels = low + (high - low) * levels
        levels = levels.clamp(torch.finfo(levels.dtype).tiny, 1 - torch.finfo(levels.dtype).eps)
        mean, square = self.mean, torch.zeros((), dtype=self.loc.dtype, device=self.loc.device)
        # of many particles all at once are gigabytes; one graph of all is shorter
        count = len(levels) if torch.compiler.is_compiling() else _LEVELS
        for some in levels.split(count):
            score = (self.loc + self.scale * some.logit()).movedim(-1, 0)  # (components, some, …)
            square = square + (self._value(score) - mean).square().sum(1).movedim(0, -1) / 256
        atoms = (self.atoms.nan_to_num() - mean.unsqueeze(-1)).square()
        return (atoms * self.spikes.exp()).sum(-1) + (self.slabs.exp() * square).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The most probable atom, or the densest of the logistics' centres.

        A probability is no density: an atom is taken where its probability is above that of all
        logistics together.
        """
        centres = self._value(self.loc.movedim(-1, 0))
        if self.step is not None:
            centres = (centres / self.step).round() * self.step
        densest = self._best(centres, self.log_prob(centres))
        if not self.atoms.shape[-1]:
            return densest
        atoms = self.atoms.expand(*self.batch_shape, -1).movedim(-1, 0)
        likeliest = self._best(atoms, self.spikes.expand(*self.batch_shape, -1).movedim(-1, 0))
        mass = self.slabs.logsumexp(-1) if self.step is None else self.log_prob(densest)
        return torch.where(self.spikes.amax(-1) >= mass, likeliest, densest)

    @staticmethod
    def _best(values: Tensor, scores: Tensor) -> Tensor:
        return values.gather(0, scores.argmax(0, keepdim=True)).squeeze(0)
