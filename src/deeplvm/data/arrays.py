"""The rows of arrays, data frames, cells and sequences in memory or in an .npz, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deeplvm.data.names import only
from deeplvm.data.options import Asked, refuse_of_tables
from deeplvm.data.ragged import INPUTS
from deeplvm.data.readers.arrays import (
    VALUE_KEYS,
    as_matrix,
    held,
    label_of,
    labels_of,
    names_of,
    parts_of,
)
from deeplvm.data.readers.columns import refuse_absent
from deeplvm.data.readers.counts import held_cells, is_cells, read_cells
from deeplvm.data.readers.delimited import refuse_duplicates
from deeplvm.data.readers.images import stacked
from deeplvm.data.readers.source import Facts, Held, codes_of
from deeplvm.data.readers.tables import Frames
from deeplvm.data.readers.text import Texts, captions, is_texts, texts_in_memory, tokenised
from deeplvm.data.records import SPLITS
from deeplvm.data.sequences import folded, is_listed, is_ragged, spread
from deeplvm.data.sparse import compressed, is_sparse
from deeplvm.data.tabular import held_table, narrowed
from deeplvm.data.variable import DataError


def in_memory(source: Any, asked: Asked, lengths: Any = None) -> dict[str, Any]:
    """The rows of arrays, tensors, data frames, cells or sequences, by name."""
    if is_cells(source):
        return {"x": cells(source, "memory", asked)}
    if (texts := texts_in_memory(source, *asked)) is not None:
        return tokenised(texts, "memory", *asked)
    parts = dict(source) if isinstance(source, Mapping) else {"all": source}
    whole = parts.get("all")
    if isinstance(whole, list | tuple) and whole and isinstance(whole[0], pd.DataFrame):
        frames = {"all": pd.concat(whole, ignore_index=True)}
        codes = np.repeat(np.arange(len(whole)), [len(each) for each in whole])
        return held_table(Frames(Facts("memory"), frames, "memory"), Path(), asked, codes)
    if hasattr(whole, "to_arrow") and hasattr(whole, "columns"):  # polars
        whole = whole.to_arrow()
    if type(whole).__module__.partition(".")[0] == "pyarrow" and hasattr(whole, "column_names"):
        # as it is: pandas makes reals of whole numbers of which some are missing
        return held_table(Frames(Facts("memory"), {"all": whole}, "memory"), Path(), asked)
    ragged = lengths is not None or any([is_ragged(value) for value in parts.values()])
    ragged |= asked.known is not None and bool(asked.known.steps)
    parts = {
        key: value if ragged and is_listed(value) else _as_frame_or_array(value)
        for key, value in parts.items()
    }
    if "all" not in parts and not set(parts) <= set(SPLITS):
        return of_arrays(parts, "memory", "memory", asked, lengths)
    split = f"{' / '.join(parts)} as they were given" if "train" in parts else ""
    if all(isinstance(each, pd.DataFrame) for each in parts.values()):
        table = Frames(Facts("memory", split=split), parts, "memory")
        return held_table(table, Path(), asked)
    if "all" not in parts and "train" not in parts:
        raise DataError("memory: splits without training rows; add 'train'.")
    arrays = {"x" if each == "all" else f"x_{each}": value for each, value in parts.items()}
    return of_arrays(arrays, "memory", "memory", asked, lengths)


def cells(source: Any, what: str, asked: Asked) -> Held:
    """The rows of an .h5ad file or of an AnnData object."""
    options, known = asked
    refuse_of_tables(what, {**options, "label": None})
    layer, label = options["layer"], options["label"]
    if is_cells(source):
        found = held_cells(source, "memory", what, layer, label, known)
    else:
        found = read_cells(source, layer, label, known)
    return narrowed(found, what, options) if known is None else found


def of_arrays(
    arrays: Mapping[str, Any],
    name: str,
    what: str,
    asked: Asked,
    lengths: Any = None,
) -> dict[str, Any]:
    """The rows of named arrays and tables: each a name, or all of them the columns of a table."""
    options, known = asked
    if (matrix := as_matrix(arrays, what)) is not None:
        refuse_of_tables(what, options)
        return {"x": held({"all": matrix}, name, what)}
    steps, of_rows, labels = spread(arrays, lengths, what)
    if of_rows:
        parts, named = parts_of(steps), not {*VALUE_KEYS}.isdisjoint(parts_of(steps))
        words = any([np.asarray(each).dtype.kind in "USO" for each in steps.values()])
        columns = all([np.ndim(each) == 1 for each in steps.values()])
        columns = columns and (words or (len(parts) > 1 and not named))
        if INPUTS in parts and (named or columns):
            asked = asked.but(group={INPUTS: (INPUTS,), **options["group"]})
        if columns:
            frames = {
                part: pd.DataFrame({base: steps[keys[part]] for base, keys in parts.items()})
                for part in of_rows
            }
            found = held_table(Frames(Facts(name), frames, what), Path(), asked)
        else:
            found = of_arrays(steps, name, what, asked)
        return {n: e.told() for n, e in folded(found, of_rows, labels, what).items()}
    if options["image_size"] is not None:
        raise DataError(f"{what}: --image-size is for files of images only.")
    parts = parts_of(arrays)
    columns = len(arrays) > 1 and not {*VALUE_KEYS} & {*parts}
    if columns and all([np.ndim(each) == 1 for each in arrays.values()]):
        if len({len(each) for each in arrays.values()}) > 1:
            raise DataError(f"{what}: the arrays are columns of different length.")
        table = Frames(Facts(name), {"all": pd.DataFrame(dict(arrays))}, what)
        return held_table(table, Path(), asked)
    names = names_of(parts, options["group"], known, what)
    label = label_of(parts, names)
    tables = {
        each: {
            part: pd.concat(
                [_as_columns(arrays[parts[key][part]], key, what) for key in keys], axis=1
            )
            for part in parts[keys[0]]
        }
        for each, keys in names.items()
        if len(keys) > 1 or isinstance(arrays[next(iter(parts[keys[0]].values()))], pd.DataFrame)
    }
    if not tables and (known is None or len(known.variables) == 1):
        refuse_of_tables(what, {**options, "group": {}})
    present = [f"{c}" for each in tables.values() for c in next(iter(each.values())).columns]
    refuse_duplicates(what, present)
    if tables and known is None:
        said = [*options["drop"], *options["categories"], *(options["schema"] or {})]
        refuse_absent(what, present, said + ([options["label"]] if options["label"] else []))
    views: dict[str, Any] = {}
    for each, keys in names.items():
        if each not in tables:
            found = {part: arrays[key] for part, key in parts[keys[0]].items()}
            of, at = Facts(name), f"{what}, {keys[0]}"
            views[each] = (
                captions(Texts(of, found), each, at, *asked)
                if len(names) > 1 and all(map(is_texts, found.values()))
                else held(found, name, at)
            )
            continue
        table = Frames(Facts(name), tables[each], what)
        own = Asked(_of_columns(options, [*table.types]), only(known, each))
        (views[each],) = held_table(table, Path(), own).values()
    lead = next(iter(views.values()))
    labelled = [each for each in views.values() if each.labels is not None]
    if label and labelled:
        raise DataError(
            f"{what}: {label} are labels, and so is the column {options['label']!r}; leave out "
            f"one of the two."
        )
    if label:
        found = {part: arrays[key] for part, key in parts[label].items()}
        codes, classes, said = codes_of(labels_of(found, lead, what, label), f"{what}, {label}")
        lead = lead.labelled(np.concatenate([*codes.values()]), classes, said)
    elif labelled:
        lead = lead.labelled(labelled[0].labels, labelled[0].facts.classes)
    used = {key for keys in names.values() for key in keys} | {label}
    others = [key for base, each in parts.items() if base not in used for key in each.values()]
    if others:
        said = (
            f"arrays that are left out: {', '.join(others)}; --group {others[0]}={others[0]} "
            f"makes one a name of the model."
        )
        lead.facts = replace(lead.facts, notes=(*lead.facts.notes, said))
    return {**views, next(iter(views)): lead}


def _as_columns(value: Any, key: str, what: str) -> pd.DataFrame:
    """A table, or an array of one value a row as a column of one."""
    if not isinstance(value, pd.DataFrame) and np.ndim(value) != 1:
        raise DataError(
            f"{what}: --group puts columns together, and the array {key!r} has rows of shape "
            f"{np.shape(value)[1:]}; make it a name by itself, --group {key}={key}."
        )
    return value if isinstance(value, pd.DataFrame) else pd.DataFrame({key: value})


def _as_frame_or_array(value: Any) -> Any:
    """A pandas data frame, or a numpy array."""
    if isinstance(value, pd.DataFrame):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, pd.Series):
        return value.to_numpy()
    if is_sparse(value):
        return compressed(value)
    if isinstance(value, list | tuple) and any([hasattr(each, "convert") for each in value]):
        return stacked(value)
    if hasattr(value, "to_pandas"):  # polars, arrow
        return _as_frame_or_array(value.to_pandas())
    return np.asarray(value)


def _of_columns(options: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """What is asked of some columns."""
    there, schema = {*columns}, options["schema"] or {}
    return {
        **options,
        "group": {},
        "label": options["label"] if options["label"] in there else None,
        "drop": tuple([each for each in options["drop"] if each in there]),
        "categories": tuple([each for each in options["categories"] if each in there]),
        "schema": {name: rule for name, rule in schema.items() if name in there},
    }
