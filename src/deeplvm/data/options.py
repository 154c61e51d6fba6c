"""What is asked of a source of rows, and what of it does not apply there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deeplvm.data.likelihood_table import spelled
from deeplvm.data.readers.source import Facts
from deeplvm.data.records import Description
from deeplvm.data.variable import DataError


class Asked(NamedTuple):
    """The options of :func:`~deeplvm.data.load`, and the training data where these are others."""

    options: Mapping[str, Any]
    known: Description | None

    def but(self, **options: Any) -> Asked:
        """The same with other options."""
        return self._replace(options={**self.options, **options})


def check(options: Mapping[str, Any]) -> None:
    """Refuse values that no source has, and what contradicts itself."""
    for name, allowed in (
        ("binarize", ("static", "dynamic")),
        ("dequantize", ("uniform", "auto")),
    ):
        value = options[name]
        if value is not None and value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(allowed)}."
            raise DataError(f"--{name} {value}: {hint}")
    try:
        spelled(options["likelihood"])
    except DataError as error:
        raise DataError(f"--likelihood: {error}") from error
    if options["binarize"] and options["dequantize"] == "uniform":
        raise DataError("--binarize makes 0 and 1, which --dequantize has no use for; choose one.")
    if options["binarize"] and options["likelihood"] not in ("auto", "bernoulli"):
        raise DataError(
            f"--binarize makes 0 and 1, whose likelihood is bernoulli, not "
            f"{options['likelihood']}; leave out one of the two."
        )
    for name in ("limit", "most_variable", "keep_labels", "members", "pieces"):
        if options[name] is not None and options[name] < 1:
            flag = name.replace("_", "-")
            raise DataError(f"--{flag} {options[name]}: at least 1 is needed.")
    fractions = options["split"]
    if fractions is not None:
        good = len(fractions) == 3 and all(part > 0 for part in fractions)
        if not good or abs(sum(fractions) - 1) > 1e-6:
            raise DataError(
                f"--split {' '.join(f'{part:g}' for part in fractions)}: three positive fractions "
                f"of training, validation and test rows that sum to 1 are needed, such as 0.8 0.1 "
                f"0.1."
            )


def refuse_of_tables(source: str, options: Mapping[str, Any], named: Facts | None = None) -> None:
    """Refuse what is said of columns where there are none."""
    wrong = ["label"] if options["label"] is not None else []
    wrong += ["categories"] if options["categories"] and not (named and named.columns) else []
    wrong += ["group"] if options["group"] and not (named and named.columns) else []
    wrong += ["schema"] if options["schema"] else []
    wrong += ["header"] if options["header"] is not None else []
    wrong += [each for each in ("sequence", "order", "inputs") if options[each]]
    for name in wrong:
        reason = (
            "a named set has its own labels"
            if named and name == "label"
            else "columns have names only in a table"
        )
        said = f" {spoken(options[name])}" if name not in ("schema", "header") else ""
        raise DataError(f"{source}: --{name}{said} does not apply: {reason}.")
    if named and options["image_size"] is not None:
        raise DataError(f"{source}: --image-size is for folders of images only.")


def refuse_of_rows(source: str, options: Mapping[str, Any]) -> None:
    """A graph is one row, whose split is of edges."""
    theirs = ("source", "split", "seed", "graph", "nodes", "header", "drop")
    usual = {"likelihood": ("auto", "bernoulli"), "stream": ("auto", False)}
    for name, value in options.items():
        if name not in theirs and value and value not in usual.get(name, ()):
            raise DataError(
                f"{source}: --{name.replace('_', '-')} is of rows of values, and this is a graph, "
                f"which is one row; leave it out."
            )


def refuse_of_steps(source: str, options: Mapping[str, Any]) -> None:
    """Refuse what is said of the steps of sequences where there are none."""
    for flag in ("order", "inputs"):
        if options[flag]:
            raise DataError(
                f"{source}: --{flag} {spoken(options[flag])} is of the steps of a sequence; say "
                f"which column tells the sequences (--sequence), or leave it out."
            )


def spoken(value: Any) -> str:
    """A value as it is said on the command line."""
    return value if isinstance(value, str) else " ".join(value)


def listed_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """One name or several, as several."""
    return (names,) if isinstance(names, str) else tuple(str(name) for name in names)
