"""load: a named set, a file or arrays -> Data, with every choice written down."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
import torch

from deeplvm.data.assembly import assembled, columns_kept, listing, noise_seed, with_noise
from deeplvm.data.catalogue import NAMED, close_names, named_graph, read_named
from deeplvm.data.graphs import graph_data
from deeplvm.data.likelihood_table import spelled
from deeplvm.data.names import columns_by_name, completed, only, parted
from deeplvm.data.preparation import choices_of
from deeplvm.data.ragged import INPUTS
from deeplvm.data.readers.arrays import (
    VALUE_KEYS,
    as_matrix,
    held,
    label_of,
    labels_of,
    names_of,
    parts_of,
    read_arrays,
    read_file,
)
from deeplvm.data.readers.columns import open_table, refuse_absent
from deeplvm.data.readers.counts import ENDING as CELLS
from deeplvm.data.readers.counts import held_cells, is_cells, read_cells
from deeplvm.data.readers.delimited import read_delimited, refuse_duplicates
from deeplvm.data.readers.graphs import is_graph, read_graph
from deeplvm.data.readers.images import ENDINGS, Layout, lost_links, stacked
from deeplvm.data.readers.long_tables import (
    LINES,
    folded_table,
    folder_of_tables,
    identifiers,
    json_lines,
)
from deeplvm.data.readers.shards import ParquetFiles, PictureColumn, open_files, pictures_of
from deeplvm.data.readers.source import Array, Facts, Held, codes_of, room
from deeplvm.data.readers.tables import Frames, Table, groups_of
from deeplvm.data.readers.text import OPTIONS as TEXT_OPTIONS
from deeplvm.data.readers.text import (
    Texts,
    captions,
    cells_of,
    is_texts,
    texts_in_memory,
    texts_of_files,
    tokenised,
)
from deeplvm.data.records import SPLITS, Data, Description
from deeplvm.data.schema import agreed, rules_of, written
from deeplvm.data.sequences import (
    Sequences,
    folded,
    held_of,
    in_pieces,
    is_listed,
    is_ragged,
    spread,
)
from deeplvm.data.sets import as_sets
from deeplvm.data.sparse import compressed, is_sparse
from deeplvm.data.split import divide, limited
from deeplvm.data.stream import Stream
from deeplvm.data.tokens import SCHEMES
from deeplvm.data.transform import Reader, label_type
from deeplvm.data.variable import DataError
from deeplvm.files import memory

Streaming = bool | Literal["auto"]
_TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")
_HELD = (
    "texts are not streamed: a token takes 4 bytes of memory; leave out --stream, and say --limit "
    "where that is too much."
)
_KINDS = ("uint8", "int16", "int32", "int64", "float32")


def load(
    source: Any,
    *,
    likelihood: str = "auto",
    binarize: Literal["static", "dynamic"] | None = None,
    dequantize: Literal["uniform", "auto"] | None = None,
    label: str | None = None,
    layer: str | None = None,
    drop: Sequence[str] = (),
    categories: Sequence[str] = (),
    schema: str | Path | Mapping[str, Any] | None = None,
    header: bool | None = None,
    group: Sequence[str] | Mapping[str, Sequence[str]] = (),
    sequence: str | None = None,
    order: str | None = None,
    inputs: Sequence[str] = (),
    pieces: int | None = None,
    split: tuple[float, float, float] | None = None,
    seed: int = 0,
    image_size: int | None = None,
    most_variable: int | None = None,
    keep_labels: int | None = None,
    members: int | None = None,
    graph: bool = False,
    nodes: str | None = None,
    limit: int | None = None,
    tokens: str | None = None,
    vocabulary: int | None = None,
    minimum_count: int | None = None,
    lower: bool = False,
    text: str | None = None,
    stream: Streaming = "auto",
    lengths: Any = None,
    like: Description | Mapping[str, Any] | None = None,
) -> Data:
    """Load a named data set, a file or arrays, look at them, and choose a likelihood.

    Files: ``.npy``, ``.npz``, ``.csv``, ``.tsv`` (also gzipped), ``.parquet``, ``.h5ad``, IDX; a
    folder of images, of ``.npy`` or of ``.parquet`` files. Of sequences also ``.jsonl``, a list of
    steps a line, and a folder of ``.csv`` files. Named sets:
    :func:`~deeplvm.data.datasets`.
    From memory: an array or tensor of shape ``(rows, *event)``, a sparse matrix of scipy, a data
    frame, an AnnData object, a list of arrays of unequal length (a sequence each), a mapping of
    arrays called as in an ``.npz`` (``x``, ``y``; ``x_train``, …), of columns, or of splits.
    Nothing is standardised: likelihoods are in the data's own units. Sparse matrices stay sparse:
    rows are written out a batch at a time.

    Args:
        source: Name of a data set, path of a file or a folder, or the rows themselves.
        likelihood: Distribution of the values, by its name, with options in parentheses if any;
            "auto" looks at them and says what it chose.
        binarize: Draw grey values as 0 or 1: "static" once, "dynamic" anew at each visit of a
            training row (validation and test rows are drawn once in both).
        dequantize: "uniform" adds U[0, 1) noise to whole numbers, anew at each visit of a training
            row; densities are then lower bounds of probabilities. "auto" does so where all values
            are whole numbers that are not only 0 and 1, for models that are densities.
        label: Column of a table that holds the labels; of cells, one of ``obs``.
        layer: Which of the layers of cells; by default their X.
        drop: Columns to leave out.
        categories: Columns whose numbers are codes of unordered categories.
        schema: What columns are: a TOML file, or what it holds, {column: {"type": "ordinal",
            "levels": [...], "likelihood": ..., "missing": [...]}}. What it says of a column goes
            before what is seen in it, and before ``likelihood``.
        header: Whether the first line of a delimited file names the columns; by default that is
            seen from the lines.
        group: Names of the model, each with its columns of the table, "x1=age,height"; in Python
            also {"x1": ["age", "height"]}. Columns of no group are x. A group of one column of
            paths of image files (from the table's folder on) are those images. Of an .npz, which
            array a name is. By default all columns are x, and so is the array x. Beside a text
            (``text``), numbers that are told from its code, such as properties of molecules.
        sequence: Column of a table that says which rows are a sequence: those with the same cell
            are its steps. A folder of delimited files has a sequence in each.
        order: Column of numbers or dates by which the steps of a sequence are ordered; by default
            as they come. Where they are irregular, the differences are inputs.
        inputs: Columns that are known in every step, controls say: the name u, given and not
            modelled.
        pieces: Cut the sequences of training into pieces of at most so many steps, each a row;
            other data are read whole.
        split: Fractions of training, validation and test rows, instead of the set's own split or
            0.8 0.1 0.1.
        seed: Seed of the split and of the fixed draws.
        image_size: Crop each image to its middle square and scale it to this many pixels a side.
        keep_labels: Leave only so many training rows their label, as many of each class as of any
            other or one less, drawn by the seed; the others are then without one.
        members: Make each row a set of so many rows with the same label, for models of sets; the
            label is then the set's.
        graph: Read a graph, which is one row: a list of edges (two columns, names or numbers of
            nodes), an ``.npz`` (``edges``, features ``x``, labels ``y``, ``num_nodes``) or a
            sparse matrix. ``split`` is then of edges, 0.85 0.05 0.1 by default. Named graphs,
            those of networkx and a Data of PyTorch Geometric are read so anyway.
        nodes: Of an edge list: path of a table with a line for each node, its name in the first
            column and its features in the others; of words each is a feature, 0 or 1.
        most_variable: Keep only so many columns of counts, those whose variance is largest
            compared with their mean in the training rows.
        limit: Use at most so many rows of each split.
        tokens: Of a text, what its tokens are: "words" between blanks, "characters", "bytes", or
            the path of a tokenizer.json; by default words, and characters of rows that are one.
        vocabulary: Of a text, keep only so many tokens, the most frequent of the training rows; of
            words 10,000 by default. All others are one, <unk>.
        minimum_count: Of a text, keep only tokens that are so often in the training rows; of words
            2 by default, so that <unk> is learned too.
        lower: Read a text in lower case.
        text: Column of a table that holds a text in each row; beside images whose files another
            one names (``group="x=file"``) it is what is said of each, the name caption.
        stream: Leave the rows on disk and read them as they are visited: .npy, .parquet, folders
            of these or of images; "auto" does so where they would take more than a third of the
            memory.
        lengths: Of sequences in memory, how many steps each row has, shape ``(rows,)``: the values
            are then all steps, one row after another, or rows padded to one length. A list of
            arrays of unequal length needs none: each is a row.
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
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    name = "memory" if path is None else str(source)
    options: dict[str, Any] = {
        "source": name if path is None or name in NAMED else str(path.absolute()),
        "likelihood": likelihood,
        "binarize": binarize,
        "dequantize": dequantize,
        "label": label,
        "layer": layer,
        "drop": _names(drop),
        "categories": _names(categories),
        "schema": None,
        "header": header,
        "group": columns_by_name(group),
        "sequence": sequence,
        "order": order,
        "inputs": _names(inputs),
        "pieces": pieces,
        "split": None if split is None else tuple(split),
        "seed": seed,
        "image_size": image_size,
        "most_variable": most_variable,
        "keep_labels": keep_labels,
        "members": members,
        "graph": graph,
        "nodes": None if nodes is None else str(Path(nodes).expanduser().absolute()),
        "limit": limit,
        "tokens": tokens if tokens is None or tokens in SCHEMES else str(Path(tokens).absolute()),
        "vocabulary": vocabulary,
        "minimum_count": minimum_count,
        "lower": lower,
        "text": text,
        "stream": False,
    }
    known = Description.from_dict(like) if isinstance(like, Mapping) else like
    if schema is not None and known is None:
        rules = rules_of(schema)
        options["schema"] = written(rules)
        options |= agreed(rules, options)
    if known is not None:
        options |= {
            name: value
            for name, value in known.options.items()
            if name not in ("source", "limit", "stream")
        }
    _check_options(options)
    if lengths is not None and path is not None:
        raise DataError(f"{name}: lengths are those of sequences in memory; leave them out.")
    named = named_graph(name)
    if options["graph"] or named is not None or is_graph(source):
        _refuse_options_of_rows(
            name, {**options, "stream": stream, "lengths": lengths is not None}
        )
        options |= {"graph": True}
        if named is not None and options.get("nodes"):
            raise DataError(f"{name}: --nodes is of edge lists, and this graph has its features.")
        whole = named or read_graph(
            path if path is not None else source, name, header=options["header"],
            drop=options["drop"], nodes=options.get("nodes"),
        )  # fmt: skip
        return graph_data(whole, options, known)
    if options.get("nodes"):
        raise DataError(
            f"{name}: --nodes is of a graph's nodes; say --graph too, or leave it out."
        )
    # the names of other data are those of the run, whichever way they are given
    asked = options if known is None else {**options, "group": {}}
    cells = is_cells(source) or (name not in NAMED and name.lower().endswith(CELLS))
    if layer is not None and known is None and not cells:
        raise DataError(
            f"{name}: --layer {layer} does not apply: only .h5ad files and AnnData objects have "
            f"layers."
        )
    if path is None or name in NAMED:
        if stream is True:
            what = "what is in memory" if path is None else f"{name}: a named data set"
            raise DataError(f"{what} is not streamed; leave out --stream.")
        if path is None:
            found = _in_memory(source, asked, known, lengths)
        else:
            found = _named(name, asked, known)
    else:
        found = _opened(path, name, asked, known, stream)
        steps = [each.steps if isinstance(each, Sequences) else each for each in found.values()]
        options["stream"] = not all([isinstance(each, Held) for each in steps])
    texts = [each.facts.tokens for each in found.values() if each.facts.vocabulary is not None]
    if texts and known is None:
        options["tokens"] = texts[0]
    elif known is None and (
        asked_of_text := [e for e in TEXT_OPTIONS if options[e] and not texts]
    ):
        flag = asked_of_text[0].replace("_", "-")
        raise DataError(
            f"{name}: --{flag} is for texts: a .txt file, a folder of these, a column of a table "
            f"named by --text; leave it out."
        )
    if options["pieces"] is not None and known is None:
        found = {**in_pieces(found, options["pieces"], options, name)}
    if options["members"] is not None:
        found = as_sets(found, options["members"], options["seed"], name)
    return assembled(completed(found, name, known), name, options, known)


def reopen(description: Description) -> Stream | None:
    """The stream that was described, without a look at its rows, if its files are as they were.

    That is judged by their names, sizes and times of change.

    Returns:
        ``None`` if there is a doubt: :func:`~deeplvm.data.load` then looks again.

    Raises:
        DataError: If a file is damaged.
    """
    new = {"sequence": None, "order": None, "inputs": ()}  # which versions before did not write
    options: dict[str, Any] = {**new, **description.options, "group": {}}
    form = description.stream.get("form")
    path = Path(str(options.get("source")))
    if not isinstance(form, dict) or not path.exists():
        return None
    files = open_files(path, size=options["image_size"])
    if description.steps or files is None or form.keys() != description.variables.keys():
        return None
    views = _rows_of(files, path, path.name, options, description)
    first = next(iter(views.values()))
    if listing(views) != description.stream.get("files") or views.keys() != form.keys():
        return None
    whole, _ = divide(first, options, None)
    places = {
        s: limited(first, part, options["limit"], options["seed"]) for s, part in whole.items()
    }
    if {split: len(part) for split, part in places.items()} != dict(description.rows):
        return None
    readers = {}
    for name, variable in description.variables.items():
        kind, grey = form[name].get("kind"), form[name].get("grey")
        layout = cast("Layout", form[name].get("layout"))
        if layout not in get_args(Layout) or kind not in _KINDS or not isinstance(grey, bool):
            return None
        labelled = description.classes is not None and not readers
        reader = Reader(
            views[name],
            name=name,
            kept=columns_kept(views, name, path.name, options),
            layout=layout,
            grey=grey,
            shape=variable.shape,
            kind=np.dtype(kind),
            choices=tuple(choices_of(variable)),
            seed=noise_seed(options["seed"], readers),
            labels=label_type(description.unlabelled) if labelled else None,
        )
        readers[name] = with_noise(reader, places, variable.grey)
    return Stream.over(readers, places, description)


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
    if path.name.lower().endswith(_TEXT):
        text = read_delimited(path, header=like.options["header"])
        if not text.named and text.cells.num_columns != len(names):
            return {}
        cells = text.cells if text.named else text.cells.rename_columns(names)
        if like.options.get("sequence"):
            table = _frames(Facts(""), {"all": cells}, str(path), like)
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


# --- where the rows are


def _opened(
    path: Path,
    source: str,
    options: Mapping[str, Any],
    known: Description | None,
    stream: Streaming,
) -> dict[str, Any]:
    """The rows of a file or a folder by name, in memory if they are not to be streamed."""
    if stream not in (True, False, "auto"):
        raise DataError(f"--stream {stream}: choose True, False or auto.")
    if not path.exists():
        raise DataError(_not_there(source, path))
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    name = path.name.lower()
    if path.is_file() and options["image_size"] is not None and not options["group"]:
        raise DataError(f"{path}: --image-size is for folders of images only.")
    npy = path.is_file() and name.endswith(".npy")
    if (pictures := _captioned(path, options, known)) is not None:
        if stream is True:
            raise DataError(f"{path}: {_HELD}")
        return pictures
    if (texts := texts_of_files(path, options, known)) is not None:
        if stream is True:
            raise DataError(f"{path}: {_HELD}")
        return _tokenised(texts, source, options, known)
    if npy or path.is_dir() or name.endswith(".parquet"):
        try:
            files = open_files(path, size=options["image_size"])
        except DataError:
            if not npy or stream is True:
                raise
            _refuse_table_options(source, options)
            return {"x": read_file(path)}  # also what is stored column by column
        tables = None if files else folder_of_tables(path, header=options["header"])
        if tables is not None:
            if stream is True:
                raise DataError(
                    f"{path}: a folder of tables as text is not streamed; leave out --stream, or "
                    f"save them as one .parquet file, with a column that says which rows are of "
                    f"which (--sequence COLUMN)."
                )
            return _of_folder(*tables, options, known)
        if files is None:
            lost = "".join([f"; {each.removesuffix('.')}" for each in lost_links(path, ENDINGS)])
            raise DataError(
                f"{path}: no image in this folder, nor an .npy or .parquet file; looked for "
                f"{', '.join(ENDINGS)}{lost}."
            )
        found = _rows_of(files, path, source, options, known)
        total = sum([room(each) for each in found.values()])
        streamed = total > memory() if stream == "auto" else stream
        steps = [each.steps for each in found.values() if isinstance(each, Sequences)]
        if not all([each.listing for each in steps]):  # which memory holds
            if stream is True:
                raise DataError(
                    f"{path}: sequences are streamed where the steps of each lie together, in "
                    f"their order; sort the file by {options['sequence']} and the order, or leave "
                    f"out --stream."
                )
            streamed = False
        return found if streamed else {name: held_of(each) for name, each in found.items()}
    if stream is True:
        raise DataError(
            f"{path}: only .npy and .parquet files, folders of them and folders of images can be "
            f"streamed; save it as one of these, or leave out --stream."
        )
    if name.endswith(_TEXT):
        text = read_delimited(path, header=options["header"])
        facts = Facts(path.name.split(".")[0], notes=text.notes)
        table = _frames(facts, {"all": text.cells}, path.name, known, unnamed=not text.named)
        return _held_table(table, path.parent, options, known)
    if options["header"] is not None:
        raise DataError(
            f"{source}: --header is for delimited text, .csv and the like; leave it out."
        )
    if name.endswith(CELLS):
        return {"x": _cells(path, str(path), options, known)}
    if name.endswith(LINES):
        return _of_lines(path, options, known)
    if name.endswith(".npz"):
        return _of_arrays(read_arrays(path), path.stem, str(path), options, known)
    _refuse_table_options(source, options)
    if name.removesuffix(".gz").endswith((".idx", "ubyte")):
        return {"x": read_file(path)}
    if name.endswith(ENDINGS):
        raise DataError(f"{path}: this is one image; give the folder that holds the images.")
    raise DataError(
        f"{path}: files that end like this are not supported; save it as .npy, .npz, .csv, .tsv, "
        f".parquet, .jsonl, .h5ad or IDX, or give a folder of images or of .csv files."
    )


def _captioned(
    path: Path, options: Mapping[str, Any], known: Description | None
) -> dict[str, Any] | None:
    """The images whose files a table names as x, and what its text says of each."""
    column, name = options["text"], path.name.lower()
    group = (options if known is None else known.options).get("group") or {}
    if column is None or "x" not in group or not name.endswith((*_TEXT, ".parquet")):
        return None
    if name.endswith(".parquet"):
        frame = pd.read_parquet(path)
    else:
        frame = read_delimited(path, header=options["header"]).cells.to_pandas()
    asked = {**options, "group": {"x": group["x"]}}
    wanted = [each for each in (*group["x"], options["label"]) if each in frame.columns]
    facts = Facts(path.name.split(".")[0])
    table = _frames(facts, {"all": frame[wanted]}, str(path), known)
    if not pictures_of(table, asked["group"], known):
        return None
    refuse_absent(str(path), [*frame.columns], [column])
    texts = Texts(facts, {"all": cells_of(frame[column])})
    (x,) = _held_table(table, path.parent, asked, known).values()
    return {"x": x, "caption": captions(texts, "caption", str(path), options, known)}


def _tokenised(
    texts: Texts, source: str, options: Mapping[str, Any], known: Description | None
) -> dict[str, Any]:
    """Rows of tokens; what is said of other columns of a table does not apply."""
    if known is None:
        own = {"label": None, "header": None, "group": {}}
        table = {**options, **own} if options["text"] else options
        _refuse_table_options(source, table)
    return tokenised(texts, source, options, known)


def _rows_of(
    files: Any, path: Path, source: str, options: Mapping[str, Any], known: Description | None
) -> dict[str, Any]:
    """Of files of columns the columns that are wanted; of others the rows as they are."""
    if isinstance(files, ParquetFiles):
        return _table(files, path if path.is_dir() else path.parent, options, known)
    if known is None or len(known.variables) == 1:  # otherwise the names tell
        _refuse_table_options(source, options)
    return {"x": files}


def _table(
    table: Table,
    folder: Path,
    options: Mapping[str, Any],
    known: Description | None,
    codes: Array | None = None,
) -> dict[str, Any]:
    """The columns of a table by name, and the pictures whose files it names.

    Args:
        table: All columns.
        folder: Where the pictures are.
        options: Those of :func:`load`.
        known: The training data, where these are others.
        codes: Which sequence each row is a step of, where no column says so.
    """
    if options["sequence"] is not None:
        codes = identifiers(table, options["sequence"])
    if codes is not None:
        return _steps_of(table, folder, options, known, codes)
    _refuse_alone(table.origin, options)
    asked = {name: options[name] for name in ("label", "drop", "categories")}
    pictures = pictures_of(table, options["group"], known)
    if options["image_size"] is not None and not pictures:
        raise DataError(
            f"{table.origin}: --image-size is for folders of images, and for columns of paths of "
            f"image files (--group image=COLUMN)."
        )
    rows = open_table(
        table, **asked, rules=rules_of(options["schema"]), known=known,
        apart=[*pictures.values()],
    )  # fmt: skip
    groups = {name: each for name, each in options["group"].items() if name not in pictures}
    found = parted(rows, groups, known, table.origin)
    for name, column in pictures.items():
        found[name] = PictureColumn(table, rows, column, folder, options["image_size"])
    return {name: found[name] for name in ("x", *options["group"]) if name in found} | found


def _steps_of(
    table: Table,
    folder: Path,
    options: Mapping[str, Any],
    known: Description | None,
    codes: Array,
) -> dict[str, Any]:
    """A long table: rows that share an identifier are the steps of one."""
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
    settled = {"sequence": None, "order": None, "inputs": (), "group": group, "schema": rest}
    steps = _table(found.table, folder, {**options, **settled}, known)
    if known is None and {*steps} == {INPUTS}:
        raise DataError(
            f"{table.origin}: --inputs: every column is known, and none is left to be modelled."
        )
    return {**folded(steps, found.lengths, {}, table.origin)}


def _refuse_alone(source: str, options: Mapping[str, Any]) -> None:
    """Refuse what is said of the steps of sequences where there are none."""
    for flag in ("order", "inputs"):
        if options[flag]:
            raise DataError(
                f"{source}: --{flag} {_text(options[flag])} is of the steps of a sequence; say "
                f"which column tells the sequences (--sequence), or leave it out."
            )


def _frames(
    facts: Facts,
    frames: Mapping[str, Any],
    origin: str,
    known: Description | None,
    *,
    unnamed: bool = False,
) -> Frames:
    # columns without names are those of the training data in their order
    names = [*known.columns] if known is not None and unnamed else None
    return Frames(facts, frames, origin, names)


def _held_table(
    table: Table,
    folder: Path,
    options: Mapping[str, Any],
    known: Description | None,
    codes: Array | None = None,
) -> dict[str, Any]:
    found = _table(table, folder, options, known, codes)
    return {name: held_of(each) for name, each in found.items()}


def _of_folder(
    table: Frames,
    codes: Array,
    labels: Mapping[str, Array] | None,
    options: Mapping[str, Any],
    known: Description | None,
) -> dict[str, Any]:
    """The sequences of a folder, of which each has a file."""
    if options["sequence"] is not None:
        raise DataError(
            f"{table.origin}: --sequence {options['sequence']}: in a folder each file is a "
            f"sequence; leave it out, or put all rows into one file."
        )
    found = _held_table(table, Path(table.origin), options, known, codes)
    if labels is None or options["label"] is not None:
        return found
    codes_, classes, said = codes_of(labels, table.origin)
    first = next(iter(found.values()))
    rows = first.rows.labelled(np.concatenate([*codes_.values()]), classes, said)
    return {name: replace(each, rows=rows) for name, each in found.items()}


def _of_lines(path: Path, options: Mapping[str, Any], known: Description | None) -> dict[str, Any]:
    """JSON lines: a line is a sequence, or, where it has no lists, a row of a table."""
    found, name = json_lines(path), path.name.split(".")[0]
    lists = [each for each in found.values() if isinstance(each, list)]
    if lists:
        lengths = [len(each) for each in lists[0]]
        return _of_arrays(found, name, str(path), options, known, lengths)
    table = _frames(Facts(name), {"all": pd.DataFrame(found)}, path.name, known)
    return _held_table(table, path.parent, options, known)


def _in_memory(
    source: Any, options: Mapping[str, Any], known: Description | None, lengths: Any = None
) -> dict[str, Any]:
    """The rows of arrays, tensors, data frames, cells or sequences, by name."""
    if is_cells(source):
        return {"x": _cells(source, "memory", options, known)}
    if (texts := texts_in_memory(source, options, known)) is not None:
        return _tokenised(texts, "memory", options, known)
    parts = dict(source) if isinstance(source, Mapping) else {"all": source}
    whole = parts.get("all")
    if isinstance(whole, list | tuple) and whole and isinstance(whole[0], pd.DataFrame):
        frames = {"all": pd.concat(whole, ignore_index=True)}
        codes = np.repeat(np.arange(len(whole)), [len(each) for each in whole])
        table = _frames(Facts("memory"), frames, "memory", known)
        return _held_table(table, Path(), options, known, codes)
    if hasattr(whole, "to_arrow") and hasattr(whole, "columns"):  # polars
        whole = whole.to_arrow()
    if type(whole).__module__.partition(".")[0] == "pyarrow" and hasattr(whole, "column_names"):
        # as it is: pandas makes reals of whole numbers of which some are missing
        table = _frames(Facts("memory"), {"all": whole}, "memory", known)
        return _held_table(table, Path(), options, known)
    ragged = lengths is not None or any([is_ragged(value) for value in parts.values()])
    ragged |= known is not None and bool(known.steps)
    parts = {
        key: value if ragged and is_listed(value) else _as_frame_or_array(value)
        for key, value in parts.items()
    }
    if "all" not in parts and not set(parts) <= set(SPLITS):
        return _of_arrays(parts, "memory", "memory", options, known, lengths)
    split = f"{' / '.join(parts)} as they were given" if "train" in parts else ""
    if all(isinstance(each, pd.DataFrame) for each in parts.values()):
        table = _frames(Facts("memory", split=split), parts, "memory", known)
        return _held_table(table, Path(), options, known)
    if "all" not in parts and "train" not in parts:
        raise DataError("memory: splits without training rows; add 'train'.")
    arrays = {"x" if each == "all" else f"x_{each}": value for each, value in parts.items()}
    return _of_arrays(arrays, "memory", "memory", options, known, lengths)


def _cells(source: Any, what: str, options: Mapping[str, Any], known: Description | None) -> Held:
    """The rows of an .h5ad file or of an AnnData object."""
    _refuse_table_options(what, {**options, "label": None})
    layer, label = options["layer"], options["label"]
    if is_cells(source):
        found = held_cells(source, "memory", what, layer, label, known)
    else:
        found = read_cells(source, layer, label, known)
    return _narrowed(found, what, options) if known is None else found


def _of_arrays(
    arrays: Mapping[str, Any],
    name: str,
    what: str,
    options: Mapping[str, Any],
    known: Description | None,
    lengths: Any = None,
) -> dict[str, Any]:
    """The rows of named arrays and tables: each a name, or all of them the columns of a table."""
    if (matrix := as_matrix(arrays, what)) is not None:
        _refuse_table_options(what, options)
        return {"x": held({"all": matrix}, name, what)}
    steps, of_rows, labels = spread(arrays, lengths, what)
    if of_rows:
        parts, named = parts_of(steps), not {*VALUE_KEYS}.isdisjoint(parts_of(steps))
        words = any([np.asarray(each).dtype.kind in "USO" for each in steps.values()])
        columns = all([np.ndim(each) == 1 for each in steps.values()])
        columns = columns and (words or (len(parts) > 1 and not named))
        if INPUTS in parts and (named or columns):
            options = {**options, "group": {INPUTS: (INPUTS,), **options["group"]}}
        if columns:
            frames = {
                part: pd.DataFrame({base: steps[keys[part]] for base, keys in parts.items()})
                for part in of_rows
            }
            table = _frames(Facts(name), frames, what, known)
            found = _held_table(table, Path(), options, known)
        else:
            found = _of_arrays(steps, name, what, options, known)
        return {n: e.told() for n, e in folded(found, of_rows, labels, what).items()}
    if options["image_size"] is not None:
        raise DataError(f"{what}: --image-size is for files of images only.")
    parts = parts_of(arrays)
    columns = len(arrays) > 1 and not {*VALUE_KEYS} & {*parts}
    if columns and all([np.ndim(each) == 1 for each in arrays.values()]):
        if len({len(each) for each in arrays.values()}) > 1:
            raise DataError(f"{what}: the arrays are columns of different length.")
        table = _frames(Facts(name), {"all": pd.DataFrame(dict(arrays))}, what, known)
        return _held_table(table, Path(), options, known)
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
        _refuse_table_options(what, {**options, "group": {}})
    present = [f"{c}" for each in tables.values() for c in next(iter(each.values())).columns]
    refuse_duplicates(what, present)
    if tables and known is None:
        own = [options["label"]] if options["label"] else []
        refuse_absent(
            what, present,
            [*options["drop"], *options["categories"], *(options["schema"] or {}), *own],
        )  # fmt: skip
    views: dict[str, Any] = {}
    for each, keys in names.items():
        if each not in tables:
            found = {part: arrays[key] for part, key in parts[keys[0]].items()}
            of, at = Facts(name), f"{what}, {keys[0]}"
            views[each] = (
                captions(Texts(of, found), each, at, options, known)
                if len(names) > 1 and all(map(is_texts, found.values()))
                else held(found, name, at)
            )
            continue
        table = _frames(Facts(name), tables[each], what, known)
        asked = _of_columns(options, [*table.types])
        (views[each],) = _held_table(table, Path(), asked, only(known, each)).values()
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


def _named(name: str, options: Mapping[str, Any], known: Description | None) -> dict[str, Any]:
    found: Any = read_named(name)
    if isinstance(found, Texts):
        return _tokenised(found, name, options, known)
    if isinstance(found, dict):
        _refuse_table_options(name, options, named=found["x"].facts)
        return {
            each: captions(own, each, name, options, known) if isinstance(own, Texts) else own
            for each, own in found.items()
        }
    _refuse_table_options(name, options, named=found.facts)
    if found.facts.columns is None:
        return {"x": found}
    found = _narrowed(found, name, options)
    other = known is not None and known.source != name
    if other and known is not None and {*(found.facts.columns or ())} != {*known.columns}:
        raise DataError(f"{name}: its columns are not those of the training data {known.name}.")
    return parted(found, options["group"], known, name)


def _narrowed(found: Held, name: str, options: Mapping[str, Any]) -> Held:
    """Leave out columns of a named table, and make categories of those that are to be."""
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


def _refuse_table_options(
    source: str, options: Mapping[str, Any], named: Facts | None = None
) -> None:
    wrong = ["label"] if options["label"] is not None else []
    wrong += ["categories"] if options["categories"] and not (named and named.columns) else []
    wrong += ["group"] if options["group"] and not (named and named.columns) else []
    wrong += ["schema"] if options["schema"] else []
    wrong += ["header"] if options["header"] is not None else []
    wrong += [each for each in ("sequence", "order", "inputs") if options[each]]
    for name in wrong:
        reason = (
            "a named set has its own labels"
            if named and name == "label"
            else "columns have names only in a table"
        )
        said = f" {_text(options[name])}" if name not in ("schema", "header") else ""
        raise DataError(f"{source}: --{name}{said} does not apply: {reason}.")
    if named and options["image_size"] is not None:
        raise DataError(f"{source}: --image-size is for folders of images only.")


def _refuse_options_of_rows(source: str, options: Mapping[str, Any]) -> None:
    """A graph is one row, whose split is of edges."""
    theirs = ("source", "split", "seed", "graph", "nodes", "header", "drop")
    usual = {"likelihood": ("auto", "bernoulli"), "stream": ("auto", False)}
    for name, value in options.items():
        if name not in theirs and value and value not in usual.get(name, ()):
            raise DataError(
                f"{source}: --{name.replace('_', '-')} is of rows of values, and this is a graph, "
                f"which is one row; leave it out."
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


def _check_options(options: Mapping[str, Any]) -> None:
    for name, allowed in (
        ("binarize", ("static", "dynamic")),
        ("dequantize", ("uniform", "auto")),
    ):
        value = options[name]
        if value is not None and value not in allowed:
            close = difflib.get_close_matches(str(value), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(allowed)}."
            raise DataError(f"--{name} {value}: {hint}")
    try:
        spelled(options["likelihood"])
    except DataError as error:
        raise DataError(f"--likelihood: {error}") from error
    if options["binarize"] and options["dequantize"] == "uniform":
        raise DataError("--binarize makes 0 and 1, which --dequantize has no use for; choose one.")
    if options["binarize"] and options["likelihood"] not in ("auto", "bernoulli"):
        raise DataError(
            f"--binarize makes 0 and 1, whose likelihood is bernoulli, not "
            f"{options['likelihood']}; leave out one of the two."
        )
    for name in ("limit", "most_variable", "keep_labels", "members", "pieces"):
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


def _names(names: Sequence[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(str(name) for name in names)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else " ".join(value)
