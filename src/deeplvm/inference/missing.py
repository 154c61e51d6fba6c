r"""What is missing in a row, as a mixture over particles: its weights, quantiles, modes, draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution

from deeplvm.core.evidence import Evidence, elementwise
from deeplvm.core.steps import Masked
from deeplvm.core.trace import Site, base_of, conditioned
from deeplvm.distributions.discrete import Ordinal
from deeplvm.distributions.mixture import Mixture
from deeplvm.distributions.product import Product
from deeplvm.inference.diagnostics import pareto_k, tail_length
from deeplvm.randomness import RowNoise

if TYPE_CHECKING:
    from deeplvm.data.variable import Variable

By = Literal["auto", "mean", "median", "mode", "draw"]
_FEW_LEVELS = 64  # so many values of an ordered variable have a median of their own
_MANY_LEVELS = 1_000  # beyond, draws that are whole numbers are numbers
_ENOUGH_DRAWS = 500  # for quantiles, where there is no distribution function


@dataclass(frozen=True, eq=False)
class Weights:
    """Importance weights of the particles of some rows.

    Attributes:
        shape: ``(*particles, batch)``.
        log: Normalised, shape ``(N, batch)``, N all particles, enumerated values among them.
        ess: Effective number of the drawn particles, shape ``(batch,)``.
        pareto_k: Shape of the tail of their weights, shape ``(batch,)``.
    """

    shape: tuple[int, ...]
    log: Tensor
    ess: Tensor
    pareto_k: Tensor

    @classmethod
    def of(cls, evidence: Evidence) -> Weights:
        """Those of a ledger; of names that all rows share, each row has a say by itself."""
        log_weight = (evidence.log_measure + evidence.own_log_weight).expand(evidence.batch_shape)
        outer = tuple(range(log_weight.dim() - 2))
        drawn = (torch.logsumexp(log_weight, outer) if outer else log_weight).double()
        ess = (2 * drawn.logsumexp(0) - (2 * drawn).logsumexp(0)).exp()
        tail = drawn.topk(min(tail_length(len(drawn)) + 1, len(drawn)), 0).values
        k = pareto_k(tail, precision=torch.finfo(log_weight.dtype).eps)
        flat = log_weight.flatten(0, -2)
        return cls(evidence.batch_shape, flat.log_softmax(0), ess, k)

    @property
    def value(self) -> Tensor:
        """They sum to one over the particles."""
        return self.log.exp()

    def beside(self, numbers: Tensor) -> Tensor:
        """As factors of numbers ``(N, batch, ...)``."""
        return self.value.reshape(*self.log.shape, *[1] * (numbers.dim() - 2)).to(numbers)

    def chosen(self, uniform: Tensor) -> Tensor:
        """Particles by their weights, from numbers of U[0, 1), shape ``(..., batch)``."""
        edges = self.value.cumsum(0)
        edges = (edges / edges[-1:]).T.contiguous()
        index = torch.searchsorted(edges, uniform.T.contiguous().to(edges))
        return index.T.clamp(max=len(self.log) - 1)


@dataclass(eq=False)
class MissingMixture:
    r""":math:`p(x_m | x_o)` of one name in some rows, a mixture over the particles.

    Args:
        name: Whose values these are.
        value: Shape ``(batch, *event)``, NaN where missing.
        weights: Of the particles.
        noise: Of the rows.
        given: The distribution of the missing elements given the observed ones and each
            particle's latents; ``None`` where q drew them.
        completed: What q drew, shape ``(N, batch, *event)``.
    """

    name: str
    value: Tensor
    weights: Weights
    noise: RowNoise
    given: Distribution | None
    completed: Tensor | None = None
    _sets: Tensor | None = None  # draws of each particle, for all quantiles

    @classmethod
    def of(
        cls, name: str, evidence: Evidence, value: Tensor, weights: Weights, noise: RowNoise
    ) -> MissingMixture:
        """That of a ledger.

        Raises:
            ValueError: If the likelihood says nothing of some elements given others.
        """
        site, shape = evidence.p[name], evidence.batch_shape
        if name in evidence.latents:
            whole = site.value.expand(*shape, *site.value.shape[site.batch_dims :])
            return cls(name, value, weights, noise, None, whole.flatten(0, len(shape) - 2))
        return cls(name, value, weights, noise, given_observed(name, site, value, shape))

    def draw(self) -> Tensor:
        """One draw of each row, shape ``(batch, *event)``."""
        values = self.samples()
        uniform = self.noise.uniform_like(self.weights.log[:1])
        index = self.weights.chosen(uniform)  # (1, batch)
        index = index.reshape(*index.shape, *[1] * (values.dim() - 2))
        return values.take_along_dim(index, 0).squeeze(0)

    def summary(self, by: By, level: float | None, variable: Variable | None) -> dict[str, Any]:
        """Value, probability and, with a level, the ends of the interval of each element."""
        whole = torch.full_like(self.value, math.nan)
        names = ["value", "probability", *(["lower", "upper"] if level else [])]
        found = {what: whole.clone() for what in names}
        if by == "draw" and not level:
            return found | {"value": self.draw().to(whole)}
        for places, elements in self._pieces():
            piece = _Piece(elements, self.weights, self._sampled(places), by, level, self, places)
            for what, part in piece.told(_is_category(variable, places, elements)).items():
                if places is None:
                    found[what] = part.to(whole)
                else:
                    found[what][..., places] = part.to(whole)
        if by == "draw":
            found |= {"value": self.draw().to(whole), "probability": whole}
        if isinstance(self.given, Masked):  # beyond a row's length there is nothing to fill in
            mask = self.given.mask.expand(self.given.batch_shape)
            mask = mask.flatten(0, len(self.weights.shape) - 2)[0]
            mask = mask.reshape(*mask.shape, *[1] * (whole.dim() - mask.dim()))
            found = {what: torch.where(mask, part, math.nan) for what, part in found.items()}
        return found

    def _pieces(self) -> list[tuple[Tensor | None, Distribution | None]]:
        found = [] if self.given is None else pieces(self.given)
        if found or self.value.dim() != 2:
            return [*found] or [(None, None)]
        # columns of which only draws are known are of several kinds perhaps
        return [(torch.tensor([i], device=self.value.device), None) for i in self._missing()]

    def _missing(self) -> list[int]:
        return self.value.isnan().any(0).nonzero().flatten().tolist()

    def samples(self) -> Tensor:
        """A draw of each particle, shape ``(N, batch, *event)``."""
        if self.given is None:
            assert self.completed is not None
            return self.completed
        with self.noise.drawing(f"missing of {self.name}", self.weights.shape):
            drawn = self.given.sample()
        return drawn.flatten(0, len(self.weights.shape) - 2)

    def _sampled(self, places: Tensor | None) -> Callable[[], Tensor]:
        """Draws of some elements, as often as quantiles need, ``(sets, N, batch, ...)``."""

        def make() -> Tensor:
            if self._sets is None:
                again = 1 if self.given is None else -(-_ENOUGH_DRAWS // len(self.weights.log))
                self._sets = torch.stack([self.samples() for _ in range(again)])
            return self._sets if places is None else self._sets[..., places]

        return make


@dataclass(eq=False)
class _Piece:
    """Elements of one family: what stands for them."""

    elements: Distribution | None
    weights: Weights
    draws: Callable[[], Tensor]
    by: By
    level: float | None
    of: MissingMixture  # all elements together
    places: Tensor | None  # along the last axis; all without

    def told(self, category: Tensor | bool) -> dict[str, Tensor]:  # noqa: FBT001
        """Each number of shape ``(batch, ...)``."""
        values = self._values()
        if values is not None and (
            self._counted_up(values) or bool(torch.as_tensor(category).any())
        ):
            return self._of_table(values, category)
        quantiles = [0.5 - self.level / 2, 0.5 + self.level / 2] if self.level else []
        whole = self.elements is not None and _is_whole(self.elements)
        by = "mean" if self.by in ("auto", "draw") else self.by
        found: dict[str, Tensor] = {}
        if by == "mean":
            mean = self._mean()
            found["value"] = mean.round() if whole and self.by == "auto" else mean
        elif by == "mode":
            found["value"] = self._mode()
        if by == "median" or quantiles:
            wanted = self._quantiles([0.5, *quantiles])
            found.setdefault("value", wanted[0])
            if quantiles:
                found |= {"lower": wanted[1], "upper": wanted[2]}
        return found

    def _values(self) -> Tensor | None:
        """The values of an element that has finitely many, rising; those drawn, where q drew."""
        if self.elements is None:
            drawn = self.draws()
            listed = drawn.unique()
            whole = bool((listed == listed.round()).all())
            return listed if whole and len(listed) <= _MANY_LEVELS else None
        if not self.elements.has_enumerate_support or self.elements.event_shape:
            return None
        return self.elements.enumerate_support(expand=False).flatten()

    def _counted_up(self, values: Tensor) -> bool:
        """Whether ordered values are few enough for a table of their probabilities."""
        return len(values) <= _FEW_LEVELS

    def _of_table(self, values: Tensor, category: Tensor | bool) -> dict[str, Tensor]:  # noqa: FBT001
        """From the probability of each value, in the memory of one value at a time."""
        if self.elements is None:
            drawn = self.draws()
            table = torch.stack(
                [self._average((drawn == each).double().mean(0)) for each in values]
            )
        else:
            shape = self.elements.batch_shape
            lead = len(self.weights.shape) - 2
            own = self.elements
            one_by_one = lambda each: own.log_prob(each.expand(shape)).exp()  # noqa: E731
            probability = getattr(own, "probability", one_by_one)
            table = torch.stack(
                [self._average(probability(each).flatten(0, lead)) for each in values]
            )  # (values, batch, ...)
        below = table.cumsum(0)
        values = values.to(table)

        def quantile(share: float) -> Tensor:
            return values[(below < share * below[-1]).sum(0).clamp(max=len(values) - 1)]

        best = table.argmax(0)
        mean = (table * values.reshape(-1, *[1] * (table.dim() - 1))).sum(0) / below[-1]
        binary = len(values) == 2
        by = "mode" if binary else "median"
        by = by if self.by in ("auto", "draw") else self.by
        ordered = {"mode": values[best], "median": quantile(0.5), "mean": mean}[by]
        category = torch.as_tensor(category, device=table.device)
        value = torch.where(category, values[best], ordered)
        chosen = (values.reshape(-1, *[1] * (table.dim() - 1)) == value).to(table)
        probability = (chosen * table).sum(0)
        probability = torch.where(chosen.any(0), probability, math.nan)
        found = {"value": value, "probability": probability}
        if self.level:
            ends = [quantile(0.5 - self.level / 2), quantile(0.5 + self.level / 2)]
            none = torch.where(category, math.nan, 0.0).to(table)
            found |= {"lower": ends[0] + none, "upper": ends[1] + none}
        return found

    def _average(self, numbers: Tensor) -> Tensor:
        return (self.weights.beside(numbers) * numbers).sum(0)

    def _flat(self, numbers: Tensor) -> Tensor:
        """Numbers of each particle, ``(N, batch, ...)``."""
        return numbers.flatten(0, len(self.weights.shape) - 2)

    def _mean(self) -> Tensor:
        known, mean = self.elements or self.of.given, None
        if known is not None:
            mean = self._average(self._flat(_or_nan(known, "mean")))
            mean = mean if self.elements is not None else self._here(mean)
        if mean is None or bool(mean.isnan().any()):  # a flow, or a tail without a mean
            drawn = self.draws()
            sampled = self._average(drawn.mean(0))
            mean = sampled if mean is None else torch.where(mean.isnan(), sampled, mean)
        return mean

    def _quantiles(self, shares: list[float]) -> list[Tensor]:
        """Of the mixture: by its distribution function where there is one, else of draws."""
        bracket = self._bracket(shares)
        if bracket is None:
            drawn = self.draws()
            weights = self.weights.beside(drawn[0]).expand(drawn.shape) / len(drawn)
            return _weighted_quantiles(drawn.flatten(0, 1), weights.flatten(0, 1), shares)
        assert self.elements is not None
        exact = getattr(self.elements, "between", None)  # of values with a probability
        found = []
        for share in shares:
            below = lambda at: self._average(self._flat(self.elements.cdf(at)))  # noqa: E731
            if exact is None:
                found.append(_root(lambda at: below(at) - share, *bracket))  # noqa: B023
                continue
            low, high = bracket
            for _ in range(40):
                middle = (low + high) / 2
                less = below(middle) < share
                low, high = torch.where(less, middle, low), torch.where(less, high, middle)
            found.append(exact(low, high))
        return found

    def _bracket(self, shares: list[float]) -> tuple[Tensor, Tensor] | None:
        """Numbers between which the quantiles lie, if there is a distribution function."""
        if self.elements is None or _is_whole(self.elements):
            return None
        mean = self._flat(_or_nan(self.elements, "mean"))
        spread = self._flat(_or_nan(self.elements, "stddev"))
        # by Chebyshev's inequality a tail of probability t begins within t^(-1/2) deviations
        far = max([12.0, *[min(share, 1 - share) ** -0.5 for share in shares]])
        low, high = (mean - far * spread).amin(0), (mean + far * spread).amax(0)
        if not bool((low.isfinite() & high.isfinite()).all()):
            return None
        try:
            self.elements.cdf(low), self.elements.cdf(high)
        except (NotImplementedError, ValueError):
            return None
        return low, high

    def _mode(self) -> Tensor:
        """The most probable of what particles of the largest weights take for most probable."""
        given = self.of.given
        if given is None:  # particles of a real number are all different
            return self._quantiles([0.5])[0]
        log = self.weights.log
        top = log.topk(min(64, len(log)), 0).indices
        if self.elements is None:  # together, as there is no density of one by itself
            candidates, value = self.of.samples(), self.of.value
            candidates = torch.where(value.isnan(), candidates, value.to(candidates))
            density = given.log_prob
        else:
            candidates = self._flat(_or_nan(self.elements, "mode"))
            candidates = self.draws()[0] if bool(candidates.isnan().any()) else candidates
            density = self.elements.log_prob
        top = top.reshape(*top.shape, *[1] * (candidates.dim() - 2))
        candidates = candidates.take_along_dim(top, 0)
        each = [self._flat(density(candidate)) for candidate in candidates]  # (N, batch, ...)
        log = log.reshape(*log.shape, *[1] * (each[0].dim() - 2))
        total = torch.stack([(log + one).logsumexp(0) for one in each])
        best = total.argmax(0, keepdim=True)
        best = best.reshape(*best.shape, *[1] * (candidates.dim() - best.dim()))
        found = candidates.take_along_dim(best, 0)[0]
        return found if self.elements is not None else self._here(found)

    def _here(self, values: Tensor) -> Tensor:
        """Of values of the whole event those of this piece."""
        return values if self.places is None else values[..., self.places]


def _root(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where rising functions, one an element, are zero between two numbers.

    By inverse quadratic interpolation where that is sure to come closer, else by halves: a new
    quadratic-based algorithm for solving equations (Chandrupatla, 1997),
    https://doi.org/10.1016/S0965-9978(96)00051-8

    >>> round(_root(lambda x: x**3 - 8, torch.zeros(1), torch.full((1,), 9.0)).item(), 5)
    2.0
    """
    a, b = high, low  # the newest, and the other side
    at_a, at_b = function(a), function(b)
    c, at_c, step = a, at_a, torch.full_like(a, 0.5)
    close = max(4 * torch.finfo(a.dtype).eps, 1e-12) * (high - low)
    for _ in range(60):
        x = a + step * (b - a)
        at_x = function(x)
        same = (at_x > 0) == (at_a > 0)
        c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
        b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
        a, at_a = x, at_x
        least = close / (b - a).abs().clamp(min=1e-300 if a.dtype == torch.float64 else 1e-30)
        if bool(((least > 0.5) | (at_a == 0) | at_a.isnan()).all()):
            break
        share, rise = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        curved = at_a / (at_b - at_a) * at_c / (at_b - at_c)
        curved = curved + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        sure = (rise.square() < share) & ((1 - rise).square() < 1 - share) & curved.isfinite()
        step = torch.where(sure, curved, 0.5).clamp(least.clamp(max=0.5), 1 - least.clamp(max=0.5))
    return torch.where(at_a.abs() < at_b.abs(), a, b)


def _or_nan(elements: Distribution, what: str) -> Tensor:
    try:
        return getattr(elements, what).expand(elements.batch_shape + elements.event_shape)
    except (NotImplementedError, AttributeError):
        return torch.full(elements.batch_shape + elements.event_shape, math.nan)


def _is_whole(elements: Distribution) -> bool:
    try:
        return bool(elements.support.is_discrete)  # type: ignore[union-attr]
    except (NotImplementedError, AttributeError):
        return False


def _weighted_quantiles(values: Tensor, weights: Tensor, shares: list[float]) -> list[Tensor]:
    """Of values ``(N, ...)`` with weights that sum to one; the least value with so much below."""
    order = values.argsort(0)
    below = weights.take_along_dim(order, 0).cumsum(0)
    ranked = values.take_along_dim(order, 0)
    return [
        ranked.take_along_dim(
            (below < share * below[-1]).sum(0, keepdim=True).clamp(max=len(values) - 1), 0
        )[0]
        for share in shares
    ]


def _is_category(
    variable: Variable | None, places: Tensor | None, elements: Distribution | None
) -> Tensor | bool:
    """Which elements of a piece are codes without an order."""
    if variable is None:
        return isinstance(elements, Categorical) and not isinstance(elements, Ordinal)
    if variable.parts:
        flags = torch.tensor([part.kind == "category" for part in variable.parts])
        return flags if places is None else flags[places.cpu()]
    return variable.kind == "category"


def given_observed(
    name: str, site: Site, value: Tensor, batch_shape: tuple[int, ...]
) -> Distribution:
    """The distribution of the elements of a name given those observed and each particle.

    Args:
        name: For messages.
        site: The name in the trace of p.
        value: Shape ``(batch, *right, *event)``, NaN where missing.
        batch_shape: ``(*particles, batch)``.

    Raises:
        ValueError: If it says nothing of some elements given others.
    """
    if site.distribution is None:
        raise ValueError(
            f"{name!r} is unrolled step by step and has no one distribution, so what is missing "
            f"in it must be drawn by q: add '{name} | ...' to q."
        )
    right = value.shape[1 : value.dim() - len(site.distribution.event_shape)]
    whole = site.distribution.expand(torch.Size((*batch_shape, *right)))
    return conditioned(name, whole, value, ~value.isnan())


def pieces(
    distribution: Distribution, *, independent: bool = False
) -> list[tuple[Tensor | None, Distribution]]:
    """Distributions of single elements, with their places along the last axis (``None``: all).

    Empty where elements have none by themselves, or depend on each other and must not.
    """
    if isinstance(distribution, Masked):
        return pieces(distribution.base, independent=independent)
    if isinstance(distribution, Product):
        found, begin = [], 0
        for part, size in zip(distribution.parts, distribution.sizes, strict=True):
            places = distribution.order[begin : begin + size]
            begin += size
            within = pieces(part.expand(distribution.batch_shape), independent=independent)
            if len(within) != 1:
                return []
            found.append((places, within[0][1]))
        return found
    if isinstance(distribution, Mixture):
        return [] if independent else _pieces_of(distribution)
    marginals = getattr(base_of(distribution), "marginals", None)
    if marginals is not None and not independent:
        own = marginals()
        return pieces(own) if isinstance(own, Product) else _whole(own)
    return _whole(distribution)


def _whole(distribution: Distribution | None) -> list[tuple[Tensor | None, Distribution]]:
    own = None if distribution is None else elementwise(distribution)
    return [] if own is None else [(None, own)]


def _pieces_of(mixture: Mixture) -> list[tuple[Tensor | None, Distribution]]:
    """Of single elements the same mixture, where all components have the same pieces."""
    each = [pieces(part.expand(mixture.batch_shape)) for part in mixture.components]
    if len({len(found) for found in each}) > 1:
        return []
    mixed: list[tuple[Tensor | None, Distribution]] = []
    for parts in zip(*each, strict=True):
        (places, first), *_ = parts
        if any([p is not places and not torch.equal(p, places) for p, _ in parts]):  # type: ignore[arg-type]
            return []
        own = first.batch_shape
        weights = mixture.log_weights
        weights = weights.reshape(*weights.shape[:-1], *[1] * (len(own) - weights.dim() + 1), -1)
        mixed.append((places, Mixture(weights.expand(*own, -1), [part for _, part in parts])))
    return mixed
