"""All that can be written by name: ``iaf(transforms=4)``, read, checked and found in one table.

What an option may be is said in the signature of the function that takes it: its type, and with
:class:`Bounds` how small and how large, ``transforms: Annotated[int, Bounds(1, 1000)]``. The
command line, a configuration file and a call written as text are held against it by :func:`why`.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, Unpack, get_args, get_origin, is_typeddict


class SpellingError(ValueError):
    """A text is neither the name of a function that is known nor a call of one."""


@dataclass(frozen=True)
class Bounds:
    """What a number may be, said in a signature: ``Annotated[float, Bounds(0, 1, open=True)]``.

    Attributes:
        least: The smallest.
        most: The largest.
        open: Whether the smallest itself is left out.
    """

    least: float = -math.inf
    most: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and not (self.open and value == self.least)

    def __str__(self) -> str:
        least, most = (
            f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (self.least, self.most)
        )
        if self.most < math.inf:
            return f"above {least} and up to {most}" if self.open else f"from {least} to {most}"
        return f"above {least}" if self.open else f"{least} or more"


# Layers, transforms, repetitions: more than so many are no model but a slip of the finger.
Count = Annotated[int, Bounds(1, 1_000)]
Size = Annotated[int, Bounds(1, 2**31)]
Positive = Annotated[float, Bounds(0, open=True)]
NonNegative = Annotated[float, Bounds(0)]
Fraction = Annotated[float, Bounds(0, 1)]
# What torch holds: seeds and sizes in 64 bits, numbers in single precision.
_WHOLE, _REAL = range(-(2**63), 2**63), 3.4e38


@dataclass(frozen=True)
class Kind:
    """One kind of what is written by name.

    Attributes:
        home: The module that has the functions: those of its ``known()``, or its own.
        what: What each is.
        example: A call.
    """

    home: str
    what: str
    example: str


KINDS = {
    "estimator": Kind("deeplvm.gradients.named", "an estimator", "nvil(hidden=(200,))"),
    "objective": Kind("deeplvm.objectives", "an objective", "free_bits(minimum=0.5)"),
    "phases": Kind("deeplvm.learning.programs", "a list of phases", "aggressive(repeats=5)"),
    "likelihood": Kind(
        "deeplvm.data.likelihood_table", "a likelihood", "gaussian(scale='global')"
    ),
    "kl_weight": Kind("deeplvm.training.schedules", "a schedule", "linear(10)"),
    "posterior": Kind("deeplvm.conditionals.posteriors", "a posterior", "iaf(transforms=4)"),
    "prior": Kind("deeplvm.conditionals.priors", "a prior", "vamp(components=500)"),
    "schedule": Kind("deeplvm.training.schedules", "a schedule", "exponential(epochs=100)"),
}
# Objectives that teach q alone, or want dreams: parts of phases, of no use by themselves.
_OF_PHASES = "deeplvm.objectives.wake_sleep"


def known(kind: str) -> dict[str, Callable[..., Any]]:
    """The functions of a kind; objectives with a state are classes, named in snake case.

    >>> sorted(known("objective"))[:3]
    ['alpha_energy', 'auxiliary_elbo', 'balanced_elbo']
    """
    module = importlib.import_module(KINDS[kind].home)
    if hasattr(module, "known"):
        return dict(module.known())
    own = {
        in_snake_case(name): value
        for name, value in vars(module).items()
        if f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
        and name[0] != "_"
    }
    if kind == "objective":
        return {name: value for name, value in own.items() if _is_objective(value)}
    return {name: value for name, value in own.items() if inspect.isfunction(value)}


def choices(kind: str) -> str:
    """What there is of a kind, in words."""
    number = "a number, or " if kind == "kl_weight" else ""
    return (
        f"{number}one of {', '.join(known(kind))}, with its options in parentheses, as in "
        f"{KINDS[kind].example!r}"
    )


def _is_objective(value: Any) -> bool:
    """Whether it is a function of evidence, one value per row, or a class of such functions."""
    if inspect.isclass(value):
        return "evidence" in inspect.signature(getattr(value, "forward", lambda: None)).parameters
    if not inspect.isfunction(value) or value.__module__ == _OF_PHASES:
        return False
    signature = inspect.signature(value)
    first = next(iter(signature.parameters), "")
    return first == "evidence" and signature.return_annotation == "Tensor"


@dataclass(frozen=True)
class Call:
    """A function and the options written for it.

    Attributes:
        function: The function.
        arguments: By place, after those that code gives.
        keywords: By name.
        bare: Whether the name alone was written, without parentheses.
        text: As written.
        what: Of which kind it is.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    bare: bool
    text: str
    what: str

    def __call__(self, *before: Any) -> Any:
        """Its value, with further arguments before the written ones.

        Raises:
            SpellingError: If the function does not take these.
        """
        self.check(len(before))
        return self.function(*before, *self.arguments, **self.keywords)

    def check(self, before: int = 0, later: Sequence[str] = ()) -> None:
        """Hold the options against the signature; ``before`` arguments are code's own.

        Raises:
            SpellingError: With the option that is not what it may be.
        """
        signature = inspect.signature(self.function)
        given = {name: None for name in later if name in signature.parameters}
        names = [each for each in signature.parameters if each not in given][before:]
        options = [*zip(names, self.arguments, strict=False), *self.keywords.items()]
        for name, value in options:
            if reason := why(self.function, name, value):
                raise SpellingError(f"{self.what} {self.text!r}: {name} {reason}.")
        try:
            signature.bind(*[None] * before, *self.arguments, **(given | self.keywords))
        except TypeError as error:
            raise SpellingError(f"{self.what} {self.text!r}: {error}.") from error

    def partial(self) -> Callable[..., Any]:
        """The function of one argument, the first, that the options make of it."""
        if self.bare:
            return self.function
        names = list(inspect.signature(self.function).parameters)[1 : 1 + len(self.arguments)]
        by_place = dict(zip(names, self.arguments, strict=True))
        return functools.partial(self.function, **by_place, **self.keywords)


def call_of(text: str, kind: str) -> Call:
    """Read a name or a call; options are literals: numbers, text, tuples, True, None.

    Args:
        text: As written.
        kind: What it is to be, one of :data:`KINDS`.

    Raises:
        SpellingError: With what there is.

    >>> call_of("linear(10, end=0.5)", "kl_weight")().text
    'linear(epochs=10, start=0.0, end=0.5)'
    >>> call_of("linear(-10)", "kl_weight")()
    Traceback (most recent call last):
    deeplvm.registry.SpellingError: kl_weight 'linear(-10)': epochs must be a number above 0, ...
    """
    functions, what = known(kind), KINDS[kind]
    spelled, parenthesis, options = text.strip().partition("(")
    if spelled.strip() in functions:  # names with hyphens are none of Python's
        functions = {name.replace("-", "_"): each for name, each in functions.items()}
        spelled = spelled.replace("-", "_")
    try:
        tree = ast.parse(f"{spelled}{parenthesis}{options}", mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        name = call.func if call else tree
        if not isinstance(name, ast.Name) or name.id not in functions:
            raise ValueError
        arguments = tuple([ast.literal_eval(each) for each in call.args]) if call else ()
        keywords = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if call else {}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise SpellingError(
            f"{text[:200]!r} is not {what.what}; there are {', '.join(functions)}, with options "
            f"in parentheses, as in {what.example!r}."
        ) from None
    return Call(functions[name.id], arguments, keywords, call is None, text.strip()[:200], kind)


def meant(kind: str, value: Any) -> Any:
    """What an option means: a function for its name, anything else as it is.

    Raises:
        ValueError: If no such function is known, or it has no such option.

    >>> meant("kl_weight", "linear(10)")
    linear(epochs=10, start=0.0, end=1.0)
    >>> meant("kl_weight", 0.5)
    0.5
    """
    if kind not in KINDS or not isinstance(value, str):
        return value
    if kind == "schedule" and value.isidentifier():
        return value  # fit knows these by name, and how many epochs there are
    flag = f"--{kind.replace('_', '-')}"
    try:
        call = call_of(value, kind)
    except SpellingError:
        text = f"{flag} cannot be {value[:200]!r}; it is {choices(kind)}."
        raise SpellingError(text) from None
    try:
        if kind in ("phases", "posterior", "prior"):
            call.check(2 * (kind != "phases"), later=("model",))
            return value  # fit knows the model that they want, a recipe the shape and the network
        if kind != "objective" or inspect.isclass(call.function):
            return call()
        call.check(1, later=("rows",))  # fit knows how many
    except (ValueError, TypeError) as error:
        raise SpellingError(str(error)) from error
    return call.partial()


def why(function: Callable[..., Any], name: str, value: Any) -> str | None:
    """Why a function cannot take a value for one of its options; none if it can.

    >>> def scaled(x: float, *, times: Annotated[int, Bounds(1)] = 2) -> float: ...
    >>> why(scaled, "times", 0)
    'must be a whole number, 1 or more, not 0'
    >>> why(scaled, "time", 0)
    'is no option of scaled, which has times'
    """
    parameters = parameters_of(function)
    if name in parameters and parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
        return None
    named = [each for each in parameters.values() if each.kind is not each.VAR_KEYWORD]
    if name not in [each.name for each in named]:
        if len(named) < len(parameters):
            return None
        options = [each.name for each in named if each.kind is each.KEYWORD_ONLY]
        if len(options) > _FEW:
            options = difflib.get_close_matches(name, options, n=3) or [*options[:_FEW], "…"]
        return f"is no option of {function.__name__}, which has {', '.join(options) or 'none'}"
    if name in KINDS and isinstance(value, str):
        return None  # it is a call, which its own checker reads
    return amiss(value, hint_of(function, name))


def amiss(value: Any, hint: Any) -> str | None:
    """What is wrong with a value where a type is asked for, to follow its name; none if fine."""
    if hint is None or suits(value, hint):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    number = isinstance(value, int | float)
    if number and not abs(value) <= (2**63 if type(value) is int else _REAL):
        return f"cannot be {_short(value)}: no computer word holds that"
    return f"must be {described(hint)}, not {_short(value)}"


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, those of ``**options: Unpack[Options]`` by their own names."""
    found: dict[str, inspect.Parameter] = {}
    for name, each in inspect.signature(function).parameters.items():
        packed = _read(function, each.annotation) if each.kind is each.VAR_KEYWORD else None
        if get_origin(packed) is not Unpack:
            found[name] = each
            continue
        for own, hint in typing.get_type_hints(get_args(packed)[0], include_extras=True).items():
            found[own] = inspect.Parameter(own, each.KEYWORD_ONLY, annotation=hint)
    return found


def _read(function: Callable[..., Any], annotation: Any) -> Any:
    """An annotation as a type, also one that is written as text; empty if it cannot be read."""
    if not isinstance(annotation, str):
        return annotation
    home = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
    module = inspect.getmodule(function)
    names = {**vars(module or types), **getattr(home, "__globals__", {})}
    try:
        one = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(one, names, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError):  # what only a checker sees
        return inspect.Parameter.empty


def hint_of(function: Callable[..., Any], name: str) -> Any:
    """The type of a parameter; where none can be read, that of its default; else None."""
    parameter = parameters_of(function)[name]
    annotation, default = _read(function, parameter.annotation), parameter.default
    if annotation is not inspect.Parameter.empty:
        return annotation
    if isinstance(default, tuple) and default and isinstance(default[0], _PLAIN):
        return tuple[type(default[0]), ...]  # type: ignore[misc]
    return type(default) if isinstance(default, _PLAIN) else None


_FEW = 8  # that are listed
_PLAIN = (int, float, str, bool, Path)


def suits(value: Any, hint: Any) -> bool:
    """Whether a value that a file or a word can hold is one of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [each for each in hint.__metadata__ if isinstance(each, Bounds)]
        return suits(value, inner[0]) and (
            not isinstance(value, int | float) or all([value in each for each in bounds])
        )
    if origin in (Union, types.UnionType):
        return any([suits(value, each) for each in inner])
    if origin is Literal:
        return any([value == each and type(value) is type(each) for each in inner])
    if hint in (None, types.NoneType):
        return value is None
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value in _WHOLE
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= _REAL
    if is_typeddict(hint):
        fields = typing.get_type_hints(hint, include_extras=True)
        needed = hint.__required_keys__
        return isinstance(value, Mapping) and all(
            [
                suits(value[n], each) if n in value else n not in needed
                for n, each in fields.items()
            ]
        )
    kind = origin if inspect.isclass(origin) else hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (
            not inner or all([suits(k, inner[0]) and suits(v, inner[1]) for k, v in value.items()])
        )
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and Ellipsis not in inner:
            return len(inner) == len(value) and all(map(suits, value, inner))
        return not inner or all([suits(each, inner[0]) for each in value])
    if hint is Path:
        return isinstance(value, str | Path)
    with contextlib.suppress(TypeError):  # a protocol
        return hint is Any or (inspect.isclass(hint) and isinstance(value, hint))
    return False


def described(hint: Any) -> str:
    """A type in words, as far as a word can say it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [str(each) for each in hint.__metadata__ if isinstance(each, Bounds)]
        text = described(inner[0])
        joint = ", " if text == "a whole number" else " "
        return joint.join([text, *[each for each in bounds if each]])
    if origin in (Union, types.UnionType):
        parts = [described(each) for each in inner if _sayable(each)]
        return " or ".join(dict.fromkeys(parts)) or "something else"
    if origin is Literal:
        return f"one of {', '.join([repr(each) for each in inner])}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"{described(inner[1])} for each name"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        if origin is tuple and Ellipsis not in inner:
            return f"({', '.join([described(each) for each in inner])})"
        return f"several, each {described(inner[0])}"
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    if hint is int or hint is float or hint in words:
        return words[hint]
    return "none" if hint in (None, types.NoneType) else getattr(hint, "__name__", str(hint))


def _sayable(hint: Any) -> bool:
    """Whether a word can say a value of a type."""
    if get_origin(hint) is Annotated:
        return _sayable(get_args(hint)[0])
    return hint in (*_PLAIN, None, types.NoneType) or get_origin(hint) not in (None, Callable)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def phases_of(text: str, model: Any) -> Any:
    """The phases of a training step that a text names, for a model.

    Raises:
        SpellingError: If there are none of that name, or they have no such option.
    """
    call = call_of(text, "phases")
    names = inspect.signature(call.function).parameters
    return call(*[model for name in names if name == "model"])


def written(default: Any) -> Any:
    """A default as it would be written: functions by their names, schedules by their text."""
    if inspect.isfunction(default):
        return default.__name__
    if isinstance(default, functools.partial):
        options = ", ".join([f"{key}={value!r}" for key, value in default.keywords.items()])
        return f"{default.func.__name__}({options})"
    if hasattr(default, "named_buffers"):  # an objective with a state, by what it was made with
        parameters = inspect.signature(type(default)).parameters.values()
        made = {each.name: (getattr(default, each.name), each.default) for each in parameters}
        said = [f"{key}={value!r}" for key, (value, usual) in made.items() if value != usual]
        return f"{in_snake_case(type(default).__name__)}({', '.join(said)})"
    if isinstance(default, list):
        return tuple(default)
    is_word = default is None or isinstance(default, (*_PLAIN, tuple))
    return default if is_word or default is inspect.Parameter.empty else repr(default)


def in_snake_case(name: str) -> str:
    """A class's name as a function's would be: in metrics, and on the command line.

    >>> in_snake_case("SoftFreeBits"), in_snake_case("elbo")
    ('soft_free_bits', 'elbo')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
