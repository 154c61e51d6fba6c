"""Graphs: edge lists, sparse matrices, networkx and PyTorch Geometric -> nodes and edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deeplvm.data.readers.arrays import read_arrays
from deeplvm.data.readers.delimited import is_number, read_delimited
from deeplvm.data.readers.source import Array, codes_of
from deeplvm.data.sparse import compressed, is_sparse
from deeplvm.data.variable import DataError, listed

_TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".edges")
FORMS = (
    "an edge list (.csv, .tsv, .txt: two columns), an .npz (edges, x, y, num_nodes, or a matrix "
    "that scipy saved), a sparse matrix, a networkx graph, or a Data of PyTorch Geometric"
)


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph without loops, each edge once.

    Attributes:
        name: Short name, for titles.
        nodes: How many there are.
        edges: Shape ``(edges, 2)``, the smaller number first, in order.
        features: Of the nodes, compressed sparse rows ``(nodes, features)``; none without.
        names: Of the nodes; none where they are numbers.
        labels: Codes of the nodes, -1 without one; none without labels.
        classes: What the codes stand for.
        notes: What was understood, and left out, in words.
    """

    name: str
    nodes: int
    edges: Array
    features: Any = None
    names: tuple[str, ...] | None = None
    labels: Array | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def titles(self) -> Array:
        """What each node is called: its name, or its number."""
        return np.arange(self.nodes) if self.names is None else np.array(self.names)


def is_graph(source: Any) -> bool:
    """Whether this is a graph and nothing else: of networkx, or of PyTorch Geometric."""
    return hasattr(source, "edge_index") or (
        hasattr(source, "is_directed") and hasattr(source, "adj") and hasattr(source, "nodes")
    )


def read_graph(
    source: Any,
    name: str,
    *,
    header: bool | None,
    drop: tuple[str, ...],
    nodes: str | None = None,
) -> Graph:
    """A graph of a file or of an object, without loops, directions, weights and repeated edges.

    Args:
        source: One of :data:`FORMS`.
        name: Of the graph, and in messages.
        header: Whether the first line of an edge list names its columns.
        drop: Columns of an edge list that are left out.
        nodes: Path of a table of the nodes of an edge list, see :func:`_with_nodes`.

    Raises:
        DataError: If it is none of these, or damaged.
    """
    listed_edges = isinstance(source, Path) and source.name.lower().endswith(_TEXT)
    if nodes is not None and not listed_edges:
        raise DataError(
            f"{name}: --nodes {nodes} has the features of an edge list's nodes, by name; other "
            f"graphs have them with their edges, called x: leave it out."
        )
    if isinstance(source, Path):
        if not source.is_file():
            raise DataError(f"{name}: a graph is one file, {FORMS}.")
        if source.name.lower().endswith(_TEXT):
            found = _edge_list(source, drop, header=header)
            return found if nodes is None else _with_nodes(found, Path(nodes))
        if source.suffix.lower() == ".npz":
            return of_arrays(read_arrays(source), source.stem, name)
        if source.suffix.lower() == ".npy":
            return of_arrays({"edges": read_arrays(source)[""]}, source.stem, name)
    elif is_sparse(source):
        return _of_matrix(source, name)
    elif hasattr(source, "edge_index"):
        keys = ("edge_index", "x", "y", "num_nodes")
        found = {key: getattr(source, key, None) for key in keys}
        return of_arrays({k: _array(v) for k, v in found.items() if v is not None}, name, name)
    elif is_graph(source):
        return _of_networkx(source, name)
    elif isinstance(source, Mapping):
        return of_arrays({key: _array(value) for key, value in source.items()}, name, name)
    elif not isinstance(source, str) and np.ndim(source) == 2:
        return of_arrays({"edges": _array(source)}, name, name)
    raise DataError(f"{name}: this is no graph that can be read; give {FORMS}.")


def _array(value: Any) -> Any:
    """What was given, as numpy has it; sparse features stay sparse."""
    if is_sparse(value):
        return value
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def of_arrays(arrays: Mapping[str, Any], title: str, name: str) -> Graph:
    """A graph of named arrays.

    Args:
        arrays: ``edges`` ``(edges, 2)`` or ``edge_index`` ``(2, edges)``; features ``x``, or as
            the ``data``, ``indices``, ``indptr`` and ``shape`` of compressed rows; labels ``y``;
            ``num_nodes``. With a ``format``, what ``scipy.sparse.save_npz`` wrote, the graph's
            adjacency matrix.
        title: Short name.
        name: For messages.
    """
    from scipy import sparse

    parts = {"data", "indices", "indptr", "shape"}
    if "format" in arrays and {"data", "shape"} <= arrays.keys():
        kind = arrays["format"].item()
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        shape = tuple(arrays["shape"].tolist())
        if kind == "coo":
            matrix: Any = sparse.coo_array(
                (arrays["data"], (arrays["row"], arrays["col"])), shape=shape
            )
        elif kind in ("csr", "csc") and parts <= arrays.keys():
            made = {"csr": sparse.csr_array, "csc": sparse.csc_array}[kind]
            matrix = made((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        else:
            raise DataError(f"{name}: a sparse matrix of the form {kind}; save it as csr or coo.")
        return _of_matrix(matrix, title)
    if "edges" not in arrays and "edge_index" not in arrays:
        raise DataError(
            f"{name}: no array edges or edge_index, but {listed([*arrays])}; a graph is {FORMS}."
        )
    pairs = arrays["edges"] if "edges" in arrays else arrays["edge_index"].T
    if pairs.ndim == 2 and pairs.shape[0] == 2 != pairs.shape[1]:
        pairs = pairs.T
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise DataError(
            f"{name}: edges are pairs of whole numbers of nodes, of shape (edges, 2), found "
            f"{pairs.dtype} of shape {pairs.shape}."
        )
    features: Any = arrays.get("x")
    if features is None and parts <= arrays.keys():
        shape = tuple(arrays["shape"].tolist())
        csr = (arrays["data"], arrays["indices"], arrays["indptr"])
        features = sparse.csr_array(csr, shape=shape)
    least = int(pairs.max(initial=-1)) + 1
    told = [int(arrays["num_nodes"])] if "num_nodes" in arrays else []
    told += [each.shape[0] for each in (features, arrays.get("y")) if each is not None]
    if len({*told}) > 1 or (told and told[0] < least):
        said = f"edges speak of node {least - 1}" if told and told[0] < least else ""
        raise DataError(
            f"{name}: num_nodes, x and y are to have one number of nodes, found "
            f"{' and '.join(map(str, dict.fromkeys(told)))}{' while ' + said if said else ''}."
        )
    nodes = told[0] if told else least
    graph = _cleaned(title, nodes, pairs, [])
    graph = replace(graph, features=_features(features, name))
    return graph if arrays.get("y") is None else _labelled(graph, arrays["y"], name)


def _features(features: Any, name: str) -> Any:
    if features is None:
        return None
    if np.ndim(features) != 2:
        raise DataError(
            f"{name}: features of nodes have the shape (nodes, features), found "
            f"{np.shape(features)}."
        )
    rows = compressed(features)
    if rows.dtype.kind not in "buif" or not np.isfinite(rows.data.astype(np.float64)).all():
        raise DataError(
            f"{name}: some features of nodes are missing (NaN), infinite or no numbers; fill them "
            f"in, or leave these features out."
        )
    return rows.astype(np.float32)


def _labelled(graph: Graph, labels: Any, name: str) -> Graph:
    if labels.ndim > 1 and labels.shape[1:] != (1,):
        return replace(graph, notes=(*graph.notes, "y is no label a node, and is left out."))
    codes, classes, said = codes_of({"y": labels}, f"{name}, y")
    return replace(
        graph, labels=codes["y"].reshape(-1), classes=classes, notes=(*graph.notes, *said)
    )


def _of_matrix(matrix: Any, name: str) -> Graph:
    """A graph of its adjacency matrix."""
    rows = compressed(matrix)
    if rows.shape[0] != rows.shape[1]:
        raise DataError(
            f"{name}: a graph's matrix has a row and a column for each node, and this one has the "
            f"shape {rows.shape}."
        )
    if rows.dtype.kind == "f" and np.isnan(rows.data).any():
        raise DataError(
            f"{name}: some elements are NaN; leave pairs out of which nothing is known."
        )
    rows.eliminate_zeros()
    whole = rows.tocoo()
    notes = []
    if len(rows.data) and (rows.data != rows.data[0]).any():
        notes.append("weights of edges are left out: an edge is there or not.")
    if (rows != rows.T).nnz:
        notes.append("the matrix is not symmetric: edges are taken without their direction.")
    return _cleaned(name, rows.shape[0], np.stack([whole.row, whole.col], 1), notes)


def _of_networkx(graph: Any, name: str) -> Graph:
    """Names of nodes as texts; features from the attribute x, where each node has one."""
    names = [str(each) for each in graph.nodes]
    at = {each: number for number, each in enumerate(graph.nodes)}
    pairs = np.array([(at[u], at[v]) for u, v, *_ in graph.edges], np.int64).reshape(-1, 2)
    notes = ["edges are taken without their direction."] if graph.is_directed() else []
    found = _cleaned(name, len(names), pairs, notes)
    given = [each.get("x") for _, each in graph.nodes(data=True)]
    if given and all([each is not None for each in given]):
        features = np.stack([np.atleast_1d(_array(each)) for each in given])
        found = replace(found, features=_features(features, name))
    numbered = names == [str(number) for number in range(len(names))]
    return found if numbered else replace(found, names=tuple(names))


def read_pairs(
    path: Path, *, header: bool | None, drop: tuple[str, ...]
) -> tuple[Array, list[str]]:
    """Pairs of names of nodes, texts ``(pairs, 2)``, and what was understood, in words.

    A line is a pair, of two names or numbers; lines that begin with # or % are comments.

    Args:
        path: Of delimited text.
        header: Whether the first line names the columns; by default that is seen from the lines.
        drop: Columns that are left out.

    Raises:
        DataError: If there are not two columns, or a cell is empty.
    """
    text = read_delimited(path, header=header or False, comments=True)
    columns, notes = [*text.cells.column_names], list[str]()
    if absent := [each for each in drop if each not in columns]:
        raise DataError(f"{path}: --drop {absent[0]}, but its columns are {listed(columns)}.")
    kept = [each for each in columns if each not in drop]
    if len(kept) != 2:
        raise DataError(
            f"{path}: an edge list has two columns, the nodes of an edge, and here are "
            f"{len(kept)}: {listed(kept)}; leave others, such as weights, out: --drop "
            f"{listed(kept[2:]) if len(kept) > 2 else 'COLUMN'}."
        )
    ends = [text.cells.column(each).to_numpy(zero_copy_only=False) for each in kept]
    for end in ends:
        if (empty := np.flatnonzero([cell is None for cell in end])).size:
            raise DataError(
                f"{path}: edge {empty[0] + 1} has an empty cell; an edge has two nodes."
            )
    pairs = np.char.strip(np.stack(ends, 1).astype(str))
    first, below = pairs[0], pairs[1:]
    if header is None and len(below):
        words = [not is_number(cell) for cell in first]
        above = [w and all(map(is_number, below[:, i])) for i, w in enumerate(words)]
        if all(above) or (all(words) and not np.isin(first, below).any()):
            said = f"the first line ({', '.join(first)}) is taken for the names of the columns"
            return below, [f"{said}; --no-header reads it as an edge."]
    return pairs, notes


def _edge_list(path: Path, drop: tuple[str, ...], *, header: bool | None) -> Graph:
    pairs, notes = read_pairs(path, header=header, drop=drop)
    names, codes = np.unique(pairs, return_inverse=True)
    codes = codes.reshape(pairs.shape)
    if all([each.isdecimal() for each in names]):  # in the order of the numbers
        order = np.argsort(names.astype(np.int64), kind="stable")
        codes, names = np.argsort(order)[codes], names[order]
    title = path.name.split(".")[0]
    return replace(_cleaned(title, len(names), codes, notes), names=tuple(names.tolist()))


def _with_nodes(graph: Graph, path: Path) -> Graph:
    """A graph with the features of its nodes, of delimited text with a line for each.

    The first column has their names; numbers of the others are features, and of words each is one,
    0 or 1. Nodes that are in no edge are nodes too.
    """
    if not path.is_file():
        raise DataError(f"{graph.name}: --nodes {path} is no file.")
    cells = read_delimited(path, header=True).cells
    first, *others = cells.column_names
    columns = {
        each: cells.column(each).to_numpy(zero_copy_only=False) for each in (first, *others)
    }
    for title, column in columns.items():
        if (empty := np.flatnonzero([cell is None for cell in column])).size:
            raise DataError(
                f"{path}, row {empty[0] + 1}, column {title!r}: the cell is empty, and a node has "
                f"all features; fill it in, or leave the column out of the file."
            )
    names = np.char.strip(columns[first].astype(str)).tolist()
    known = {name: number for number, name in enumerate(names)}
    mine = [*(graph.names or ())]
    if absent := [each for each in mine if each not in known]:
        raise DataError(
            f"{path}: there is no line for {absent[0]!r}"
            f"{f' and {len(absent) - 1} other nodes' if len(absent) > 1 else ''} of the edges, in "
            f"its first column, {first!r}."
        )
    if len(known) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise DataError(f"{path}: there are two lines for {twice!r}; a node has one.")
    if not others:
        raise DataError(f"{path}: beside the names of nodes, {first!r}, there is no column.")
    alone = [each for each in names if each not in {*mine}]
    features, words = [], []
    for title in others:
        texts = np.char.strip(columns[title].astype(str))
        if all(map(is_number, texts)):
            features.append(texts.astype(np.float64)[:, None])
            continue
        values = np.unique(texts)
        features.append((texts[:, None] == values).astype(np.float64))
        words.append(f"{title!r} ({len(values)})")
    order = [known[each] for each in (*mine, *alone)]
    notes = [f"features of the nodes are those of {path.name}."]
    notes += [f"of columns of words each is a feature: {', '.join(words)}."] if words else []
    notes += [f"{len(alone):,} nodes of {path.name} have no edge; they stay."] if alone else []
    return replace(
        graph,
        nodes=len(order),
        names=(*mine, *alone),
        features=_features(np.concatenate(features, 1)[order], str(path)),
        notes=(*graph.notes, *notes),
    )


def _cleaned(name: str, nodes: int, pairs: Array, notes: list[str]) -> Graph:
    """Each edge once, without loops; and what was left out, in words."""
    pairs = np.sort(np.asarray(pairs, np.int64), 1)
    if len(pairs) and pairs.min() < 0:
        raise DataError(f"{name}: a node has the number {pairs.min()}; nodes are counted from 0.")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        notes = [*notes, f"{int(loops.sum()):,} edges from a node to itself are left out."]
    pairs = pairs[~loops]
    edges = np.unique(pairs, axis=0)
    times = len(pairs) / max(1, len(edges))
    if times == 2:
        notes = [*notes, "each edge is there twice, in both directions or not, and counts once."]
    elif times > 1:
        notes = [*notes, f"{len(pairs) - len(edges):,} repeated edges count once."]
    if not len(edges):
        raise DataError(f"{name}: there is no edge between two nodes.")
    alone = nodes - len(np.unique(edges))
    if alone:
        notes = [*notes, f"{alone:,} of {nodes:,} nodes have no edge; they stay."]
    return Graph(name, nodes, edges, notes=tuple(notes))
