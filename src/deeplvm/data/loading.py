"""load: a named set, a file or arrays -> Data, with every choice written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from deeplvm.data.arrays import in_memory
from deeplvm.data.assembly import assembled, columns_kept, listing, noise_seed, with_noise
from deeplvm.data.catalogue import NAMED, named_graph
from deeplvm.data.graphs import graph_data
from deeplvm.data.names import columns_by_name, completed
from deeplvm.data.options import Asked, check, listed_names, refuse_of_rows
from deeplvm.data.preparation import choices_of
from deeplvm.data.readers.counts import ENDING as CELLS
from deeplvm.data.readers.counts import is_cells
from deeplvm.data.readers.graphs import is_graph, read_graph
from deeplvm.data.readers.images import Layout
from deeplvm.data.readers.shards import open_files
from deeplvm.data.readers.source import Held
from deeplvm.data.readers.text import OPTIONS as TEXT_OPTIONS
from deeplvm.data.records import Data, Description
from deeplvm.data.schema import agreed, rules_of, written
from deeplvm.data.sequences import Sequences, in_pieces
from deeplvm.data.sets import as_sets
from deeplvm.data.sources import Streaming, named_rows, opened, rows_in_files
from deeplvm.data.split import divide, limited
from deeplvm.data.stream import Stream
from deeplvm.data.tokens import SCHEMES
from deeplvm.data.transform import Reader, label_type
from deeplvm.data.variable import DataError

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
        "likelihood": likelihood, "binarize": binarize, "dequantize": dequantize,
        "label": label, "layer": layer,
        "drop": listed_names(drop), "categories": listed_names(categories),
        "schema": None, "header": header, "group": columns_by_name(group),
        "sequence": sequence, "order": order, "inputs": listed_names(inputs), "pieces": pieces,
        "split": None if split is None else tuple(split), "seed": seed,
        "image_size": image_size, "most_variable": most_variable,
        "keep_labels": keep_labels, "members": members,
        "graph": graph,
        "nodes": None if nodes is None else str(Path(nodes).expanduser().absolute()),
        "limit": limit,
        "tokens": tokens if tokens is None or tokens in SCHEMES else str(Path(tokens).absolute()),
        "vocabulary": vocabulary, "minimum_count": minimum_count, "lower": lower, "text": text,
        "stream": False,
    }  # fmt: skip
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
    check(options)
    if lengths is not None and path is not None:
        raise DataError(f"{name}: lengths are those of sequences in memory; leave them out.")
    named = named_graph(name)
    if options["graph"] or named is not None or is_graph(source):
        refuse_of_rows(name, {**options, "stream": stream, "lengths": lengths is not None})
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
    asked = Asked(options if known is None else {**options, "group": {}}, known)
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
        found = in_memory(source, asked, lengths) if path is None else named_rows(name, asked)
    else:
        found = opened(path, name, asked, stream)
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
    views = rows_in_files(files, path, path.name, Asked(options, description))
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
