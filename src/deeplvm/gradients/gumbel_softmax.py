"""Gumbel-Softmax: a discrete latent drawn between its values, so that gradients flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.draws import Drawn, Held, Sampled
from deeplvm.gradients.relaxation import relaxation_of


@dataclass(frozen=True)
class Annealed:
    r"""A temperature :math:`\max(l, \tau_0 e^{-r t})` that falls with the epochs t.

    Attributes:
        temperature: :math:`\tau_0`.
        rate: r, per epoch.
        least: l.
    """

    temperature: float = 1.0
    rate: float = 0.05
    least: float = 0.5

    def __call__(self, epoch: float) -> float:
        """The temperature after so many epochs."""
        return max(self.least, self.temperature * math.exp(-self.rate * epoch))


class GumbelSoftmax(nn.Module):
    r"""A relaxed draw :math:`\mathrm{softmax}((\eta + g) / \tau)` of a OneHot or Bernoulli latent.

    :math:`g` is Gumbel noise; for binary elements the draw is :math:`\sigma((\eta + l) / \tau)`
    with logistic noise. p and q stay discrete, and score the relaxed value by the discrete
    formula, linear in it: with ``elbo`` that is the sampled form, and with
    ``partial(elbo, form="analytic")`` the discrete divergence of the paper. Neither is a bound on
    ``log p(x)``, as networks and formula see values that have no probability; ``measured`` says
    that a bound is measured with discrete draws. (A relaxed model with a bound of its own is
    :class:`~deeplvm.conditionals.concrete.Concrete` in p and q.)

    With ``straight_through`` networks see the discrete value, whose gradient is taken to be that
    of the relaxed one: the value then is a bound, and the gradient still is not its own.

    The gradient is biased, the less the lower the temperature, while its variance grows. For
    three bits and a network of six units (``tests/gradients/test_relaxed.py``) its mean is off by
    49 % of its length at :math:`\tau = 1`, by 21 % at 0.5 and by less than 1.5 % at 0.05; with
    ``straight_through`` by 30 %, 10 % and 9 %: that part stays as the temperature falls.

    Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017),
    https://arxiv.org/abs/1611.01144

    Args:
        temperature: :math:`\tau`, or a function of the progress in epochs such as a
            :class:`~deeplvm.training.schedules.Schedule`, which :meth:`at` reads.
        straight_through: Pass on the discrete value, with the gradient of the relaxed one.

    Examples:
        >>> from deeplvm.conditionals import OneHot
        >>> _ = torch.manual_seed(0)
        >>> drawn = GumbelSoftmax(0.5)("y", OneHot(3)(), (2,), 0)
        >>> bool((drawn.value > 0).all())
        True
        >>> GumbelSoftmax(straight_through=True)("y", OneHot(3)(), (2,), 0).value.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    temperature: Tensor
    measured = Sampled()
    bound = False

    def __init__(
        self,
        temperature: float | Callable[[float], float] = 0.5,
        *,
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = temperature if callable(temperature) else None
        start = temperature(0.0) if callable(temperature) else temperature
        self.register_buffer("temperature", torch.tensor(_positive(start)))
        self.straight_through = self.bound = straight_through

    def at(self, epoch: float) -> None:
        """Set the temperature to what its schedule says after so many epochs."""
        if self.schedule is not None:
            self.temperature.fill_(_positive(self.schedule(epoch)))

    def forward(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """Draw between the values, or on one with the gradient of a draw between them."""
        relaxation = relaxation_of(name, distribution, batch_shape, batch_dims)
        perturbed = relaxation.perturbed()
        value = relaxation.soft(perturbed, self.temperature.to(perturbed))
        if self.straight_through:
            value = relaxation.hard(perturbed) + (value - value.detach())
        return Held(value)(name, distribution, batch_shape, batch_dims)

    def extra_repr(self) -> str:
        """The temperature and its schedule."""
        shown = "temperature" if self.schedule is None else f"{self.schedule}, now"
        return f"{shown}={float(self.temperature):.4g}, straight_through={self.straight_through}"


def _positive(temperature: float) -> float:
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"GumbelSoftmax expects a positive temperature, found {temperature}.")
    return float(temperature)


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
        return Held(value)(name, distribution, batch_shape, batch_dims)
