"""Mixtures of distributions: of any, and of diagonal normals with a reparameterised draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, constraints
from torch.special import erfc

from deeplvm.core.trace import conditioned, score
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.spiked import Spiked

_NONE = Size()
_ROOT_HALF = 0.5**0.5
_LOG_TWO_PI = math.log(2 * math.pi)


class Weighted(Distribution):
    """What mixtures share: weights, and the moments of all components."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    log_weights: Tensor

    def _of_each(self, moment: str) -> Tensor:
        """The mean or variance of every component, ``(*batch, components, *event)``."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        return self._average(self._of_each("mean"))

    @property
    def variance(self) -> Tensor:
        apart = self._of_each("mean") - self._beside(self.mean)
        return self._average(self._of_each("variance") + apart.square())

    def _beside(self, value: Tensor) -> Tensor:
        """A value ``(*lead, *event)`` as ``(*lead, 1, *event)``, beside the components."""
        return value.unsqueeze(-1 - len(self.event_shape))

    def _average(self, each: Tensor) -> Tensor:
        dims = len(self.event_shape)
        weights = self.log_weights.exp().reshape(*self.log_weights.shape, *[1] * dims)
        return (weights * each).sum(-1 - dims).expand(self._extended_shape())

    def _sum(self, each: Tensor) -> Tensor:
        """The log-density, from that of each component, ``(*lead, components)``."""
        log_prob = (each + self.log_weights).logsumexp(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(batch_shape: {tuple(self.batch_shape)}, event_shape: "
            f"{tuple(self.event_shape)}, components: {self.log_weights.shape[-1]})"
        )


class Mixture(Weighted):
    r"""One of several distributions, :math:`\sum_k w_k\, p_k(x)` with :math:`w` a softmax.

    It has no reparameterised draw: which component a value comes from is a choice.

    Args:
        logits: raw weights, shape ``(*batch, components)``.
        components: distributions of one event shape, of batch shape ``(*batch,)`` each.
        batch_shape: the batch shape, where it is larger than the parameters'.
    """

    has_rsample = False

    def __init__(
        self, logits: Tensor, components: Sequence[Distribution], batch_shape: Size | None = None
    ) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.components = tuple(components)
        shapes = [logits.shape[:-1], *[each.batch_shape for each in components]]
        own = torch.broadcast_shapes(*shapes)
        super().__init__(
            own if batch_shape is None else batch_shape,
            components[0].event_shape,
            validate_args=False,
        )

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return self.components[0].support  # type: ignore[return-value]

    def expand(self, batch_shape: Size, _instance: object = None) -> Mixture:
        parts = [each.expand(batch_shape) for each in self.components]
        return Mixture(self.log_weights, parts, Size(batch_shape))

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.components[0].has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 - torch's own
        """The values, where there are finitely many, as the first component lists them."""
        return self.components[0].enumerate_support(expand)

    def cdf(self, value: Tensor) -> Tensor:
        """The distribution function of a single element, shape ``(*sample, *batch)``."""
        each = _stacked([each.cdf(value) for each in self.components], -1)
        return (each * self.log_weights.exp()).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        return self._sum(_stacked([each.log_prob(value) for each in self.components], -1))

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the elements that are not NaN: the mixture of the components' marginals.

        Raises:
            ValueError: a component does not factorise and has no marginal.
        """
        parts = [score("a mixture", each, value, missing=True) for each in self.components]
        return self._sum(_stacked(parts, -1))

    def conditioned(self, value: Tensor, observed: Tensor) -> Mixture:
        """The components given what is observed, weighted by what they gave it."""
        known = torch.where(observed, value, torch.nan)
        parts = [score("a mixture", each, known, missing=True) for each in self.components]
        logits = _stacked(parts, -1) + self.log_weights
        components = [
            conditioned("a mixture", each.expand(logits.shape[:-1]), value, observed)
            for each in self.components
        ]
        return Mixture(logits, components)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            lead = shape[: len(shape) - len(self.event_shape)]
            chosen = choice(self.log_weights, torch.randn(lead).to(self.log_weights))
            chosen = chosen.reshape(lead + (1,) * len(self.event_shape))
            value = self.components[0].expand(self.batch_shape).sample(Size(sample_shape))
            for index, each in enumerate(self.components[1:], 1):
                other = each.expand(self.batch_shape).sample(Size(sample_shape))
                value = torch.where(chosen == index, other, value)
        return value

    def stratified(self) -> Tensor:
        """A reparameterised draw of every component, shape ``(components, *batch, *event)``.

        Raises:
            NotImplementedError: a component has none.
        """
        parts: list[Tensor] = []
        for each in self.components:
            expanded: Distribution = each.expand(self.batch_shape)
            parts.append(expanded.rsample())
        return torch.stack(parts)

    def _of_each(self, moment: str) -> Tensor:
        parts = [getattr(each, moment) for each in self.components]
        return _stacked(parts, -1 - len(self.event_shape))


class MixtureElements(Distribution):
    r"""Single elements of a mixture of products, :math:`p(x_d) = \sum_c w_c\, p(x_d | c)`.

    Where the components are the same for all rows, what is said of a row is a product of its
    weights with a table of the components, and no component is computed a row.

    Args:
        log_weights: Normalised, shape ``(*batch, components)``.
        each: Elements in every component, of batch shape ``(components, elements)`` for all rows,
            or ``(*batch, components, elements)``.
        weights: The weights themselves, where they are known.

    Examples:
        >>> two = Normal(torch.tensor([[0.0], [4.0]]), 1.0)
        >>> elements = MixtureElements(torch.tensor([0.25, 0.75]).log(), two)
        >>> elements.mean, elements.cdf(torch.tensor([2.0]))
        (tensor([3.]), tensor([0.2614]))
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self, log_weights: Tensor, each: Distribution, weights: Tensor | None = None
    ) -> None:
        self.log_weights, self.each = log_weights, each
        self.weights = log_weights.exp() if weights is None else weights
        *lead, _, elements = each.batch_shape
        batch = torch.broadcast_shapes(log_weights.shape[:-1], Size(lead))
        super().__init__(Size((*batch, elements)), validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> MixtureElements:
        both = (part.expand(*batch_shape[:-1], -1) for part in (self.log_weights, self.weights))
        log_weights, weights = both
        return MixtureElements(log_weights, self.each, weights)

    @property
    def support(self) -> constraints.Constraint | None:  # type: ignore[override]
        return self.each.support

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.each.has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 - torch's own
        """The values, where there are finitely many."""
        values = self.each.enumerate_support(expand=False).flatten()
        values = values.reshape(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    @property
    def mean(self) -> Tensor:
        return self.average(self.each.mean)

    @property
    def variance(self) -> Tensor:
        mean, centre = self.each.mean, self.mean
        # about a number that is near all of them, so that no digits are lost
        middle = mean.mean(-2, keepdim=True)
        square = self.average(self.each.variance + (mean - middle).square())
        return (square - (centre - middle.squeeze(-2)).square()).clamp(min=0.0)

    @property
    def mode(self) -> Tensor:
        """The best of the components' modes; of numbers with probabilities of their own exact."""
        if isinstance(self.each, Spiked):
            return self.each.mixed(self.log_weights).mode
        modes = self.each.mode.movedim(-2, 0)  # (components, ..., elements)
        density = torch.stack([self.probability(each) for each in modes])
        modes = modes.expand_as(density)
        return modes.gather(0, density.argmax(0, keepdim=True)).squeeze(0)

    def probability(self, value: Tensor) -> Tensor:
        """Of a value of each element, the same in all rows: its density, ``(*batch, elements)``.

        Args:
            value: A number, or shape ``(elements,)``, or ``(*batch, elements)`` where each row has
                components of its own.
        """
        return self.average(self.each.log_prob(self._beside(value)).exp())

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each element, shape ``(*sample, *batch, elements)``, nats."""
        each = self.each.log_prob(self._beside(value))
        return (each + self.log_weights.unsqueeze(-1)).logsumexp(-2)

    def cdf(self, value: Tensor) -> Tensor:
        """The distribution function of each element, shape ``(*sample, *batch, elements)``."""
        each = self.each.cdf(self._beside(value))
        return (each * self.weights.unsqueeze(-1)).sum(-2)

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """A value that has a probability in (low, high], if one has; else their middle."""
        own = getattr(self.each, "between", None)
        return (low + high) / 2 if own is None else own(low, high)

    def average(self, numbers: Tensor) -> Tensor:
        """By the weights, of numbers ``(..., components, elements)``; ``(*batch, elements)``."""
        found = self.weights.to(numbers).unsqueeze(-2) @ numbers
        return found.squeeze(-2).expand(self.batch_shape)

    def _beside(self, value: Tensor) -> Tensor:
        """A value of elements beside the components."""
        return value.unsqueeze(-2) if value.dim() else value


class NormalMixture(Weighted):
    r"""A mixture of diagonal normals, whose draws carry gradients to all parameters.

    A draw :math:`z` is moved as its distribution functions move. With
    :math:`F_d(z) = \sum_k r_{kd}\, \Phi((z_d - \mu_{kd}) / \sigma_{kd})`, the distribution
    function of element d given those before it, and :math:`r_{kd} \propto w_k \prod_{j < d}
    N(z_j; \mu_{kj}, \sigma_{kj}^2)`,

    .. math:: \frac{\mathrm{d} z}{\mathrm{d} \theta} =
              -(\frac{\partial F}{\partial z})^{-1} \frac{\partial F}{\partial \theta}

    where the matrix is lower triangular. The gradient of an expectation is unbiased; its cost is
    the square of the number of elements a row, so it is for some hundreds of them at most.

    Implicit Reparameterization Gradients (Figurnov et al., 2018),
    https://arxiv.org/abs/1805.08498

    Args:
        logits: raw weights, shape ``(*batch, components)``.
        loc: means, shape ``(*batch, components, *event)``.
        scale: standard deviations, same shape.
        event_dims: how many of the last dimensions are the event.
        batch_shape: the batch shape, where it is larger than the parameters'.

    Examples:
        >>> two = NormalMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
        >>> two.mean, two.variance
        (tensor([0.]), tensor([2.]))
    """

    has_rsample = True

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        event_dims: int = 1,
        batch_shape: Size | None = None,
    ) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale = loc, scale
        self.event_dims = event_dims
        cut = loc.dim() - event_dims
        shape = loc.shape[: cut - 1] if batch_shape is None else batch_shape
        super().__init__(shape, loc.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, self.event_dims)

    def expand(self, batch_shape: Size, _instance: object = None) -> NormalMixture:
        return NormalMixture(
            self.log_weights, self.loc, self.scale, self.event_dims, Size(batch_shape)
        )

    @property
    def _each(self) -> DiagonalNormal:
        """The components along the last batch dimension."""
        return DiagonalNormal(self.loc, self.scale, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        if self.loc.dim() == 1 + self.event_dims:
            return self._sum(self._of_all(value))
        return self._sum(self._each.log_prob(self._beside(value)))

    def _of_all(self, value: Tensor) -> Tensor:
        """Under each of components that all rows share: a matrix product, no row beside each.

        In double precision, so that the squares of narrow components may cancel.
        """
        loc, scale = (each.double() for each in self._flat())  # (components, elements)
        flat = value.reshape(*value.shape[: value.dim() - self.event_dims], -1).double()
        shift, loc = loc.mean(0), loc - loc.mean(0)
        precision = scale.square().reciprocal()
        constant = (loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1)
        both = torch.cat([precision, -2 * loc * precision], -1)
        flat = flat - shift
        square = torch.cat([flat.square(), flat], -1) @ both.T + constant
        return -0.5 * (square + loc.shape[-1] * _LOG_TWO_PI).to(value.dtype)

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the elements that are not NaN: the mixture of the components' marginals."""
        return self._sum(score("a mixture", self._each, self._beside(value), missing=True))

    def conditioned(self, value: Tensor, observed: Tensor) -> NormalMixture:
        """The same components, weighted by what they gave to what is observed."""
        known = torch.where(observed, value, torch.nan)
        seen = score("a mixture", self._each, self._beside(known), missing=True)
        logits = (seen + self.log_weights).expand(*self.batch_shape, -1)
        shape = (*logits.shape, *self.event_shape)
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        return NormalMixture(logits, loc, scale, self.event_dims)

    def marginals(self) -> MixtureSameFamily:
        """The mixture of each element by itself, of batch shape ``(*batch, *event)``."""
        loc, scale = (each.movedim(-1 - self.event_dims, -1) for each in (self.loc, self.scale))
        shape = (*self._extended_shape(), loc.shape[-1])
        weights = self.log_weights.reshape(
            *self.log_weights.shape[:-1], *[1] * self.event_dims, loc.shape[-1]
        )
        return MixtureSameFamily(
            Categorical(logits=weights.expand(shape), validate_args=False),
            Normal(loc.expand(shape), scale.expand(shape), validate_args=False),
            validate_args=False,
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        value = self._draw(shape[: len(shape) - self.event_dims])
        if torch.is_grad_enabled():
            value = self._moving(value)
        return value.reshape(shape)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw ``(*sample, *batch, *event)`` and its log-density ``(*sample, *batch)``, nats."""
        value = self.rsample(sample_shape)
        return value, self.log_prob(value)

    def _flat(self) -> tuple[Tensor, Tensor]:
        """Means and scales of shape ``(*batch, components, elements)``."""
        shape = (*self.loc.shape[: self.loc.dim() - self.event_dims], -1)
        return self.loc.reshape(shape), self.scale.expand_as(self.loc).reshape(shape)

    def _draw(self, lead: Size) -> Tensor:
        """A draw of shape ``(*lead, elements)``, without a gradient."""
        with torch.no_grad():
            loc, scale = self._flat()
            # one block of normals, the first to choose by: more rows begin with the same draws
            noise = torch.randn(*lead, loc.shape[-1] + 1, dtype=loc.dtype, device=loc.device)
            index = choice(self.log_weights, noise[..., 0])[..., None, None]
            parts = [each.expand(*lead, *loc.shape[-2:]) for each in (loc, scale)]
            mean, deviation = [torch.take_along_dim(each, index, -2).squeeze(-2) for each in parts]
            return mean + deviation * noise[..., 1:]

    def _moving(self, value: Tensor) -> Tensor:
        """The same value, with the gradient of the implicit function."""
        loc, scale = self._flat()
        noise = (value.unsqueeze(-2) - loc) / scale  # (*lead, components, elements)
        each = torch.distributions.Normal(loc, scale, validate_args=False)
        log_density = each.log_prob(value.unsqueeze(-2))
        earlier = log_density.cumsum(-1) - log_density
        share = (self.log_weights.unsqueeze(-1) + earlier).softmax(-2)
        # Of either tail the smaller, whose digits are all there: F - 1 has the derivatives of F.
        upper = (share * ndtr(noise)).sum(-2, keepdim=True).detach() > 0.5
        tail = torch.where(upper, -ndtr(-noise), ndtr(noise))
        below = (share * tail).sum(-2)  # F, (*lead, elements)
        # under autocast a matrix product would be one of bfloat16
        with torch.no_grad(), torch.autocast(value.device.type, enabled=False):
            density = (share * log_density.exp()).sum(-2)
            density = density.clamp(min=torch.finfo(density.dtype).tiny)
            gap = share * (tail - below.unsqueeze(-2)) / density.unsqueeze(-2)
            # dF / dz by dF_d / dz_d: sum_k r_kd (Phi_kd - F_d) dlog N_kj / dz_j below the diagonal
            matrix = (gap.transpose(-1, -2) @ (-noise / scale)).tril(-1)
        change = ((below - below.detach()) / density).unsqueeze(-1)
        # the diagonal is taken as ones, whatever is there
        moved = torch.linalg.solve_triangular(matrix, change, upper=False, unitriangular=True)
        return value - moved.squeeze(-1)

    def stratified(self) -> Tensor:
        """A reparameterised draw of every component, shape ``(components, *batch, *event)``."""
        each = self._each.expand((*self.batch_shape, self.log_weights.shape[-1]))
        return each.rsample().movedim(len(self.batch_shape), 0)

    def _of_each(self, moment: str) -> Tensor:
        return self.loc if moment == "mean" else self.scale.square()


def _stacked(parts: Sequence[Tensor], at: int) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*parts), at)


def ndtr(noise: Tensor) -> Tensor:
    """The standard normal's distribution function; torch's own loses its digits below."""
    return 0.5 * erfc(-_ROOT_HALF * noise)


def choice(log_weights: Tensor, noise: Tensor) -> Tensor:
    """Which component, by a standard normal number each, shape that of ``noise``."""
    limits = log_weights.exp().cumsum(-1)[..., :-1]
    return (ndtr(noise).unsqueeze(-1) > limits).sum(-1)
