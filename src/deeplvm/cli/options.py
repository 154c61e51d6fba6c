"""Flags from type hints: the options of several functions as the signature of one command."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Group, Parameter, Token, convert
from docstring_parser import parse

from deeplvm.registry import KINDS, Bounds, choices, hint_of, why, written

# What can be written as one word.
_WORDS = (int, float, str, bool, Path)


@dataclass(frozen=True)
class Option:
    """An option of a function, as the command line offers it.

    Attributes:
        name: The keyword.
        hint: A type of words: numbers, text, choices, tuples of them.
        default: Its default; ``inspect.Parameter.empty`` if it must be given.
        help: What the docstring says.
    """

    name: str
    hint: Any
    default: Any
    help: str

    def parameter(self, group: Group) -> inspect.Parameter:
        """The parameter of the composed signature."""
        many = get_origin(self.hint) in (tuple, list)
        spread = Parameter(
            help=self.help,
            group=group,
            consume_multiple=many,
            negative_iterable=(),
            converter=whole if _is_whole(self.hint) else None,
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[self.hint, spread],
        )


def whole(hint: Any, tokens: Sequence[Token]) -> Any:
    """Words as whole numbers; one with a point is none, and is not rounded.

    Raises:
        ValueError: With the word.
    """
    for token in tokens:
        if "." in token.value:
            raise ValueError(f"{token.value!r} is not a whole number.")
    return convert(hint, tokens)


# beyond, an evaluation takes days, and its error is that of the rows
Particles = Annotated[int, Bounds(1, 10_000_000), Parameter(converter=whole)]
# What verbs have in common.
Folder = Annotated[Path, Parameter(help="A RUN folder, which deeplvm fit made.")]
Model = Annotated[
    str,
    Parameter(
        help="A RUN folder, which deeplvm fit made; or a function of your own that returns a p "
        "and a q, as package.module:function or file.py:function."
    ),
]
OtherData = Annotated[
    str | None,
    Parameter(help="Other data, read as the run's own were; the run's own if none is named."),
]
Files = Annotated[
    str,
    Parameter(
        help="Other data, read as the run's own were, one file or several; the run's own if none "
        "is named."
    ),
]
SplitOption = Annotated[
    Literal["train", "valid", "test"] | None,
    Parameter(help="Which rows of the run's own data; test by default."),
]
Trust = Annotated[
    bool,
    Parameter(
        help="Run the code of a recipe that the RUN folder names and that is not ours.",
        negative=(),
    ),
]
Number = Annotated[int, Bounds(1, 2**31), Parameter(converter=whole)]
Seed = Annotated[int, Parameter(converter=whole)]
Escape = Annotated[
    bool,
    Parameter(
        help="In a .csv, put a ' before texts that a spreadsheet would run as formulas: those "
        "that begin with =, +, - or @.",
        negative=(),
    ),
]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]
AutoParticles = Annotated[
    Annotated[int, Bounds(1, 10_000_000)] | Literal["auto"],
    Parameter(
        converter=whole,
        help="Draws a row; auto: a pilot chooses so many that their noise is a tenth of the "
        "standard error over rows, or below --tolerance.",
    ),
]
Tolerance = Annotated[
    float | None,
    Parameter(help="With --particles auto: what draws may add to the error of the mean, nats."),
]
Budget = Annotated[
    int,
    Bounds(1, 10_000_000),
    Parameter(
        converter=whole, help="With --particles auto: the budget, no more draws a row than that."
    ),
]
Precision = Annotated[
    Literal["float32", "float64"],
    Parameter(help="Of the computation; in float64 a row has one number to nine digits."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    Parameter(help="Where to compute; auto is CUDA if there is one."),
]


def _is_whole(hint: Any) -> bool:
    """Whether a type has whole numbers and nothing else that a point could stand in."""
    inner = [each for each in get_args(hint) if each not in (Ellipsis, type(None))]
    return hint is int or (bool(inner) and all([_is_whole(each) for each in inner]))


# A flag that is off by itself needs no other that turns it off.
_OFF = Annotated[bool, Parameter(negative=())]


def checked(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that is not begun with an option that is not what its signature says.

    Raises:
        ValueError: With the flag.
    """

    @functools.wraps(verb)
    def begin(*words: Any, **options: Any) -> None:
        for name, value in inspect.signature(verb).bind(*words, **options).arguments.items():
            if reason := why(verb, name, value):
                raise ValueError(f"--{name.replace('_', '-')} {reason}.")
        verb(*words, **options)

    begin.__doc__ = unwrapped(verb.__doc__)
    known = inspect.signature(verb)
    off = [n for n, e in known.parameters.items() if e.annotation == "bool" and e.default is False]
    begin.__annotations__ = {**verb.__annotations__, **dict.fromkeys(off, _OFF)}
    begin.__signature__ = known.replace(  # type: ignore[attr-defined]
        parameters=[
            each.replace(annotation=_OFF) if each.name in off else each
            for each in known.parameters.values()
        ]
    )
    return begin


def unwrapped(doc: str | None) -> str | None:
    r"""A docstring whose paragraphs and arguments are a line each, which a terminal breaks itself.

    >>> unwrapped("One.\n\n    A line\n    goes on.\n\n    Args:\n        a: It\n            too.")
    'One.\n\nA line goes on.\n\nArgs:\n    a: It too.'
    """
    if doc is None:
        return None
    # what follows a line of text: text at the margin, or the further indent of an argument's
    return re.sub(r"(?<=\S)\n(?: {8,}(?=\S)|(?=[^\s*-]))", " ", inspect.cleandoc(doc))


def options_of(
    function: Callable[..., Any],
    *,
    skip: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Option]:
    """The keyword options of a function that can be written as words.

    The first parameter (the data, or where they are) and those in ``skip`` are left out, and so is
    one that takes what no word can say.

    >>> def recipe(data, *, latent: int = 2, hidden: tuple[int, ...] = (8,), hook=None): ...
    >>> [(o.name, o.hint, o.default) for o in options_of(recipe).values()]
    [('latent', <class 'int'>, 2), ('hidden', tuple[int, ...], (8,))]
    """
    defaults = defaults or {}
    found: dict[str, Option] = {}
    texts = _help_of(function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or parameter.name in skip:
            continue
        default = written(defaults.get(parameter.name, parameter.default))
        hint = _words(hint_of(function, parameter.name), parameter.name, default)
        if hint is not None:
            text = texts.get(parameter.name, "")
            if parameter.name in KINDS:
                text = f"{text} Here: {choices(parameter.name)}."
            found[parameter.name] = Option(parameter.name, hint, default, text)
    return found


def _words(hint: Any, name: str, default: Any) -> Any:
    """The part of a type that can be written as words, or None."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(inner[0], name, default)
    if origin in (Union, types.UnionType):
        parts = [_words(each, name, default) for each in inner if each is not type(None)]
        kept = [part for part in parts if part is not None]
        # numbers before text, which takes anything
        kept.sort(key=lambda part: part is str)
        if name in KINDS and str not in kept:
            kept.append(str)
        if not kept:
            return None
        optional = (None,) if type(None) in inner else ()
        return functools.reduce(operator.or_, [*kept, *optional])
    if hint in _WORDS or origin is Literal:
        return hint
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        # a name stands for all of it: for the list of phases, not for one of them
        words = [_words(each, "", default) for each in inner if each is not Ellipsis]
        if None in words or not words:
            return None
        fixed = origin is tuple and Ellipsis not in inner
        one: Any = words[0]
        return tuple.__class_getitem__(tuple(words)) if fixed else tuple[one, ...]
    return str if name in KINDS else None


def _help_of(function: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument, as plain text."""
    documented = parse(inspect.getdoc(function) or "").params
    return {each.arg_name: _plain(each.description or "") for each in documented}


def _plain(text: str) -> str:
    words = " ".join(text.replace("``", "").split())
    for role in (":func:`~", ":class:`~", ":meth:`~", ":func:`", ":class:`", ":meth:`", ":math:`"):
        words = words.replace(role, "`")
    return words
