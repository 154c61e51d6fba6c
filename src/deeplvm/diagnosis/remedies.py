"""Remedies that a run can follow and does not follow already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deeplvm.evaluation.examination import Examination
from deeplvm.registry import known

# Settings that are the stronger, the larger; of any other number less is more.
_LARGER = ("weight_decay", "particles", "epochs", "latent")
_OF_RECIPES = ("latent", "hidden", "posterior")


def untried(seen: Examination, *options: str) -> list[str]:
    """Of options as on the command line those that the run takes and does not follow.

    A name is followed if the setting has it, whatever its own options; a number, if the setting is
    as strong; ``--clip 10`` is followed by 5.
    """
    # of several flags that belong together the first decides
    first = {each: each.removeprefix("--").split(" --")[0].split(" ", 1) for each in options}
    return [each for each in options if not _in_vain(seen, *first[each])]


def _in_vain(seen: Examination, flag: str, value: str) -> bool:
    name = flag.replace("-", "_")
    if name in _OF_RECIPES and not seen.takes(name):
        return True
    setting = seen.settings.get(name)
    values = setting if isinstance(setting, list | tuple) else [setting]
    if values and all([isinstance(each, int | float) for each in values]):
        try:
            wanted = [float(each) for each in value.split()]
        except ValueError:
            return False
        if name in _LARGER:
            return values[0] >= wanted[0]
        return values == wanted if name in _OF_RECIPES else 0 < values[0] <= wanted[0]
    return _word(value) in [_word(each) for each in values if isinstance(each, str)]


def _word(value: str) -> str:
    return value.strip('"').split("(")[0].split()[0] if value.strip('"') else ""


def networks(seen: Examination, factor: float) -> list[str]:
    """The flag for networks so many times as wide as they are."""
    if not seen.takes("hidden"):
        return []
    widths: Any = seen.settings.get("hidden", (256, 256))
    widths = widths if isinstance(widths, list | tuple) else [widths]
    return [f"--hidden {' '.join([str(max(1, int(factor * width))) for width in widths])}"]


def stopping(seen: Examination) -> list[str]:
    """The flag for an earlier end; where phases or weights change, with what tells the best."""
    objective = known("objective").get(_word(str(seen.settings.get("objective"))))
    apart = seen.settings.get("phases") or getattr(objective, "adapts", False)
    said = apart and not seen.settings.get("measure")
    return untried(seen, "--patience 10 --measure elbo" if said else "--patience 10")


def longer(seen: Examination) -> str:
    """How a run goes on."""
    epochs = int(seen.settings.get("epochs", 0) or len(seen.metrics))
    return f"deeplvm resume RUN --epochs {2 * epochs}" if epochs else "longer training"


def one_of(options: Sequence[str], otherwise: str = "") -> str:
    """``Try a, b or c.``, or what is left to say if there are none."""
    if not options:
        return otherwise
    *first, last = options
    return f"Try {', '.join(first)} or {last}." if first else f"Try {last}."
