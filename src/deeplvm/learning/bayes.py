r"""A Bayesian treatment of a few parameters: their posterior, and predictions averaged over it.

Names that all rows share (``Joint(..., shared=["theta"])``) are the other way to have global
random variables: q draws them, ``fit`` counts their divergence once, and
:func:`~deeplvm.likelihood.importance_sampling` of new rows is the predictive density. What is here
makes existing parameters random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence
from torch.nn.utils import parametrize

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.inference.rows import Rows
from deeplvm.learning.map import priors_of
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.results import RowEstimate, stderr_of


class RandomParameter(nn.Module):
    r"""A parameter's posterior :math:`q(\theta) = N(m, \mathrm{diag}(s^2))`, drawn at each look.

    As a parametrisation of torch it is called with m, the original parameter.

    Args:
        name: Of the parameter.
        like: The parameter.
        prior: Of every element, or of each.
        initial_scale: s at first.
    """

    def __init__(self, name: str, like: Tensor, prior: Distribution, initial_scale: float) -> None:
        super().__init__()
        self.name, self.prior = name, prior
        self.log_scale = nn.Parameter(torch.full_like(like, math.log(initial_scale)))
        self.held: Tensor | None = None

    def forward(self, mean: Tensor) -> Tensor:
        """A draw, of the shape of the parameter; while it is held, the one that is held."""
        if self.held is not None:
            return self.held
        return self.posterior(mean).rsample()

    def posterior(self, mean: Tensor) -> Normal:
        """The normal of each element."""
        return Normal(mean, self.log_scale.exp(), validate_args=False)


def make_random(
    model: LatentVariableModel, priors: Mapping[str, Distribution], *, initial_scale: float = 0.05
) -> LatentVariableModel:
    r"""Give named parameters a prior and a Gaussian posterior, in place.

    From then on they are drawn, :math:`\theta \sim q(\theta)`, once for all rows at each use, and
    their means and scales are what is learned. The bound on the evidence of the whole data set is

    .. math:: E_{q(\theta)}\left[\sum_n L(x_n; \theta)\right] - KL(q(\theta) \| p(\theta)),

    whose mean a row :func:`~deeplvm.training.fit` ascends with ``log_prior=minus_divergence``.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix F,
    https://arxiv.org/abs/1312.6114

    Args:
        model: Changed in place; names of what is stored change too.
        priors: From readable names or patterns to distributions of real numbers, see
            :class:`~deeplvm.learning.map.LogPrior`; their divergence from a
            normal must be known in closed form.
        initial_scale: Standard deviation of q at first.

    Raises:
        ValueError: If a name matches no parameter, one is used in two places or is random
            already, or a divergence has no closed form.

    Examples:
        >>> from torch.distributions import Normal
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"y | x": Gaussian(1, MLP(2), scale=0.5)})
        >>> model = make_random(LatentVariableModel(p, Joint({})), {"p.y.*": Normal(0.0, 1.0)})
        >>> sorted(posteriors(model))
        ['p.y.head.layer.bias', 'p.y.head.layer.weight']
        >>> bool(minus_divergence(model) < 0)
        True
    """
    if not initial_scale > 0:
        raise ValueError(f"initial_scale is above 0, not {initial_scale}.")
    places = [
        (parameter, module, attribute)
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
    ]
    found = []
    for name, (parameter, prior) in priors_of(model, priors).items():
        homes = [(module, attribute) for each, module, attribute in places if each is parameter]
        if len(homes) != 1 or isinstance(
            homes[0][0], RandomParameter | parametrize.ParametrizationList
        ):
            raise ValueError(
                f"{name!r} is used in {len(homes)} places, or is random already; only a parameter "
                f"of one module can be made random, once."
            )
        random = RandomParameter(name, parameter.detach(), prior, initial_scale)
        try:
            kl_divergence(random.posterior(parameter.detach()), prior)
        except NotImplementedError as error:
            raise ValueError(
                f"The divergence of a normal from the {type(prior).__name__} prior of {name!r} "
                f"has no closed form; take a Normal or a Laplace."
            ) from error
        found.append((*homes[0], random))
    for module, attribute, random in found:
        parametrize.register_parametrization(module, attribute, random)
    return model


def posteriors(model: LatentVariableModel) -> dict[str, Normal]:
    """The q of each random parameter, by the names they were given."""
    return {random.name: random.posterior(mean) for random, mean in _random(model)}


def minus_divergence(model: LatentVariableModel) -> Tensor:
    r""":math:`-KL(q(\theta) \| p(\theta))` of the random parameters, nats for the data set.

    To be given to :func:`~deeplvm.training.fit` as ``log_prior``, which counts it 1/N a row.

    Raises:
        ValueError: If no parameter of the model is random.
    """
    parts = [
        kl_divergence(random.posterior(mean), random.prior).sum()
        for random, mean in _random(model)
    ]
    if not parts:
        raise ValueError("No parameter of the model is random; call make_random first.")
    return -torch.stack(parts).sum()


@contextmanager
def held(model: LatentVariableModel, seed: int) -> Iterator[None]:
    """One draw of all random parameters inside; torch's own random state is left as it was."""
    pairs = _random(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for random, mean in pairs:
            noise = torch.randn(mean.shape, dtype=mean.dtype).to(mean.device)
            random.held = mean + random.log_scale.exp() * noise
    try:
        yield
    finally:
        for random, _ in pairs:
            random.held = None


@dataclass(frozen=True, eq=False)
class PosteriorPredictive(RowEstimate, also="spread draws", without="each", means="spread"):
    r"""The density of new rows, the parameters averaged over.

    Attributes:
        log_px: :math:`\log \frac1S \sum_s p(x' | \theta_s)`, shape ``(rows,)``, nats.
        log_px_stderr: Its Monte-Carlo standard error over draws of the parameters, ``(rows,)``.
        each: :math:`\log p(x' | \theta_s)`, shape ``(draws, rows)``.
    """

    each: Tensor

    symbol: ClassVar = "log p(x' | D)"

    @property
    def monte_carlo_stderr(self) -> float:
        r"""What the draws add to the error of the mean over rows, nats.

        All rows are scored at the same draws, so it is their spread over draws,
        :math:`\mathrm{sd}_s\, \tfrac1N \sum_n p(x_n | \theta_s) / \hat p(x_n)` over
        :math:`\sqrt S`, and not that of rows that are independent.
        """
        return stderr_of((self.each - self.log_px).exp().mean(1))

    @property
    def spread(self) -> Tensor:
        r"""What averaging is worth, :math:`\log \bar p - \overline{\log p} \ge 0`, ``(rows,)``."""
        return self.log_px - self.each.mean(0)

    @property
    def draws(self) -> int:
        """How many draws of the parameters."""
        return len(self.each)

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.draws} draws of the parameters"


def posterior_predictive(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    draws: int = 100,
    particles: int = 100,
    seed: int = 0,
    **options: Any,
) -> PosteriorPredictive:
    r""":math:`p(x' | D) = \int p(x' | \theta)\, p(\theta | D)\, d\theta` of every row, by draws.

    :math:`\theta_s \sim q(\theta)` stands for the posterior; latents of a row are integrated out
    by importance sampling for each draw.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.1.4,
    https://arxiv.org/abs/1906.02691

    Args:
        model: With random parameters; left as it was.
        data: Rows: ``data.test[:100]``, or named tensors of shape ``(rows, *event)``.
        draws: S, of the parameters.
        particles: Of the latents, for each draw; one is enough where there are none.
        seed: Same seed, same numbers.
        options: As for :func:`~deeplvm.likelihood.importance_sampling`.

    Raises:
        ValueError: If no parameter is random, or there are fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"draws is at least 2, found {draws}.")
    if not _random(model):
        raise ValueError("No parameter of the model is random; call make_random first.")
    found = []
    for index in range(draws):
        with held(model, seed + index):
            estimate = importance_sampling(model, data, particles, seed=seed + index, **options)
        found.append(estimate.log_px)
    each = torch.stack(found)
    log_px = torch.logsumexp(each, 0) - math.log(draws)
    return PosteriorPredictive(log_px, (each - log_px).exp().std(0) / math.sqrt(draws), each)


def _random(model: LatentVariableModel) -> list[tuple[RandomParameter, Tensor]]:
    """The random parameters and their means."""
    found: list[tuple[RandomParameter, Tensor]] = []
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            found += [
                (each, module.original) for each in module if isinstance(each, RandomParameter)
            ]  # type: ignore[misc]
    return found
