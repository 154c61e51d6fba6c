"""What the columns of a table hold: numbers, codes of categories, dates, labels, or nothing."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any

import numpy as np

from deeplvm.data.readers.cells import (
    DATE_FORMS,
    TRUTH,
    Reading,
    cells_of,
    days_of,
    family,
    is_date,
    numbers_in,
    numbers_in_cells,
    numbers_of,
    parsed,
    texts_of,
    type_of,
)
from deeplvm.data.readers.delimited import MISSING_WORDS, is_number
from deeplvm.data.readers.source import NO_LABEL, no_label, note_of_none, stands_for_none
from deeplvm.data.readers.tables import Frames, Table, TableRows, groups_of, not_of_its_kind
from deeplvm.data.records import Description
from deeplvm.data.schema import Rule
from deeplvm.data.variable import DataError, Variable

# A column of so many words at most has categories; up to the second, if each is there often.
MOST_CATEGORIES, _MOST_FREQUENT, _OFTEN = 100, 1000, 20
_MOST_LABELS = 100_000
# Dates of so few days may be periods as well as points in time.
_FEW_DATES = 30
_WEEKS = 100  # days; single precision counts from 1970 in steps of three minutes
_WORDS = 0.9  # a larger share of the different texts is not taken for numbers gone wrong
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d).*")
# How numbers are dressed, and what to do about it.
_DRESSES = (
    (r"[+-]?\d+,\d+|[+-]?\d{1,3}([,'\s]\d{3})+(\.\d+)?",
     "numbers with decimal commas or thousands separators",
     "write them with a point and no separator"),
    (r"[+-]?[\d.,]+\s*%", "percentages with a % sign", "leave the sign out"),
    (r"[+-]?[$€£¥]\s*[\d.,]+|[+-]?[\d.,]+\s*[$€£¥]", "amounts with a currency sign ($, €)",
     "leave the sign out"),
    (r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", "times of day", "write them as hours, 9.5"),
)  # fmt: skip
_WITH_UNIT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)\s*([^\d\s.,:+-][^\d\s]*)")


def open_table(
    table: Table,
    *,
    label: str | None,
    drop: Sequence[str],
    categories: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    known: Description | None,
    apart: Sequence[str] = (),
) -> TableRows:
    """Columns of numbers; text becomes categories, dates or flags; a label column the labels.

    Text is passed over first, for what occurs in it. What cannot be learned from is left out,
    with the reason in the facts. Columns ``apart`` are read by others.

    Raises:
        DataError: If a column named does not exist, or holds what cannot be read.
    """
    origin, present, rules = table.origin, list(table.types), dict(rules or {})
    trained = None if known is None else known.columns
    notes, left = list(table.facts.notes), {}
    if known is None:
        refuse_absent(origin, present, [*drop, *categories, *rules, *([label] if label else [])])
        away = {
            *apart,
            *drop,
            *[name for name, rule in rules.items() if rule.type == "drop"],
            label,
        }
        kept = [name for name in present if name not in away]
        left = _nameless(table, kept)
        kept = [name for name in kept if name not in left]
        notes += perhaps_labels(kept) if label is None else []
    elif not trained and not apart:
        raise DataError(f"{origin}: the model was fitted to arrays, not to a table.")
    else:
        # a name of which no column is there is missing in all rows
        names = [[*each.by_column] for each in known.variables.values()]
        here = [each for each in names if len(names) == 1 or {*each} & {*table.types}]
        kept = [name for each in here or names for name in each]
        absent = [name for name in kept if name not in table.types]
        if absent:
            raise DataError(
                f"{origin}: column {absent[0]!r} of the training data is not there "
                f"({len(absent)} absent in all); the file has {', '.join(present[:10])}."
            )
        used = {*kept, *apart, label}
        ignored = [name for name in present if name not in used]
        if ignored:
            notes.append(f"columns not in the training data are left out: {_some(ignored)}.")
    if not kept and not apart:
        raise DataError(f"{origin}: no column is left to be modelled.")
    label = label if label in table.types else None
    reader = Understanding(table, label, {*categories}, rules, trained)
    for name in [*kept, *([label] if label else [])]:
        reader.refuse_type(name)
    readings, names_of = reader.readings(kept)
    left |= reader.left
    kept = [name for name in kept if name not in left]
    if not kept and not apart:
        raise DataError(f"{origin}: {next(iter(left.values()))}")
    classes = known.classes if known is not None else None
    if label is not None:
        counts = reader.labels(label)
        own = label in reader.rules and reader.rules[label].missing is not None
        none = not own and NO_LABEL not in (classes or ())
        none = none and stands_for_none({*(classes or counts), *counts})
        if none:
            notes.append(note_of_none(f"{origin}, column {label!r}", counts.pop(NO_LABEL)))
        classes = tuple(counts) if classes is None else classes
        codes = {text: float(code) for code, text in enumerate(classes)}
        codes |= {NO_LABEL: math.nan} if none else {}
        readings[label] = Reading("text", codes, reader.missing(label))
    kinds = {n: r.type for n, r in rules.items() if n in kept and r.type not in ("", "category")}
    kinds |= {name: "ordinal" for name in kept if name in reader.ordered}
    kinds |= {name: "date" for name in kept if is_date(readings[name].type)}
    facts = replace(
        table.facts,
        columns=tuple(kept),
        categories={name: names for name, names in names_of.items() if name in kept},
        kinds={**table.facts.kinds, **kinds},
        types={name: readings[name].type for name in kept},
        origins={name: readings[name].origin for name in kept if readings[name].origin},
        likelihoods={n: r.likelihood for n, r in rules.items() if n in kept and r.likelihood},
        bounds={n: (r.bounds[0], r.bounds[1]) for n, r in rules.items() if n in kept and r.bounds},
        left=left,
        classes=classes if label is not None else None,
        notes=(*notes, *reader.notes()),
    )
    return TableRows(table, facts, label, readings)


def _nameless(table: Table, kept: Sequence[str]) -> dict[str, str]:
    """Columns without a name that hold nothing or the rows' numbers, and why they are left out."""
    left = {}
    for name in kept:
        if name and not re.fullmatch(r"Unnamed: \d+", name):
            continue
        numbers, words = [], False
        for _, rows in groups_of(table, [name]):
            column = rows.column(name)
            if family(column.type) == "text":
                cells, _ = cells_of(column, MISSING_WORDS)
                some, bad = parsed(cells, "float")
                words |= bool(bad.any())
            elif family(column.type) == "number":
                some = numbers_of(column).astype(float)
            else:
                words, some = True, np.zeros(0)
            numbers.append(some)
        found = np.concatenate(numbers)
        found = found[~np.isnan(found)]
        if words:
            continue
        counts = len(np.unique(found)) == table.total and bool((found == np.floor(found)).all())
        if not len(found):
            left[name] = f"column {name!r} has no name and no value; --drop {quote(name)}."
        elif counts and name == next(iter(table.types)):
            left[name] = (
                f"column {name!r}, the first, has no name and another whole number in each row: "
                f"the rows' numbers; --drop {quote(name)}."
            )
    return left


class Understanding:
    """What the cells of columns mean, a column at a time, over all rows.

    Args:
        table: The columns.
        label: Column of labels.
        categories: Columns whose cells are codes, as asked for.
        rules: Of the schema.
        trained: The variable of each column of the training data, where these are other rows.
    """

    def __init__(
        self,
        table: Table,
        label: str | None,
        categories: set[str],
        rules: Mapping[str, Rule],
        trained: Mapping[str, Variable] | None,
    ) -> None:
        self.table, self.label, self.rules, self.trained = table, label, rules, trained
        self.left: dict[str, str] = {}
        self.words: dict[str, Counter[str]] = {}
        self.asked = {
            *categories, *[n for n, r in rules.items() if r.type in ("category", "ordinal")]
        }  # fmt: skip
        own = {n: k for n, k in table.types.items() if n not in rules or not rules[n].type}
        self.declared = (
            {n for n, k in own.items() if _is_declared(k)} if trained is None else set()
        )
        self.asked |= {n for n in self.declared if own[n].ordered or family(own[n]) != "text"}
        self.ordered = {n for n in self.declared & self.asked if own[n].ordered}
        self.parts = trained or {}

    def refuse_type(self, name: str) -> None:
        """Refuse a column of what is neither numbers, text nor dates."""
        what, kind = family(self.table.types[name]), self.table.types[name]
        if what == "times":
            what = "times of day"
        if what not in ("number", "text", "dates"):
            raise DataError(
                f"{self.table.origin}: column {name!r} holds {what} ({kind}), not numbers; "
                f"--drop {quote(name)}, or turn it into numbers."
            )

    def missing(self, name: str) -> tuple[str, ...]:
        """Words that mean missing in a column."""
        own = self.rules[name].missing if name in self.rules else None
        return MISSING_WORDS if own is None else ("", *own)

    def readings(
        self, names: Sequence[str]
    ) -> tuple[dict[str, Reading], dict[str, tuple[str, ...]]]:
        """How to read each column, and what the codes of categories stand for."""
        if self.trained is not None:
            return {name: self._as_before(name) for name in names}, {
                name: part.categories
                for name, part in self.parts.items()
                if part.categories is not None and part.kind in ("category", "ordinal")
            }
        texts = [name for name in names if family(self.table.types[name]) == "text"]
        numeric = self._numeric([name for name in texts if name not in self.asked])
        coded = [n for n in names if n in self.asked or (n in texts and n not in numeric)]
        days = [n for n in names if family(self.table.types[n]) == "dates" and n not in coded]
        distinct = self._distinct([*coded, *days])
        readings, found = {}, {}
        for name in names:
            if name in numeric:
                readings[name] = Reading(numeric[name], None, self.missing(name))
            elif name in days:
                self._refuse_few_dates(name, distinct[name])
                readings[name] = Reading(type_of(self.table.types[name]))
            elif name not in coded:
                kind = type_of(self.table.types[name])
                readings[name] = Reading(kind, None, self.missing(name))
            else:
                readings[name], categories = self._words(name, distinct[name])
                found |= {name: tuple(categories)} if categories else {}
            if is_date(readings[name].type):
                readings[name] = replace(readings[name], origin=self._origin(name, readings[name]))
        return readings, found

    def _origin(self, name: str, reading: Reading) -> float:
        """The first day of dates that lie within a few weeks; 1970 of others."""
        low, high = math.inf, -math.inf
        for _, rows in groups_of(self.table, [name]):
            days, _ = reading.numbers(rows.column(name))
            low = min(low, float(np.nanmin(days, initial=math.inf)))
            high = max(high, float(np.nanmax(days, initial=-math.inf)))
        return float(math.floor(low)) if 0 <= high - low <= _WEEKS else 0.0

    def _as_before(self, name: str) -> Reading:
        """How a column was read in training."""
        part, kind = self.parts[name], self.table.types[name]
        what, given = family(kind), part.types[0] if part.types else ""
        missing = tuple([w for w in self.missing(name) if w not in (part.categories or ())])
        if part.categories is not None and (part.kind != "binary" or what == "text"):
            codes = {text: float(code) for code, text in enumerate(part.categories)}
            return Reading("text", codes, missing)
        if (what == "dates") != (part.kind == "date") and what != "text":
            known = "dates" if part.kind == "date" else "numbers"
            raise DataError(
                f"{self.table.origin}: column {name!r} holds {what} ({kind}), but the model was "
                f"fitted to {known}."
            )
        if what != "text":
            origin = part.origin if part.kind == "date" else 0.0
            return Reading(type_of(kind), None, missing, origin)
        if part.kind == "date":
            written = given if given.startswith("date ") else ""
            form = written or f"date {self._form_of_dates(name, None) or DATE_FORMS[0]}"
            return Reading(form, None, missing, part.origin)
        if part.kind == "binary" and not self._numeric([name]):
            return Reading("text", TRUTH, missing)
        return Reading("float", None, missing)

    def _numeric(self, names: Sequence[str]) -> dict[str, str]:
        """Columns of text whose cells are all numbers: ``"int"`` or ``"float"``."""
        found = dict.fromkeys(names, "int")
        for _, rows in groups_of(self.table, names) if names else ():
            for name in list(found):
                kind, numbers = numbers_in_cells(rows.column(name), ())
                if not kind:
                    kind, numbers = numbers_in_cells(rows.column(name), self.missing(name))
                if not kind:
                    del found[name]
                    continue
                found[name] = "float" if kind == "float" else found[name]
                if isinstance(self.table, Frames):  # all of it
                    self.table.keep(name, numbers)
        return found

    def _distinct(self, names: Sequence[str]) -> dict[str, set[str] | None]:
        """The different texts of some columns; ``None`` of one that has very many."""
        found: dict[str, set[str] | None] = {name: set() for name in names}
        for _, rows in groups_of(self.table, names) if names else ():
            for name in names:
                some, column = found[name], rows.column(name)
                if some is None:
                    continue
                if family(column.type) == "text":
                    column, words = cells_of(column, self.missing(name))
                    self.words[name] = self.words.get(name, Counter()) + words
                some |= set(texts_of(column, ())[0])
                if len(some) > _MOST_LABELS and name != self.label:
                    found[name] = None
        return found

    def _refuse_few_dates(self, name: str, dates: set[str] | None) -> None:
        declared = name in self.rules and self.rules[name].type == "date"
        if dates is not None and 1 < len(dates) <= _FEW_DATES and not declared:
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates, {len(dates)} different ones: "
                f"points in time, or names of periods? Say so: --schema FILE with {name} = "
                f'{{type = "date"}}, or --categories {quote(name)}; or --drop {quote(name)}.'
            )

    def _words(self, name: str, texts: set[str] | None) -> tuple[Reading, Sequence[str]]:
        """How to read a column of words, or of numbers that are codes; and the categories."""
        missing, rule, kind = self.missing(name), self.rules.get(name), self.table.types[name]
        if name not in self.asked and (found := self._no_categories(name, texts)):
            return Reading(found, TRUTH if found.startswith("bool") else None, missing), ()
        if rule is not None and rule.levels:
            names: Sequence[str] = rule.levels
            if unknown := sorted((texts or set()) - set(names)):
                raise DataError(
                    f"{self.table.origin}: column {name!r} has {unknown[0]!r}, which is none of "
                    f"the levels of the schema ({_some(names)}); add it."
                )
        elif name in self.ordered and family(kind) == "text":
            names = self._in_order(name)
        else:
            names = self._categories(name, texts)
        given = "text" if family(kind) == "text" else type_of(kind)
        return Reading(given, {t: float(i) for i, t in enumerate(names)}, missing), names

    def _no_categories(self, name: str, texts: set[str] | None) -> str:
        """The type of flags, numbers or dates written as text; ``""`` of words.

        Raises:
            DataError: If some are numbers and some words, or all are numbers that cannot be read.
        """
        listed = sorted(texts or ())
        words = [t for t, bad in zip(listed, np.isnan(numbers_in(listed)), strict=True) if bad]
        if texts is not None:
            if given := _flags(texts):
                return given
            if not words and not any([re.match(r"[+-]?0\d", text) for text in listed]):
                return "float"
        if form := self._form_of_dates(name, texts):
            self._refuse_few_dates(name, texts)
            return f"date {form}"
        if len(words) > len(listed) // 2:
            self._refuse_dressed(name, words)
        # of many identifiers some read like numbers: 1234567e-0003
        if 0 < len(words) <= _WORDS * len(listed):
            self._refuse_words(name, set(words))
        return ""

    def _in_order(self, name: str) -> list[str]:
        """The categories of a declared column in their order.

        Raises:
            DataError: If groups of rows have them in different orders.
        """
        listed: list[str] = []
        used: set[str] = set()
        for _, rows in groups_of(self.table, [name]):
            column = rows.column(name)
            used |= set(texts_of(column, ())[0])
            here = column.unify_dictionaries().chunk(0).dictionary.to_pylist()
            here, listed = (listed, here) if len(here) > len(listed) else (here, listed)
            if [text for text in listed if text in here] != here:
                raise DataError(
                    f"{self.table.origin}: column {name!r} has its categories in different orders "
                    f"in different rows; say their order: --schema FILE with {name} = "
                    f'{{type = "ordinal", levels = [...]}}.'
                )
        return [text for text in listed if text in used]

    def _form_of_dates(self, name: str, texts: set[str] | None) -> str | None:
        """The one form in which all texts of a column are dates."""
        if texts is None:
            texts = set()
            for _, rows in groups_of(self.table, [name]):
                texts |= set(texts_of(rows.column(name), self.missing(name))[0])
        if not texts or not _DATE.fullmatch(next(iter(texts))):
            return None
        listed = sorted(texts)
        forms = [f for f in DATE_FORMS if not np.isnan(days_of(listed, f"date {f}")).any()]
        if len(forms) > 1:
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates that can be read in two ways "
                f"({listed[0]!r}: day or month first?); write them as 2024-01-31, or --drop "
                f"{name}."
            )
        if not forms and all(map(_DATE.fullmatch, listed)):
            raise DataError(
                f"{self.table.origin}: column {name!r} holds dates in several forms "
                f"({listed[0]!r}, {listed[-1]!r}); write them as 2024-01-31, or --drop "
                f"{quote(name)}."
            )
        return forms[0] if forms else None

    def _refuse_words(self, name: str, words: set[str]) -> None:
        """Refuse a word among numbers, with its row."""
        for first, rows in groups_of(self.table, [name]):
            said, places = texts_of(rows.column(name), self.missing(name))
            bad = np.array([text in words for text in said] + [False])[places]
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                where = self.table.where(first + row)
                raise DataError(not_of_its_kind(where, name, said[places[row]], "number"))

    def _refuse_dressed(self, name: str, texts: Sequence[str]) -> None:
        """Refuse numbers that are dressed so that they cannot be read as numbers."""
        for pattern, what, remedy in _DRESSES:
            if all([re.fullmatch(pattern, text) for text in texts]):
                raise DataError(self._dressed(name, texts[0], what, remedy))
        units = [found for text in texts if (found := _WITH_UNIT.fullmatch(text))]
        if len(units) == len(texts) > 2 and len({found.group(1) for found in units}) == 1:
            unit = units[0].group(1)
            what = f"numbers with a unit behind them ({unit})"
            raise DataError(self._dressed(name, texts[0], what, "leave the unit out"))

    def _dressed(self, name: str, text: str, what: str, remedy: str) -> str:
        return (
            f"{self.table.origin}: column {name!r} holds {what}, such as {text!r}; {remedy}, or "
            f"--categories {quote(name)} if they are names, or --drop {quote(name)}."
        )

    def _categories(self, name: str, texts: set[str] | None) -> Sequence[str]:
        """Names of the categories; none, and a reason, where these are too many."""
        rows, number = self.table.total, _MOST_LABELS if texts is None else len(texts)
        text = family(self.table.types[name]) == "text"
        few = number <= MOST_CATEGORIES and number <= max(2, rows // 2)
        often = number <= _MOST_FREQUENT and number * _OFTEN <= rows
        if texts is not None and (few or often):
            if number == 1 and not self.table.parts.get("test"):
                self.left[name] = (
                    f"column {name!r} is always {next(iter(texts))!r}: there is nothing to learn "
                    f"from it; --drop {quote(name)}."
                )
            return _ordered(texts, text=text)
        more = "more than " if texts is None else ""
        reason = (
            f"column {name!r} holds text with {more}{number} different values in {rows} rows: an "
            f"identifier, names or free text rather than categories; --drop {quote(name)}, or "
            f"--label {quote(name)} if it is the label."
        )
        if name in self.asked or self.trained is not None:
            raise DataError(f"{self.table.origin}: {reason}")
        self.left[name] = reason
        return ()

    def labels(self, name: str) -> dict[str, int]:
        """The different labels, in order, and how many rows have each.

        Raises:
            DataError: If a label is a quantity, or they are names.
        """
        found: Counter[str] = Counter()
        for _, rows in groups_of(self.table, [name]):
            texts, places = texts_of(rows.column(name), self.missing(name))
            counts = np.bincount(places[places >= 0], minlength=len(texts)).tolist()
            found.update(dict(zip(texts, counts, strict=True)))
            if len(found) > _MOST_LABELS:
                raise DataError(
                    f"{self.table.origin}: column {name!r} holds text with more than "
                    f"{_MOST_LABELS} different values: names or free text rather than labels; "
                    f"--drop {quote(name)}."
                )
        numbers = all(map(is_number, found))
        for each in sorted(found) if numbers else ():
            if float(each) != int(float(each)):
                raise DataError(no_label(f"{self.table.origin}, column {name!r}", each))
        return {each: found[each] for each in _ordered({*found}, text=not numbers)}

    def notes(self) -> list[str]:
        """Words that were taken for a missing value, where the column has other words too."""
        zoned = [name for name, kind in self.table.types.items() if getattr(kind, "tz", None)]
        utc = [f"times are read, and come back, in UTC: {_some(zoned)}."] if zoned else []
        said = [
            f"{word!r} in column {name!r} ({count} cells)"
            for name, words in self.words.items()
            for word, count in words.items()
            if word and name not in self.left
        ]
        if not said:
            return utc
        more = f" and {len(said) - 5} more" if len(said) > 5 else ""
        note = f"taken for missing values: {', '.join(said[:5])}{more}; if one is a value, "
        return [*utc, f"{note}--schema FILE with missing = [] for its column."]


def _flags(texts: set[str]) -> str:
    """The type of truth values in one spelling, if all texts are such."""
    spellings = {"bool": ("False", "True"), "bool lower": ("false", "true")}
    spellings["bool upper"] = ("FALSE", "TRUE")
    return next((kind for kind, words in spellings.items() if texts and texts <= {*words}), "")


def _is_declared(kind: Any) -> bool:
    """Whether an Arrow type is one of categories, whatever they are."""
    import pyarrow.types as is_a

    return is_a.is_dictionary(kind)


def _ordered(texts: set[str], *, text: bool) -> list[str]:
    if text:
        return sorted(texts)
    return sorted(texts, key=lambda each: (float(each) if is_number(each) else 0.0, each))


def perhaps_labels(columns: Sequence[str]) -> list[str]:
    """A note for each column that is called as labels often are."""
    known = set(columns)
    return [
        f"column {guess!r} is modelled like any other; --label {guess} would set it aside as the "
        f"label."
        for guess in ("label", "class", "target", "y")
        if guess in known
    ]


def refuse_absent(name: str, present: Sequence[str], asked: Sequence[str]) -> None:
    """Columns that are asked for must be there.

    Raises:
        DataError: If one is not.
    """
    known = set(present)
    for column in asked:
        if column not in known:
            close = difflib.get_close_matches(column, present, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {_some(present)}."
            raise DataError(f"{name}: there is no column {column!r}; {hint}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
