"""Lists of phases by name, as ``fit(phases=...)`` and ``--phases wake_sleep`` take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from deeplvm.core.model import LatentVariableModel
from deeplvm.learning.aggressive import aggressive
from deeplvm.learning.wake_sleep import reweighted_wake_sleep, wake_sleep
from deeplvm.registry import SpellingError, read
from deeplvm.training.step import Phase


def known() -> dict[str, Callable[..., list[Phase]]]:
    """The names that there are."""
    functions = (wake_sleep, reweighted_wake_sleep, aggressive)
    return {function.__name__: function for function in functions}


def phases_of(choice: str, model: LatentVariableModel) -> Sequence[Phase]:
    """Phases from their name or a call written as text, ``"aggressive(repeats=5)"``.

    Raises:
        SpellingError: If there are none of that name, or they have no such option.
    """
    try:
        call = read(choice, known(), what="a list of phases")
        return call(
            *[model for name in inspect.signature(call.function).parameters if name == "model"]
        )
    except SpellingError as error:
        raise SpellingError(f"phases {choice!r}: {error}") from error
