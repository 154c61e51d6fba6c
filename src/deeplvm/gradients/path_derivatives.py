r"""Path derivatives: the score of a reparameterised draw is left out of its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Enumerated, Reparameterised
from deeplvm.core.evidence import density
from deeplvm.core.trace import expand_to
from deeplvm.gradients.credit import (
    Account,
    account_of,
    ledger_alone,
    neutral,
    over_particles,
    unmoved,
)


@dataclass(frozen=True)
class StickingTheLanding(Reparameterised):
    r"""A reparameterised draw whose gradient goes through its value alone.

    The gradient of :math:`\log q_\phi(z_\phi)` has a part through the draw and a part
    :math:`\nabla_\phi \log q_\phi(z)` at a fixed z, the score, whose mean is zero. Without the
    score the gradient has no variance at all where q is the posterior, since there the log-weight
    is the same for every draw. In a chain of latents :math:`\log q(z_1 | z_2)` still depends on
    the draw of :math:`z_2`; only its direct dependence on parameters is left out.

    Unbiased for the ELBO and for any objective that is linear in the terms of the latents drawn
    so. Biased for :func:`~deeplvm.iwae`, :func:`~deeplvm.objectives.bounds` and others, where the
    score is multiplied by a weight that depends on the draw (with two particles, by 3 to 29 % of
    the gradient in four small models);
    :class:`~deeplvm.gradients.path_derivatives.DoublyReparameterised` is the unbiased form.

    It costs one more log-density of each draw, which for a flow is a pass of its inverse; where
    one such latent depends on another, one more evaluation of the model. Networks that draw noise
    of their own (dropout) should not be in q then.

    Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
    (Roeder, Wu & Duvenaud, 2017), https://arxiv.org/abs/1703.09194

    Raises:
        ValueError: If the objective reads more of the ledger than its terms, such as a divergence
            in closed form, or the density of a draw cannot be evaluated again.
    """

    account = staticmethod(account_of)

    def credit(self, name: str, account: Account) -> Tensor:
        """Minus the scores of all latents drawn so, settled at the first of them."""
        mine = drawn_by(type(self), account)
        if name != mine[0]:
            return torch.zeros_like(account.value)
        evidence = account.evidence
        terms = {n: term.detach() for n, term in evidence.terms.items()}
        for each, log_prob in fixed_log_probs(account, mine).items():
            terms[each] = terms[each] + evidence.scale(each) * neutral(log_prob)
        return neutral(value_of_terms(account, terms))


def drawn_by(kind: type, account: Account) -> list[str]:
    """The latents that are drawn in a way of this kind."""
    return [n for n in account.evidence.latents if isinstance(account.draws[n], kind)]


def fixed_log_probs(account: Account, names: Iterable[str]) -> dict[str, Tensor]:
    r"""Of each latent :math:`\log q_\phi(z | \ldots)` with all draws held fixed, nats.

    Its gradient is the direct score: through the parameters of q, and not through a draw.
    """
    evidence, names = account.evidence, list(names)
    moving = [n for n in evidence.latents if evidence.q[n].value.requires_grad]
    try:
        whole = not any([account.repeats(n) or n in account.given for n in names])
        if whole and set(moving) <= set(names[:1]):
            return {name: _rescored(name, account) for name in names}
        held = account.again({})
    except NotImplementedError as error:
        raise ValueError(
            f"The density of {', '.join(names)} cannot be evaluated at a draw ({error}), so the "
            f"score cannot be left out; use Reparameterised(), or a flow with an inverse."
        ) from error
    return {name: density(held.q[name]) for name in names}


def _rescored(name: str, account: Account) -> Tensor:
    """The density of a latent that reads no other draw, from its distribution as it is."""
    site = account.evidence.q[name]
    distribution: Any = site.distribution
    shape = tuple(account.log_prob(name).shape)
    expanded = expand_to(distribution, shape, len(distribution.batch_shape))
    return expanded.log_prob(site.value.detach())


def value_of_terms(
    account: Account, terms: dict[str, Tensor], measure: Tensor | None = None
) -> Tensor:
    """The objective of these terms alone; the state of an objective stays as it is.

    ``measure`` is the log-measure of the particles, where it is to have a gradient.

    Raises:
        ValueError: If the objective is not a function of the terms: a divergence that it would
            take in closed form is not there.
    """
    evidence = account.evidence
    with torch.no_grad():
        closed = frozenset([n for n in evidence.closed if evidence.has_closed_kl(n)])
    alone = replace(ledger_alone(evidence, terms), closed=closed, kl_weight=evidence.kl_weight)
    try:
        with unmoved(account.objective):
            return account.objective(
                alone if measure is None else replace(alone, log_measure=measure)
            )
    except KeyError as error:
        raise ValueError(
            "This objective reads values or distributions, and not the terms of the ledger alone, "
            "so no score can be left out of its gradient; use its sampled form, or "
            "Reparameterised()."
        ) from error


_MEASURE = ""  # no name of a joint


@dataclass(frozen=True)
class DoublyReparameterised(Reparameterised):
    r"""A reparameterised draw whose score is reparameterised too, for any objective of the terms.

    Let :math:`F(t)` be the objective as a function of the terms :math:`t_{n,k}` of the ledger and
    :math:`G_{n,k} = \partial F / \partial t_{n,k}`. Autodiff's gradient holds
    :math:`-G_{n,k} \nabla_\phi \log q_\phi(z_{n,k})` at a fixed draw. Since
    :math:`E[h(z) \nabla_\lambda \log q_\lambda(z)]
    = E[\tfrac{dh}{dz} \tfrac{\partial z}{\partial \lambda}]`, it has the mean of

    .. math:: - \sum_m \frac{\partial G_{n,k}}{\partial t_{m,k}} \frac{d t_{m,k}}{d z_{n,k}}
              \frac{\partial z_{n,k}}{\partial \lambda_n} \nabla_\phi \lambda_n,

    a gradient through the draw alone. Where F depends on the log-weights :math:`w_k`, the path
    into q's parameters has the weight :math:`F'_k - F''_{kk}`: 1/K for the ELBO (which is then
    :class:`~deeplvm.gradients.path_derivatives.StickingTheLanding`), :math:`\tilde w_k^2` for
    :func:`~deeplvm.iwae`, :math:`\alpha \tilde w_k + (1 - \alpha) \tilde w_k^2` for
    :func:`~deeplvm.objectives.bounds` of order :math:`\alpha`. The parameters of p keep
    :math:`F'_k`. In a chain of latents the derivative of :math:`w_k` goes through all that
    depends on a draw, :math:`\log q(z_1 | z_2)` included, which vanishes at the posterior.

    Unbiased for every objective of the terms that has two continuous derivatives (not for
    :func:`~deeplvm.objectives.vr_max`, whose slope jumps), without variance where q is the
    posterior. Where that of the plain gradient falls, the signal-to-noise ratio of
    :func:`~deeplvm.iwae` grows with the particles.

    It costs one more evaluation of the model and a derivative of the objective a particle. Its
    second derivatives are taken by autograd while the objective is recorded, which no fullgraph
    of ``torch.compile`` holds. Networks that draw noise of their own (dropout) have no place
    beside it.

    Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019),
    https://arxiv.org/abs/1810.04152; for hierarchies see Generalized Doubly Reparameterized
    Gradient Estimators (Bauer & Mnih, 2021), https://arxiv.org/abs/2101.11046

    Raises:
        ValueError: If the objective mixes rows or reads more than the terms, if a latent that is
            drawn otherwise could depend on a draw, or if the latents are shared by all rows.
    """

    traceable = False

    account = staticmethod(account_of)

    def credit(self, name: str, account: Account) -> Tensor:
        """What replaces the scores of all latents drawn so, settled at the first of them."""
        mine = drawn_by(type(self), account)
        if name != mine[0]:
            return torch.zeros_like(account.value)
        _refuse_others(mine, account)
        account.refuse_mixed_rows()
        evidence, shape = account.evidence, account.evidence.batch_shape
        slopes, curvatures = derivatives(account, mine)
        total = torch.zeros(shape, dtype=account.value.dtype, device=account.value.device)
        for each, log_prob in fixed_log_probs(account, mine).items():
            total = total + slopes[each] * neutral(log_prob.expand(shape))
        if curvatures is None:
            return over_particles(total)
        held = account.again({})
        for each, weight in curvatures.items():
            if each == _MEASURE:
                path = evidence.log_measure - held.log_measure
            else:
                path = evidence.terms[each] - held.terms[each]
            if isinstance(path, Tensor):
                total = total - weight * neutral(path.expand(shape))
        return over_particles(total)


def derivatives(
    account: Account, names: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    r"""First and second derivatives of the objective by the terms of a particle.

    Returns:
        :math:`\partial F / \partial t_{n,k}` for each name n of the terms, and
        :math:`\partial^2 F / \partial t_{n,k} \partial t_{m,k}` for each name m, which must be
        the same for all the latents n that are asked for; ``None`` where it is zero. Shape
        ``(*particles, batch)``, without gradient.
    """
    evidence, shape = account.evidence, account.evidence.batch_shape
    leaves = {n: _leaf(term, shape) for n, term in evidence.terms.items()}
    terms, measure = dict(leaves), None
    if isinstance(evidence.log_measure, Tensor):
        measure = leaves[_MEASURE] = _leaf(evidence.log_measure, shape)
    value = value_of_terms(account, terms, measure)
    wanted = list(leaves.values())
    found = torch.autograd.grad(
        value.sum(), wanted, create_graph=True, allow_unused=True, materialize_grads=True
    )
    slopes = dict(zip(leaves, found, strict=True))
    curved = [n for n in names if slopes[n].requires_grad]
    each = [_curvatures(slopes[n], leaves, account.log_prob(n).shape[:-1]) for n in curved]
    if each and (
        len(curved) < len(names)
        or not all([torch.allclose(e[m], each[0][m], atol=1e-6) for e in each for m in leaves])
    ):
        raise ValueError(
            f"This objective weighs the terms of {', '.join(names)} differently, which the doubly "
            f"reparameterised gradient of several latents does not allow; draw one of them so, or "
            f"all with Reparameterised()."
        )
    first = {n: slope.detach() for n, slope in slopes.items()}
    return first, each[0] if each else None


def _leaf(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    return value.detach().expand(shape).clone().requires_grad_()


def _curvatures(
    slope: Tensor, leaves: dict[str, Tensor], own: tuple[int, ...]
) -> dict[str, Tensor]:
    """Derivatives of the slopes of each particle by the terms of the same particle."""
    count, lead = torch.Size(own).numel(), slope.dim() - 1 - len(own)
    masks = torch.eye(count, dtype=slope.dtype, device=slope.device)
    masks = masks.reshape(count, *[1] * lead, *own, 1).expand(count, *slope.shape)
    found = torch.autograd.grad(
        slope,
        list(leaves.values()),
        grad_outputs=masks,
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return {n: (masks * each).sum(0) for n, each in zip(leaves, found, strict=True)}


def _refuse_others(mine: list[str], account: Account) -> None:
    """A latent drawn otherwise must not depend on these draws, nor have a path beside them."""
    evidence = account.evidence
    if shared := evidence.shared & set(mine):
        raise ValueError(
            f"All rows share {', '.join(sorted(shared))}, whose score is not one of a row; draw "
            f"them with StickingTheLanding() or Reparameterised()."
        )
    first = evidence.latents.index(mine[0])
    for index, name in enumerate(evidence.latents):
        if name in mine or isinstance(account.draws[name], Enumerated):
            continue
        if index > first or evidence.q[name].value.requires_grad:
            raise ValueError(
                f"{name!r} is drawn otherwise beside {', '.join(mine)}; draw every latent that is "
                f"not enumerated with DoublyReparameterised(), or none."
            )
