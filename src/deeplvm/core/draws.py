"""How a latent variable is drawn: reparameterised, enumerated, or merely sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.steps import of_one_step
from deeplvm.core.trace import (
    base_of,
    draw_with_log_prob,
    expand_to,
    has_marginals,
    score,
    sum_right,
)

if TYPE_CHECKING:
    from deeplvm.core.evidence import Evidence
    from deeplvm.core.trace import Site


class Drawn(NamedTuple):
    """A drawn value, its log-density, and what the draw did to the particles.

    ``batch_shape`` is the shape ``(*particles, batch)`` from here on, ``log_measure`` what is
    added to the log-measure of the particles.
    """

    value: Tensor
    log_prob: Tensor
    batch_shape: tuple[int, ...]
    log_measure: Tensor | float


class Draw(Protocol):
    """How one latent is drawn: any callable of this form can be named in ``draw={...}``.

    One that completes the gradient is an :class:`Estimator`. Each may say more of itself, by
    attributes that :func:`said` reads:

    ``suits(distribution)``
        Whether a latent of it is drawn so where nobody says how (see :class:`Suited`); without
        it, those that have no reparameterised draw.
    ``measured``
        The draw that takes its place where a bound is measured; without it, itself.
    ``bound``
        Whether the values of objectives with it are the bounds that they are said to be.
    ``traceable``
        Whether ``torch.compile`` can make one graph of a step with it.
    ``at(epoch)``
        A method that is told the progress of training before each step.
    """

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw ``name`` for the particles and rows of ``batch_shape``."""
        ...


def said(draw: Any, what: Literal["suits", "measured", "bound", "traceable"], unsaid: Any) -> Any:
    """What a way of drawing says of itself, or what holds where it does not."""
    return getattr(draw, what, unsaid)


_LEAST = -800.0  # nats: what a value of probability zero is scored, so that no term is infinite


@dataclass(frozen=True)
class Reparameterised:
    r"""A draw :math:`z = g(\epsilon, \phi)` through which gradients flow (monograph, section 2.4).

    Raises:
        ValueError: If the distribution has no such draw while gradients are being recorded.
    """

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with ``rsample``, in one pass with the log-density where that is offered."""
        if not distribution.has_rsample:
            if torch.is_grad_enabled():
                kind = type(getattr(distribution, "base_dist", distribution)).__name__
                raise ValueError(
                    f"{name!r} is drawn from a {kind}, which has no reparameterised draw, so its "
                    f"gradient would be lost; sum over its values with "
                    f"draw={{{name!r}: Enumerated()}}, choose an estimator of "
                    f"deeplvm.gradients, or evaluate under torch.no_grad()."
                )
            return Sampled()(name, distribution, batch_shape, batch_dims)
        value, log_prob = draw_with_log_prob(expand_to(distribution, batch_shape, batch_dims))
        return Drawn(value, sum_right(log_prob, len(batch_shape)), batch_shape, 0.0)

    def suits(self, distribution: Distribution) -> bool:
        """Every latent that has a reparameterised draw."""
        return distribution.has_rsample


@dataclass(frozen=True)
class Sampled:
    """A draw without a gradient through the value: ancestral sampling and evaluation."""

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw with ``sample``."""
        expanded = expand_to(distribution, batch_shape, batch_dims)
        value = expanded.sample()
        log_prob = sum_right(expanded.log_prob(value), len(batch_shape))
        return Drawn(value, log_prob, batch_shape, 0.0)


@dataclass(frozen=True)
class Held:
    """A value that is there already, scored where it is drawn again.

    Attributes:
        value: Shape ``(*batch_shape, *event)`` of the draw.
    """

    value: Tensor

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """The value with its log-density here."""
        expanded = expand_to(distribution, batch_shape, batch_dims)
        log_prob = sum_right(expanded.log_prob(self.value), len(batch_shape))
        return Drawn(self.value, log_prob, batch_shape, 0.0)


@dataclass(frozen=True, eq=False)
class PartlyGiven:
    r"""Another draw where a value is missing (NaN), and the value itself where it is there.

    Only what is drawn has a density here, :math:`\log q(x_\text{missing} | \cdot)`: with p at the
    completed value, a bound on :math:`\log p(x_\text{given})`, exact where it is enumerated.

    Attributes:
        value: What is given, shape ``(batch, *event)``, in a floating type.
        draw: How the rest is drawn.
    """

    value: Tensor
    draw: Draw

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """The completed value, with the log-density of what was drawn of it.

        Raises:
            ValueError: If some elements of a vector are missing whose density q does not have.
        """
        drawn = self.draw(name, distribution, batch_shape, batch_dims)
        hole = torch.isnan(self.value)
        value = torch.where(hole, drawn.value.to(self.value.dtype), self.value)
        event = drawn.value.dim() - len(drawn.batch_shape)
        if event and _is_plain(self.draw, distribution) and has_marginals(distribution):
            log_prob = score(name, distribution, torch.where(hole, value, torch.nan), missing=True)
            log_prob = sum_right(log_prob, len(drawn.batch_shape))
            if isinstance(drawn.log_measure, Tensor):  # enumerated
                log_prob = log_prob.clamp(min=_LEAST)
            return drawn._replace(value=value, log_prob=log_prob)
        some = hole.flatten(-event).any(-1) if event else hole
        every = hole.flatten(-event).all(-1) if event else hole
        if not torch.compiler.is_compiling() and not torch.equal(some, every):
            raise ValueError(
                f"Some elements of {name!r} are missing (NaN) and others given, but q draws it "
                f"as a whole; let q's elements be independent and drawn by Reparameterised(), "
                f"Sampled() or Enumerated(), or leave these rows out."
            )
        log_prob = torch.where(every, drawn.log_prob, torch.where(some, torch.nan, 0.0))
        return drawn._replace(value=value, log_prob=log_prob)


def _is_plain(draw: Any, distribution: Distribution) -> bool:
    """Whether the log-density of a draw is its distribution's."""
    while not isinstance(draw, Suited) and hasattr(draw, "draw"):
        draw = draw.draw
    draw = draw.of(distribution) if isinstance(draw, Suited) else draw
    return isinstance(draw, Reparameterised | Sampled | Held | Enumerated)


class Suited(nn.Module):
    """One way for the latents that it suits, reparameterised draws for all others.

    A way of drawing says which those are by ``suits(distribution)``; without one, it suits what
    has no reparameterised draw.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw

    def of(self, distribution: Distribution) -> Draw:
        """The way in which a variable of this distribution is drawn."""
        distribution = of_one_step(distribution)
        suits = said(self.draw, "suits", lambda of: not of.has_rsample)
        return self.draw if suits(distribution) else Reparameterised()

    def forward(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw in the way that suits the distribution."""
        return self.of(distribution)(name, distribution, batch_shape, batch_dims)


def as_measured(draw: Draw) -> Draw:
    """How a latent is drawn while a bound is measured: what the draw says by ``measured``."""
    if isinstance(draw, Suited):
        return Suited(as_measured(draw.draw))
    return said(draw, "measured", draw)


@dataclass(frozen=True)
class Enumerated:
    r"""Every value once, weighted by its probability: exact, without variance.

    The values become a new leading particle dimension whose log-measure is :math:`\log q(y | x)`,
    so that :math:`\sum_y q(y|x) [\dots]` and the Monte-Carlo mean are one formula. A vector of
    ``n`` independent discrete elements has ``S ** n`` values.

    Attributes:
        most: The largest number of values that may be enumerated.
        only_missing: Whether rows of a data set keep the value that they have, and those without
            one (NaN) alone are summed; else, where rows are measured, all of them.

    Raises:
        ValueError: If the support is not finite or has more than ``most`` values.
    """

    most: int = 65_536
    only_missing: bool = False

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Lay the values out along a new leading dimension."""
        right = tuple(distribution.batch_shape)[batch_dims:]
        if right:
            raise ValueError(
                f"{name!r} repeats inside a row {right}: its joint values cannot be enumerated."
            )
        values = self.values(name, distribution)  # (S, *event)
        lead = (values.shape[0],) + (1,) * len(batch_shape)
        shape = (values.shape[0], *batch_shape)
        event = values.shape[1:]
        value = values.reshape(lead + event).expand(shape + event)
        # A value of probability zero weighs exp(-800) = 0, and its terms stay finite.
        log_prob = distribution.log_prob(value).clamp(min=_LEAST)
        return Drawn(value, log_prob, shape, log_prob)

    def values(self, name: str, distribution: Distribution) -> Tensor:
        """All values of one row, shape ``(S, *event)``."""
        base = base_of(distribution)
        if not base.has_enumerate_support:
            raise ValueError(
                f"{name!r} is drawn from a {type(base).__name__}, whose values cannot be listed; "
                f"Enumerated() is for variables with finitely many values."
            )
        each = base.enumerate_support(expand=False)
        each = each.reshape((each.shape[0], *base.event_shape))
        inner = len(distribution.event_shape) - len(base.event_shape)
        places = distribution.event_shape[:inner]
        count = places.numel()
        if each.shape[0] ** count > self.most:
            raise ValueError(
                f"{name!r} has {each.shape[0]} ** {count} values, more than the {self.most} that "
                f"Enumerated() lists; raise `most` if you mean it."
            )
        if not places:
            return each
        index = torch.cartesian_prod(*[torch.arange(each.shape[0], device=each.device)] * count)
        return each[index.reshape(-1, *places)]


@dataclass(frozen=True)
class Summed:
    """What p does with a discrete name of every step that q does not draw: sum over its values.

    Attributes:
        most: The largest number of values of one step.
    """

    most: int = Enumerated.most

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Refused: only a Plate or a Recurrent knows how."""
        raise ValueError(
            f"{name!r} is to be enumerated, but q does not draw it: add '{name} | ...' to q. Only "
            f"what a Plate or a Recurrent repeats is summed over in p itself."
        )


@dataclass(frozen=True)
class Valuation:
    """What an objective made of some draws, and how they are made again.

    Attributes:
        p: The generative joint.
        q: The joint that drew.
        evidence: The ledger, with the gradient of all that was reparameterised.
        objective: Ledger to one value per row.
        value: ``objective(evidence)``, shape ``(batch,)``.
        given: Sites of what was given, by name, as q reads them.
        redraw: Draws of the latents, by name, to another ledger of the same rows.
        draws: How each latent was drawn.
    """

    p: Any
    q: Any
    evidence: Evidence
    objective: Callable[[Evidence], Tensor]
    value: Tensor
    given: Mapping[str, Site]
    redraw: Callable[[Mapping[str, Draw]], Evidence]
    draws: Mapping[str, Draw]

    def settled(self) -> Tensor:
        """The value per row, with the gradient of every estimator in it."""
        value, account = self.value, None
        for name, way in self.draws.items():
            if is_estimator(way):
                account = way.account(self) if account is None else account
                value = value + way.credit(name, account)
        return value

    def prepare(self) -> None:
        """Let estimators make what they learn: this value counts for nothing else."""
        for name, way in self.draws.items():
            if isinstance(way, Learner):
                way.prepare(name, way.account(self))


class Estimator(Draw, Protocol):
    """A way of drawing whose gradient is completed once the objective is known."""

    def account(self, valuation: Valuation, /) -> Any:
        """What the estimators of one call look at, made once for all of them."""
        ...

    def credit(self, name: str, account: Any) -> Tensor:
        """A value-neutral term per row, shape ``(batch,)``, whose gradient is what is missing."""
        ...


@runtime_checkable
class Learner(Estimator, Protocol):
    """An estimator that learns something itself: it is made before an optimiser can have it."""

    def prepare(self, name: str, account: Any) -> None:
        """Make the networks that fit what a latent reads."""
        ...


def is_estimator(draw: Any) -> TypeGuard[Estimator]:
    """Whether a way of drawing has a credit to add (for :class:`Suited`, the one within)."""
    return hasattr(draw.draw if isinstance(draw, Suited) else draw, "credit")


def way_of(name: str, site: Site, draw: Mapping[str, Draw] | None, default: Draw | None) -> Draw:
    """How a latent was drawn.

    Raises:
        ValueError: If that was left to what suits a distribution that is not known any more.
    """
    way = (draw or {}).get(name, default) or Reparameterised()
    if not isinstance(way, Suited):
        return way
    if site.distribution is not None:
        return way.of(site.distribution)
    if torch.is_grad_enabled() and not site.value.requires_grad:
        raise ValueError(
            f"{name!r} was moved after it was drawn and has no path for its gradient, so what way "
            f"of drawing suits it is not known; say it by its name, draw={{{name!r}: ...}}."
        )
    return Reparameterised()


def refuse_credit(draws: Mapping[str, Draw | None]) -> None:
    """Refuse ways of drawing whose gradient the evidence alone would leave incomplete.

    Raises:
        ValueError: If there is one.
    """
    for name, draw in draws.items():
        if is_estimator(draw):
            raise ValueError(
                f"{type(draw).__name__} completes the gradient of {name} after the objective is "
                f"known, so the evidence alone would have a wrong one: use "
                f"model.estimate(objective, given, draw={{...}}), or evaluate under "
                f"torch.no_grad()."
            )
