"""What a latent's log-weight would be at another value than the one that was drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from deeplvm.gradients.crediting import Account
from deeplvm.gradients.draws import Draw, Enumerated, Held, Reparameterised
from deeplvm.gradients.relaxation import can_relax


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
