"""Files that are larger than memory -> Stream, with every choice written down."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch
from PIL import Image

from deeplvm.data.likelihood import (
    binarization_scale,
    choices_of,
    chosen,
    description_of,
    refuse_other_shape,
)
from deeplvm.data.readers.images import (
    ENDINGS,
    GREY,
    Layout,
    files_below,
    laid_out,
    layout_notes,
    layout_of,
    splits_of,
)
from deeplvm.data.readers.raw import Array, Raw
from deeplvm.data.readers.shards import (
    Files,
    ImageShards,
    ParquetFiles,
    ParquetShards,
    Shards,
    open_shards,
    texts_of,
)
from deeplvm.data.readers.tables import (
    LARGEST_EXACT,
    MOST_CATEGORIES,
    from_frames,
    perhaps_labels,
    read_parquet,
    refuse_absent,
)
from deeplvm.data.records import SPLITS, DataError, Description, Renewal, Selection, Split
from deeplvm.data.split import FRACTIONS, Places, carved, kept_elements, limited, select_columns
from deeplvm.data.statistics import Summary
from deeplvm.data.stream import Plan, Reader, Stream, StreamColumn
from deeplvm.data.tensors import dequantization, smallest_type, variable_of, warnings_of
from deeplvm.files import WORKING, memory

Streaming = bool | Literal["auto"]
# Rows that are looked at for values that are repeated.
_SAMPLE = 10_000
_MOST_LABELS = 100_000
_AT_ONCE = 4 << 20
_KINDS = ("uint8", "int16", "int32", "int64", "float32")


def is_streamed(path: Path, stream: Streaming, options: Mapping[str, Any]) -> bool:
    """Whether a source is to be read row by row from disk.

    Raises:
        DataError: If that is asked for of what cannot be.
    """
    if stream not in (True, False, "auto"):
        raise DataError(f"--stream {stream}: choose True, False or auto.")
    if stream == "auto":
        return path.exists() and WORKING * _bytes_in_memory(path, options) > memory()
    if stream and not path.exists():
        return False  # the error of a file that is not there says more
    if stream and not (path.is_dir() or path.suffix.lower() in (".npy", ".parquet")):
        raise DataError(
            f"{path}: only .npy and .parquet files, folders of them and folders of images can be "
            f"streamed; save it as one of these, or leave out --stream."
        )
    return bool(stream)


def _bytes_in_memory(path: Path, options: Mapping[str, Any]) -> float:
    """About what all rows would take; 0 for what cannot be streamed, or not be read."""
    images: list[Path] = []
    if path.is_dir():
        files = files_below(path, (".npy", ".parquet", *ENDINGS))
        images = [file for file in files if file.suffix.lower() in ENDINGS]
    else:
        files = [path]
    total = 0.0
    try:
        for file in files:
            if file.suffix.lower() == ".npy":
                total += file.stat().st_size
            elif file.suffix.lower() == ".parquet" and file.stat().st_size:
                import pyarrow.parquet as pq

                metadata = pq.read_metadata(file)
                total += metadata.num_rows * metadata.num_columns * 8
        if images:
            with Image.open(images[0]) as image:
                side = options["image_size"]
                pixels = image.width * image.height if side is None else side * side
            total += 3.0 * pixels * len(images)
    except Exception:  # noqa: BLE001 - whatever is wrong with a file, its reader says it better
        return 0.0
    return total


def read_shards(path: Path, options: Mapping[str, Any], known: Description | None) -> Raw | None:
    """All rows of a folder of .npy or .parquet files; ``None`` if it has neither.

    Raises:
        DataError: If a file is damaged, or files do not go together.
    """
    if not files_below(path, (".npy", ".parquet")):
        return None
    opened = open_shards(path, options)
    assert opened is not None
    kind, files, shards = opened
    _, words = splits_of(path, list(files.paths))
    by_key: dict[str, list[int]] = {}
    for place, key in enumerate(files.keys.tolist()):
        by_key.setdefault(key, []).append(place)
    if kind == "parquet":
        frames = {
            key: pd.concat([read_parquet(files.paths[p]) for p in places], ignore_index=True)
            for key, places in by_key.items()
        }
        raw = from_frames(
            str(path),
            frames,
            label=options["label"],
            drop=options["drop"],
            categories=options["categories"],
            like=known,
        )
        raw.name = shards.name
    else:
        raw = shards.raw
        for key, places in by_key.items():
            ranges = [np.arange(files.starts[p], files.starts[p + 1]) for p in places]
            raw.values[key] = shards.take(np.concatenate(ranges))[0]
    raw.split = words
    return raw


def open_stream(
    path: Path, source: str, options: dict[str, Any], known: Description | None
) -> Stream:
    """Look at all rows once (twice where noise is added to them), and keep none.

    Raises:
        DataError: As :func:`~deeplvm.data.load`.
    """
    opened = open_shards(path, options)
    if opened is None:
        raise DataError(f"{path}: no .npy, .parquet or image file here that has any rows.")
    kind, files, found = opened
    if kind == "parquet":
        shards: Shards = _table(found, options, known)
    else:
        shards = found
        for name in ("label", "categories"):
            if options[name]:
                raise DataError(
                    f"{source}: --{name} does not apply: columns have names only in a table."
                )
    raw = shards.raw
    places = _divided(files, raw, options, known)
    reader = Reader(shards, seed=options["seed"])
    if raw.columns is None:
        reader = dataclasses.replace(reader, kept=kept_elements(shards.shape, source, options))
    look = _Look.at(reader, places, raw)
    seen: Mapping[str, Summary] = look.seen
    if raw.columns is None:
        reader, seen = _laid_out(reader, raw, seen, grey=look.grey)
    else:
        _refuse_huge(source, raw.columns, seen)
    columns = select_columns(raw, lambda: seen["train"], options, known)
    if columns is not None:
        reader = dataclasses.replace(reader, kept=columns)
        seen = {split: part.changed(lambda v: v[:, columns]) for split, part in seen.items()}
    raw.notes += [look.holes] if look.holes else []
    trained = None if known is None else known.variables["x"]
    shape = seen["test"].shape
    if trained is not None:
        refuse_other_shape(shape, source, trained)
        shape = trained.shape
        seen = {
            split: part.changed(lambda v: v.reshape(-1, *shape)) for split, part in seen.items()
        }
    reader = dataclasses.replace(reader, shape=shape)
    reader, choices = _modelled(reader, places, raw, seen, source, options, trained)
    if reader.noise is not None or choices[0].step != 1:
        seen = _Look.modelled(reader, places)
    if trained is None:
        variable = variable_of(raw, source, choices, seen)
        binarized = reader.noise is not None and reader.noise.kind == "binarization"
        grey = reader.noise.scale if binarized and reader.noise is not None else None
        variable = dataclasses.replace(variable, grey=grey)
        step = max(1, len(places["train"]) // _SAMPLE)
        rows = places["train"].rows(np.arange(0, len(places["train"]), step)[:_SAMPLE])
        sample = torch.zeros(0, len(raw.columns or ()))
        if raw.columns is not None:  # only of columns there is anything to warn of
            sample = reader.fixed(reader.resting(rows)["x"], rows)
        raw.notes += warnings_of(variable, seen, sample)
    else:
        missing = any(part.missing.any() for part in seen.values())
        variable = dataclasses.replace(trained, missing=missing)
    raw.notes.append(_order_note(_plan(reader, places), reader.row_bytes))
    rows_of: dict[str, int] = {split: len(part) for split, part in places.items()}
    description = description_of(raw, options, variable, rows_of)
    digest = f"{look.digest} {raw.split} {options['limit']} {options['seed']}"
    form = {"layout": reader.layout, "grey": reader.grey, "kind": str(reader.kind)}
    description = dataclasses.replace(
        description,
        fingerprint=hashlib.sha256(digest.encode()).hexdigest(),
        stream={"files": files.listing(), "form": form},
    )
    return _stream(reader, places, description, renewed=known is None)


def reopen(description: Description) -> Stream | None:
    """The stream that was described, without a look at its rows, if its files are as they were.

    That is judged by their names, sizes and times of change.

    Returns:
        ``None`` if there is a doubt: :func:`~deeplvm.data.load` then looks again.

    Raises:
        DataError: If a file is damaged.
    """
    options, form = dict(description.options), description.stream.get("form")
    path = Path(str(options.get("source")))
    if not isinstance(form, dict) or not path.exists():
        return None
    kind, grey = form.get("kind"), form.get("grey")
    layout = cast("Layout", form.get("layout"))
    if layout not in get_args(Layout) or kind not in _KINDS or not isinstance(grey, bool):
        return None
    opened = open_shards(path, options)
    if opened is None or opened[1].listing() != description.stream.get("files"):
        return None
    shards: Shards = opened[2]
    if opened[0] == "parquet":
        shards = _table(opened[2], options, description)
    variable = description.variables["x"]
    places = _divided(opened[1], shards.raw, options, None)
    reader = Reader(
        shards,
        kept=kept_elements(shards.shape, path.name, options) if opened[0] == "npy" else None,
        layout=layout,
        grey=grey,
        shape=variable.shape,
        kind=np.dtype(kind),
        choices=tuple(choices_of(variable)),
        seed=options["seed"],
    )
    column = StreamColumn(reader, places["train"], "x", noisy=False)
    noise = dequantization(list(reader.choices), column)
    if variable.grey is not None:
        noise = Renewal("binarization", column, variable.grey)
    if {split: len(part) for split, part in places.items()} != dict(description.rows):
        return None
    return _stream(dataclasses.replace(reader, noise=noise), places, description)


def _plan(reader: Reader, places: Mapping[Split, Places]) -> Plan:
    train, units = places["train"], reader.shards.units
    cuts = None if units is None else train.below(np.asarray(units))
    return Plan.of(len(train), reader.row_bytes, cuts)


def _stream(
    reader: Reader,
    places: Mapping[Split, Places],
    description: Description,
    *,
    renewed: bool = True,
) -> Stream:
    names = ("x", "y") if reader.labelled else ("x",)
    columns_of = {
        split: {name: StreamColumn(reader, part, name) for name in names}
        for split, part in places.items()
    }
    renewed = renewed and description.options["binarize"] != "static"
    return Stream(
        description=description,
        train=Selection(columns_of["train"]),
        valid=Selection(columns_of["valid"]),
        test=Selection(columns_of["test"]),
        renewals={"x": reader.noise} if reader.noise is not None and renewed else {},
        reader=reader,
        places=places,
        plan=_plan(reader, places),
    )


def _divided(
    files: Files, raw: Raw, options: Mapping[str, Any], known: Description | None
) -> dict[Split, Places]:
    """The rows of each split, in the words of :func:`~deeplvm.data.split.divide`."""
    seed, limit = options["seed"], options["limit"]
    ends = list(zip(files.starts[:-1].tolist(), files.starts[1:].tolist(), strict=True))
    by_key = {
        key: Places([e for e, k in zip(ends, files.keys.tolist(), strict=True) if k == key])
        for key in set(files.keys.tolist())
    }
    everything = Places(ends)
    words = splits_of(files.folder, list(files.paths))[1] if files.folder.is_dir() else ""
    own = "train" in by_key
    if known is not None and not own:
        none = Places([])
        parts: list[Places] = [none, none, everything]
        raw.split = "all rows are test rows"
        if options["source"] == known.options["source"]:
            raw.split += " (the run's own data, without its split)"
    elif not own or options["split"] is not None:
        fractions = options["split"] or FRACTIONS
        parts = carved(raw.name, everything, fractions, seed)
        percent = " / ".join(f"{100 * part:g}%" for part in fractions)
        raw.split = f"random with seed {seed}: {percent}, in equal parts along the files"
        raw.split += "; the set's own split is set aside" if own else ""
    else:
        absent = [split for split in ("valid", "test") if split not in by_key]
        shares = [0.1 if split in absent else 0.0 for split in ("valid", "test")]
        parts = [by_key["train"], *(by_key.get(s, Places([])) for s in ("valid", "test"))]
        raw.split = words
        if absent:
            made = carved(raw.name, by_key["train"], (1 - sum(shares), *shares), seed)
            parts = [
                made[i] if i == 0 or split in absent else parts[i]
                for i, split in enumerate(SPLITS)
            ]
            raw.split += f"; a random 10% of the training rows each (seed {seed}) are "
            raw.split += " and ".join(absent) + " rows"
    if limit is not None:
        parts = [limited(part, limit, seed) for part in parts]
        raw.notes.append(
            f"at most {limit} rows of each split, as asked for: a trial, not a result."
        )
    return dict(zip(SPLITS, parts, strict=True))


@dataclass
class _Look:
    """What one pass over all rows tells.

    Attributes:
        seen: The summary of each split.
        digest: SHA-256 of all values and labels.
        holes: Where the first missing value is, in words.
        grey: Whether the three colour channels of all images are equal.
    """

    seen: dict[str, Summary]
    digest: str
    holes: str = ""
    grey: bool = False

    @classmethod
    def at(cls, reader: Reader, places: Mapping[Split, Places], raw: Raw) -> _Look:
        """Look at the rows as they are stored.

        Raises:
            DataError: If a value is infinite.
        """
        shards = reader.shards
        digest = hashlib.sha256(f"{shards.shape} {shards.dtype} {raw.classes}".encode())
        shape = shards.shape if reader.kept is None else (len(reader.kept),)
        seen: dict[str, Summary] = {split: Summary(shape, shards.dtype) for split in SPLITS}
        look = cls(seen, "", grey=isinstance(shards, ImageShards) and shape[0] == 3)
        for rows in _blocks(reader, places):
            values, labels = reader.raw(rows)
            if values.dtype.kind == "f" and not (np.abs(values) <= _most(values)).all():
                look._unusual(values, rows, shards.files, raw)
            digest.update(np.ascontiguousarray(values).view(np.uint8).data)
            if labels is not None:
                digest.update(labels.data)
            look.grey = look.grey and bool((values == values[:, :1]).all())
            for split, inside in _of_splits(rows, places):
                seen[split].add(values[inside])
        look.digest = digest.hexdigest()
        return look

    @staticmethod
    def modelled(reader: Reader, places: Mapping[Split, Places]) -> dict[str, Summary]:
        """The summaries of the rows as they are modelled: rounded, or with their noise."""
        like = np.dtype(str(reader.dtype).removeprefix("torch."))
        seen: dict[str, Summary] = {s: Summary(reader.shape or (), like) for s in SPLITS}
        for rows in _blocks(reader, places):
            values = reader.fixed(reader.resting(rows)["x"], rows).numpy()
            for split, inside in _of_splits(rows, places):
                seen[split].add(values[inside])
        return seen

    def _unusual(self, values: Array, rows: Array, files: Files, raw: Raw) -> None:
        infinite = np.abs(values) > _most(values)
        unusual = infinite if infinite.any() else np.isnan(values)
        if not infinite.any() and self.holes:
            return
        first = np.argwhere(unusual)[0].tolist()
        at = files.where(int(rows[first[0]]))
        what = f"column {raw.columns[first[1]]!r}" if raw.columns else f"element {(*first[1:],)}"
        if infinite.any():
            value = values[tuple(first)]
            found = "infinite" if np.isinf(value) else f"{value:g}, beyond single precision"
            raise DataError(
                f"{at}, {what}: the value is {found}; correct it, or make it missing (NaN, an "
                f"empty cell)."
            )
        self.holes = f"NaN is a missing value; the first is in {at}, {what}."


def _most(values: Array) -> float:
    """The largest number that the values' type and single precision hold."""
    return min(float(np.finfo(np.float32).max), float(np.finfo(values.dtype).max))


def _blocks(reader: Reader, places: Mapping[Split, Places]) -> Iterator[Array]:
    """All rows that are in a split, increasing, some at a time."""
    size = max(1, _AT_ONCE // reader.row_bytes)
    total = reader.shards.files.total
    if sum(map(len, places.values())) == total:
        yield from Places([(0, total)]).blocks(size)
        return
    # a limit was asked for: as many row numbers as it leaves
    each = [part.rows(np.arange(len(part))) for part in places.values()]
    rows = np.sort(np.concatenate(each))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _of_splits(rows: Array, places: Mapping[Split, Places]) -> Iterator[tuple[Split, Array]]:
    """Which of increasing rows are in each split."""
    for split, part in places.items():
        first, after = part.below(np.array([rows[0], rows[-1] + 1])).tolist()
        if after > first:
            yield split, np.searchsorted(rows, part.rows(np.arange(first, after)))


def _laid_out(
    reader: Reader, raw: Raw, seen: Mapping[str, Summary], *, grey: bool
) -> tuple[Reader, Mapping[str, Summary]]:
    shape = seen["train"].shape
    if grey:
        reader = dataclasses.replace(reader, grey=True)
        raw.notes.append(GREY)
        return reader, {split: part.changed(lambda v: v[:, :1]) for split, part in seen.items()}
    if len(shape) not in (2, 3):
        return reader, seen
    layout = layout_of(Summary.joined(seen.values()), image=raw.image)
    raw.image = raw.image or layout != "rows"
    raw.notes += layout_notes(shape, layout)
    reader = dataclasses.replace(reader, layout=layout)
    return reader, {s: part.changed(lambda v: laid_out(v, layout)) for s, part in seen.items()}


def _modelled(
    reader: Reader,
    places: Mapping[Split, Places],
    raw: Raw,
    seen: Mapping[str, Summary],
    source: str,
    options: Mapping[str, Any],
    trained: Any,
) -> tuple[Reader, list[Any]]:
    """The reader of values in their type, with their noise; and the choices."""
    everything = Summary.joined(seen.values())
    scale = binarization_scale(raw, seen, source, options, trained)
    if scale is not None:
        grey = np.dtype(np.uint8 if everything.whole.all() else np.float32)
        # what the draws will be: 0 and 1 in every element
        both = {split: Summary.of(_binary(part)) for split, part in seen.items()}
        choices = chosen(raw, both, source, options, trained)
        reader = dataclasses.replace(reader, kind=grey, choices=tuple(choices))
        column = StreamColumn(reader, places["train"], "x", noisy=False)
        noise = Renewal("binarization", column, scale)
        return dataclasses.replace(reader, noise=noise), choices
    choices = chosen(raw, seen, source, options, trained)
    kind = smallest_type(everything, choices)
    reader = dataclasses.replace(reader, kind=kind, choices=tuple(choices))
    column = StreamColumn(reader, places["train"], "x", noisy=False)
    noise = dequantization(choices, column)
    return dataclasses.replace(reader, noise=noise), choices


def _binary(seen: Summary) -> Array:
    if not seen.rows:
        return np.zeros((0, *seen.shape), np.uint8)
    return np.stack([np.zeros(seen.shape, np.uint8), np.ones(seen.shape, np.uint8)])


def _table(
    table: ParquetFiles, options: Mapping[str, Any], known: Description | None
) -> ParquetShards:
    """The columns of a table, its categories and its labels, from a pass over text alone."""
    present, label = list(table.types), options["label"]
    trained = None if known is None else known.variables["x"]
    if known is not None and (trained is None or trained.columns is None):
        raise DataError(f"{table.name}: the model was fitted to arrays, not to a table.")
    if trained is None or trained.columns is None:
        refuse_absent(
            table.name,
            present,
            [*options["drop"], *options["categories"], *([label] if label else [])],
        )
        kept = [name for name in present if name not in options["drop"] and name != label]
    else:
        kept = list(trained.columns)
        absent = [name for name in kept if name not in present]
        if absent:
            raise DataError(
                f"{table.name}: column {absent[0]!r} of the training data is not there "
                f"({len(absent)} absent in all); the file has {', '.join(present[:10])}."
            )
    if not kept:
        raise DataError(f"{table.name}: no column is left to be modelled.")
    label = label if label in present else None
    table.refuse_columns([*kept, *([label] if label else [])])
    shards = ParquetShards(table, kept, label)
    raw = shards.raw
    if label is None and known is None:
        raw.notes += perhaps_labels(kept)
    names_of = {
        part.name: part.categories
        for part in (trained.parts if trained is not None else ())
        if part.categories is not None
    }
    coded = [n for n in kept if n in table.text or n in options["categories"] or n in names_of]
    distinct = _distinct(table, [*coded, *([label] if label else [])], label)
    codes: dict[str, Mapping[str, float]] = {}
    for name in coded:
        names = names_of.get(name)
        if names is None and name not in options["categories"]:
            numbers = _as_numbers(distinct[name])
            if numbers is not None:
                codes[name] = numbers
                continue
        if names is None:
            if known is not None:
                raise DataError(
                    f"{table.name}: column {name!r} holds text, but the model was fitted to "
                    f"numbers; correct it."
                )
            names = _categories(table.name, name, distinct[name], table.files.total)
        raw.categories[name] = tuple(names)
        codes[name] = {text: float(code) for code, text in enumerate(names)}
    if label is not None:
        classes = known.classes if known is not None else None
        if classes is None:
            classes = tuple(_ordered(distinct[label], text=label in table.text))
        raw.classes = classes
        codes[label] = {text: float(code) for code, text in enumerate(classes)}
    return shards.with_codes(codes)


def _distinct(table: ParquetFiles, names: Sequence[str], label: str | None) -> dict[str, set[str]]:
    """The different texts of some columns."""
    found: dict[str, set[str]] = {name: set() for name in names}
    if not names:
        return found
    for first, rows in table.tables(names):
        for name in names:
            texts, places = texts_of(rows.column(name))
            found[name] |= set(texts)
            if len(found[name]) > _MOST_LABELS:
                raise DataError(
                    f"{table.files.folder}: column {name!r} holds text with more than "
                    f"{_MOST_LABELS} different values: names or free text rather than "
                    f"{'labels' if name == label else 'categories'}; --drop {name}."
                )
            if name == label and (places < 0).any():
                row = first + int(np.flatnonzero(places < 0)[0])
                raise DataError(
                    f"{table.files.where(row)}: the label column {name!r} is empty; give every "
                    f"row a label, or leave those rows out."
                )
            if name == label and name not in table.text:
                _refuse_reals(table, name, texts)
    return found


def _refuse_reals(table: ParquetFiles, name: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not text.lstrip("-").isdigit() and text not in ("True", "False"):
            raise DataError(
                f"{table.files.folder}, column {name!r}: labels must be whole numbers or text, "
                f"but {text} is neither; a quantity to be modelled belongs among the values, not "
                f"the labels."
            )


def _as_numbers(texts: set[str]) -> dict[str, float] | None:
    """Numbers, or truth values, that were written as text."""
    if texts and {text.lower() for text in texts} <= {"true", "false"}:
        return {text: float(text.lower() == "true") for text in texts}
    try:
        return {text: float(text) for text in texts}
    except ValueError:
        return None


def _ordered(texts: set[str], *, text: bool) -> list[str]:
    if text:
        return sorted(texts)
    return sorted(texts, key=lambda each: (float(each) if _is_number(each) else 0.0, each))


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


def _categories(name: str, column: str, texts: set[str], rows: int) -> list[str]:
    numbers = all(map(_is_number, texts))
    if len(texts) > MOST_CATEGORIES or len(texts) > max(2, rows // 2):
        raise DataError(
            f"{name}: column {column!r} holds text with {len(texts)} different values in {rows} "
            f"rows: names or free text rather than categories. --drop {column}, or --label "
            f"{column} if it is the label."
        )
    return _ordered(texts, text=not numbers)


def _refuse_huge(name: str, columns: Sequence[str], seen: Mapping[str, Summary]) -> None:
    everything = Summary.joined(seen.values())
    largest = np.maximum(np.abs(everything.low), np.abs(everything.high))
    for place, column in enumerate(columns):
        if everything.count[place] and everything.whole[place]:
            if not largest[place] > LARGEST_EXACT:
                continue
            raise DataError(
                f"{name}: column {column!r} holds whole numbers as large as "
                f"{largest[place]:.4g}, more than a float can hold exactly: an identifier? --drop "
                f"{column}, or rescale it."
            )


def _order_note(plan: Plan, row_bytes: int) -> str:
    if plan.rows <= plan.most or (np.diff(plan.cuts) == 1).all():
        return "streamed from disk; an epoch is one permutation of all rows."
    pieces = len(plan.cuts) - 1
    together = len(plan.pools(0, 0))
    note = (
        f"streamed from disk; an epoch shuffles {pieces:,} pieces of neighbouring rows, then the "
        f"rows within each of {together:,} pools of them."
    )
    if pieces / together < 16:
        largest = int(np.diff(plan.cuts).max())
        note += (
            f" warning: row groups are large (up to {largest:,} rows, "
            f"{largest * row_bytes / 2**20:.0f} MiB), so only {pieces / together:.0f} of them are "
            f"mixed at a time, and so much memory is needed; write smaller ones."
        )
    return note
