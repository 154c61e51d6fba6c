"""Which rows train, validate and test, and which columns are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from deeplvm.data.readers.source import Array, Chosen, Facts, Held, Places, Source
from deeplvm.data.records import SPLITS, Description, Split
from deeplvm.data.statistics import Summary
from deeplvm.data.variable import DataError, Variable

FRACTIONS = (0.8, 0.1, 0.1)
PBMC_GENES = 1000  # all 32,738 would make nearly every parameter one of a gene that is silent
_BLOCK = 1000
# So many rows of the smallest split are in a block: its share is within 1 % of what was asked.
_SMALLEST = 100


def divide(
    source: Source, options: Mapping[str, Any], known: Description | None
) -> tuple[dict[Split, Places], str]:
    """The rows of each split, and how they came about, in words.

    Rows in memory are permuted, in equal parts of each label; of rows on disk so many of each
    block are drawn, so that none is listed.

    Raises:
        DataError: If there are too few rows.
    """
    own, seed, everything = "train" in source.parts, options["seed"], Places([(0, source.total)])
    same = known is not None and options["source"] == known.options["source"]
    if known is not None and not (own and same):
        words = "all rows are test rows"
        if own:
            words += "; the set's own split is set aside"
        if same:
            words += " (the run's own data, without its split)"
        return {"train": Places([]), "valid": Places([]), "test": everything}, words
    name, rng = source.facts.name, np.random.default_rng(seed)
    labels = source.labels if isinstance(source, Held) else None

    def drawn(whole: Places, fractions: Sequence[float]) -> dict[Split, Places]:
        if isinstance(source, Held):
            return permuted(name, whole, fractions, labels, rng)
        return carved(name, whole, fractions, seed)

    if not own or options["split"] is not None:
        fractions = options["split"] or FRACTIONS
        words = f"random with seed {seed}: {' / '.join(f'{100 * part:g}%' for part in fractions)}"
        words += ", in equal parts of each label" if labels is not None else ""
        words += "" if isinstance(source, Held) else ", in equal parts along the files"
        words += "; the set's own split is set aside" if own else ""
        return drawn(everything, fractions), words
    parts = {split: source.parts.get(split, Places([])) for split in SPLITS}
    absent = [split for split in ("test", "valid") if split not in source.parts]
    words = source.facts.split
    # rows in memory: one after the other, each a tenth of those that are left
    groups = [[each] for each in absent] if isinstance(source, Held) else [absent]
    for group in groups if absent else []:
        shares = [0.1 if split in group else 0.0 for split in SPLITS[1:]]
        made = drawn(parts["train"], (1 - sum(shares), *shares))
        parts |= {split: made[split] for split in SPLITS if split in ("train", *group)}
    if absent:
        words += f"; a random 10% of the training rows each (seed {seed}) are "
        words += " and ".join([split for split in SPLITS if split in absent]) + " rows"
    return parts, words


def permuted(
    name: str,
    whole: Places,
    fractions: Sequence[float],
    labels: Array | None,
    rng: np.random.Generator,
) -> dict[Split, Places]:
    """Test, validation and training rows, in equal parts of each label; at least one row each.

    Raises:
        DataError: If there are too few rows.
    """
    _refuse_few(name, len(whole), fractions)
    order = rng.permutation(len(whole))
    if labels is not None:
        codes = labels[whole.all()]
        order = order[np.argsort(codes[order], kind="stable")]
    chosen: dict[Split, Array] = {}
    for split, fraction in (("test", fractions[2]), ("valid", fractions[1])):
        places = np.zeros(0, np.int64)
        if fraction > 0:
            size = min(max(1, round(len(whole) * fraction)), len(order) - 1)
            places = np.floor((np.arange(size) + rng.random()) * len(order) / size).astype(
                np.int64
            )
        chosen[split] = order[places]
        order = np.delete(order, places)
    chosen["train"] = order
    return {split: Chosen(whole.rows(np.sort(rows))) for split, rows in chosen.items()}


def limited(source: Source, places: Places, limit: int | None, seed: int) -> Places:
    """A random ``limit`` rows of a split, in their order."""
    if limit is None or len(places) <= limit:
        return places
    rng = np.random.default_rng(seed)
    if isinstance(source, Held):
        kept = rng.permutation(len(places))[:limit]
    else:
        kept = rng.choice(len(places), limit, replace=False, shuffle=False)
    return Chosen(places.rows(np.sort(kept)))


def with_few_labels(source: Source, train: Places, count: int, seed: int) -> Held:
    """The same rows, of which only so many in training have a label, as many of each class.

    Raises:
        DataError: If the rows are on disk, or fewer of them have a label.
    """
    name, flag = source.facts.name, f"--keep-labels {count}"
    if not isinstance(source, Held):
        raise DataError(f"{name}: {flag} is for rows in memory; leave out --stream.")
    if source.labels is None:
        raise DataError(f"{name}: {flag}, but there are no labels; name their column by --label.")
    rows = train.all()
    rows = np.random.default_rng(seed).permutation(rows[source.labels[rows] >= 0])
    if count > len(rows):
        raise DataError(f"{name}: {flag}, but only {len(rows)} training rows have a label.")
    codes = source.labels[rows]
    turn = np.empty(len(rows), np.int64)  # of each row among those of its class
    for code in np.unique(codes):
        turn[codes == code] = np.arange((codes == code).sum())
    kept = rows[np.argsort(turn, kind="stable")[:count]]
    found = copy.copy(source)
    found.labels = source.labels.copy()
    found.labels[np.setdiff1d(rows, kept)] = -1
    return found


def _refuse_few(name: str, rows: int, fractions: Sequence[float]) -> None:
    wanted = sum(fraction > 0 for fraction in fractions)
    if rows < wanted:
        raise DataError(
            f"{name}: {rows} row{'s' if rows != 1 else ''} cannot be split into training, "
            f"validation and test rows; at least {wanted} are needed."
        )


def select_columns(
    facts: Facts,
    train: Callable[[], Summary],
    options: Mapping[str, Any],
    trained: Variable | None,
) -> Array | None:
    """Places of the columns of counts that vary most, or of those that the training run kept.

    Args:
        facts: What the source says of them.
        train: Gives the summary of the training rows, where it is needed.
        options: Those of :func:`~deeplvm.data.load`.
        trained: The variable of the training data, where these are other data.

    Returns:
        ``None`` where all columns stay as they are.

    Raises:
        DataError: If the columns are not counts, or have no names.
    """
    columns, number = facts.columns, options["most_variable"]
    if columns is None:
        if number is not None and trained is None:
            raise DataError(
                f"{facts.name}: --most-variable {number} does not apply: only columns of a table "
                f"are chosen, by name; save the array as .csv or .parquet."
            )
        return None
    if trained is not None:
        kept = trained.columns or ()
        places = {name: place for place, name in enumerate(columns)}
        if columns == kept or not places.keys() >= set(kept):
            return None
        return np.array([places[name] for name in kept])
    if number is None and facts.name == "pbmc3k":
        number = PBMC_GENES
    if number is None or number >= len(columns):
        return None
    seen = train()
    if seen.holes or not seen.whole.all() or seen.low.min() < 0:
        raise DataError(
            f"{facts.name}: --most-variable is for counts (whole numbers of at least 0, none "
            f"missing); --drop columns by name instead."
        )
    ratio = seen.variance / np.maximum(seen.mean, 1e-12)
    return np.sort(np.argsort(-ratio, kind="stable")[:number])


def kept_elements(shape: tuple[int, ...], source: str, options: Mapping[str, Any]) -> Array | None:
    """Places of the columns of an array that stay; ``None`` for all.

    Raises:
        DataError: If there are no such columns, or none is left.
    """
    if not options["drop"]:
        return None
    if len(shape) != 1 or not all(name.isdigit() for name in options["drop"]):
        raise DataError(
            f"{source}: --drop {' '.join(options['drop'])} does not apply: columns of an array "
            f"have numbers from 0, and only an array of shape (rows, columns) has columns."
        )
    places = [int(name) for name in options["drop"]]
    if max(places) >= shape[0]:
        raise DataError(
            f"{source}: there is no column {max(places)}; the last of the array is {shape[0] - 1}."
        )
    if len(set(places)) == shape[0]:
        raise DataError(f"{source}: no column is left to be modelled.")
    return np.delete(np.arange(shape[0]), places)


class Carved(Places):
    """One of three parts at random of all rows of a place: so many of each block of it.

    In each block of 1,000 rows (more where a part is smaller than a tenth) the rows of each part
    are drawn anew, from the seed and the number of the block, so that a part has the fraction
    asked for in every block and a row is found without a list.

    Args:
        whole: The rows that are parted.
        fractions: Of training, validation and test rows.
        part: 0, 1 or 2.
        seed: Of the draws.
    """

    def __init__(self, whole: Places, fractions: Sequence[float], part: int, seed: int) -> None:
        self._whole, self._fractions, self._part, self._seed = whole, tuple(fractions), part, seed
        least = min(fraction for fraction in fractions if fraction > 0)
        self._block = max(_BLOCK, round(_SMALLEST / least))
        self._each = self._counts(self._block)[part]
        self._full, rest = divmod(len(whole), self._block)
        self._total = self._full * self._each + (self._counts(rest)[part] if rest else 0)
        self._members = lru_cache(maxsize=64)(self._drawn)

    def __len__(self) -> int:
        return self._total

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        blocks = np.minimum(places // max(self._each, 1), self._full)
        found = np.empty(len(places), np.int64)
        for begin, end in _runs(blocks):
            block = int(blocks[begin])
            inside = places[begin:end] - block * self._each
            found[begin:end] = block * self._block + self._members(block)[inside]
        return self._whole.rows(found)

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
        whole = self._whole.below(rows)
        blocks = whole // self._block
        found = blocks * self._each
        for begin, end in _runs(blocks):
            block = int(blocks[begin])
            inside = whole[begin:end] - block * self._block
            found[begin:end] += np.searchsorted(self._members(block), inside)
        return np.minimum(found, self._total)

    def _counts(self, rows: int) -> tuple[int, int, int]:
        held = [round(rows * fraction) for fraction in self._fractions[1:]]
        if len(self._whole) <= self._block:  # at least one row each
            held = [
                max(1, count) if fraction > 0 else 0
                for count, fraction in zip(held, self._fractions[1:], strict=True)
            ]
            if sum(held) >= rows:
                held[held[1] > held[0]] -= sum(held) - rows + 1
        return rows - sum(held), held[0], held[1]

    def _drawn(self, block: int) -> Array:
        rows = min(self._block, len(self._whole) - block * self._block)
        order = np.random.default_rng([self._seed, block]).permutation(max(rows, 0))
        train, valid, _ = self._counts(rows)
        begin, end = ((0, train), (train, train + valid), (train + valid, rows))[self._part]
        return np.sort(order[begin:end])


def _runs(numbers: Array) -> Iterator[tuple[int, int]]:
    """Of numbers, where each run of equal ones begins and ends."""
    if len(numbers):
        cuts = (np.flatnonzero(np.diff(numbers)) + 1).tolist()
        yield from zip([0, *cuts], [*cuts, len(numbers)], strict=True)


def carved(name: str, whole: Places, fractions: Sequence[float], seed: int) -> dict[Split, Places]:
    """The training, validation and test rows of a place.

    Raises:
        DataError: If there are too few rows.
    """
    _refuse_few(name, len(whole), fractions)
    return {split: Carved(whole, fractions, part, seed) for part, split in enumerate(SPLITS)}
