"""Rows of tables by name: their columns, the pictures that these name, the steps of sequences."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deeplvm.data.catalogue import NAMED
from deeplvm.data.names import parted
from deeplvm.data.options import Asked, refuse_of_steps
from deeplvm.data.ragged import INPUTS
from deeplvm.data.readers.columns import open_table, refuse_absent
from deeplvm.data.readers.delimited import read_delimited
from deeplvm.data.readers.long_tables import folded_table, identifiers
from deeplvm.data.readers.shards import ParquetFiles, PictureColumn, open_files, pictures_of
from deeplvm.data.readers.source import Array, Facts, Held, codes_of
from deeplvm.data.readers.tables import Frames, Table, groups_of
from deeplvm.data.records import Description
from deeplvm.data.schema import rules_of
from deeplvm.data.sequences import folded, held_of
from deeplvm.data.variable import DataError

DELIMITED = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")


def held_table(
    table: Table, folder: Path, asked: Asked, codes: Array | None = None
) -> dict[str, Any]:
    """The same as :func:`table_rows`, in memory."""
    return {name: held_of(each) for name, each in table_rows(table, folder, asked, codes).items()}


def table_rows(
    table: Table, folder: Path, asked: Asked, codes: Array | None = None
) -> dict[str, Any]:
    """The columns of a table by name, and the pictures whose files it names.

    Args:
        table: All columns.
        folder: Where the pictures are.
        asked: What is asked of them.
        codes: Which sequence each row is a step of, where no column says so.
    """
    options, known = asked
    if options["sequence"] is not None:
        codes = identifiers(table, options["sequence"])
    if codes is not None:
        return _steps_of(table, folder, asked, codes)
    refuse_of_steps(table.origin, options)
    pictures = pictures_of(table, options["group"], known)
    if options["image_size"] is not None and not pictures:
        raise DataError(
            f"{table.origin}: --image-size is for folders of images, and for columns of paths of "
            f"image files (--group image=COLUMN)."
        )
    rows = open_table(
        table, label=options["label"], drop=options["drop"], categories=options["categories"],
        rules=rules_of(options["schema"]), known=known, apart=[*pictures.values()],
    )  # fmt: skip
    groups = {name: each for name, each in options["group"].items() if name not in pictures}
    found = parted(rows, groups, known, table.origin)
    for name, column in pictures.items():
        found[name] = PictureColumn(table, rows, column, folder, options["image_size"])
    return {name: found[name] for name in ("x", *options["group"]) if name in found} | found


def _steps_of(table: Table, folder: Path, asked: Asked, codes: Array) -> dict[str, Any]:
    """A long table: rows that share an identifier are the steps of one."""
    options, known = asked
    sequence, order = options["sequence"], options["order"]
    own = [each for each in (sequence, order) if each is not None]
    if sequence == order and known is None:
        raise DataError(
            f"{table.origin}: --order {order}: the column tells the sequences, and not the order "
            f"of their steps; leave it out, or name another."
        )
    for flag in ("label", "drop", "categories", "inputs"):
        said = options[flag]
        for column in (said,) if isinstance(said, str) else said or ():
            if column in own and known is None:
                raise DataError(
                    f"{table.origin}: --{flag} {column}: the column says which rows are a "
                    f"sequence, or their order; leave out one of the two."
                )
    trained = known.variables.get(INPUTS) if known is not None else None
    past = (trained.columns or ()) if trained is not None else ()
    found = folded_table(
        table, codes, order, away=own, rules=rules_of(options["schema"]), known=known is not None,
        differences=next((each for each in past if each not in table.types), None),
    )  # fmt: skip
    inputs = (*options["inputs"], *([found.differences] if found.differences else []))
    group, schema = dict(options["group"]), options["schema"] or {}
    if known is None and inputs:
        if INPUTS in group:
            raise DataError(
                f"{table.origin}: --group {INPUTS}: {INPUTS} are what is known of every step "
                f"(--inputs); choose another name."
            )
        group[INPUTS] = inputs
    rest = {name: rule for name, rule in schema.items() if name not in own}
    settled = asked.but(sequence=None, order=None, inputs=(), group=group, schema=rest)
    steps = table_rows(found.table, folder, settled)
    if known is None and {*steps} == {INPUTS}:
        raise DataError(
            f"{table.origin}: --inputs: every column is known, and none is left to be modelled."
        )
    return {**folded(steps, found.lengths, {}, table.origin)}


def sequences_of_folder(
    table: Frames, codes: Array, labels: Mapping[str, Array] | None, asked: Asked
) -> dict[str, Any]:
    """The sequences of a folder, of which each has a file."""
    options = asked.options
    if options["sequence"] is not None:
        raise DataError(
            f"{table.origin}: --sequence {options['sequence']}: in a folder each file is a "
            f"sequence; leave it out, or put all rows into one file."
        )
    found = held_table(table, Path(table.origin), asked, codes)
    if labels is None or options["label"] is not None:
        return found
    codes_, classes, said = codes_of(labels, table.origin)
    first = next(iter(found.values()))
    rows = first.rows.labelled(np.concatenate([*codes_.values()]), classes, said)
    return {name: replace(each, rows=rows) for name, each in found.items()}


def narrowed(found: Held, name: str, options: Mapping[str, Any]) -> Held:
    """Leave out columns of a matrix with names, make categories of those that are to be."""
    columns = list(found.facts.columns or ())
    refuse_absent(name, columns, [*options["drop"], *options["categories"]])
    found = found.dense() if found.is_sparse and options["categories"] else found
    values, categories = found.values, dict(found.facts.categories)
    for column in options["categories"]:
        if column in categories:
            continue
        place = columns.index(column)
        seen = values[:, place]
        holes = np.isnan(seen)
        codes = np.unique(seen[~holes])
        values = values.copy()
        values[:, place] = np.where(
            holes, np.nan, np.searchsorted(codes, np.where(holes, codes[0], seen))
        )
        categories[column] = tuple(f"{code:g}" for code in codes)
    left = set(options["drop"])
    kept = np.array([place for place, column in enumerate(columns) if column not in left], int)
    if not len(kept):
        raise DataError(f"{name}: no column is left to be modelled.")
    facts = replace(found.facts, categories=categories)
    if len(kept) < len(columns):
        values, facts = values[:, kept], facts.at(kept)
    cut = {key: values[part.all()] for key, part in found.parts.items()}
    codes_of = found.labels
    labels = {k: codes_of[p.all()] for k, p in found.parts.items()} if codes_of is not None else {}
    return Held(facts, cut, labels)


def cells_of_file(source: str, like: Description, known: Collection[str] = ()) -> dict[str, Any]:
    """All columns of a table's file as they are in it, in their order; of other files none.

    Those that a model leaves out (identifiers, free text, labels) are among them. Of a long table
    of sequences the rows are in the order of their steps.

    Args:
        source: Path of a file, or of a folder of ``.parquet`` files.
        like: Description of the data of a finished run, which reads the file in the same way.
        known: Columns whose cells are not wanted; ``None`` stands for them.
    """
    path, names = Path(source).expanduser(), [*like.columns]
    if source in NAMED or not (names or like.options.get("group")):
        return {}
    if path.name.lower().endswith(DELIMITED):
        text = read_delimited(path, header=like.options["header"])
        if not text.named and text.cells.num_columns != len(names):
            return {}
        cells = text.cells if text.named else text.cells.rename_columns(names)
        if like.options.get("sequence"):
            table = Frames(Facts(""), {"all": cells}, str(path))
            cells = cells.take(_rows_by_step(table, like))
        titles = cells.column_names
        return {n: None if n in known else cells.column(n).to_numpy() for n in titles}
    files = open_files(path, size=None) if path.is_dir() or path.suffix == ".parquet" else None
    if not isinstance(files, ParquetFiles):
        return {}
    wanted = [column for column in files.types if column not in known]
    parts = groups_of(files, wanted) if wanted else ()
    frames = [table.to_pandas(integer_object_nulls=True) for _, table in parts]
    whole: Any = pd.concat(frames) if frames else {}
    if frames and like.options.get("sequence"):
        whole = whole.iloc[_rows_by_step(files, like)]
    return {n: whole[n].to_numpy() if n in wanted else None for n in files.types}


def _rows_by_step(table: Table, like: Description) -> Array:
    """The rows of a long table as the steps of its sequences come."""
    sequence, order = like.options["sequence"], like.options["order"]
    codes, rules = identifiers(table, sequence), rules_of(like.options["schema"])
    return folded_table(
        table, codes, order, away=[sequence], rules=rules, differences=None, known=True
    ).rows
