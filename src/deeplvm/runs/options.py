"""Options from a file held against the function that takes them; a model, against the memory."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from deeplvm.files import fits

_SEEDS = range(-(2**63), 2**63)


def unsuited(function: Callable[..., Any], name: str, value: Any) -> str | None:
    """Why a function cannot take a value from a file for one of its arguments; none if it can.

    >>> def scaled(x: float, *, times: int = 2) -> float: ...
    >>> unsuited(scaled, "times", "two")
    "'two' is no int"
    """
    parameters = inspect.signature(function).parameters.values()
    known = {each.name for each in parameters}
    if name not in known:
        free = [each for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
        return None if free else "there is no such option"
    try:
        hint = get_type_hints(function).get(name, Any)
    except (NameError, TypeError):  # names that only a type checker sees
        return None
    if _suits(value, hint):
        return None
    text = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
    return f"{str(value)[:40]!r} is no {text.replace('typing.', '')}"


def _suits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any([_suits(value, each) for each in inner])
    if origin is Literal:
        return value in inner
    if origin in (tuple, list, Sequence):
        kinds = inner[:1] if origin is not tuple or Ellipsis in inner else inner
        if not isinstance(value, list | tuple):
            return False
        if len(kinds) == 1:
            return all([_suits(each, kinds[0]) for each in value])
        return len(kinds) == len(value) and all(map(_suits, value, kinds))
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value in _SEEDS
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    # a function is written as its name; what else a file can hold is not ours to judge
    return isinstance(value, str) or not (callable(hint) and origin is Mapping)


@contextmanager
def within_memory(what: str, error: type[ValueError]) -> Iterator[None]:
    """Refuse new tensors that together are larger than the memory, before they are made.

    Raises:
        ValueError: Of the class given.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Bounded(TorchDispatchMode):
        total = 0.0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            size = args[0] if args else None
            if isinstance(size, list | torch.Size) and all([isinstance(n, int) for n in size]):
                self.total += math.prod(size) * 4.0
                fits(self.total, what, error)
            return func(*args, **(kwargs or {}))

    with Bounded():
        yield
