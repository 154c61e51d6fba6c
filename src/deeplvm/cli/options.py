"""Flags from type hints: the options of several functions as the signature of one command."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Group, Parameter
from docstring_parser import parse

from deeplvm.registry import SpellingError, read

# What can be written as one word.
_WORDS = (int, float, str, bool, Path)
# Options that take a function: written by name, or as a call, `free_bits(minimum=0.5)`.
NAMED = {
    "estimator": "deeplvm.gradients.named",
    "objective": "deeplvm.objectives",
    "phases": "deeplvm.learning.programs",
    "kl_weight": "deeplvm.training.schedules",
    "posterior": "deeplvm.conditionals.posteriors",
    "schedule": "deeplvm.training.schedules",
}


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
            help=self.help, group=group, consume_multiple=many, negative_iterable=()
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[self.hint, spread],
        )


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
        default = _written(defaults.get(parameter.name, parameter.default))
        hint = _words(_hint(function, parameter), parameter.name, default)
        if hint is not None:
            text = texts.get(parameter.name, "")
            if parameter.name in NAMED:
                text = f"{text} Here: {_choices(parameter.name)}."
            found[parameter.name] = Option(parameter.name, hint, default, text)
    return found


def meant(name: str, value: Any) -> Any:
    """What an option means: a function for its name, anything else as it is.

    Raises:
        ValueError: If no such function is known.

    >>> meant("kl_weight", "linear(10)")
    linear(epochs=10, start=0.0, end=1.0)
    >>> meant("kl_weight", 0.5)
    0.5
    """
    if name not in NAMED or not isinstance(value, str):
        return value
    functions = known_functions(name)
    if name == "schedule" and value.isidentifier():
        return value  # fit knows these by name, and how many epochs there are
    try:
        call = read(value, functions, what="known")
    except SpellingError:
        raise ValueError(_unreadable(name, value)) from None
    try:
        if name == "phases":
            return value  # fit knows the model that they want
        if name != "objective" or inspect.isclass(call.function):
            return call()
        signature = inspect.signature(call.function)
        later = {"rows": 1} if "rows" in signature.parameters else {}  # fit knows how many
        signature.bind(None, *call.arguments, **(later | call.keywords))
    except (SpellingError, TypeError) as error:
        raise ValueError(f"{_flag(name)} {value}: {error}.") from error
    if call.bare:
        return call.function
    options = list(signature.parameters)[1 : 1 + len(call.arguments)]
    by_place = dict(zip(options, call.arguments, strict=True))
    return functools.partial(call.function, **by_place, **call.keywords)


def known_functions(name: str) -> dict[str, Callable[..., Any]]:
    """The functions that an option may name; objectives with a state are classes, in snake case.

    >>> sorted(known_functions("objective"))[:3]
    ['alpha_energy', 'beta_elbo', 'beta_tc_elbo']
    """
    module = importlib.import_module(NAMED[name])
    if name in ("estimator", "phases", "posterior"):
        return module.known()
    own = {
        key: value
        for key, value in vars(module).items()
        if f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
        and key[0] != "_"
    }
    if name == "objective":
        from deeplvm.registry import in_snake_case

        own = {in_snake_case(key): value for key, value in own.items() if _is_objective(value)}
    return {
        key: value
        for key, value in own.items()
        if inspect.isfunction(value) or (name == "objective" and inspect.isclass(value))
    }


def _is_objective(value: Any) -> bool:
    """Whether it is a function of evidence, one value per row, or a class of such functions."""
    if inspect.isclass(value):
        return "evidence" in inspect.signature(getattr(value, "forward", lambda: None)).parameters
    if not inspect.isfunction(value) or value.__module__ == _OF_PHASES:
        return False
    signature = inspect.signature(value)
    first = next(iter(signature.parameters), "")
    return first == "evidence" and signature.return_annotation == "Tensor"


def _unreadable(name: str, value: str) -> str:
    return f"{_flag(name)} cannot be {value!r}; it is {_choices(name)}."


def _choices(name: str) -> str:
    number = "a number, or " if name == "kl_weight" else ""
    return (
        f"{number}one of {', '.join(known_functions(name))}, with its options in parentheses, as "
        f"in {_EXAMPLES[name]!r}"
    )


# Objectives that teach q alone, or want dreams: parts of phases, of no use by themselves.
_OF_PHASES = "deeplvm.objectives.wake_sleep"
_EXAMPLES = {
    "estimator": "nvil(hidden=(200,))",
    "objective": "free_bits(minimum=0.5)",
    "kl_weight": "linear(10)",
    "phases": "aggressive(repeats=5)",
    "posterior": "iaf(transforms=4)",
    "schedule": "exponential(epochs=100)",
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _written(default: Any) -> Any:
    """A default as it would be written: functions by their names, schedules by their text."""
    if inspect.isfunction(default):
        return default.__name__
    if isinstance(default, functools.partial):
        options = ", ".join([f"{key}={value!r}" for key, value in default.keywords.items()])
        return f"{default.func.__name__}({options})"
    if isinstance(default, list):
        return tuple(default)
    is_word = default is None or isinstance(default, (*_WORDS, tuple))
    return default if is_word or default is inspect.Parameter.empty else repr(default)


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter; where none can be read, that of its default."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = typing.get_type_hints(
                types.SimpleNamespace(__annotations__={"it": annotation}), namespace
            )["it"]
        except (NameError, AttributeError, TypeError, SyntaxError):
            annotation = inspect.Parameter.empty
    if annotation is inspect.Parameter.empty:
        default = parameter.default
        if isinstance(default, tuple) and default and isinstance(default[0], _WORDS):
            return tuple[type(default[0]), ...]  # type: ignore[misc]
        return type(default) if isinstance(default, _WORDS) else None
    return annotation


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
        if name in NAMED and str not in kept:
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
    return str if name in NAMED else None


def _help_of(function: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument, as plain text."""
    documented = parse(inspect.getdoc(function) or "").params
    return {each.arg_name: _plain(each.description or "") for each in documented}


def _plain(text: str) -> str:
    words = " ".join(text.replace("``", "").split())
    for role in (":func:`~", ":class:`~", ":meth:`~", ":func:`", ":class:`", ":meth:`", ":math:`"):
        words = words.replace(role, "`")
    return words
