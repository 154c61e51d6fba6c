"""Site and Trace: what happened to each name; drawing and scoring one variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints, transform_to

#: From a value to what the networks of other names see of it.
View = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Site:
    """One name in a trace.

    Attributes:
        value: The value, shape ``(*particles, batch, *right, *event)``, where ``right`` (steps of
            a sequence, members of a plate) is usually empty.
        distribution: The distribution it was drawn from or scored under, as its conditional
            returned it (not expanded to the particles); of one drawn step by step
            :class:`~deeplvm.core.steps.Steps`, of one with lengths
            :class:`~deeplvm.core.steps.Masked`. ``None`` for deterministic nodes and inputs.
        log_prob: Log-density in nats, shape ``(*particles, batch)``, broadcastable: everything
            right of the batch is summed. ``None`` where there is no density.
        drawn: Whether the value was drawn here (and not given).
        batch_dims: How many leading dimensions of ``value`` are ``(*particles, batch)``.
        view: From the value to its ``features`` (``embed`` of the conditional that owns the
            name); none where networks see the value itself.
        seen: The features, where they do not follow from the value.
        holes: Whether elements of a given value may be missing (NaN).
        fill: Whether the features have zeros in their place, which is for encoders alone: what q
            makes of its inputs is its own affair, but p would become another model.
    """

    value: Any
    distribution: Distribution | None = None
    log_prob: Tensor | None = None
    drawn: bool = False
    batch_dims: int = 1
    view: View | None = None
    seen: Any = None
    holes: bool = False
    fill: bool = False

    @property
    def features(self) -> Any:
        """What the networks of other names see: one-hot integers, scaled pixels, embeddings.

        Made when it is first read, once.
        """
        if self.seen is not None:
            return self.seen
        if self.view is None and not self.fill:
            return self.value
        # what was made without a graph is not for those who want gradients (a learned table)
        recorded, features = self.__dict__.get("_features", (None, None))
        if recorded is not torch.is_grad_enabled():
            features = self.value if self.view is None else self.view(self.value)
            if self.fill and isinstance(features, Tensor):
                features = torch.nan_to_num(features, nan=0.0)
            object.__setattr__(self, "_features", (torch.is_grad_enabled(), features))
        return features

    def changed(self, change: Callable[[Any], Any], **others: Any) -> Site:
        """The site with other leading dimensions of its value, and so of what is seen of it."""
        seen = None if self.seen is None else change(self.seen)
        return replace(self, value=change(self.value), seen=seen, **others)


class Trace(Mapping[str, Site]):
    r"""What a call of a joint left behind: an ordered mapping from name to :class:`Site`.

    Attributes:
        batch_shape: ``(*particles, batch)``, with the leading dimensions that enumeration added.
        log_measure: The logarithm of the weight of each particle in a sum over particles:
            :math:`-\log K` for Monte Carlo, :math:`\log q(y | x)` for enumerated values.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        batch_shape: tuple[int, ...],
        log_measure: Tensor | float = 0.0,
    ) -> None:
        self.sites = dict(sites)
        self.batch_shape = batch_shape
        self.log_measure = log_measure

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def log_prob(self) -> Tensor:
        """Sum of the log-densities of all random variables, shape ``(*particles, batch)``."""
        terms = [site.log_prob for site in self.sites.values() if site.log_prob is not None]
        total = sum(terms, start=torch.zeros(()))
        return total.expand(self.batch_shape) if total.dim() < len(self.batch_shape) else total

    def __repr__(self) -> str:
        rows = []
        for name, site in self.sites.items():
            shape = tuple(site.value.shape) if isinstance(site.value, Tensor) else "-"
            how = "drawn" if site.drawn else "given" if site.log_prob is not None else "computed"
            rows.append(f"{name}: {how} {shape}")
        return f"Trace({', '.join(rows)})"


def expand_to(
    distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
) -> Distribution:
    """The distribution with batch shape ``(*batch_shape, *right)``.

    ``batch_dims`` of the distribution's own batch dimensions are particles and rows; what follows
    them (steps, members of a plate) stays.
    """
    own = tuple(distribution.batch_shape)
    target = batch_shape + own[batch_dims:]
    return distribution if same_shape(own, target) else distribution.expand(torch.Size(target))


def same_shape(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes are the same.

    Tuples compare their elements before their lengths: in a graph whose number of rows is not
    known that would be one with the number of particles, and exclude it.
    """
    return len(first) == len(second) and tuple(first) == tuple(second)


def draw_with_log_prob(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """A reparameterised draw and its log-density, in one pass where the distribution offers it."""
    one_pass = getattr(distribution, "rsample_and_log_prob", None)
    if one_pass is not None:
        return one_pass()
    value = distribution.rsample()
    return value, distribution.log_prob(value)


def sum_right(log_prob: Tensor, batch_dims: int) -> Tensor:
    """Sum everything right of the first ``batch_dims`` dimensions."""
    if log_prob.dim() <= batch_dims:
        return log_prob
    return log_prob.sum(tuple(range(batch_dims, log_prob.dim())))


def score(name: str, distribution: Distribution, value: Any, *, missing: bool = False) -> Tensor:
    r"""Log-density of a value; with ``missing``, of its elements that are not NaN.

    A likelihood that factorises over elements leaves the missing ones out, which is the exact
    marginal :math:`\log p(x_\text{observed})`. Another distribution may offer
    ``observed_log_prob(value, observed)``.

    Raises:
        ValueError: If elements are missing and the distribution cannot leave them out.
    """
    if not missing:
        return distribution.log_prob(value)
    if not has_marginals(distribution):
        base = base_of(distribution)
        raise ValueError(
            f"Elements of {name!r} are missing (NaN) or hidden, but its {type(base).__name__} has "
            f"no marginal of the others; fill them in first, or use a likelihood that factorises "
            f"over elements, such as a diagonal Gaussian or poisson."
        )
    observed = ~torch.isnan(value)
    marginal = getattr(distribution, "observed_log_prob", None)
    if marginal is not None:
        return marginal(value, observed)
    base = base_of(distribution)
    event_dims = len(base.event_shape)
    known = observed.flatten(-event_dims).all(-1) if event_dims > 0 else observed
    safe = torch.where(observed, value, inside_support(base, value))
    log_prob = torch.where(known, base.log_prob(safe), 0.0)
    independent = len(distribution.event_shape) - event_dims
    return sum_right(log_prob, log_prob.dim() - independent)


def has_marginals(distribution: Distribution) -> bool:
    """Whether some elements can be scored without the others."""
    base = base_of(distribution)
    return (
        hasattr(distribution, "observed_log_prob")
        or not base.event_shape
        or base.support is constraints.one_hot
    )


def conditioned(
    name: str, distribution: Distribution, value: Tensor, observed: Tensor
) -> Distribution:
    r"""The distribution of all elements given some, :math:`p(x | x_\text{observed})`.

    Itself, where elements are independent: what it says of those observed is not to be read.
    Another distribution may offer ``conditioned(value, observed)``.

    Args:
        name: For messages.
        distribution: Of batch shape ``(*particles, batch, *right)``.
        value: Shape ``(batch, *right, *event)``, NaN where missing.
        observed: Which elements are known, the same shape.

    Raises:
        ValueError: If elements depend on each other and it does not say how.
    """
    own = getattr(distribution, "conditioned", None)
    if own is not None:
        return own(value, observed)
    base = base_of(distribution)
    if base is not distribution and base.event_shape:
        right = len(distribution.event_shape) - len(base.event_shape)
        return Independent(conditioned(name, base, value, observed), right, validate_args=False)
    if base.event_shape:
        known = observed.flatten(-len(base.event_shape))
        if bool((known.any(-1) & ~known.all(-1)).any()):
            raise ValueError(
                f"The {type(base).__name__} of {name!r} does not say how its elements depend on "
                f"those observed, so nothing can be filled in beside these; use a likelihood that "
                f"does, such as a Gaussian, or one with a method conditioned(value, observed)."
            )
    return distribution


def base_of(distribution: Distribution | None) -> Any:
    """The distribution of what is independent in a value: one without ``Independent`` around."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def inside_support(distribution: Distribution, like: Tensor) -> Tensor:
    """A value in the support, to stand where an element is missing while the rest is scored."""
    zeros = torch.zeros_like(like)
    support = distribution.support
    if support is None or support.is_discrete:
        return zeros
    try:
        return transform_to(support)(zeros)
    except NotImplementedError:
        return zeros
