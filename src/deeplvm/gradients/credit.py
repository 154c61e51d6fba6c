r"""Credit: what a draw without a path to its parameters owes to the objective.

Where a value is drawn without reparameterisation, the gradient of
:math:`E_{q_\phi(z)}[L(z)]` has a part that the objective itself does not carry,
:math:`E[L(z) \nabla_\phi \log q_\phi(z)]`. An estimator is a way of drawing that has a method
``credit(name, account)`` beside: it returns that part as a *value-neutral* term, zero in value,
which is added to the objective after it was computed. No objective knows of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Draw, Enumerated, Held, Reparameterised, Valuation
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import Factored
from deeplvm.core.trace import Site, Trace
from deeplvm.gradients.relaxation import can_relax

Objective = Callable[[Evidence], Tensor]


def neutral(value: Tensor) -> Tensor:
    """Zero, with the gradient of ``value``."""
    return value - value.detach()


@contextmanager
def unmoved(objective: Objective) -> Iterator[None]:
    """An objective that remembers things forgets what it is asked meanwhile."""
    if not isinstance(objective, torch.nn.Module):
        yield
        return
    training = objective.training
    objective.eval()
    try:
        yield
    finally:
        objective.train(training)


def over_particles(value: Tensor) -> Tensor:
    """The sum over everything left of the batch, shape ``(batch,)``."""
    return value.flatten(0, -2).sum(0) if value.dim() > 1 else value


@dataclass(frozen=True)
class Account:
    r"""What an estimator may look at when it settles the credit of its latent.

    Attributes:
        evidence: The ledger, with the gradient of all that was reparameterised.
        objective: Ledger to one value per row.
        value: ``objective(evidence)``, shape ``(batch,)``.
        given: Sites of what was given, by name.
        dependents: For each latent, the names whose terms depend on its draw.
        followers: For each latent, the latents whose draws depend on its draw: itself too, where
            it reads its own step before.
        parents: For each latent, the names that its conditional in q reads and that do not depend
            on its draw.
        redraw: Draws of the latents, by name, to another ledger of the same rows.
        draws: How each latent was drawn.
    """

    evidence: Evidence
    objective: Objective
    value: Tensor
    given: Mapping[str, Site]
    dependents: Mapping[str, tuple[str, ...]]
    followers: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]
    redraw: Callable[[Mapping[str, Draw]], Evidence]
    draws: Mapping[str, Draw]

    def read_by(self, name: str) -> list[Site]:
        """What the conditional of a latent reads: its parents in q, where they are known.

        One number that is always 1 stands for no parent at all.
        """
        sites = {**self.given, **self.evidence.q}
        found = [sites[parent] for parent in self.parents[name] if parent in sites]
        one = self.value.new_ones(1, 1)
        return found or [Site(one)]

    def log_prob(self, name: str) -> Tensor:
        r""":math:`\log q` of the latent's own draws, shape ``(*own particles, batch)``."""
        log_prob = self.evidence.q[name].log_prob
        if log_prob is None:
            raise ValueError(f"{name!r} has no density in q.")
        return log_prob

    def repeats(self, name: str) -> bool:
        """Whether a latent has members inside a row, some of which may be left out by a mask."""
        site = self.evidence.q[name]
        if site.distribution is None:
            return True
        return site.value.dim() - len(site.distribution.event_shape) > self.log_prob(name).dim()

    def drawn(self, name: str) -> Tensor:
        """Whether each of its values was drawn, and not given in its row; of that shape too.

        A given value has no density in q, and owes no credit.
        """
        return self.log_prob(name).detach() != 0

    def log_weight(self, name: str, *, local: bool = True) -> Tensor:
        r"""Sum of the terms that depend on a latent, without gradient, ``(*particles, batch)``.

        With ``local=False`` of all terms. The other terms add nothing to the latent's gradient
        but noise.
        """
        names = self.dependents[name] if local else tuple(self.evidence.terms)
        weighted = [self.evidence.weighted(n, self.evidence.terms[n].detach()) for n in names]
        return self.evidence.total(weighted)

    def signal(self, name: str, guess: Tensor | float, *, local: bool = True) -> Tensor:
        r"""What the objective loses when a particle's log-weight is replaced by a guess.

        .. math:: s_k = L(w_1, \dots, w_K) - L(w_1, \dots, \hat w_k, \dots, w_K)

        Where the guess was made without looking at the k-th draw, so is the second term, and
        :math:`\sum_k s_k \nabla \log q(z_k)` is an unbiased estimate of the missing gradient,
        whatever the objective. For the ELBO it is :math:`(w_k - \hat w_k) / K`; with the mean of
        the other log-weights as a guess it is the signal of VIMCO for the importance-weighted
        bound.

        Args:
            name: The latent.
            guess: Of its :meth:`log_weight`, broadcastable to ``(*particles, batch)``; the same
                for all values of a latent that is enumerated after it, whose weights q(. | draw)
                it would else bring in.
            local: Whether only the terms that depend on it are replaced.

        Returns:
            Shape ``(*own particles, batch)``, without gradient.

        Raises:
            ValueError: If the objective reads more of the ledger than its terms, or mixes rows.
        """
        evidence = self.evidence
        if not torch.compiler.is_compiling():  # looked at by the first, uncompiled step
            self.refuse_mixed_rows()
        replaced = self.dependents[name] if local else tuple(evidence.terms)
        first = replaced[0]
        flat = {
            n: evidence.weighted(n, term.detach()).expand(evidence.batch_shape)
            for n, term in evidence.terms.items()
        }
        own = self.log_prob(name).shape[:-1]
        lead = len(evidence.batch_shape) - 1 - len(own)
        device = self.value.device
        values = []
        for index in itertools.product(*[range(size) for size in own]):
            mask = torch.zeros(own, dtype=torch.bool, device=device)
            mask[index] = True
            mask = mask.reshape(*[1] * lead, *own, 1)
            terms = flat | {
                n: torch.where(mask, guess if n == first else 0.0, flat[n]) for n in replaced
            }
            with unmoved(self.objective):
                values.append(self.objective(ledger_alone(evidence, terms)))
        rows = values[0].shape
        return self.value.detach() - torch.stack(values).reshape(*own, *rows)

    def again(self, draws: Mapping[str, Draw]) -> Evidence:
        """The ledger with some latents drawn otherwise; the others keep their values.

        Raises:
            ValueError: If one that repeats inside a row is given in some of its places.
        """
        if torn := [n for n in self.evidence.latents if n in self.given and self.repeats(n)]:
            raise ValueError(
                f"{torn[0]!r} repeats inside a row and is given in part (NaN), which this "
                f"estimator cannot draw again; use Reparameterised() or ScoreFunction()."
            )
        ways: dict[str, Draw] = {}
        for name in self.evidence.latents:
            way = self.draws[name]
            still = Held(self.evidence.q[name].value.detach())
            ways[name] = draws.get(name, way if isinstance(way, Enumerated) else still)
        return self.redraw(ways)

    def refuse_mixed_rows(self) -> None:
        """Raises ``ValueError`` if a row's value changes with the terms of another row."""
        if self._mixes_rows:
            raise ValueError(
                "This objective mixes the rows of a batch, so the gain of one draw cannot be told "
                "from its row; use an objective per row (elbo, iwae, renyi, ...). A latent that "
                "is not reparameterised can also be summed over, with Enumerated(), or relaxed; "
                "others take Reparameterised()."
            )

    @cached_property
    def _mixes_rows(self) -> bool:
        return mixes_rows(self.objective, self.evidence)


def ledger_alone(
    evidence: Evidence,
    terms: dict[str, Tensor],
    *,
    batch_shape: tuple[int, ...] | None = None,
    log_measure: Tensor | float | None = None,
) -> Evidence:
    """A ledger of these (weighted) terms: no values, no distributions, no closed forms."""
    shape = evidence.batch_shape if batch_shape is None else batch_shape
    measure = evidence.log_measure if log_measure is None else log_measure
    measure = measure.detach() if isinstance(measure, Tensor) else measure
    trace = Trace({}, shape, measure)
    return replace(
        evidence,
        terms=terms,
        log_measure=measure,
        p=trace,
        q=trace,
        closed=frozenset(),
        kl_weight=1.0,
    )


@torch.no_grad()
def mixes_rows(objective: Objective, evidence: Evidence) -> bool:
    """Whether the value of a row changes with the terms of another.

    The objective is asked for the values of made-up ledgers of the same names and four rows,
    whatever the evidence holds: a batch of one row would tell nothing.

    Raises:
        ValueError: If the objective reads more of the ledger than its terms.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (*[min(size, 3) for size in evidence.batch_shape[:-1]], 4)
    like = next(iter(evidence.terms.values()))
    measure = -math.log(math.prod(shape[:-1]))
    try:
        with unmoved(objective):
            for scale in (1.0, 30.0, 1000.0):
                terms, other = {}, {}
                for name in evidence.terms:
                    term = scale * torch.randn(shape, generator=generator, dtype=like.dtype)
                    terms[name] = term.to(like.device)
                    other[name] = terms[name].clone()
                    other[name][..., 0] -= scale
                before, after = [
                    objective(ledger_alone(evidence, t, batch_shape=shape, log_measure=measure))
                    for t in (terms, other)
                ]
                if not torch.equal(before[1:], after[1:]):
                    return True
    except KeyError as error:
        raise ValueError(
            "This objective reads values or distributions, and not the terms of the ledger alone, "
            "so a latent that is not reparameterised cannot be credited; use its sampled form."
        ) from error
    return False


def account_of(valuation: Valuation) -> Account:
    """What estimators may look at, of a model and its draws.

    A term depends on a draw that it scores, whose child it scores, or that a conditional of its
    name reads, in p or q, also through computed names. Where p or q do not say who reads what,
    every term depends on every latent, and every later draw on every earlier one.
    """
    evidence, p, q = valuation.evidence, valuation.p, valuation.q
    latents, terms = evidence.latents, tuple(evidence.terms)
    if all([isinstance(joint, Factored) for joint in (p, q)]):
        in_q = {latent: _reached(q, {latent}) for latent in latents}
        followers = {n: tuple([each for each in latents if each in in_q[n]]) for n in latents}
        dependents = {
            n: {n} | in_q[n] | _reached(p, {n, *followers[n]}, frozenset(terms)) for n in latents
        }
        parents = {
            n: tuple([each.name for each in q.parents(n) if each.name not in {n} | in_q[n]])
            for n in latents
        }
    else:
        followers = {n: latents[i + 1 :] for i, n in enumerate(latents)}
        dependents = {n: set(terms) for n in latents}
        parents = dict.fromkeys(latents, tuple(valuation.given))
    return Account(
        evidence=evidence,
        objective=valuation.objective,
        value=valuation.value,
        given=valuation.given,
        dependents={n: tuple([t for t in terms if t in dependents[n]]) for n in latents},
        followers=followers,
        parents=parents,
        redraw=valuation.redraw,
        draws=valuation.draws,
    )


def _reached(joint: Any, sources: set[str], stop: frozenset[str] = frozenset()) -> set[str]:
    """Every name that reads one of the sources, also through names not in ``stop``.

    A source itself only if it does so, one step later.
    """
    reads = {name: {parent.name for parent in joint.parents(name)} for name in joint.names}
    reached: set[str] = set()
    passed = set(sources)
    while True:
        new = {name for name, parents in reads.items() if parents & passed} - reached
        if not new:
            return reached
        reached |= new
        passed |= new - stop


def log_weight_at(name: str, value: Tensor, account: Account, otherwise: Draw) -> Tensor:
    """Sum of the terms that depend on a latent, at another value, with its gradient.

    What q draws after it and its value reaches is drawn anew, as what was drawn depends on the
    latent's own draw: by reparameterisation, or ``otherwise`` where the variable is discrete, so
    that the gradient has a path through it.

    Args:
        name: The latent.
        value: Shape ``(*own particles, batch, *event)``.
        account: Of the draws that were made.
        otherwise: How discrete latents are drawn.

    Returns:
        Shape ``(*particles, batch)``, nats.

    Raises:
        ValueError: If a latent that would be drawn anew has no such draw.
    """
    if name in account.followers[name]:
        raise ValueError(
            f"Each step of {name!r} depends on the draw of the step before, which this estimator "
            f"cannot take apart; draw it by ScoreFunction()."
        )
    ways: dict[str, Draw] = {name: Held(value)}
    for each in account.followers[name]:
        ways[each] = _anew(each, name, account, otherwise)
    again = account.again(ways)
    return again.total([again.weighted(n, again.terms[n]) for n in account.dependents[name]])


def own_score(name: str, account: Account) -> Tensor:
    r"""What a guess may be lowered by, so that :math:`-\nabla \log q` of the draw cancels.

    The objective's own gradient has it, through :math:`-\log q` in the latent's term. For the
    ELBO its mean is zero, and it is nothing but noise; lowering the guess of a log-weight w by
    one nat, which leaves every objective's gradient unbiased, turns the whole
    :math:`(w - \hat w - 1) \nabla \log q` into :math:`(w - \hat w) \nabla \log q`. Where the
    objective has the divergence in closed form there is no such score, and this is one nat of
    noise itself.
    """
    return account.evidence.weighted(name, torch.ones_like(account.value.detach()))


def _anew(later: str, name: str, account: Account, otherwise: Draw) -> Draw:
    distribution = account.evidence.q[later].distribution
    if distribution is not None and not isinstance(account.draws[later], Enumerated):
        if distribution.has_rsample:
            return Reparameterised()
        if can_relax(distribution):
            return otherwise
    raise ValueError(
        f"{later!r} depends on {name!r} and would have to be drawn anew with a path for the "
        f"gradient: let it be a Gaussian, Bernoulli or OneHot variable that is not enumerated, or "
        f"draw {name!r} by ScoreFunction()."
    )
