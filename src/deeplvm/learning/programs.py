"""Lists of phases by name, as ``fit(phases=...)`` and ``--phases wake_sleep`` take them."""

from __future__ import annotations

from collections.abc import Callable

from deeplvm.learning.aggressive import aggressive
from deeplvm.learning.controlled import controlled
from deeplvm.learning.em import exact_em, monte_carlo_em, variational_em
from deeplvm.learning.natural_gradients import natural_gradients
from deeplvm.learning.stacked import stacked
from deeplvm.learning.wake_sleep import reweighted_wake_sleep, wake_sleep
from deeplvm.training.phases import Phase


def known() -> dict[str, Callable[..., list[Phase]]]:
    """The names that there are."""
    functions = (
        wake_sleep, reweighted_wake_sleep, aggressive, exact_em, variational_em, monte_carlo_em,
        stacked, controlled, natural_gradients,
    )  # fmt: skip
    return {function.__name__: function for function in functions}
