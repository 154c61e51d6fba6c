"""A look at a description read from a file, before a model is built from it."""

from __future__ import annotations

import math
from typing import Any, get_args

from deeplvm.data.errors import DataError
from deeplvm.data.looking import LikelihoodName
from deeplvm.data.records import Description, Kind, Variable
from deeplvm.limits import fits

_LIKELIHOODS = {*get_args(LikelihoodName), "columns"} - {"auto"}
_IN_UNITS = ("gaussian", "laplace", "student-t")  # of mean and std
# Beyond it a float64 no longer holds every level.
_MOST_LEVELS = 2**53
_LARGEST = 2**1000  # an int may be too large for a float


def check_description(found: Description) -> None:
    """Refuse a description with an entry that :meth:`Description.to_dict` does not write.

    Raises:
        DataError: If it has one, or a row is larger than the memory.
    """
    for name in ("name", "source", "split", "fingerprint"):
        _expect(isinstance(getattr(found, name), str), name)
    for name in ("options", "rows", "variables", "stream"):
        _expect(isinstance(getattr(found, name), dict), name)
    _expect(_texts(found.notes), "notes")
    _expect(found.classes is None or _texts(found.classes), "classes")
    _expect(all([_whole(number, 0) for number in found.rows.values()]), "rows")
    for name, variable in found.variables.items():
        _expect(variable.name == name, f"variables, {name}")
        _check_variable(variable)
        _expect(all([_scalar(part) for part in variable.parts]), f"{name}: parts")


def _check_variable(found: Variable) -> None:
    at = str(found.name)
    _expect(isinstance(found.name, str), "the name of a variable")
    shape = found.shape
    _expect(isinstance(shape, tuple) and all([_whole(n, 1) for n in shape]), f"{at}: shape")
    _expect(found.kind in get_args(Kind), f"{at}: kind")
    _expect(found.likelihood in _LIKELIHOODS, f"{at}: likelihood")
    for name in ("missing", "dequantized"):
        _expect(isinstance(getattr(found, name), bool), f"{at}: {name}")
    for name in ("minimum", "maximum", "step", "grey"):
        value = getattr(found, name)
        _expect(_number(value) or (name == "grey" and value is None), f"{at}: {name}")
    _expect(found.step > 0, f"{at}: step")
    levels = found.levels
    needed = found.likelihood in ("discretized-logistic", "categorical")
    _expect(
        (levels is None and not needed) or _whole(levels, 1, _MOST_LEVELS),
        f"{at}: levels",
    )
    for name in ("mean", "std"):
        value = getattr(found, name)
        _expect(tuple(value.shape) == shape and not value.isinf().any(), f"{at}: {name}")
    _expect(not (found.std < 0).any(), f"{at}: std")
    if found.likelihood in _IN_UNITS:
        _expect(found.mean.float().isfinite().all(), f"{at}: mean")
        _expect((found.std.float() > 0).all(), f"{at}: std")
        _expect(found.std.float().isfinite().all(), f"{at}: std")
    for name in ("columns", "categories"):
        names = getattr(found, name)
        _expect(names is None or _texts(names), f"{at}: {name}")
    _expect(found.columns is None or shape == (len(found.columns),), f"{at}: columns")
    _expect(found.categories is None or len(found.categories) == levels, f"{at}: categories")
    mixed = found.kind == "mixed"
    _expect(mixed == bool(found.parts) == (found.likelihood == "columns"), f"{at}: parts")
    _expect(not mixed or shape == (len(found.parts),), f"{at}: parts")
    for part in found.parts:
        _check_variable(part)
    fits(8 * found.features, f"a row of {at}", DataError)


def _scalar(part: Variable) -> bool:
    return part.shape == () and not part.parts


def _whole(value: Any, least: int, most: int = _LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and abs(value) < _LARGEST and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and all([isinstance(each, str) for each in value])


def _expect(good: object, what: str) -> None:
    if not good:
        raise DataError(f"the stored description of the data is damaged ({what}); fit again.")
