r"""The discrete variables that have a continuous form: binary elements and one-hot vectors.

Both are a threshold of perturbed logits :math:`z`, :math:`b = H(z)`: logistic noise and
:math:`z > 0` for binary elements, Gumbel noise and the largest element for one-hot vectors.
:math:`\sigma(z / \tau)` and :math:`\mathrm{softmax}(z / \tau)` are their relaxations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical
from torch.nn.functional import softplus

from deeplvm.core.steps import of_one_step
from deeplvm.core.trace import Site, base_of, expand_to


@dataclass(frozen=True)
class Relaxation:
    """The logits of a discrete variable, and what can be done with them.

    Attributes:
        logits: Shape ``(*particles, batch, *event)``; those of a one-hot vector are normalised.
        binary: Whether the elements are binary, and not the last axis one-hot.
    """

    logits: Tensor
    binary: bool

    def perturbed(self) -> Tensor:
        """Logits with their noise, ``z``; of the shape of the logits."""
        if self.binary:
            return self.logits + torch.logit(_uniform(self.logits))
        return self.logits - _exponential(self.logits).log()

    def perturbed_given(self, hard: Tensor) -> Tensor:
        """Perturbed logits as they may have been, given what became of them."""
        logits = self.logits.detach()
        if self.binary:
            sign = 2.0 * hard - 1.0
            odds = torch.logit(_uniform(logits))
            return sign * softplus(odds + softplus(sign * logits))
        noise = _exponential(logits)
        highest = (hard * noise).sum(-1, keepdim=True)
        others = -torch.logaddexp(noise.log() - logits, highest.log())
        return torch.where(hard > 0.5, -highest.log(), others)

    def slope_given(self, hard: Tensor, perturbed: Tensor) -> Tensor:
        r""":math:`\partial z / \partial \text{logits}` with the noise of :meth:`perturbed_given`.

        A diagonal; that of :meth:`perturbed` is 1.
        """
        if self.binary:
            sign = 2.0 * hard - 1.0
            return -torch.expm1(-perturbed.abs()) * (sign * self.logits).sigmoid()
        highest = torch.where(hard > 0.5, perturbed, -torch.inf).amax(-1, keepdim=True)
        return torch.where(hard > 0.5, 0.0, -torch.expm1(perturbed - highest))

    def hard(self, perturbed: Tensor) -> Tensor:
        """The discrete value, without a gradient."""
        if self.binary:
            return (perturbed > 0).to(perturbed.dtype)
        largest = perturbed.argmax(-1, keepdim=True)
        return torch.zeros_like(perturbed).scatter(-1, largest, 1.0)

    def soft(self, perturbed: Tensor, temperature: Tensor | float) -> Tensor:
        """The relaxed value, in the interior of the discrete ones' convex hull."""
        scaled = perturbed / temperature
        return scaled.sigmoid() if self.binary else scaled.softmax(-1)

    def mean(self) -> Tensor:
        """The expected value."""
        return self.logits.sigmoid() if self.binary else self.logits.softmax(-1)

    def through_softmax(self, gradient: Tensor) -> Tensor:
        """A gradient of the normalised logits as one of the logits before they are normalised."""
        if self.binary:
            return gradient
        return gradient - self.mean().detach() * gradient.sum(-1, keepdim=True)


def can_relax(distribution: Distribution | None) -> bool:
    """Whether a distribution is one of those that have a relaxation."""
    return isinstance(base_of(distribution), Bernoulli | OneHotCategorical)


def relaxation_of(
    name: str, distribution: Distribution, batch_shape: Sequence[int], batch_dims: int
) -> Relaxation:
    """The relaxation of a distribution, expanded to ``(*particles, batch)``.

    Raises:
        ValueError: If it is neither Bernoulli nor one-hot.
    """
    return _relaxation(name, expand_to(distribution, tuple(batch_shape), batch_dims))


def relaxation_at(name: str, site: Site) -> Relaxation:
    """The relaxation of a latent that was drawn, with logits of the shape of its value.

    Raises:
        ValueError: If it is neither Bernoulli nor one-hot, or was drawn step by step or with
            unequal lengths.
    """
    if site.distribution is None or of_one_step(site.distribution) is not site.distribution:
        raise ValueError(
            f"{name!r} is drawn step by step or with unequal lengths, which this estimator cannot "
            f"relax; choose ScoreFunction()."
        )
    relaxation = _relaxation(name, site.distribution)
    return Relaxation(relaxation.logits.expand(site.value.shape), relaxation.binary)


def _relaxation(name: str, distribution: Distribution) -> Relaxation:
    elements = base_of(distribution)
    if not isinstance(elements, Bernoulli | OneHotCategorical):
        kind = type(elements).__name__
        hint = (
            "draw it as OneHot(classes, network) in p and q, whose values can lie between them"
            if kind == "Categorical"
            else "choose an estimator that needs no relaxation, such as ScoreFunction()"
        )
        raise ValueError(
            f"{name!r} is drawn from a {kind}; only Bernoulli and OneHot variables have a "
            f"relaxation: {hint}."
        )
    return Relaxation(elements.logits, isinstance(elements, Bernoulli))


def _uniform(like: Tensor) -> Tensor:
    """Strictly between 0 and 1."""
    return torch.rand_like(like).clamp(min=torch.finfo(like.dtype).tiny)


def _exponential(like: Tensor) -> Tensor:
    """Strictly positive."""
    smallest = torch.finfo(like.dtype).tiny
    return torch.empty_like(like).exponential_().clamp(min=smallest)
