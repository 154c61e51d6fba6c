"""Functions written as text: a name, or a call with its options, ``iaf(transforms=4)``."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class SpellingError(ValueError):
    """A text is neither the name of a function that is known nor a call of one."""


@dataclass(frozen=True)
class Call:
    """A function and the options written for it.

    Attributes:
        function: The function.
        arguments: By place.
        keywords: By name.
        bare: Whether the name alone was written, without parentheses.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    bare: bool

    def __call__(self, *before: Any) -> Any:
        """Its value, with further arguments before the written ones.

        Raises:
            SpellingError: If the function does not take these.
        """
        try:
            return self.function(*before, *self.arguments, **self.keywords)
        except TypeError as error:
            raise SpellingError(str(error)) from error


def read(text: str, functions: Mapping[str, Callable[..., Any]], *, what: str) -> Call:
    """Read a name or a call; options are literals: numbers, text, tuples, True, None.

    Args:
        text: As written.
        functions: Those that can be written, by name.
        what: What the text is to be, for the error.

    Raises:
        SpellingError: With what there is.

    >>> read("round(2.567, ndigits=1)", {"round": round}, what="a rounding")()
    2.6
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        name = call.func if call else tree
        if not isinstance(name, ast.Name) or name.id not in functions:
            raise ValueError
        arguments = tuple([ast.literal_eval(each) for each in call.args]) if call else ()
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call else {}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpellingError(
            f"{text!r} is not {what}; there are {', '.join(functions)}, with options in "
            f"parentheses."
        ) from None
    return Call(functions[name.id], arguments, keywords, call is None)


def phases_of(text: str, model: Any) -> Any:
    """The phases of a training step that a text names, for a model.

    Raises:
        SpellingError: If there are none of that name, or they have no such option.
    """
    return importlib.import_module("deeplvm.learning.programs").phases_of(text, model)


def in_snake_case(name: str) -> str:
    """A class's name as a function's would be: in metrics, and on the command line.

    >>> in_snake_case("SoftFreeBits"), in_snake_case("elbo")
    ('soft_free_bits', 'elbo')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
