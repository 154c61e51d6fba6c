"""Estimators by name, as ``fit(estimator="vimco")`` and ``--estimator vimco`` take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from deeplvm.core.draws import Draw
from deeplvm.gradients.gumbel_softmax import Annealed, GumbelSoftmax, StraightThrough
from deeplvm.gradients.muprop import MuProp
from deeplvm.gradients.noise import Antithetic, LatinHypercube, QuasiRandom
from deeplvm.gradients.path_derivatives import DoublyReparameterised, StickingTheLanding
from deeplvm.gradients.rebar import Rebar, relax
from deeplvm.gradients.regression import RegressedScore
from deeplvm.gradients.rejection import GeneralisedReparameterised
from deeplvm.gradients.score_function import Learned, LeaveOneOut, RunningMean, ScoreFunction
from deeplvm.registry import NonNegative, Positive, Size, call_of


def score_function(*, running_mean: bool = True, local: bool = True) -> ScoreFunction:
    """The score function with a running mean as its baseline, or none.

    Args:
        running_mean: Whether there is one.
        local: Leave out the terms that do not depend on the latent.
    """
    return ScoreFunction(RunningMean() if running_mean else None, local=local)


def nvil(*, hidden: tuple[Size, ...] = (100,), normalise: bool = True) -> ScoreFunction:
    """The score function with a :class:`~deeplvm.gradients.score_function.Learned` baseline.

    Args:
        hidden: Widths of the baseline's layers.
        normalise: Whether signals are divided by their running standard deviation.
    """
    return ScoreFunction(Learned(hidden=hidden), normalise=normalise)


def vimco() -> ScoreFunction:
    """The score function with :class:`~deeplvm.gradients.score_function.LeaveOneOut`."""
    return ScoreFunction(LeaveOneOut())


def muprop(*, hidden: tuple[Size, ...] | None = None) -> MuProp:
    """:class:`~deeplvm.gradients.muprop.MuProp`, with a learned baseline or none.

    Args:
        hidden: Widths of the layers of a learned baseline; none by default.
    """
    return MuProp(None if hidden is None else Learned(hidden=hidden))


def gumbel_softmax(
    *,
    temperature: Positive = 1.0,
    rate: NonNegative = 0.05,
    least: Positive = 0.5,
    straight_through: bool = False,
) -> GumbelSoftmax:
    """:class:`~deeplvm.gradients.gumbel_softmax.GumbelSoftmax` at a temperature that falls.

    Args:
        temperature: Of the relaxation, where it starts.
        rate: How fast it falls, per epoch.
        least: Where it stops falling.
        straight_through: Pass on the discrete value, with the gradient of the relaxed one.
    """
    annealed = Annealed(temperature, rate, least)
    return GumbelSoftmax(annealed, straight_through=straight_through)


ESTIMATORS: dict[str, Callable[..., Draw]] = {
    "score_function": score_function,
    "nvil": nvil,
    "vimco": vimco,
    "regressed_score": RegressedScore,
    "muprop": muprop,
    "rebar": Rebar,
    "relax": relax,
    "sticking_the_landing": StickingTheLanding,
    "doubly_reparameterised": DoublyReparameterised,
    "generalised": GeneralisedReparameterised,
    "antithetic": Antithetic,
    "stratified": LatinHypercube,
    "quasi_random": QuasiRandom,
    "gumbel_softmax": gumbel_softmax,
    "straight_through": StraightThrough,
}


def known() -> dict[str, Callable[..., Draw]]:
    """The names that there are."""
    return ESTIMATORS


def estimator_of(choice: Draw | Callable[..., Draw] | str) -> Draw:
    """An estimator from its name or a call written as text, ``"nvil(hidden=(200,))"``.

    Raises:
        SpellingError: If there is none of that name, or it has no such option.

    >>> type(estimator_of("vimco").baseline).__name__
    'LeaveOneOut'
    """
    if isinstance(choice, str):
        return call_of(choice, "estimator")()
    made = inspect.isfunction(choice) or inspect.isclass(choice)
    return choice() if made else choice  # type: ignore[return-value, call-arg]


def draws_of(draw: Mapping[str, Draw | str] | None) -> dict[str, Draw] | None:
    """How latents are drawn, by the latents' names, of which each may be said by its own name."""
    if draw is None:
        return None
    return {n: estimator_of(way) if isinstance(way, str) else way for n, way in draw.items()}
