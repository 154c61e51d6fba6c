"""Relaxed discrete values, as random variables of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm import distributions
from deeplvm.conditionals.discrete import Classes
from deeplvm.conditionals.elementwise import Elementwise
from deeplvm.conditionals.heads import Network, Shape
from deeplvm.distributions.real import Logistic


class Concrete(Classes):
    r"""A relaxed one-hot vector, a point of the simplex with the density of the paper.

    In p and q both, it makes a continuous model with a true bound of its own, trained by
    reparameterisation; p and q may have different temperatures. (A discrete model with relaxed
    draws is :class:`~deeplvm.conditionals.OneHot` drawn by
    :class:`~deeplvm.gradients.gumbel_softmax.GumbelSoftmax`, whose value is no bound.)

    Args:
        classes, network, shape: as of :class:`~deeplvm.conditionals.discrete.Classes`.
        temperature: :math:`\tau`; below :math:`1 / (K - 1)` the density has no mode inside the
            simplex.

    The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih
    & Teh, 2017), https://arxiv.org/abs/1611.00712

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> Concrete(4, shape=3)().sample().sum(-1)
        tensor([1., 1., 1.])
    """

    temperature: Tensor

    def __init__(
        self, classes: int, network: Network = None, shape: Shape = (), *, temperature: float = 0.5
    ) -> None:
        super().__init__(classes, network, shape, 2)
        self.register_buffer("temperature", _temperature(temperature, "Concrete"))

    def distribution(self, logits: Tensor) -> Distribution:
        return distributions.Concrete(logits.log_softmax(-1), self.temperature)


class BinaryConcrete(Elementwise):
    r"""Relaxed binary elements :math:`\sigma(y)`, :math:`y = (\eta + l) / \tau`, by their logits.

    The value is y, with its logistic density: :math:`\sigma(y)` itself would round to 1, where
    its density cannot be told. Other networks see :math:`\sigma(y)`, which exceeds 1/2 with
    probability :math:`\sigma(\eta)`. Divergences and bounds are those of the relaxed elements,
    as p and q change the variable alike. As with :class:`Concrete`, p and q both have it.

    Args:
        temperature: :math:`\tau`.

    The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables (Maddison, Mnih
    & Teh, 2017), https://arxiv.org/abs/1611.00712

    Examples:
        >>> bit = BinaryConcrete(1, temperature=0.1)
        >>> bit.embed(torch.tensor([-20.0, 20.0]))
        tensor([2.0612e-09, 1.0000e+00])
    """

    temperature: Tensor

    def __init__(self, shape: Shape, network: Network = None, *, temperature: float = 0.5) -> None:
        super().__init__(shape, network)
        self.register_buffer("temperature", _temperature(temperature, "BinaryConcrete"))

    def distribution(self, logits: Tensor) -> Distribution:
        """That of y."""
        return self.independent(Logistic(logits / self.temperature, 1.0 / self.temperature))

    def embed(self, value: Tensor) -> Tensor:
        r"""The relaxed elements :math:`\sigma(y)`."""
        return value.sigmoid()


def _temperature(temperature: float, owner: str) -> Tensor:
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"{owner} expects a positive temperature, found {temperature}.")
    return torch.tensor(float(temperature))
