"""Drawn strings: how many are valid, how many of these differ, and how many of these are new."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deeplvm.data.molecules import canonical, has_rdkit, properties
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.data.records import Data, Description
from deeplvm.data.tokens import is_grammar, is_molecule
from deeplvm.results import Estimate, Record


@dataclass(frozen=True)
class Generated(Record):
    r"""What of some drawn strings is of use.

    Attributes:
        strings: How many were drawn.
        valid: Which share can be read.
        unique: How many different ones there are of those that can be read, as a share of these;
            it falls as more are drawn.
        novel: Which share of these different ones is not among the training rows.
        reader: What reads them, in words.
        properties: Means over the different ones of what is known of each, such as ``qed``.

    Errors are those of the jackknife over the strings; of properties, over the different ones.
    """

    strings: int
    valid: Estimate
    unique: Estimate
    novel: Estimate
    reader: str
    properties: Mapping[str, Estimate]

    def table(self) -> list[tuple[str, str]]:
        shares = {"valid": self.valid, "unique": self.unique, "novel": self.novel}
        return [(name, str(each)) for name, each in {**shares, **self.properties}.items()]

    def notes(self) -> list[str]:
        shares = "valid of all, different of the valid, new of the different"
        return [f"{self.strings:,} strings, read by {self.reader}: {shares}."]


def generated(
    strings: Sequence[str],
    training: Iterable[str],
    read: Callable[[str], str | None],
    *,
    reader: str = "a function",
    properties: Callable[[str], Mapping[str, float]] | None = None,
) -> Generated:
    """Count the drawn strings that are valid, different, and new.

    Args:
        strings: What was drawn.
        training: What was trained on.
        read: From a string to the one way in which it is written, ``None`` where it is not valid.
        reader: What that is, in words.
        properties: Of a valid string, numbers by name.

    Raises:
        ValueError: No string was drawn.

    >>> found = generated(["a", "a", "b", "?"], ["b"], lambda s: s if s.isalpha() else None)
    >>> found.valid.value, round(found.unique.value, 2), found.novel.value
    (0.75, 0.67, 0.5)
    """
    if not strings:
        raise ValueError("No string was drawn, so there is nothing to count.")
    forms = [read(each) for each in strings]
    known = {read(each) for each in training}
    times = Counter([form for form in forms if form is not None])
    n, valid, different = len(strings), sum(times.values()), len(times)
    new = len(set(times) - known)
    # what is left of each share without one string: how often that happens, and the share
    kinds: Counter[tuple[bool, bool, bool]] = Counter()
    for form in forms:
        if form is None:
            kinds[False, False, False] += 1
        else:
            kinds[True, times.get(form) == 1, form not in known] += 1
    left: list[tuple[int, tuple[float, float, float]]] = []
    for (is_valid, single, is_new), count in kinds.items():
        rest = (valid - is_valid, different - single, new - (single and is_new))
        left.append((count, _shares(n - 1, *rest)))
    valid_, unique, novel = (
        Estimate(value, _jackknife([(count, each[place]) for count, each in left]))
        for place, value in enumerate(_shares(n, valid, different, new))
    )
    of = [properties(form) for form in times] if properties is not None else []
    means = {}
    for name in of[0] if of else ():
        values = np.array([each[name] for each in of])
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        means[name] = Estimate(float(values.mean()), float(error))
    return Generated(n, valid_, unique, novel, reader, means)


def generated_of(strings: Sequence[str], data: Data, *, most: int = 20_000) -> Generated | None:
    """What of some drawn strings is of use, where it is known what reads them.

    Molecules are read by rdkit, if it is installed, others by the grammar of the data.

    Args:
        strings: Draws of a model of the data.
        data: What it was trained on.
        most: Among how many of the training rows a string is looked for.

    Returns:
        ``None`` of texts that anything is.
    """
    known = reader_of(data.description)
    if known is None:
        return None
    read, reader = known
    vocabulary, column = vocabulary_of(data.description), data.train.columns["x"][:most]
    training = [vocabulary.decode(row) for row in column.tolist()]
    reader += f" (new beside {most:,} training rows)" if data.train.rows > most else ""
    of = properties if read is canonical else None
    return generated(strings, training, read, reader=reader, properties=of)


def readable(strings: Sequence[str], description: Description) -> str:
    """How many of some strings can be read, in words; nothing where anything can."""
    known = reader_of(description)
    if known is None:
        return ""
    found = generated(strings, (), known[0])
    return f"read by {known[1]}: {found.valid} of them valid, {found.unique} of these different"


def reader_of(description: Description) -> tuple[Callable[[str], str | None], str] | None:
    """What reads the strings of some data, and what it is called; none of texts anything is."""
    vocabulary = vocabulary_of(description)
    if is_molecule(vocabulary.scheme) and has_rdkit():
        return canonical, "RDKit"
    if not is_grammar(vocabulary.scheme):
        return None
    parses = vocabulary.grammar.parses
    return lambda text: text if parses(text) else None, f"the {vocabulary.scheme}"


def _shares(strings: int, valid: int, different: int, new: int) -> tuple[float, float, float]:
    return _share(valid, strings), _share(different, valid), _share(new, different)


def _share(some: int, of: int) -> float:
    return some / of if of else math.nan


def _jackknife(left: Sequence[tuple[int, float]]) -> float:
    """The standard error of a share from what it is without each string."""
    counts, values = (np.array(each, dtype=float) for each in zip(*left, strict=True))
    n = counts.sum()
    mean = (counts * values).sum() / n
    return float(np.sqrt((n - 1) / n * (counts * (values - mean) ** 2).sum()))
