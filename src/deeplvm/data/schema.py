"""What the columns of a table are, said by the user: ``--schema FILE``, a TOML file."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from deeplvm.data.likelihood_table import spelled
from deeplvm.data.records import Description
from deeplvm.data.variable import DataError, Variable, listed
from deeplvm.files import read_whole

ColumnType = Literal[
    "real", "whole", "counts", "binary", "category", "ordinal", "date", "label", "drop"
]
_TYPES = get_args(ColumnType)
_ADVICE = (
    "# What each column was taken for, and why. Edit it and fit again with --schema FILE.\n"
    f"# type: {', '.join(_TYPES)}.\n"
    '# A column may also have a likelihood (likelihood = "mixture"), words that mean missing\n'
    '# (missing = ["-999"]), the order of its levels (levels = ["low", "high"]), and, under the\n'
    "# likelihood mixture, the least and the largest possible value (bounds = [0, inf]).\n"
)


@dataclass(frozen=True)
class Rule:
    """What the schema says of a column.

    Attributes:
        type: What it holds; ``""`` leaves that to a look at it.
        likelihood: Its likelihood; ``""`` leaves that to a look at it.
        missing: Words that mean a missing value, instead of the usual ones.
        levels: Of an ordinal column, or of categories, their names in order.
        bounds: The least and the largest possible value; ``()`` leaves that to a look at it.
    """

    type: str = ""
    likelihood: str = ""
    missing: tuple[str, ...] | None = None
    levels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def rules_of(schema: str | Path | Mapping[str, Any] | None) -> dict[str, Rule]:
    """The rule of each column that a file, or what it holds, says something of.

    Raises:
        DataError: If the file cannot be read, or says what is no rule.

    >>> rules_of({"age": {"type": "counts"}, "size": {"type": "ordinal", "levels": ["S", "L"]}})
    {'age': Rule(type='counts', likelihood='', ..., bounds=()), 'size': Rule(...)}
    """
    if schema is None:
        return {}
    where = "the schema"
    if not isinstance(schema, Mapping):
        where, path = str(schema), Path(schema).expanduser()
        if not path.is_file():
            raise DataError(f"--schema {schema}: there is no such file.")
        try:
            schema = tomllib.loads(read_whole(path, DataError).decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{path} is no TOML file: {error}.") from None
    return {column: _rule(where, column, said) for column, said in schema.items()}


def written(rules: Mapping[str, Rule]) -> dict[str, dict[str, Any]]:
    """Rules as plain values, for :func:`rules_of`."""
    return {
        column: {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(rule).items()
            if value not in ("", None, ())
            or (name == "missing" and value is not None)
        }
        for column, rule in rules.items()
    }  # fmt: skip


def _rule(where: str, column: str, said: Any) -> Rule:
    known = [field.name for field in fields(Rule)]
    if not isinstance(said, Mapping):
        said = {"type": said}
    for key in said:
        if key not in known:
            raise DataError(f"{where}: {column}: {_no_such(str(key), known, 'entry')}")
    kind, likelihood = said.get("type", ""), said.get("likelihood", "")
    if kind not in ("", *_TYPES):
        raise DataError(f"{where}: {column}: {_no_such(str(kind), _TYPES, 'type')}")
    try:
        named = spelled(likelihood)[0] if likelihood else ""
    except DataError as error:
        raise DataError(f"{where}: {column}: {error}") from error
    likelihood = "" if named == "auto" else likelihood
    for key in ("missing", "levels"):
        good = isinstance(said.get(key, ()), Sequence) and not isinstance(said.get(key), str)
        if not good or not all([isinstance(each, str) for each in said.get(key, ())]):
            raise DataError(
                f"{where}: {column}: {key} must be a list of words, as in {key} = "
                f'["a", "b"], found {said[key]!r}.'
            )
    if said.get("levels") and kind not in ("ordinal", "category"):
        raise DataError(
            f"{where}: {column}: levels are those of type = 'ordinal' or 'category', not of "
            f"{kind!r}."
        )
    if len(set(said.get("levels", ()))) < len(said.get("levels", ())):
        raise DataError(f"{where}: {column}: a level is there twice.")
    if likelihood and kind in ("drop", "label"):
        raise DataError(f"{where}: {column}: type = {kind!r} has no likelihood; leave it out.")
    missing = tuple(said["missing"]) if "missing" in said else None
    bounds = _bounds(where, column, said.get("bounds", ()))
    if bounds and (kind not in ("", "real", "counts") or named not in ("", "auto", "mixture")):
        raise DataError(
            f"{where}: {column}: bounds are those of type = 'real' or 'counts' under likelihood = "
            f"'mixture'."
        )
    if bounds:
        kind, likelihood = kind or "real", likelihood or "mixture"
    return Rule(kind, likelihood, missing, tuple(said.get("levels", ())), bounds)


def _bounds(where: str, column: str, said: Any) -> tuple[float, ...]:
    """The least and the largest value."""
    numbers = isinstance(said, Sequence) and all(
        [isinstance(each, int | float) and not isinstance(each, bool) for each in said]
    )
    if said in ((), []) or (numbers and len(said) == 2 and said[0] < said[1]):
        return tuple(map(float, said))
    raise DataError(
        f"{where}: {column}: bounds must be the least and the largest value, as in bounds = "
        f"[0, inf], found {said!r}."
    )


def _no_such(found: str, known: Sequence[str], what: str) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}."
    return f"there is no {what} {found!r}; {hint}"


def agreed(rules: Mapping[str, Rule], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with what the schema says of the label, of columns left out and categories.

    Raises:
        DataError: If a flag says another thing of a column.
    """
    for flag, meant in (("drop", "drop"), ("categories", "category"), ("label", "label")):
        said = options[flag]
        for column in (said,) if isinstance(said, str) else said or ():
            kind = rules[column].type if column in rules else ""
            if kind not in ("", meant) and (flag, kind) != ("categories", "ordinal"):
                raise DataError(
                    f"--{flag} {column}: the schema says type = {kind!r} of it; leave out one of "
                    f"the two."
                )
    labels = [column for column, rule in rules.items() if rule.type == "label"]
    if len({*labels, *([options["label"]] if options["label"] else [])}) > 1:
        raise DataError(f"there is one label, but {' and '.join(labels)} are said to be it.")
    return {**options, "label": labels[0] if labels else options["label"]}


def schema_of(description: Description) -> str:
    """The columns of a table as a schema, to be edited; empty where the data are no table."""
    if not description.columns:
        return ""
    lines, rules = [_ADVICE], rules_of(description.options.get("schema"))
    for column, part in description.columns.items():
        entry, rule = {"type": _text(type_of(part))}, rules.get(column, Rule())
        if rule.likelihood and not rule.bounds:  # what was chosen is chosen again
            entry["likelihood"] = _text(rule.likelihood)
        if rule.bounds:
            entry["bounds"] = f"[{rule.bounds[0]}, {rule.bounds[1]}]"
        if part.kind == "ordinal" and part.categories:
            entry["levels"] = _texts(part.categories)
        if rule.missing is not None:
            entry["missing"] = _texts(rule.missing)
        said = ", ".join([f"{name} = {value}" for name, value in entry.items()])
        why = [traits(part), f"{part.likelihood}{f': {part.reason}' if part.reason else ''}"]
        lines.append(f"{_key(column)} = {{{said}}}  # {'; '.join(filter(None, why))}\n")
    asked = [column for column, rule in rules.items() if rule.type == "drop"]
    asked += description.options.get("drop", ())
    for column, why in {**dict.fromkeys(asked, "as asked for"), **description.left}.items():
        reason = " ".join(why.split("; --drop")[0].split())
        lines.append(f'{_key(column)} = {{type = "drop"}}  # {reason}\n')
    label = description.options.get("label")
    return "".join(lines) + (f'{_key(label)} = {{type = "label"}}\n' if label else "")


def type_of(part: Variable) -> str:
    """The type of the schema that a column has."""
    if part.kind in ("levels", "unit"):
        return "counts" if part.kind == "levels" else "real"
    return "whole" if part.dequantized and part.kind == "real" else part.kind


def traits(part: Variable) -> str:
    """What the values of a column are like, in words.

    >>> from deeplvm.data import load
    >>> traits(load("iris").variables["x"].by_column["petal width (cm)"])
    '0.1 .. 2.5, positive, 1 digit after the point'
    """
    if part.categories is not None:
        return f"{len(part.categories)} categories: {', '.join(part.categories[:5])}" + (
            ", …" if len(part.categories) > 5 else ""
        )
    said, atoms = [], part.atoms[0] if part.atoms else ()
    if part.knots is not None:
        low, high = ends_of(part)
        ends = [f"{math.floor(end) if part.dequantized else end:.6g}" for end in (low, high)]
        if part.kind == "date":
            days = [math.floor(end + part.origin) for end in (low, high)]
            ends = [str(np.datetime64(day, "D")) for day in days]
        said.append(" .. ".join(ends))
        if part.kind == "date":
            return ", ".join(said)
        said += ["positive"] if low > 0 else []
        said += ["between 0 and 1"] if low >= 0 and high <= 1 else []
        width = part.quantile(0.9) - part.quantile(0.1)  # of what is no atom
        reach = float(part.knots[-1] - part.knots[0])
        said += ["heavy-tailed"] if 0 < 10 * width < reach else []
    if part.knots is None and part.kind == "counts":
        said.append(f"{float(part.mean):.3g} on average")
    if part.digits and (digits := part.digits[0]):
        said.append(f"{digits} digit{'s' if digits > 1 else ''} after the point")
    if atoms and part.kind == "real":
        said.append(f"often exactly {listed([f'{atom:g}' for atom in atoms], 3)}")
    return ", ".join(said + (["some missing"] if part.missing else []))


def ends_of(part: Variable) -> tuple[float, float]:
    """The least and the largest training value of a column that has a density."""
    if part.knots is None:
        return -math.inf, math.inf
    low, *_, high = sorted([*part.knots[[0, -1]].tolist(), *(part.atoms[0] if part.atoms else ())])
    return low, high


def _key(column: str) -> str:
    plain = column.isascii() and column.replace("_", "").replace("-", "").isalnum()
    return column if plain else _text(column)


def _text(word: str) -> str:
    """A word as TOML writes it."""
    return json.dumps(word, ensure_ascii=False)


def _texts(words: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, words))}]"
