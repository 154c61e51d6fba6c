"""Estimators by name, as ``fit(estimator="vimco")`` and ``--estimator vimco`` take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from deeplvm.gradients.doubly import DoublyReparameterised
from deeplvm.gradients.draws import Draw
from deeplvm.gradients.generalised import GeneralisedReparameterised
from deeplvm.gradients.score_function import Learned, LeaveOneOut, RunningMean, ScoreFunction
from deeplvm.gradients.sticking import StickingTheLanding
from deeplvm.spelled import SpellingError, read


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
