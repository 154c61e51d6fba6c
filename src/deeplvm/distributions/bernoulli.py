"""Bernoulli distribution that scores values of any dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.nn.functional import logsigmoid


class Bernoulli(torch.distributions.Bernoulli):
    r"""Bernoulli, :math:`\log p(x) = x \eta - \log(1 + e^\eta)`, finite for every logit.

    Torch's own, except that the value may be of integer or boolean dtype.

    Args:
        logits: :math:`\eta`, shape ``(*batch,)``.

    Examples:
        >>> Bernoulli(logits=torch.tensor([0.0, -1e4])).log_prob(torch.tensor([1, 1]))
        tensor([-6.9315e-01, -1.0000e+04])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits
        value = value.to(logits.dtype)
        if value.shape != logits.shape:
            logits, value = torch.broadcast_tensors(logits, value)
        # log sigma(eta) + (x - 1) eta: the digits of 1 - x are kept, and nothing is negated
        return torch.addcmul(logsigmoid(logits), value - 1, logits)


@register_kl(Bernoulli, Bernoulli)
def _kl_bernoullis(q: Bernoulli, p: Bernoulli) -> Tensor:
    # torch's own formula cannot broadcast q against p, and is infinite where a sigmoid rounds to 0
    one = q.logits.sigmoid() * (logsigmoid(q.logits) - logsigmoid(p.logits))
    zero = (-q.logits).sigmoid() * (logsigmoid(-q.logits) - logsigmoid(-p.logits))
    return one + zero
