"""load: a named set or a file -> Data, with every choice written down."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from deeplvm.data.catalogue import NAMED, close_names, read_named
from deeplvm.data.likelihood import binarization_scale, chosen, description_of, refuse_other_shape
from deeplvm.data.readers.arrays import checked, read_idx, read_npy, read_npz
from deeplvm.data.readers.images import ENDINGS, laid_out, layout_notes, layout_of, read_folder
from deeplvm.data.readers.raw import Raw
from deeplvm.data.readers.tables import from_frames, read_csv, read_parquet
from deeplvm.data.records import (
    SPLITS,
    Data,
    DataError,
    Description,
    LikelihoodName,
    Renewal,
    Rows,
    Selection,
)
from deeplvm.data.split import divide, kept_elements, limit_rows, select_columns
from deeplvm.data.statistics import Summary
from deeplvm.data.streaming import Streaming, is_streamed, open_stream, read_shards
from deeplvm.data.tensors import tensors_of, variable_of, warnings_of

_TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")


def load(
    source: str | Path,
    *,
    likelihood: LikelihoodName = "auto",
    binarize: Literal["static", "dynamic"] | None = None,
    dequantize: Literal["uniform"] | None = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    categories: Sequence[str] = (),
    split: tuple[float, float, float] | None = None,
    seed: int = 0,
    image_size: int | None = None,
    most_variable: int | None = None,
    limit: int | None = None,
    stream: Streaming = "auto",
    like: Description | Mapping[str, Any] | None = None,
) -> Data:
    """Load a named data set or a file, look at it, and choose a likelihood.

    Files: ``.npy``, ``.npz``, ``.csv``, ``.tsv`` (also gzipped), ``.parquet``, IDX; a folder of
    images, of ``.npy`` or of ``.parquet`` files. Named sets: :func:`~deeplvm.data.datasets`.
    Nothing is standardised: likelihoods are in the data's own units.

    Args:
        source: Name of a data set, or path of a file or a folder.
        likelihood: Distribution of the values; "auto" looks at them and says what it chose.
        binarize: Draw grey values as 0 or 1: "static" once, "dynamic" anew at each visit of a
            training row (validation and test rows are drawn once in both).
        dequantize: "uniform" adds U[0, 1) noise to whole numbers, anew at each visit of a training
            row; densities are then lower bounds of probabilities.
        label: Column of a table that holds the labels.
        drop: Columns to leave out.
        categories: Columns whose numbers are codes of unordered categories.
        split: Fractions of training, validation and test rows, instead of the set's own split or
            0.8 0.1 0.1.
        seed: Seed of the split and of the fixed draws.
        image_size: Crop each image to its middle square and scale it to this many pixels a side.
        most_variable: Keep only so many columns of counts, those whose variance is largest
            compared with their mean in the training rows.
        limit: Use at most so many rows of each split.
        stream: Leave the rows on disk and read them as they are visited: .npy, .parquet, folders
            of these or of images; "auto" does so where they would take more than a third of the
            memory.
        like: Description of the data of a finished run: read this source in the same way, with
            the same columns, categories, levels and likelihood. A source without a split of its
            own is then all test rows. The options above it except ``limit`` and ``stream`` are the
            run's.

    Raises:
        DataError: With one line in the user's words for whatever is wrong with the data.

    >>> digits = load("digits")
    >>> print(digits.variables["x"])
    x: 1×8×8, whole-number levels (17 values); likelihood discretized-logistic
    >>> {split: digits.rows(split) for split in ("train", "valid", "test")}
    {'train': 1437, 'valid': 180, 'test': 180}
    """
    source = str(source)
    options: dict[str, Any] = {
        "source": source if source in NAMED else str(Path(source).expanduser().absolute()),
        "likelihood": likelihood,
        "binarize": binarize,
        "dequantize": dequantize,
        "label": label,
        "drop": _names(drop),
        "categories": _names(categories),
        "split": None if split is None else tuple(split),
        "seed": seed,
        "image_size": image_size,
        "most_variable": most_variable,
        "limit": limit,
        "stream": False,
    }
    known = Description.from_dict(like) if isinstance(like, Mapping) else like
    if known is not None:
        options |= {
            name: value
            for name, value in known.options.items()
            if name not in ("source", "limit", "stream")
        }
    _check_options(options)
    path = Path(source).expanduser()
    if source not in NAMED and is_streamed(path, stream, options):
        options["stream"] = True
        return open_stream(path, source, options, known)
    if source in NAMED and stream is True:
        raise DataError(f"{source}: a named data set is not streamed; leave out --stream.")
    raw = _read(source, options, known)
    _refuse_infinite(raw, source)
    if raw.columns is None:
        _drop_elements(raw, source, options)
        _as_images(raw)
    divide(raw, options, known)
    places = select_columns(raw, lambda: Summary.of(raw.values["train"]), options, known)
    if places is not None:
        raw.values = {split: part[:, places] for split, part in raw.values.items()}
    limit_rows(raw, options["limit"], options["seed"])
    return _finish(raw, source, options, known)


def _check_options(options: Mapping[str, Any]) -> None:
    for name, allowed in (
        ("binarize", ("static", "dynamic")),
        ("dequantize", ("uniform",)),
        ("likelihood", LikelihoodName.__args__),  # type: ignore[attr-defined]
    ):
        value = options[name]
        if value is not None and value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(allowed)}."
            raise DataError(f"--{name} {value}: {hint}")
    if options["binarize"] and options["dequantize"]:
        raise DataError("--binarize makes 0 and 1, which --dequantize has no use for; choose one.")
    if options["binarize"] and options["likelihood"] not in ("auto", "bernoulli"):
        raise DataError(
            f"--binarize makes 0 and 1, whose likelihood is bernoulli, not "
            f"{options['likelihood']}; leave out one of the two."
        )
    for name in ("limit", "most_variable"):
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


def _read(source: str, options: Mapping[str, Any], known: Description | None) -> Raw:
    if source in NAMED:
        raw = read_named(source)
        _refuse_table_options(source, options, raw.columns)
        if raw.columns is not None:
            _drop_columns(raw, source, options, known)
        return raw
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(_not_there(source, path))
    if path.is_dir():
        shards = read_shards(path, options, known)
        if shards is not None:
            return shards
        _refuse_table_options(source, options, None)
        return read_folder(path, size=options["image_size"])
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    name = path.name.lower()
    if options["image_size"] is not None:
        raise DataError(f"{path}: --image-size is for folders of images only.")
    if name.endswith(_TABLE_ENDINGS):
        frame = read_parquet(path) if name.endswith(".parquet") else read_csv(path)
        if not len(frame):
            raise DataError(f"{path}: the table has no rows.")
        raw = from_frames(
            path.name,
            {"all": frame},
            label=options["label"],
            drop=options["drop"],
            categories=options["categories"],
            like=known,
        )
        raw.name = path.name.split(".")[0]
        return raw
    _refuse_table_options(source, options, None)
    if name.endswith(".npy"):
        return read_npy(path)
    if name.endswith(".npz"):
        return read_npz(path)
    if name.removesuffix(".gz").endswith((".idx", "ubyte")):
        return Raw(name=path.name, values={"all": checked(read_idx(path), str(path))})
    if name.endswith(ENDINGS):
        raise DataError(f"{path}: this is one image; give the folder that holds the images.")
    raise DataError(
        f"{path}: files that end like this are not supported; save it as .npy, .npz, .csv, .tsv, "
        f".parquet or IDX, or give a folder of images."
    )


def _not_there(source: str, path: Path) -> str:
    folder = path.parent
    siblings = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = [
        *close_names(source),
        *(str(folder / name) for name in difflib.get_close_matches(path.name, siblings, n=3)),
    ]
    if close:
        return f"{source}: no such file or data set; did you mean {' or '.join(close)}?"
    return (
        f"{source}: no such file, and no data set of this name; `deeplvm datasets` lists the "
        f"named ones: {', '.join(list(NAMED)[:6])}, …"
    )


def _refuse_table_options(
    source: str, options: Mapping[str, Any], columns: tuple[str, ...] | None
) -> None:
    named = source in NAMED
    wrong = ["label"] if options["label"] is not None else []
    wrong += ["categories"] if options["categories"] and not (named and columns) else []
    for name in wrong:
        reason = (
            "a named set has its own labels"
            if named and name == "label"
            else "columns have names only in a table"
        )
        raise DataError(f"{source}: --{name} {_text(options[name])} does not apply: {reason}.")
    if named and options["image_size"] is not None:
        raise DataError(f"{source}: --image-size is for folders of images only.")


def _drop_columns(
    raw: Raw, source: str, options: Mapping[str, Any], known: Description | None
) -> None:
    """Leave out columns of a named table, and make categories of those that are to be."""
    columns = raw.columns or ()
    for column in (*options["drop"], *options["categories"]):
        if column not in columns:
            close = difflib.get_close_matches(column, columns, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "see its description."
            raise DataError(f"{source}: there is no column {column!r}; {hint}")
    for column in options["categories"]:
        if column in raw.categories:
            continue
        place = columns.index(column)
        everything = np.concatenate([part[:, place] for part in raw.values.values()])
        codes = np.unique(everything[~np.isnan(everything)])
        raw.categories[column] = tuple(f"{code:g}" for code in codes)
        for key, part in raw.values.items():
            holes = np.isnan(part[:, place])
            found = np.searchsorted(codes, np.where(holes, codes[0], part[:, place]))
            raw.values[key] = part.copy()
            raw.values[key][:, place] = np.where(holes, np.nan, found)
    kept = [place for place, column in enumerate(columns) if column not in options["drop"]]
    if not kept:
        raise DataError(f"{source}: no column is left to be modelled.")
    if len(kept) < len(columns):
        raw.values = {key: part[:, kept] for key, part in raw.values.items()}
        raw.columns = tuple(columns[place] for place in kept)
    other = known is not None and known.source != source
    if other and known is not None and raw.columns != known.variables["x"].columns:
        raise DataError(f"{source}: its columns are not those of the training data {known.name}.")


def _refuse_infinite(raw: Raw, source: str) -> None:
    for key, part in raw.values.items():
        if part.dtype.kind != "f" or not np.isinf(part).any():
            continue
        where = tuple(int(place) for place in np.argwhere(np.isinf(part))[0])
        row = where[0] + 1
        at = (
            f"column {raw.columns[where[1]]!r}, row {row}"
            if raw.columns is not None
            else f"row {row}, element {where[1:]}"
        )
        rows = "" if key == "all" else f" of the {key} rows"
        raise DataError(
            f"{source}: {at}{rows}: the value is infinite ({int(np.isinf(part).sum())} in all); "
            f"correct it, or make it missing (NaN, an empty cell)."
        )


def _drop_elements(raw: Raw, source: str, options: Mapping[str, Any]) -> None:
    """Leave out columns of an array of shape (rows, columns), by number from 0."""
    kept = kept_elements(next(iter(raw.values.values())).shape[1:], source, options)
    if kept is not None:
        raw.values = {key: part[:, kept] for key, part in raw.values.items()}


def _as_images(raw: Raw) -> None:
    """Grey images of shape (rows, H, W) get a channel; (rows, H, W, C) become (rows, C, H, W)."""
    shape = next(iter(raw.values.values())).shape[1:]
    if len(shape) not in (2, 3):
        return
    seen = Summary.joined([Summary.of(part) for part in raw.values.values()])
    layout = layout_of(seen, image=raw.image)
    raw.values = {key: laid_out(part, layout) for key, part in raw.values.items()}
    raw.image = raw.image or layout != "rows"
    raw.notes += layout_notes(shape, layout)


def _finish(raw: Raw, source: str, options: dict[str, Any], known: Description | None) -> Data:
    trained = None if known is None else known.variables["x"]
    if trained is not None:
        refuse_other_shape(raw.values["test"].shape[1:], source, trained)
        raw.values = {key: part.reshape(-1, *trained.shape) for key, part in raw.values.items()}
    seen = {split: Summary.of(part) for split, part in raw.values.items()}
    renewals: dict[str, Renewal] = {}
    generator = torch.Generator().manual_seed(options["seed"])
    scale = binarization_scale(raw, seen, source, options, trained)
    if scale is not None:
        kind = np.uint8 if Summary.joined(seen.values()).whole.all() else np.float32
        grey = {
            split: torch.from_numpy(np.ascontiguousarray(part.astype(kind, copy=False)))
            for split, part in raw.values.items()
        }
        renewal = Renewal("binarization", grey["train"], scale)
        raw.values = {
            split: renewal.draw(grey[split], generator, torch.float32).to(torch.uint8).numpy()
            for split in SPLITS
        }
        seen = {split: Summary.of(part) for split, part in raw.values.items()}
        if options["binarize"] == "dynamic" and known is None:
            renewals["x"] = renewal
    choices = chosen(raw, seen, source, options, trained)
    tensors, noise = tensors_of(raw, choices, generator)
    if trained is None:
        if noise is not None:
            renewals["x"] = noise
        if scale is None and (noise is not None or choices[0].step != 1):
            seen = {split: Summary.of(part.numpy()) for split, part in tensors.items()}
        variable = variable_of(raw, source, choices, seen)
        variable = dataclasses.replace(variable, grey=scale)
        raw.notes += warnings_of(variable, seen, tensors["train"])
    else:
        missing = any(part.missing.any() for part in seen.values())
        variable = dataclasses.replace(trained, missing=missing)
    rows: dict[str, Rows] = {split: {"x": tensors[split]} for split in SPLITS}
    if raw.labels:
        for split in SPLITS:
            rows[split]["y"] = torch.from_numpy(np.asarray(raw.labels[split], dtype=np.int64))
    return Data(
        description=description_of(
            raw, options, variable, {split: len(tensors[split]) for split in SPLITS}
        ),
        train=Selection(rows["train"]),
        valid=Selection(rows["valid"]),
        test=Selection(rows["test"]),
        renewals=renewals,
    )


def _names(names: Sequence[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(str(name) for name in names)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value)
