"""What a recipe asks of its data, and of its options."""

from __future__ import annotations

from collections.abc import Sequence

from deeplvm.data.records import Data, Description, Variable
from deeplvm.recipes.catalogue import RecipeError


def observed(data: Data | Description) -> Variable:
    """The variable that is modelled, ``"x"``."""
    if "x" not in data.variables:
        raise RecipeError(
            f"This recipe models a variable 'x', but {data.name} has "
            f"{', '.join(data.variables) or 'none'}."
        )
    return data.variables["x"]


def seen(variable: Variable) -> tuple[int, ...]:
    """The shape in which networks see a variable: a category of L values as ``(*, L)``."""
    if variable.features == variable.elements:
        return variable.shape
    if variable.parts:
        return (variable.features,)
    return (*variable.shape, variable.features // variable.elements)


def at_least_one(**sizes: int | Sequence[int]) -> None:
    """Refuse a size below 1, by the name of its option.

    >>> at_least_one(latent=0)
    Traceback (most recent call last):
    deeplvm.recipes.catalogue.RecipeError: latent must be at least 1, found 0.
    """
    for name, size in sizes.items():
        for each in (size,) if isinstance(size, int) else size:
            if each < 1:
                raise RecipeError(f"{name} must be at least 1, found {each}.")
