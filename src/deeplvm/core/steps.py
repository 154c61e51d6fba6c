"""Distributions of what repeats inside a row: one a step, and some beyond a row's length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, kl_divergence, register_kl

from deeplvm.core.evidence import elementwise
from deeplvm.core.trace import conditioned, has_marginals, score


class _Derived(Distribution):
    """One made of others, in whose values and moments it has its own."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form

    def _each(self, of: Callable[[Any], Tensor], *, event: bool = True) -> Tensor:
        """What is asked of the others, as it is here; ``event`` where it has one."""
        raise NotImplementedError

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._each(lambda one: one.sample(Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._each(lambda one: one.rsample(Size(sample_shape)))

    def entropy(self) -> Tensor:
        return self._each(lambda one: one.entropy(), event=False)

    @property
    def mean(self) -> Tensor:
        return self._each(lambda one: one.mean)

    @property
    def variance(self) -> Tensor:
        return self._each(lambda one: one.variance)

    @property
    def mode(self) -> Tensor:
        return self._each(lambda one: one.mode)


class Steps(_Derived):
    r"""What was drawn step by step, each step from a distribution of its own.

    Of batch shape ``(*batch, T, *inner)`` where that of every step is ``(*batch, *inner)``. A step
    may depend on the value of another, so that the product of these log-densities is that of the
    sequence only at the value that was drawn.

    Args:
        steps: The distributions, the first step first.
        inner: What their batch shapes end with, which is to stay right of the steps.
    """

    def __init__(self, steps: Sequence[Distribution], inner: Sequence[int] = ()) -> None:
        shape = torch.broadcast_shapes(Size(inner), *[step.batch_shape for step in steps])
        self.steps = [step if step.batch_shape == shape else step.expand(shape) for step in steps]
        self.inner = tuple(inner)
        self.at = len(shape) - len(self.inner)
        whole = Size((*shape[: self.at], len(self.steps), *shape[self.at :]))
        super().__init__(whole, self.steps[0].event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all([step.has_rsample for step in self.steps])

    @property
    def support(self) -> Any:
        """Of the values of one step."""
        return self.steps[0].support

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Steps:
        at = len(batch_shape) - len(self.inner)
        shape = Size((*batch_shape[: at - 1], *batch_shape[at:]))
        return Steps([step.expand(shape) for step in self.steps], self.inner)

    def _each(self, of: Callable[[Any], Tensor], *, event: bool = True) -> Tensor:
        right = len(self.inner) + (len(self.event_shape) if event else 0)
        return torch.stack([of(step) for step in self.steps], -1 - right)

    def _pairs(self, *values: Tensor) -> Iterator[tuple[Any, ...]]:
        """Each step with its part of the values."""
        at = -1 - len(self.inner) - len(self.event_shape)
        return zip(self.steps, *[value.unbind(at) for value in values], strict=True)

    def log_prob(self, value: Tensor) -> Tensor:
        scored = [step.log_prob(own) for step, own in self._pairs(value)]
        return torch.stack(scored, -1 - len(self.inner))

    @property
    def observed_log_prob(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Of the elements that are not NaN, where that is known; else there is no attribute."""
        if not all([has_marginals(step) for step in self.steps]):
            raise AttributeError("observed_log_prob")

        def of(value: Tensor, _: Tensor) -> Tensor:
            pairs = self._pairs(value)
            scored = [score("a step", step, own, missing=True) for step, own in pairs]
            return torch.stack(scored, -1 - len(self.inner))

        return of

    def conditioned(self, value: Tensor, observed: Tensor) -> Steps:
        """Each step given what is observed of it."""
        each = [conditioned("a step", *step) for step in self._pairs(value, observed)]
        return Steps(each, self.inner)

    def together(self) -> Distribution:
        """One distribution of the steps' own family, for closed forms over all of them.

        Raises:
            NotImplementedError: If the parameters of the family cannot be laid side by side.
        """
        return _together(self.steps, self.at)

    def elementwise(self) -> Distribution | None:
        """The distribution of single elements, where there is one."""
        try:
            return elementwise(self.together())
        except NotImplementedError:
            return None


class Masked(_Derived):
    """A distribution whose values count only where ``mask`` is true, and are zero elsewhere.

    Args:
        base: Batch shape ``(*batch, T, *inner)``.
        mask: Boolean, broadcastable to that.
        length: Name of the length that made the mask.
    """

    def __init__(self, base: Distribution, mask: Tensor, length: str) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, mask.shape)
        self.base = base if base.batch_shape == shape else base.expand(shape)
        self.mask, self.length = mask, length
        super().__init__(shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        """Of the values that count."""
        return self.base.support

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Masked:
        return Masked(self.base.expand(Size(batch_shape)), self.mask, self.length)

    def _each(self, of: Callable[[Any], Tensor], *, event: bool = True) -> Tensor:
        return self.cut(of(self.base), event=event)

    def cut(self, values: Tensor, *, event: bool = False) -> Tensor:
        """Values of the base, zero where they do not count."""
        right = len(self.event_shape) if event else 0
        mask = self.mask.reshape(*self.mask.shape, *[1] * right)
        return torch.where(mask, values, torch.zeros_like(values))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.cut(self.base.log_prob(value))

    @property
    def observed_log_prob(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Of the elements that are not NaN, where that is known; else there is no attribute."""
        if not has_marginals(self.base):
            raise AttributeError("observed_log_prob")
        return lambda value, _: self.cut(score("a step", self.base, value, missing=True))

    def conditioned(self, value: Tensor, observed: Tensor) -> Masked:
        """Given what is observed of that which counts."""
        return Masked(conditioned("a step", self.base, value, observed), self.mask, self.length)

    def elementwise(self) -> Distribution | None:
        """The distribution of single elements, where there is one."""
        element = elementwise(self.base)
        if element is None:
            return None
        right = len(element.batch_shape) - len(self.batch_shape)
        mask = self.mask.reshape(*self.mask.shape, *[1] * right)
        return Masked(element, mask, self.length)


def of_one_step(distribution: Distribution) -> Distribution:
    """The distribution as whoever drew it saw it: that of a step, counted or not."""
    if isinstance(distribution, Masked):
        return of_one_step(distribution.base)
    return of_one_step(distribution.steps[0]) if isinstance(distribution, Steps) else distribution


def length_of(distribution: Distribution | None) -> str | None:
    """The name of the length up to which a variable counts, if it has one."""
    return distribution.length if isinstance(distribution, Masked) else None


@register_kl(Masked, Masked)
def _kl_of_masked(q: Masked, p: Masked) -> Tensor:
    return q.cut(kl_divergence(q.base, p.base))


@register_kl(Steps, Steps)
def _kl_of_steps(q: Steps, p: Steps) -> Tensor:
    pairs = zip(q.steps, p.steps, strict=True)
    return torch.stack([kl_divergence(a, b) for a, b in pairs], -1 - len(q.inner))


@register_kl(Steps, Distribution)
def _kl_from_steps(q: Steps, p: Distribution) -> Tensor:
    return kl_divergence(q.together(), p)


@register_kl(Distribution, Steps)
def _kl_to_steps(q: Distribution, p: Steps) -> Tensor:
    return kl_divergence(q, p.together())


def _together(steps: Sequence[Distribution], at: int) -> Distribution:
    """The same family with every parameter of one batch shape stacked at ``at``."""
    first = steps[0]
    shape = first.batch_shape
    if any([type(step) is not type(first) or step.batch_shape != shape for step in steps]):
        raise NotImplementedError("steps of different families")
    if isinstance(first, Independent):
        base = _together([step.base_dist for step in steps], at)  # type: ignore[attr-defined]
        return Independent(base, first.reinterpreted_batch_ndims, validate_args=False)
    whole = first.__new__(type(first))
    kept = {name for step in steps for name in vars(step)}
    for name in kept:
        if not all([name in vars(step) for step in steps]):
            continue  # a lazy property, computed again where it is asked for
        values: list[Any] = [vars(step)[name] for step in steps]
        one = values[0]
        if name == "_batch_shape":
            value: Any = Size((*shape[:at], len(steps), *shape[at:]))
        elif name == "_event_shape":
            value = one
        elif isinstance(one, Tensor):
            if any([not isinstance(v, Tensor) or v.shape[: len(shape)] != shape for v in values]):
                raise NotImplementedError(f"{name} has not the batch shape")
            value = torch.stack(values, at)
        elif isinstance(one, Distribution):
            value = _together(values, at)
        elif isinstance(one, bool | int | float | str | None) and all([v == one for v in values]):
            value = one
        else:
            raise NotImplementedError(f"{name} is not known to be the same at every step")
        setattr(whole, name, value)
    return whole
