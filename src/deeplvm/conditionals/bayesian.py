"""Conditionals whose parameters have conjugate priors: topics of words, and classes of normals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily, constraints

from deeplvm import distributions
from deeplvm.conditionals.heads import (
    MeanAndStd,
    Units,
    at_least,
    event_shape_of,
    in_units,
    optional_units,
    standardised,
)
from deeplvm.core.draws import Drawn, Reparameterised
from deeplvm.core.trace import expand_to, sum_right

_LOG_TWO_PI = math.log(2 * math.pi)


class ConjugateParameter(nn.Module, ABC):
    r"""A parameter :math:`\theta` with a conjugate prior, and its posterior of the same family.

    .. math:: q(\theta) = \exp(\eta^T t(\theta) - A(\eta)), \qquad
              E_q[\log p(x | \theta)] \text{ linear in } E_q[t(\theta)] = \nabla A(\eta)

    Called, it is :math:`E_q[t(\theta)]`, all that a conditional reads of it. So a natural gradient
    of a bound with respect to :math:`\eta` is a gradient with respect to what is called, see
    :func:`~deeplvm.learning.natural_gradients`.

    Args:
        prior: the natural parameters of the prior.
        start: those of the posterior at first.

    Stochastic Variational Inference (Hoffman et al., 2013),
    https://jmlr.org/papers/v14/hoffman13a.html
    """

    prior: Tensor

    def __init__(self, prior: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("prior", prior.expand(start.shape).clone())
        self.natural = nn.Parameter(start.clone())
        self.held: Tensor | None = None

    @abstractmethod
    def log_normaliser(self, natural: Tensor) -> Tensor:
        """A, one number for all."""

    @abstractmethod
    def expected(self, natural: Tensor) -> Tensor:
        """The gradient of A."""

    def forward(self) -> Tensor:
        """Expected sufficient statistics, of the shape of the natural parameters."""
        return self.expected(self.natural) if self.held is None else self.held

    def divergence(self) -> Tensor:
        r""":math:`KL(q(\theta) \| p(\theta))`, nats for the data set, in double precision."""
        natural, prior = self.natural.double(), self.prior.double()
        linear = ((natural - prior) * self.expected(natural)).sum()
        return linear - self.log_normaliser(natural) + self.log_normaliser(prior)


class DirichletParameter(ConjugateParameter):
    r"""Rows of shares :math:`\theta_k \sim \mathrm{Dirichlet}(\eta_k)`, t their logarithms."""

    def log_normaliser(self, natural: Tensor) -> Tensor:
        return (torch.lgamma(natural).sum(-1) - torch.lgamma(natural.sum(-1))).sum()

    def expected(self, natural: Tensor) -> Tensor:
        return torch.digamma(natural) - torch.digamma(natural.sum(-1, keepdim=True))

    @property
    def mean(self) -> Tensor:
        """The expected shares."""
        return self.natural / self.natural.sum(-1, keepdim=True)


class NormalGammaParameter(ConjugateParameter):
    r"""Means and precisions of normals.

    .. math:: \mu | \tau \sim N(m, 1 / (\kappa \tau)), \qquad \tau \sim \mathrm{Gamma}(a, b)

    The last axis has :math:`t = (\tau, \tau \mu, \tau \mu^2, \log \tau)`.
    """

    @staticmethod
    def natural_of(mean: Tensor, strength: float, shape: float, rate: float) -> Tensor:
        r"""Natural parameters of m, :math:`\kappa`, a and b."""
        parts = [
            -rate - 0.5 * strength * mean.square(),
            strength * mean,
            torch.full_like(mean, -0.5 * strength),
            torch.full_like(mean, shape - 0.5),
        ]
        return torch.stack(parts, -1)

    @staticmethod
    def usual(natural: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""m, :math:`\kappa`, a and b of natural parameters."""
        first, second, third, fourth = natural.unbind(-1)
        strength = -2 * third
        mean = second / strength
        return mean, strength, fourth + 0.5, -first - 0.5 * strength * mean.square()

    def log_normaliser(self, natural: Tensor) -> Tensor:
        _, strength, shape, rate = self.usual(natural)
        each = torch.lgamma(shape) - shape * rate.log() - 0.5 * strength.log() + 0.5 * _LOG_TWO_PI
        return each.sum()

    def expected(self, natural: Tensor) -> Tensor:
        mean, strength, shape, rate = self.usual(natural)
        precision = shape / rate
        second = 1 / strength + mean.square() * precision
        parts = [precision, mean * precision, second, torch.digamma(shape) - rate.log()]
        return torch.stack(parts, -1)


class ExpectedMultinomial(distributions.Multinomial):
    r"""Counts given their total, scored by expected logarithms of shares, which sum to less.

    Its log-density is at most that of the shares, and draws are of these, normalised.
    """

    def __init__(self, logits: Tensor, total: Tensor | int) -> None:
        super().__init__(logits, total)
        self.expected = logits

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> ExpectedMultinomial:
        return ExpectedMultinomial(self.expected.expand(*batch_shape, -1), self.total)

    def given_total(self, total: Tensor) -> ExpectedMultinomial:
        """The same law, of whose draws each has a total of its own, shape ``(*batch,)``."""
        return ExpectedMultinomial(self.expected, total)

    def log_prob(self, value: Tensor) -> Tensor:
        """At most the logarithm of the probability, shape ``(*batch,)``, nats."""
        value = value.to(self.expected.dtype)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + (value * self.expected).sum(-1)


class Topics(nn.Module):
    r"""Words of a document given its shares of topics, whose words have a Dirichlet prior.

    .. math:: \log p(x | t) \ge \log \frac{n!}{\prod_v x_v!} + \sum_v x_v \log \sum_k t_k
              e^{E_q[\log \beta_{kv}]}

    the expectation over topics :math:`\beta_k \sim q = \mathrm{Dirichlet}(\lambda_k)`, a bound on
    the density that they have on average. Given :math:`E_q[\log t]` for :math:`\log t` it is the
    bound of latent Dirichlet allocation, each word's topic summed out.

    Args:
        words: V, how many words there are.
        topics: K.
        concentration: of the prior of each topic's words; small ones make topics of few words.
        total: words of a document that is drawn.

    Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003),
    https://www.jmlr.org/papers/v3/blei03a.html; Online Learning for Latent Dirichlet Allocation
    (Hoffman, Blei & Bach, 2010),
    https://papers.nips.cc/paper/3902-online-learning-for-latent-dirichlet-allocation

    Examples:
        >>> Topics(5, 2)(torch.tensor([[0.3, 0.7]])).log_prob(torch.ones(1, 5)).shape
        torch.Size([1])
    """

    def __init__(
        self, words: int, topics: int, *, concentration: float = 0.1, total: int = 100
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(words, "Topics")
        self.total = total
        if not concentration > 0:
            raise ValueError(f"Topics expects a concentration above 0, found {concentration}.")
        shape = (at_least(topics, 1, "Topics", "topics"), words)
        # apart from each other: topics that start alike would stay alike
        start = torch.distributions.Gamma(torch.full(shape, 100.0), 100.0).sample()
        self.words = DirichletParameter(torch.tensor(float(concentration)), start)

    def forward(self, shares: Tensor) -> ExpectedMultinomial:
        """The counts given shares of topics ``(*particles, batch, K)``."""
        each = self.words().exp()
        tiny = torch.finfo(each.dtype).tiny
        return ExpectedMultinomial((shares @ each).clamp(min=tiny).log(), self.total)


class TopicShares(nn.Module):
    r"""The posterior of a document's shares of topics, Dirichlet, by its own fixed point.

    .. math:: \gamma_k = \alpha_k + \sum_v x_v \phi_{vk}, \qquad
              \phi_{vk} \propto e^{E[\log t_k] + E[\log \beta_{kv}]}

    Args:
        prior: p's conditional of the shares, a ``Dirichlet`` without parents.
        topics: p's conditional of the words.
        iterations: how often it is applied; a bound is one after any number of them.

    Latent Dirichlet Allocation (Blei, Ng & Jordan, 2003),
    https://www.jmlr.org/papers/v3/blei03a.html
    """

    def __init__(self, prior: nn.Module, topics: Topics, *, iterations: int = 50) -> None:
        super().__init__()
        self.event_shape = getattr(prior, "event_shape", Size())
        self.prior, self.topics = prior, topics
        self.iterations = at_least(iterations, 1, "TopicShares", "iterations")

    def forward(self, x: Tensor) -> distributions.Dirichlet:
        """The shares given counts ``(*particles, batch, V)``; a bound has no gradient by them."""
        with torch.no_grad():
            prior = self.prior().concentration
            each = self.topics.words().exp()  # (K, V)
            x = x.to(each.dtype)
            found = prior + x.sum(-1, keepdim=True) / len(each)
            tiny = torch.finfo(each.dtype).tiny
            for _ in range(self.iterations):
                weight = (torch.digamma(found) - torch.digamma(found.sum(-1, keepdim=True))).exp()
                wanted = x / (weight @ each).clamp(min=tiny)
                found = prior + weight * (wanted @ each.mT)
        return distributions.Dirichlet(found)


class ExpectedLogarithm:
    r"""A draw of shares at :math:`e^{E_q[\log t]}`: what is linear in their logarithm is exact.

    So are :math:`E_q[\log q(t)]` and :math:`E_q[\log p(t)]` of Dirichlets. Where a model is
    measured, shares are drawn.
    """

    measured = Reparameterised()

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        """The value, with the expected log-density.

        Raises:
            ValueError: If the distribution is no Dirichlet.
        """
        if not isinstance(distribution, distributions.Dirichlet):
            raise ValueError(
                f"{name!r} is drawn from a {type(distribution).__name__}; ExpectedLogarithm() is "
                f"for a Dirichlet."
            )
        expanded = expand_to(distribution, batch_shape, batch_dims)
        part = expanded.concentration  # type: ignore[attr-defined]
        value = (torch.digamma(part) - torch.digamma(part.sum(-1, keepdim=True))).exp()
        value = value.clamp(min=torch.finfo(value.dtype).tiny)
        return Drawn(
            value, sum_right(expanded.log_prob(value), len(batch_shape)), batch_shape, 0.0
        )


class ExpectedNormalMixture(MixtureSameFamily):
    """A mixture of normals, scored by expected log-densities of classes, which sum to less."""

    def __init__(
        self, log_weights: Tensor, statistics: Tensor, units: Units | None = None
    ) -> None:
        self.log_weights, self.statistics, self.units = log_weights, statistics, units
        precision, linear = statistics[..., 0], statistics[..., 1]  # (K, D)
        loc, scale = in_units(units, linear / precision, precision.rsqrt())
        each = distributions.DiagonalNormal(loc, scale, 1)
        weights = torch.distributions.Categorical(logits=log_weights, validate_args=False)
        super().__init__(weights, each, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.real_vector

    def expand(self, batch_shape: Size, _instance: object = None) -> ExpectedNormalMixture:
        new = ExpectedNormalMixture(self.log_weights, self.statistics, self.units)
        new._batch_shape = Size(batch_shape)
        return new

    def joint(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        r""":math:`E_q[\log p(x, k)]` of each class, shape ``(*batch, K)``, nats."""
        seen = torch.ones_like(value) if observed is None else observed.to(value.dtype)
        x = standardised(self.units, value)
        x = x if observed is None else torch.where(observed, x, 0.0)
        precision, linear, square, log = self.statistics.unbind(-1)
        if self.units is not None:
            log = log - 2 * self.units.std.log()
        each = x.square() @ (-0.5 * precision).mT + x @ linear.mT
        return each + seen @ (0.5 * (log - square - _LOG_TWO_PI)).mT + self.log_weights

    def log_prob(self, x: Tensor) -> Tensor:
        """At most the log-density that the classes have on average, ``(*batch,)``, nats."""
        found = self.joint(x).logsumexp(-1)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """The same of the elements that are there."""
        return self.joint(value, observed).logsumexp(-1)


class BayesianMixture(nn.Module):
    r"""Classes of independent normals with conjugate priors on weights, means and precisions.

    .. math:: \log p(x) \ge \log \sum_k e^{E_q[\log \pi_k] + \sum_d E_q[\log N(x_d; \mu_{kd},
              1 / \tau_{kd})]}

    With :func:`~deeplvm.learning.natural_gradients` it is the variational Bayesian mixture; a
    small concentration leaves classes empty that are not needed.

    Args:
        features: D, the elements of x.
        classes: K.
        concentration: of the Dirichlet prior of the weights.
        strength: how many rows the priors of a mean and of a precision are worth.
        units: mean and standard deviation of the data: the priors are of standardised values.

    A Variational Bayesian Framework for Graphical Models (Attias, 2000),
    https://papers.nips.cc/paper/1726-a-variational-baysian-framework-for-graphical-models

    Examples:
        >>> BayesianMixture(3, 5)().log_prob(torch.zeros(7, 3)).shape
        torch.Size([7])
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        concentration: float = 0.1,
        strength: float = 1.0,
        units: MeanAndStd | None = None,
    ) -> None:
        super().__init__()
        owner = "BayesianMixture"
        self.event_shape = event_shape_of(features, owner)
        at_least(classes, 1, owner, "classes")
        if not (concentration > 0 and strength > 0):
            raise ValueError(
                f"{owner} expects concentration and strength above 0, found {concentration} and "
                f"{strength}."
            )
        self.units = optional_units(units, self.event_shape, owner)
        wide = (classes, features)
        natural = NormalGammaParameter.natural_of
        prior = natural(torch.zeros(wide), strength, 0.5 * strength + 0.5, 0.5 * strength)
        self.weights = DirichletParameter(
            torch.tensor(float(concentration)), torch.full((classes,), 1.0 + concentration)
        )
        # apart from each other: classes that start alike would stay alike
        self.each = NormalGammaParameter(prior, natural(torch.randn(wide), 10.0, 5.5, 5.0))

    def forward(self) -> ExpectedNormalMixture:
        """The mixture, batch shape ``()``."""
        return ExpectedNormalMixture(self.weights(), self.each(), self.units)

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it: standardised where it has units."""
        return standardised(self.units, value)
