"""Rows passed through the latents and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from deeplvm.core.draws import Sampled
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre, has_centre
from deeplvm.inference.conversion import converted
from deeplvm.inference.rows import Names, Rows, Tensors, for_rows
from deeplvm.randomness import RowNoise

if TYPE_CHECKING:
    from deeplvm.data.records import Data, Description

_ROWS = 500  # at a time


def reconstructed(
    model: LatentVariableModel,
    data: Data | Description,
    rows: NamedRows | Rows,
    *,
    seed: int,
    label: str | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """Originals, and the means of p(x | z) at one draw of z from q(z | x), by name.

    With a label, of p(x | z, y) at that one. Of the names that are returned last no mean is known
    (pixels that follow from each other): these values are draws.

    Raises:
        ValueError: If there are no latents, no such label, or the model is not given one.
    """
    classes = data.classes or ()
    if label is not None and label not in classes:
        names = f"there are {', '.join(classes)}" if classes else f"{data.name} has no labels"
        raise ValueError(f"There is no label {label!r}; {names}.")
    if not model.q.names:
        raise ValueError(
            "The model draws no latents, so rows pass through nothing: draw new ones (deeplvm "
            "sample), or, where it takes missing values, fill these in (deeplvm impute)."
        )

    drawn: set[str] = set()

    def measure(given: Tensors, missing: Names, noise: RowNoise) -> Tensors:
        way: Any = {"default": noise.of(Sampled()), "missing": missing}
        if label is None:
            trace = model.reconstruct(given, **way)
        else:
            trace = converted(model, given, classes.index(label), **way)
        found: dict[str, Tensor] = {}
        for name in [each for each in data.variables if each in given]:
            if name in trace and (own := trace[name].distribution) is not None:
                found[f"original/{name}"] = given[name]
                if not (known := has_centre(own)):
                    drawn.add(name)
                found[f"mean/{name}"] = centre(own) if known else trace[name].value
        return found

    found = for_rows(model, rows, measure, batch_size=_ROWS, seed=seed, finite=())
    found = {name: value.cpu() for name, value in found.items()}
    both = [
        {name.removeprefix(what): each for name, each in found.items() if name.startswith(what)}
        for what in ("original/", "mean/")
    ]
    return both[0], both[1], drawn
