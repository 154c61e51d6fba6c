"""Estimators by name, as ``fit(estimator="vimco")`` and ``--estimator vimco`` take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from deeplvm.core.draws import Draw
from deeplvm.gradients.gumbel_softmax import Annealed, GumbelSoftmax, StraightThrough
from deeplvm.gradients.muprop import MuProp
from deeplvm.gradients.path_derivatives import DoublyReparameterised, StickingTheLanding
from deeplvm.gradients.rebar import Rebar
from deeplvm.gradients.rebar import relax as rebar_with_network
from deeplvm.gradients.regression import RegressedScore
from deeplvm.gradients.rejection import GeneralisedReparameterised
from deeplvm.gradients.score_function import Learned, LeaveOneOut, RunningMean, ScoreFunction
from deeplvm.registry import SpellingError, read


def score_function(*, running_mean: bool = True, local: bool = True) -> ScoreFunction:
    """The score function with a running mean as its baseline, or none.

    Args:
        running_mean: Whether there is one.
        local: Leave out the terms that do not depend on the latent.
    """
    return ScoreFunction(RunningMean() if running_mean else None, local=local)


def nvil(*, hidden: tuple[int, ...] = (100,), normalise: bool = True) -> ScoreFunction:
    """The score function with a learned baseline and normalised variance.

    Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014),
    https://arxiv.org/abs/1402.0030

    Args:
        hidden: Widths of the baseline's layers.
        normalise: Whether signals are divided by their running standard deviation.
    """
    return ScoreFunction(Learned(hidden=hidden), normalise=normalise)


def vimco() -> ScoreFunction:
    """The score function with the other particles as its baseline; needs two or more.

    Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016),
    https://arxiv.org/abs/1602.06725
    """
    return ScoreFunction(LeaveOneOut())


def sticking_the_landing() -> StickingTheLanding:
    """Reparameterised without the score; unbiased for the ELBO, not for weights of particles.

    Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
    (Roeder, Wu & Duvenaud, 2017), https://arxiv.org/abs/1703.09194
    """
    return StickingTheLanding()


def doubly_reparameterised() -> DoublyReparameterised:
    """Reparameterised, the score too: for the importance-weighted and Rényi bounds.

    Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019),
    https://arxiv.org/abs/1810.04152
    """
    return DoublyReparameterised()


def generalised(*, augmentation: int = 10) -> GeneralisedReparameterised:
    """Gamma, Beta and Dirichlet latents by the noise of a rejection sampler.

    Reparameterization Gradients through Acceptance-Rejection Sampling Algorithms (Naesseth et
    al., 2017), https://arxiv.org/abs/1610.05683

    Args:
        augmentation: By how much the concentration is raised, in steps of one.
    """
    return GeneralisedReparameterised(augmentation)


def muprop(*, hidden: tuple[int, ...] | None = None) -> MuProp:
    """A Taylor expansion at the mean and the score of what remains; Bernoulli and OneHot latents.

    MuProp: Unbiased Backpropagation for Stochastic Neural Networks (Gu et al., 2016),
    https://arxiv.org/abs/1511.05176

    Args:
        hidden: Widths of the layers of a learned baseline; none by default.
    """
    return MuProp(None if hidden is None else Learned(hidden=hidden))


def rebar(*, temperature: float = 0.5, weight: float = 1.0, learn: bool = True) -> Rebar:
    """The score function with a relaxation as control variate; Bernoulli and OneHot latents.

    REBAR: Low-variance, unbiased gradient estimates for discrete latent variable models (Tucker et
    al., 2017), https://arxiv.org/abs/1703.07370

    Args:
        temperature: Of the relaxation, where it starts.
        weight: Of the control variate, where it starts.
        learn: Whether both learn to lower the variance.
    """
    return Rebar(temperature=temperature, weight=weight, learn=learn)


def relax(*, hidden: tuple[int, ...] = (100,), temperature: float = 0.5) -> Rebar:
    """REBAR with a network in its control variate; Bernoulli and OneHot latents.

    Backpropagation through the Void (Grathwohl et al., 2018), https://arxiv.org/abs/1711.00123

    Args:
        hidden: Widths of the network's layers.
        temperature: Of the relaxation, where it starts.
    """
    return rebar_with_network(hidden=hidden, temperature=temperature)


def regressed_score() -> RegressedScore:
    """The score function with control variates fitted to the other particles; needs three or more.

    Black Box Variational Inference (Ranganath et al., 2014), https://arxiv.org/abs/1401.0118
    """
    return RegressedScore()


def gumbel_softmax(
    *,
    temperature: float = 1.0,
    rate: float = 0.05,
    least: float = 0.5,
    straight_through: bool = False,
) -> GumbelSoftmax:
    """Relaxed draws of Bernoulli and OneHot latents; biased, less at a low temperature.

    Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
    https://arxiv.org/abs/1611.01144

    Args:
        temperature: Of the relaxation, where it starts.
        rate: How fast it falls, per epoch.
        least: Where it stops falling.
        straight_through: Pass on the discrete value, with the gradient of the relaxed one.
    """
    annealed = Annealed(temperature, rate, least)
    return GumbelSoftmax(annealed, straight_through=straight_through)


def straight_through() -> StraightThrough:
    """Discrete draws with the gradient of their mean, for Bernoulli and OneHot latents; biased.

    Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation
    (Bengio et al., 2013), https://arxiv.org/abs/1308.3432
    """
    return StraightThrough()


def known() -> dict[str, Callable[..., Draw]]:
    """The names that there are."""
    return {
        name: value
        for name, value in globals().items()
        if inspect.isfunction(value) and value.__module__ == __name__ and name not in _OTHERS
    }


def estimator_of(choice: Draw | Callable[..., Draw] | str) -> Draw:
    """An estimator from its name or a call written as text, ``"nvil(hidden=(200,))"``.

    Raises:
        SpellingError: If there is none of that name, or it has no such option.

    >>> type(estimator_of("vimco").baseline).__name__
    'LeaveOneOut'
    """
    if inspect.isfunction(choice):
        return choice()
    if not isinstance(choice, str):
        return choice  # type: ignore[return-value]
    try:
        return read(choice, known(), what="an estimator")()
    except SpellingError as error:
        raise SpellingError(f"estimator {choice!r}: {error}") from error


_OTHERS = ("known", "estimator_of")
