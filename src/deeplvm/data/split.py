"""Which rows train, validate and test, and which columns are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from deeplvm.data.readers.raw import Array, Raw
from deeplvm.data.records import SPLITS, DataError, Description
from deeplvm.data.statistics import Summary

FRACTIONS = (0.8, 0.1, 0.1)
PBMC_GENES = 1000  # all 32,738 would make nearly every parameter one of a gene that is silent


def divide(raw: Raw, options: Mapping[str, Any], known: Description | None) -> None:
    """Make train, valid and test of whatever splits there are."""
    rng = np.random.default_rng(options["seed"])
    if known is not None and "train" not in raw.values:
        raw.values = _only_test(raw.values["all"])
        raw.labels = _only_test(raw.labels["all"]) if raw.labels else {}
        raw.split = "all rows are test rows"
        if options["source"] == known.options["source"]:
            raw.split += " (the run's own data, without its split)"
        return
    pooled = options["split"] is not None and "train" in raw.values
    if pooled:
        for arrays in (raw.values, raw.labels):
            if arrays:
                together = np.concatenate(list(arrays.values()))
                arrays.clear()
                arrays["all"] = together
    if "all" in raw.values:
        fractions = options["split"] or FRACTIONS
        labels = raw.labels.get("all")
        rows = _random_split(raw.name, len(raw.values["all"]), fractions, labels, rng)
        whole = raw.values["all"]
        raw.values = {split: whole[chosen] for split, chosen in rows.items()}
        if labels is not None:
            raw.labels = {split: labels[chosen] for split, chosen in rows.items()}
        percent = " / ".join(f"{100 * part:g}%" for part in fractions)
        raw.split = f"random with seed {options['seed']}: {percent}"
        raw.split += ", in equal parts of each label" if labels is not None else ""
        raw.split += "; the set's own split is set aside" if pooled else ""
        return
    for split, share in (("test", 0.1), ("valid", 0.1)):
        if split in raw.values:
            continue
        labels = raw.labels.get("train")
        train = raw.values["train"]
        rows = _random_split(raw.name, len(train), (1 - share, share, 0.0), labels, rng)
        raw.values |= {"train": train[rows["train"]], split: train[rows["valid"]]}
        if labels is not None:
            raw.labels |= {"train": labels[rows["train"]], split: labels[rows["valid"]]}
        raw.split += f"; a random {100 * share:g}% of the training rows (seed {options['seed']})"
        raw.split += " validate" if split == "valid" else " are the test rows"
    raw.values = {split: raw.values[split] for split in SPLITS}
    raw.labels = {split: raw.labels[split] for split in SPLITS} if raw.labels else {}


def _only_test(rows: Array) -> dict[str, Array]:
    return {"train": rows[:0], "valid": rows[:0], "test": rows}


def _random_split(
    name: str,
    rows: int,
    fractions: Sequence[float],
    labels: Array | None,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Sorted row numbers of each split, in equal parts of each label; at least one row each."""
    wanted = sum(part > 0 for part in fractions)
    if rows < wanted:
        raise DataError(
            f"{name}: {rows} row{'s' if rows > 1 else ''} cannot be split into training, "
            f"validation and test rows; at least {wanted} are needed."
        )
    order = rng.permutation(rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    chosen: dict[str, Array] = {}
    rest = order
    for split, part in (("test", fractions[2]), ("valid", fractions[1])):
        if part == 0:
            continue
        size = min(max(1, round(rows * part)), len(rest) - 1)
        places = np.floor((np.arange(size) + rng.random()) * len(rest) / size).astype(np.int64)
        chosen[split] = np.sort(rest[places])
        rest = np.delete(rest, places)
    chosen["train"] = np.sort(rest)
    return chosen


def limit_rows(raw: Raw, limit: int | None, seed: int) -> None:
    """Keep a random ``limit`` rows of each split, in their order, and say so."""
    if limit is None:
        return
    for split, part in raw.values.items():
        if len(part) <= limit:
            continue
        kept = np.sort(np.random.default_rng(seed).permutation(len(part))[:limit])
        raw.values[split] = part[kept]
        if raw.labels:
            raw.labels[split] = raw.labels[split][kept]
    raw.notes.append(f"at most {limit} rows of each split, as asked for: a trial, not a result.")


def select_columns(
    raw: Raw,
    train: Callable[[], Summary],
    options: Mapping[str, Any],
    known: Description | None,
) -> Array | None:
    """Places of the columns of counts that vary most, or of those that the training run kept.

    Args:
        raw: Its columns are replaced by those kept; its values are left.
        train: Gives the summary of the training rows, where it is needed.
        options: Those of :func:`~deeplvm.data.load`.
        known: The training run's data.

    Returns:
        ``None`` where all columns stay as they are.

    Raises:
        DataError: If the columns are not counts, or have no names.
    """
    columns, number = raw.columns or (), options["most_variable"]
    if raw.columns is None:
        if number is not None and known is None:
            raise DataError(
                f"{raw.name}: --most-variable {number} does not apply: only columns of a table "
                f"are chosen, by name; save the array as .csv or .parquet."
            )
        return None
    if known is not None:
        kept = known.variables["x"].columns or ()
        if tuple(columns) == tuple(kept) or not set(kept) <= set(columns):
            return None
        raw.columns = tuple(kept)
        places = {name: place for place, name in enumerate(columns)}
        return np.array([places[name] for name in kept])
    if number is None and raw.name == "pbmc3k":
        number = PBMC_GENES
    if number is None or number >= len(columns):
        return None
    seen = train()
    if seen.holes or not seen.whole.all() or seen.low.min() < 0:
        raise DataError(
            f"{raw.name}: --most-variable is for counts (whole numbers of at least 0, none "
            f"missing); --drop columns by name instead."
        )
    ratio = seen.variance / np.maximum(seen.mean, 1e-12)
    places = np.sort(np.argsort(-ratio, kind="stable")[:number])
    raw.columns = tuple(columns[place] for place in places)
    raw.categories = {name: value for name, value in raw.categories.items() if name in raw.columns}
    raw.notes.append(
        f"the {number} of {len(columns)} columns whose variance is largest compared with their "
        f"mean in the training rows; likelihoods are of these columns only (--most-variable)."
    )
    return places


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


_BLOCK = 1000
# So many rows of the smallest split are in a block: its share is within 1 % of what was asked.
_SMALLEST = 100


class Places:
    """The rows of one split, as increasing row numbers of the files; held as ranges.

    Args:
        ranges: First row and row after the last, of each range, increasing.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        joined: list[list[int]] = []
        for begin, end in ranges:
            if joined and joined[-1][1] == begin:
                joined[-1][1] = end
            elif end > begin:
                joined.append([begin, end])
        self._begins = np.array([begin for begin, _ in joined], np.int64)
        sizes = np.array([end - begin for begin, end in joined], np.int64)
        self._ends = self._begins + sizes
        self._sums = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._sums[-1])

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        if not len(places):
            return np.zeros(0, np.int64)
        which = np.searchsorted(self._sums, places, "right") - 1
        return self._begins[which] + places - self._sums[which]

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
        if not len(self):
            return np.zeros(len(rows), np.int64)
        which = np.maximum(np.searchsorted(self._begins, rows, "right") - 1, 0)
        inside = np.clip(rows, self._begins[which], self._ends[which]) - self._begins[which]
        return self._sums[which] + inside

    def blocks(self, size: int) -> Iterator[Array]:
        """All row numbers, so many at a time."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))


class Chosen(Places):
    """Rows by a list of them: a few of a split.

    Args:
        rows: Increasing row numbers.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, places: Array) -> Array:
        """Row numbers in the files of the split's rows 0, 1, ..."""
        return self._rows[places]

    def below(self, rows: Array) -> Array:
        """How many rows of the split come before each row of the files."""
        return np.searchsorted(self._rows, rows)


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


def carved(name: str, whole: Places, fractions: Sequence[float], seed: int) -> list[Places]:
    """The training, validation and test rows of a place.

    Raises:
        DataError: If there are too few rows.
    """
    wanted = sum(fraction > 0 for fraction in fractions)
    if len(whole) < wanted:
        raise DataError(
            f"{name}: {len(whole)} row{'s' if len(whole) != 1 else ''} cannot be split into "
            f"training, validation and test rows; at least {wanted} are needed."
        )
    return [Carved(whole, fractions, part, seed) for part in range(len(SPLITS))]


def limited(places: Places, limit: int, seed: int) -> Places:
    """A random ``limit`` rows of a split, in their order."""
    if len(places) <= limit:
        return places
    rng = np.random.default_rng(seed)
    kept = rng.choice(len(places), limit, replace=False, shuffle=False)
    return Chosen(places.rows(np.sort(kept)))
