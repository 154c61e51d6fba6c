r"""Credit: what a draw without a path to its parameters owes to the objective.

Where a value is drawn without reparameterisation, the gradient of
:math:`E_{q_\phi(z)}[L(z)]` has a part that the objective itself does not carry,
:math:`E[L(z) \nabla_\phi \log q_\phi(z)]`. An estimator is a way of drawing that has a method
``credit(name, account)`` beside: it returns that part as a *value-neutral* term, zero in value,
which is added to the objective after it was computed. No objective knows of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Draw, Enumerated, Held, Reparameterised, Suited, is_estimator
from deeplvm.core.evidence import Evidence
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
        parents: For each latent, the names that its conditional in q reads.
        redraw: Draws of the latents, by name, to another ledger of the same rows.
        draws: How each latent was drawn.
    """

    evidence: Evidence
    objective: Objective
    value: Tensor
    given: Mapping[str, Site]
    dependents: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]
    redraw: Callable[[Mapping[str, Draw]], Evidence]
    draws: Mapping[str, Draw]

    def features(self, name: str) -> list[Tensor]:
        """What the conditional of a latent reads: the features of its parents in q."""
        return [
            (self.evidence.q[parent] if parent in self.evidence.q else self.given[parent]).features
            for parent in self.parents[name]
        ]

    def log_prob(self, name: str) -> Tensor:
        r""":math:`\log q` of the latent's own draws, shape ``(*own particles, batch)``."""
        log_prob = self.evidence.q[name].log_prob
        if log_prob is None:
            raise ValueError(f"{name!r} has no density in q.")
        return log_prob

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
        self._check()
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
        """The ledger with some latents drawn otherwise; the others keep their values."""
        held: dict[str, Draw] = {}
        for name in self.evidence.latents:
            way = self.draws[name]
            held[name] = (
                way if isinstance(way, Enumerated) else Held(self.evidence.q[name].value.detach())
            )
        return self.redraw(held | dict(draws))

    def _check(self) -> None:
        """The objective must be a function of the terms, row by row."""
        if torch.compiler.is_compiling():  # looked at by the first, uncompiled step
            return
        if mixes_rows(self.objective, self.evidence):
            raise ValueError(
                "This objective mixes the rows of a batch, so the gain of one draw cannot be told "
                "from its row; with a latent that is not reparameterised use an objective per "
                "row (elbo, iwae, renyi, ...), sum over its values with Enumerated(), or relax it."
            )


def ledger_alone(evidence: Evidence, terms: dict[str, Tensor]) -> Evidence:
    """A ledger of these terms and nothing else: no values, no distributions, no closed forms."""
    measure = evidence.log_measure
    measure = measure.detach() if isinstance(measure, Tensor) else measure
    return replace(
        evidence,
        terms=terms,
        log_measure=measure,
        p=Trace({}, evidence.batch_shape),
        q=Trace({}, evidence.batch_shape, measure),
        closed=frozenset(),
        kl_weight=1.0,
    )


_PROBED: dict[Any, bool] = {}


def mixes_rows(objective: Objective, evidence: Evidence) -> bool:
    """Whether the value of a row changes with the terms of another; looked at once an objective.

    Raises:
        ValueError: If the objective reads more of the ledger than its terms.
    """
    known = _PROBED.get(objective_key(objective))
    if known is not None:
        return known
    try:
        with unmoved(objective):
            found = _probe(objective, evidence)
    except KeyError as error:
        raise ValueError(
            "This objective reads values or distributions, and not the terms of the ledger alone, "
            "so a latent that is not reparameterised cannot be credited; use its sampled form."
        ) from error
    _PROBED[objective_key(objective)] = found
    return found


def objective_key(objective: Any) -> Any:
    """What tells objectives apart: for a partial, its function and arguments."""
    if not hasattr(objective, "func"):
        return objective
    return (objective.func, objective.args, tuple(sorted(objective.keywords.items())))


@torch.no_grad()
def _probe(objective: Objective, evidence: Evidence) -> bool:
    generator = torch.Generator().manual_seed(0)
    shape = evidence.batch_shape
    like = next(iter(evidence.terms.values()))
    found = False
    for scale in (1.0, 30.0):
        terms = {
            name: scale * torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)
            for name in evidence.terms
        }
        other = {name: term.clone() for name, term in terms.items()}
        for term in other.values():
            term[..., 0] -= scale
        before, after = [objective(ledger_alone(evidence, each)) for each in (terms, other)]
        found = found or not torch.equal(before[1:], after[1:])
    return found


def ways_of(
    evidence: Evidence, draw: Mapping[str, Draw] | None, default: Draw | None
) -> dict[str, Draw]:
    """How each latent of the evidence was drawn."""
    ways = {name: (draw or {}).get(name, default) or _PLAIN for name in evidence.latents}
    return {
        name: way.of(evidence.q[name].distribution) if isinstance(way, Suited) else way
        for name, way in ways.items()
    }


def account_of(
    p: Any,
    q: Any,
    evidence: Evidence,
    objective: Objective,
    value: Tensor,
    given: Mapping[str, Site],
    redraw: Callable[[Mapping[str, Draw]], Evidence],
    draws: Mapping[str, Draw],
) -> Account:
    """What estimators may look at, of a model of p and q; the rest as in :class:`Account`."""
    latents = evidence.latents
    readers = getattr(q, "parents", None)
    return Account(
        evidence=evidence,
        objective=objective,
        value=value,
        given=given,
        dependents=dependents_of(p, q, latents, evidence.observed),
        parents={
            name: tuple(given)
            if readers is None
            else tuple([parent.name for parent in readers(name)])
            for name in latents
        },
        redraw=redraw,
        draws=draws,
    )


def prepare(
    p: Any, q: Any, evidence: Evidence, given: Mapping[str, Site], draws: Mapping[str, Draw]
) -> None:
    """Let estimators make what they learn, of evidence that counts for nothing else."""
    value = _nothing(evidence)
    account = account_of(p, q, evidence, _nothing, value, given, _no_redraw, draws)
    for name, way in draws.items():
        make = getattr(way, "prepare", None)
        if make is not None:
            make(name, account)


_PLAIN = Reparameterised()


def _nothing(evidence: Evidence) -> Tensor:
    """An objective that is zero for every row."""
    return torch.zeros(evidence.batch_shape[-1])


def _no_redraw(_: Mapping[str, Draw]) -> Evidence:
    raise RuntimeError("An estimator is only being prepared: nothing is drawn again.")


def settle(account: Account) -> Tensor:
    """The objective's value per row, with the gradient of every estimator in it."""
    value = account.value
    for name in account.evidence.latents:
        draw = account.draws[name]
        if is_estimator(draw):
            value = value + draw.credit(name, account)
    return value


def dependents_of(
    p: Any, q: Any, latents: Iterable[str], observed: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """For each latent, the names whose terms depend on its draw, as far as the names tell.

    A term depends on a draw that it scores, whose child it scores, or that a conditional of its
    name reads, in p or q, also through computed names. Where p or q do not say who reads what,
    every term depends on every latent.
    """
    names, fixed = tuple(p.names), frozenset((*latents, *observed))
    if not all([hasattr(joint, "parents") for joint in (p, q)]):
        return dict.fromkeys(latents, names)
    found = {}
    for latent in latents:
        in_q = _reached(q, {latent})
        in_p = _reached(p, {latent} | (in_q & set(latents)), fixed)
        found[latent] = tuple([n for n in names if n in in_q or n in in_p])
    return found


def _reached(joint: Any, sources: set[str], stop: frozenset[str] = frozenset()) -> set[str]:
    """The sources and every name that reads one of them, through names not in ``stop``."""
    reached, changed = set(sources), True
    while changed:
        changed = False
        for name in joint.names:
            if name in reached:
                continue
            reads = {parent.name for parent in joint.parents(name)}
            if any([each in reached and (each in sources or each not in stop) for each in reads]):
                reached.add(name)
                changed = True
    return reached


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
    order = account.evidence.latents
    later = [n for n in order[order.index(name) + 1 :] if n in account.dependents[name]]
    ways: dict[str, Draw] = {name: Held(value)}
    for each in later:
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
