"""Sequences: rows of consecutive steps, from arrays in memory and from files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.ragged import INPUTS, LENGTH
from deeplvm.data.readers.arrays import LABEL_KEYS, VALUE_KEYS, labels_of, parts_of
from deeplvm.data.readers.source import Array, Chosen, Facts, Held, Places, Source, codes_of
from deeplvm.data.readers.tables import TableRows
from deeplvm.data.records import SPLITS
from deeplvm.data.split import FRACTIONS, permuted
from deeplvm.data.variable import DataError, listed

_ENOUGH = 10  # sequences of each split, if whole ones are drawn for it before they are cut
_BLOCK = 100_000  # steps that are looked at at a time
_LENGTHS, _OFFSETS = "lengths", "offsets"  # arrays of an .npz that tell which steps are a row


@dataclass(frozen=True, eq=False)
class Sequences:
    """Rows of a source of steps: consecutive steps are a row.

    Attributes:
        steps: All steps, one row after another.
        rows: The rows, whose values are their lengths, ``(rows, 1)``; of them the split, and the
            labels.
    """

    steps: Source
    rows: Held

    @classmethod
    def of(cls, steps: Source, lengths: Mapping[Any, Array], what: str) -> Self:
        """The rows of each part, by the numbers of their steps.

        Raises:
            DataError: If a row has no step, or there are not as many steps as they say.
        """
        for part, each in lengths.items():
            refuse_empty(each, what if part == "all" else f"{what}, {part}")
        total = sum([int(np.sum(each)) for each in lengths.values()])
        if total != steps.total:
            raise DataError(
                f"{what}: the lengths of the sequences sum to {total:,}, but there are "
                f"{steps.total:,} steps; give as many."
            )
        facts = Facts(steps.facts.name, split=steps.facts.split)
        columns = {p: np.asarray(each, np.int64)[:, None] for p, each in lengths.items()}
        return cls(steps, Held(facts, columns))

    def told(self) -> Self:
        """The same, whose steps are called by the sequence that they are in."""
        steps = self.steps
        return replace(self, steps=steps.told(self.where)) if isinstance(steps, Held) else self

    def where(self, step: int) -> str:
        """The row of a step, and the number of the step in it, counted from 1."""
        row = int(np.searchsorted(self.offsets, step, "right")) - 1
        at = self.rows.where(row).replace(", row ", ", sequence ")
        return f"{at}, step {step - int(self.offsets[row]) + 1}"

    @property
    def facts(self) -> Facts:
        """What is said of the steps, with the labels and the split of the rows."""
        rows = self.rows.facts
        return replace(self.steps.facts, classes=rows.classes, split=rows.split)

    @property
    def parts(self) -> Mapping[str, Places]:
        """The rows of each part."""
        return self.rows.parts

    @property
    def total(self) -> int:
        """How many rows."""
        return self.rows.total

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of a step."""
        return self.steps.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the steps."""
        return self.steps.dtype

    @cached_property
    def offsets(self) -> Array:
        """The step at which each row begins, and the number of steps."""
        return np.concatenate([[0], np.cumsum(self.rows.values[:, 0])])

    def lengths(self, rows: Places) -> Tensor:
        """How many steps some rows have."""
        return torch.from_numpy(self.rows.values[rows.all(), 0])

    def steps_of(self, rows: Places) -> Places:
        """The steps of some rows."""
        places = rows.all()
        return Places(np.stack([self.offsets[places], self.offsets[places + 1]], 1))

    def note(self, parts: Mapping[Any, Places]) -> str:
        """How long the rows are, in words."""
        found = torch.cat([self.lengths(part) for part in parts.values()])
        least, most, mean = int(found.min()), int(found.max()), float(found.double().mean())
        long = f"{least:,} step{'s' * (least > 1)}"
        if least < most:
            long = f"{least:,} to {most:,} steps, {mean:.3g} on average"
        return f"a row is a sequence of {long}; its length is the name {LENGTH}."


def in_pieces(
    found: Mapping[str, Any], size: int, options: Mapping[str, Any], what: str
) -> dict[str, Sequences]:
    """Sequences cut into pieces of at most so many steps, each a row, and how these are split.

    Whole sequences are drawn for a split, and then cut, where each split has ten of them; of fewer
    the first pieces of each train, those after them validate, and the last test.

    Args:
        found: Sequences by name.
        size: Steps of a piece; the last of a sequence has what is left.
        options: Those of :func:`~deeplvm.data.load`.
        what: What the data are called in a message.

    Raises:
        DataError: If they are no sequences of values, or too few to be split.
    """
    flag, first = f"--pieces {size}", next(iter(found.values()))
    if not isinstance(first, Sequences) or first.facts.vocabulary is not None:
        raise DataError(f"{what}: {flag} cuts sequences of values, and these are none.")
    rows, counts = first.rows, first.rows.values[:, 0]
    many = -(-counts // size)
    owner = np.repeat(np.arange(len(counts)), many)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
    lengths = np.minimum(size, counts[owner] - place * size)
    fractions, words = options["split"] or FRACTIONS, rows.facts.split
    whole: Mapping[Any, Places] = rows.parts
    if "train" not in whole and rows.total * min(fractions) >= _ENOUGH:
        rng, every = np.random.default_rng(options["seed"]), Places([(0, rows.total)])
        whole = permuted(rows.facts.name, every, fractions, rows.labels, rng)
        words = f"whole sequences, random with seed {options['seed']}: {_percent(fractions)}"
    if "train" in whole:
        parts = {part: np.isin(owner, each.all()) for part, each in whole.items()}
    else:
        at = np.searchsorted(np.cumsum(fractions[:2]), (place + 0.5) / many[owner], "right")
        parts = {part: at == number for number, part in enumerate(SPLITS)}
        words = f"the pieces of each sequence in their order: {_percent(fractions)}"
        if not all([each.any() for each in parts.values()]):
            raise DataError(
                f"{what}: {flag} makes {len(owner)} pieces, too few to be split in their order; "
                f"ask for shorter ones."
            )
    labels = None if rows.labels is None else {"all": rows.labels[owner]}
    made = Held(replace(rows.facts, split=words), {"all": lengths[:, None]}, labels)
    made.parts = {part: Chosen(np.flatnonzero(each)) for part, each in parts.items()}
    note = f"cut into {len(owner):,} pieces of at most {size} steps (--pieces)."
    first.steps.facts = replace(first.steps.facts, notes=(*first.steps.facts.notes, note))
    return {name: replace(each, rows=made) for name, each in found.items()}


def _percent(fractions: Sequence[float]) -> str:
    return " / ".join([f"{100 * part:g}%" for part in fractions])


def refuse_empty(lengths: Array, what: str) -> None:
    """Refuse sequences without a step."""
    if len(none := np.flatnonzero(lengths < 1)):
        raise DataError(
            f"{what}: sequence {int(none[0]) + 1} has no steps ({len(none)} such in all); leave "
            f"it out, a row has at least one."
        )


def refuse_unsuited(found: Sequences, names: Collection[str], what: str) -> None:
    """Refuse sequences too few to be split, and a name that is that of their lengths."""
    if LENGTH in names:
        raise DataError(
            f"{what}: {LENGTH} is the number of steps of a row; choose another name (--group)."
        )
    if "train" not in found.parts and (rows := found.total) < len(SPLITS):
        raise DataError(
            f"{what}: {rows} sequence{'s' * (rows > 1)} cannot be split into training, validation "
            f"and test rows; --pieces 100 cuts {'each' if rows > 1 else 'it'} into pieces of so "
            f"many steps."
        )


def quantiles(lengths: Tensor) -> tuple[int, ...]:
    """Those of the lengths of some rows at the levels 0, 1/32, ..., 1."""
    if not len(lengths):
        return ()
    levels = np.linspace(0, 1, 33)
    return tuple(np.quantile(lengths.numpy(), levels, method="nearest").astype(int).tolist())


def folded(
    steps: Mapping[str, Source],
    lengths: Mapping[Any, Array],
    labels: Mapping[str, Mapping[str, Array]],
    what: str,
) -> dict[str, Sequences]:
    """Sequences of the steps of each name.

    Args:
        steps: All steps by name, one row after another.
        lengths: How many of them each row has, by part.
        labels: One a row, by what they are called and part.
        what: What the data are called in a message.

    Raises:
        DataError: If lengths or labels do not fit.
    """
    first = next(iter(steps.values()))
    rows = Sequences.of(first, lengths, what).rows
    labelled = next((each for each in steps.values() if each.facts.classes is not None), None)
    if labelled is not None:
        rows = rows.labelled(_of_all_steps(labelled, rows), labelled.facts.classes)
    for key, each in labels.items():
        codes, classes, said = codes_of(labels_of(each, rows, what, key), f"{what}, {key}")
        rows = rows.labelled(np.concatenate([*codes.values()]), classes, said)
    if (known := steps.get(INPUTS)) is not None:
        known.facts = _as_given(known.facts)
    return {name: Sequences(each, rows) for name, each in steps.items()}


def held_of(source: Any) -> Held | Sequences:
    """All rows of a source, read into memory."""
    if isinstance(source, Sequences):
        return replace(source, steps=Held.of(source.steps))
    return Held.of(source)


def _as_given(facts: Facts) -> Facts:
    """Columns that are given in every step: numbers are numbers, without a look at what suits."""
    plain = [n for n in facts.columns or () if n not in facts.categories and n not in facts.kinds]
    return replace(
        facts,
        kinds={**facts.kinds, **dict.fromkeys(plain, "real")},
        likelihoods={**dict.fromkeys(plain, "gaussian"), **facts.likelihoods},
    )


def _of_all_steps(steps: Source, rows: Held) -> Array:
    """The label of each row, which is that of all its steps.

    Raises:
        DataError: If steps of a row differ in their label.
    """
    counts = rows.values[:, 0]
    none = np.zeros(0, int)
    steps = steps.at(none) if isinstance(steps, TableRows) else steps  # their labels alone
    codes = [steps.take(some)[1] for some in Places([(0, steps.total)]).blocks(_BLOCK)]
    each = np.concatenate([part for part in codes if part is not None])
    first = each[np.cumsum(counts) - counts]
    if (other := each != np.repeat(first, counts)).any():
        raise DataError(
            f"{steps.where(int(other.argmax()))}: the label is not that of the steps before it in "
            f"its sequence; a label is of a whole sequence, and what changes in it is a column "
            f"like others: leave out --label."
        )
    return first


def spread(
    arrays: Mapping[str, Any], lengths: Any, what: str
) -> tuple[dict[str, Any], dict[str, Array], dict[str, dict[str, Array]]]:
    """Arrays of which some are sequences, as arrays of all their steps.

    Args:
        arrays: By name: a list of arrays is a sequence each; beside the array ``x`` the arrays
            ``lengths`` or ``offsets`` (at which step each row begins, and the number of steps) say
            which steps are a row.
        lengths: How many steps each row has, perhaps by part.
        what: What they are called in a message.

    Returns:
        Arrays of steps; the lengths by part, none where no array is sequences; and the labels.

    Raises:
        DataError: If the sequences of a row differ in length, or lengths do not fit.
    """
    parts = parts_of(arrays)
    told: dict[str, Any] = dict(lengths) if isinstance(lengths, Mapping) else {}
    told |= {} if lengths is None or told else {"all": lengths}
    if not told and not {*VALUE_KEYS}.isdisjoint(parts):
        told = _stored_lengths(arrays, parts, what)
    if not told and not any([is_ragged(each) for each in arrays.values()]):
        return dict(arrays), {}, {}
    found: dict[str, Array] = {}
    steps: dict[str, Any] = {}
    for base, keys in parts.items():
        if base in (*LABEL_KEYS, _LENGTHS, _OFFSETS):
            continue
        for part, key in keys.items():
            if not is_listed(arrays[key]) and part not in told:
                raise DataError(
                    f"{what}: {key} is no list of sequences, as others are; give an array a row, "
                    f"or leave it out."
                )
            steps[key], own = in_a_row(arrays[key], told.get(part), f"{what}, {key}")
            other = found.setdefault(part, own)
            if len(own) != len(other) or (own != other).any():
                raise DataError(
                    f"{what}: {key} has {len(own):,} sequences of {int(own.sum()):,} steps in "
                    f"all, but another name {len(other):,} of {int(other.sum()):,}; the sequences "
                    f"of a row need one length."
                )
    labels = {
        base: {part: np.asarray(arrays[key]) for part, key in keys.items()}
        for base, keys in parts.items()
        if base in LABEL_KEYS
    }
    return steps, found, dict([*labels.items()][:1])


def _stored_lengths(
    arrays: Mapping[str, Any], parts: Mapping[str, Mapping[str, str]], what: str
) -> dict[str, Array]:
    """Lengths that lie beside the values, by part, if these are such."""
    value = next(key for key in VALUE_KEYS if key in parts)
    if _OFFSETS in parts:
        found = {}
        for part, key in parts[_OFFSETS].items():
            offsets = _whole(arrays[key], f"{what}, {key}")
            many = len(arrays[parts[value].get(part, key)])
            rises = len(offsets) > 1 and bool((np.diff(offsets) >= 0).all())
            if not rises or (offsets[0], offsets[-1]) != (0, many):
                raise DataError(
                    f"{what}: {key} must begin at 0, never fall, and end at the number of steps, "
                    f"{many:,}; found {listed(offsets.tolist(), 5)}."
                )
            found[part] = np.diff(offsets)
        return found
    found = {}
    for part, key in parts.get(_LENGTHS, {}).items():
        values, lengths = arrays[parts[value].get(part, key)], np.asarray(arrays[key])
        if lengths.ndim != 1 or lengths.dtype.kind not in "ui":
            return {}
        padded = np.ndim(values) > 2 and len(values) == len(lengths)
        if int(lengths.sum()) != len(values) and not padded:
            return {}
        found[part] = lengths
    return found


def is_listed(values: Any) -> bool:
    """Whether this is a list of arrays, or of lists."""
    rows = isinstance(values, list | tuple) and len(values)
    arrays = [isinstance(e, list) or bool(getattr(e, "ndim", 0)) for e in values] if rows else []
    return bool(arrays) and all(arrays)


def is_ragged(values: Any) -> bool:
    """Whether this is a list of arrays, or of lists, of unequal length."""
    return is_listed(values) and len({len(each) for each in values}) > 1


def in_a_row(values: Sequence[Any] | Array, lengths: Any, what: str) -> tuple[Array, Array]:
    """All steps, and the length of each row, of sequences in memory.

    Args:
        values: An array a row; or all steps, one row after another; or rows that are padded.
        lengths: How many steps each row has; ``None`` for an array a row.
        what: What they are called in a message.

    Raises:
        DataError: If arrays differ in what a step is, or lengths do not fit.
    """
    if isinstance(values, list | tuple):
        arrays = [_array(each) for each in values]
        found = np.array([len(each) for each in arrays], np.int64)
        refuse_empty(found, what)
        for number, each in enumerate(arrays):
            if each.shape[1:] != arrays[0].shape[1:]:
                raise DataError(
                    f"{what}: a step of sequence {number + 1} has shape {each.shape[1:]}, but one "
                    f"of the first {arrays[0].shape[1:]}; all steps need one shape."
                )
        if lengths is not None and not np.array_equal(_whole(lengths, what), found):
            raise DataError(
                f"{what}: the lengths are not those of the arrays; leave lengths out, as each "
                f"array has its own."
            )
        return np.concatenate(arrays), found
    steps, found = _array(values), _whole(lengths, what)
    if int(found.sum()) == len(steps):
        return steps, found
    if steps.ndim > 1 and len(found) == len(steps) and found.max(initial=0) <= steps.shape[1]:
        return steps[np.arange(steps.shape[1]) < found[:, None]], found
    raise DataError(
        f"{what}: {len(found):,} lengths that sum to {int(found.sum()):,} go with as many steps, "
        f"or with as many rows that are padded, but the values have shape {steps.shape}."
    )


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _whole(lengths: Any, what: str) -> Array:
    found = _array(lengths)
    if found.ndim != 1 or found.dtype.kind not in "uif" or (found != np.floor(found)).any():
        raise DataError(
            f"{what}: lengths are one whole number a row, found {found.dtype} of shape "
            f"{found.shape}."
        )
    return found.astype(np.int64)
