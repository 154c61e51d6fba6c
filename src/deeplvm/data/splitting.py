"""Which rows train, validate and test, and which columns are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deeplvm.data.errors import DataError
from deeplvm.data.raw import Array, Raw
from deeplvm.data.records import SPLITS, Description
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
        DataError: If the columns are not counts.
    """
    columns = raw.columns or ()
    if known is not None:
        kept = known.variables["x"].columns or ()
        if tuple(columns) == tuple(kept) or not set(kept) <= set(columns):
            return None
        raw.columns = tuple(kept)
        return np.array([columns.index(name) for name in kept])
    number = options["most_variable"]
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
