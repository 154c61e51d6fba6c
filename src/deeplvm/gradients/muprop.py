"""MuProp: the score-function estimator with a Taylor expansion at the mean as its baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.draws import Drawn, Held
from deeplvm.core.trace import sum_right
from deeplvm.gradients.credit import Account, log_weight_at, neutral, over_particles, own_score
from deeplvm.gradients.relaxation import relaxation_at, relaxation_of
from deeplvm.gradients.score_function import BesideScore


@dataclass(frozen=True)
class AtMean:
    """A Bernoulli or OneHot latent at its mean, with the gradient of the mean: mean field."""

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """The expected value."""
        value = relaxation_of(name, distribution, batch_shape, batch_dims).mean()
        return Held(value)(name, distribution, batch_shape, batch_dims)


class MuProp(BesideScore):
    r"""The part of the gradient that is linear in the draw by its mean, the rest by its score.

    With f the log-weight as a function of the draw z, and :math:`\mu = E[z]`,

    .. math:: ( f(z) - f(\mu) - f'(\mu)^T (z - \mu) ) \nabla \log q(z)
              + f'(\mu)^T \nabla \mu

    and for any other objective the slope is that of the objective at the mean-field log-weight.
    Unbiased for every objective and any number of particles, for Bernoulli and OneHot latents.
    Discrete latents that q draws later stand at their means too, continuous ones are drawn anew;
    each latent costs an evaluation of the model with two gradients of it. What remains is the
    smaller the closer f is to linear where q has its mass.

    MuProp: Unbiased Backpropagation for Stochastic Neural Networks (Gu, Levine, Sutskever & Mnih,
    2016), https://arxiv.org/abs/1511.05176

    Args:
        baseline: Who guesses what remains; 0 by default.
    """

    def credit(self, name: str, account: Account) -> Tensor:
        """The two parts, value-neutral."""
        log_prob = account.log_prob(name)
        site = account.evidence.q[name]
        mean = relaxation_at(name, site).mean()
        point = mean.detach().clone().requires_grad_()
        expected = log_weight_at(name, point, account, AtMean())

        def linear(slope: Tensor) -> Tensor:
            return sum_right(slope * (site.value - point.detach()), log_prob.dim())

        log_weight = account.log_weight(name)
        own = log_prob.numel() / log_weight.numel()
        (slope,) = torch.autograd.grad(own * expected.sum(), point, retain_graph=True)
        remaining = log_weight - expected.detach() - linear(slope)
        guess, learned = self.score.guess(name, remaining, account)

        reference = (expected.detach() + guess - own_score(name, account)).requires_grad_()
        signal = account.signal(name, reference)
        (worth,) = torch.autograd.grad(-signal.sum(), reference)
        (slope,) = torch.autograd.grad((worth * expected).sum(), point)
        score = (signal.detach() - linear(slope)) * neutral(log_prob)
        return over_particles(score + sum_right(slope * neutral(mean), log_prob.dim())) + learned
