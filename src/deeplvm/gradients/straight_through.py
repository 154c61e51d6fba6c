"""The straight-through estimator: a discrete draw with the gradient of its mean."""

from __future__ import annotations

from torch import nn
from torch.distributions import Distribution

from deeplvm.gradients.draws import Drawn
from deeplvm.gradients.relaxation import relaxation_of
from deeplvm.trace import expand_to, sum_right


class StraightThrough(nn.Module):
    r"""A discrete draw b of a Bernoulli or OneHot latent, :math:`db / d\eta := d E[b] / d\eta`.

    What is measured with it is a bound, as the value is an ordinary draw; its gradient is biased
    wherever the objective is not linear in the value, and no temperature makes that less. For
    three bits and a network of six units (``tests/gradients/test_relaxed.py``) its mean is off by
    7 % of its length.

    Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
    (Bengio, Léonard & Courville, 2013), https://arxiv.org/abs/1308.3432

    Examples:
        >>> import torch
        >>> from deeplvm.conditionals import Bernoulli
        >>> bit = Bernoulli(1)
        >>> StraightThrough()("h", bit(), (1,), 0).value.sum().backward()
        >>> bit.head.free.grad.item()  # sigma'(0)
        0.25
    """

    def forward(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw a discrete value."""
        relaxation = relaxation_of(name, distribution, batch_shape, batch_dims)
        mean = relaxation.mean()
        value = relaxation.hard(relaxation.perturbed().detach()) + (mean - mean.detach())
        log_prob = expand_to(distribution, batch_shape, batch_dims).log_prob(value)
        return Drawn(value, sum_right(log_prob, len(batch_shape)), batch_shape, 0.0)
