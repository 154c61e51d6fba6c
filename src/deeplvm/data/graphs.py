"""A graph as data: one row, of which some edges are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.readers.graphs import Graph
from deeplvm.data.readers.source import Array
from deeplvm.data.records import Data, Description, Selection, Split
from deeplvm.data.variable import DataError, Variable
from deeplvm.files import fits
from deeplvm.randomness import seed_of

FRACTIONS = (0.85, 0.05, 0.10)  # of the edges: to learn from, to choose by, to report
_DENSE = 0.25  # a larger share of features that are not zero is not held sparsely


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of nodes that are held out: half of them edges, where there are as many others.

    Attributes:
        edges: Shape ``(edges, 2)``.
        others: Pairs without an edge, ``(others, 2)``.
    """

    edges: Array
    others: Array

    @property
    def all(self) -> Tensor:
        """Edges and then others, ``(pairs, 2)``."""
        return torch.from_numpy(np.concatenate([self.edges, self.others]))

    @property
    def labels(self) -> Tensor:
        """1 for an edge, 0 for another pair, ``(pairs,)``."""
        return (torch.arange(len(self.edges) + len(self.others)) < len(self.edges)).long()


@dataclass(frozen=True, eq=False)
class OneRow:
    """A value of which there is one row, or none: a :class:`~deeplvm.data.records.Column`.

    Attributes:
        value: Of the row, with the rows' axis, ``(1, *event)``; sparse or not.
        rows: 1 or 0.
    """

    value: Tensor
    rows: int = 1

    @property
    def shape(self) -> torch.Size:
        """``(rows, *event)``."""
        return torch.Size((self.rows, *self.value.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the values."""
        return self.value.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        parts = [self.value]
        if self.value.is_sparse:
            parts = [self.value.indices(), self.value.values()]
        return sum([part.numel() * part.element_size() for part in parts])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Any) -> Tensor:
        places = torch.arange(self.rows)[index.cpu() if isinstance(index, Tensor) else index]
        if places.numel() == 1:
            return self.value
        return self.value.index_select(0, places.to(self.value.device))

    def to(self, device: Any) -> Self:
        """The same value on another device."""
        return replace(self, value=self.value.to(device))


@dataclass(frozen=True, eq=False)
class GraphData(Data):
    """A graph: one row for training and, the same, for reports; and pairs that are held out.

    The row has the names ``a``, the graph as it is known, a sparse tensor ``(1, nodes, nodes)``
    with 1 for an edge and NaN for each pair that is held out, and ``x``, the features of the
    nodes, ``(1, nodes, features)``, where there are any.

    Attributes:
        graph: The whole of it.
        held: Pairs that are held out, by ``"valid"`` and ``"test"``.
    """

    graph: Graph = None  # type: ignore[assignment]
    held: Mapping[str, Pairs] = None  # type: ignore[assignment]

    def complete(self) -> dict[str, Tensor]:
        """The row with all edges."""
        row = {name: column[:] for name, column in self.test.items()}
        return row | {"a": _tensor(self.graph.nodes, self.graph.edges)}


def graph_data(graph: Graph, options: Mapping[str, Any], known: Description | None) -> GraphData:
    """Hold edges out, with as many pairs without one, and describe what is left.

    Args:
        graph: The whole of it.
        options: Those of :func:`~deeplvm.data.load`.
        known: Of the data of a finished run that this is to be like.

    Raises:
        DataError: If there are too few edges, or other features than are known.
    """
    fractions = options["split"] or FRACTIONS
    held, learned = hold_out(graph, fractions, options["seed"])
    missing = np.concatenate([np.concatenate([p.edges, p.others]) for p in held.values()])
    row = {"a": OneRow(_tensor(graph.nodes, learned, missing))}
    variables = {"a": _edges(graph, learned, missing)}
    notes = [*graph.notes]
    if graph.features is None:
        notes.append("nodes have no features; each is told from others by its number alone.")
    else:
        fits(8.0 * graph.features.nnz, f"{graph.name}, features of the nodes", DataError)
        dense = graph.features.nnz > _DENSE * np.prod(graph.features.shape)
        row["x"] = OneRow(_dense(graph.features) if dense else _sparse(graph.features))
        variables["x"] = _features(graph.features)
        notes.append("x, the features of the nodes, is given: no likelihood is of it.")
    if known is not None:
        _refuse_other(graph, variables, known)
        variables = dict(known.variables) | {
            "a": replace(variables["a"], mean=known.variables["a"].mean)
        }
    counts = [len(learned), *[len(part.edges) for part in held.values()]]
    notes.append(
        "pairs that are held out are in no graph that is learned from or encoded, and count in no "
        "likelihood but that of held-out pairs."
    )
    description = Description(
        name=graph.name,
        source=options["source"],
        options=options,
        variables=variables,
        classes=None,
        split=(
            f"of {len(graph.edges):,} edges {counts[0]:,} are learned from, {counts[1]:,} are for "
            f"validation, {counts[2]:,} for the test, drawn at random (seed {options['seed']}); "
            f"with {len(held['valid'].others):,} and {len(held['test'].others):,} pairs without "
            f"an edge. One graph is one row"
        ),
        notes=tuple(notes),
        rows={"train": 1, "valid": 0, "test": 1},
        fingerprint=_fingerprint(graph, options),
    )
    none = {name: replace(column, rows=0) for name, column in row.items()}
    splits: dict[Split, Selection] = {
        "train": Selection(row), "valid": Selection(none), "test": Selection(row)
    }  # fmt: skip
    return GraphData(description, **splits, graph=graph, held=held)


def hold_out(
    graph: Graph, fractions: tuple[float, float, float], seed: int
) -> tuple[dict[str, Pairs], Array]:
    """Edges for validation and test, drawn at random, with as many other pairs; and the rest.

    The other pairs are drawn among all that are no edge of the whole graph, each at most once.

    Raises:
        DataError: If a part would be empty.
    """
    rng = np.random.default_rng(seed_of(seed, 0))
    count = len(graph.edges)
    test, valid = (int(count * fractions[part]) for part in (2, 1))
    if not (test and valid and count - test - valid):
        raise DataError(
            f"{graph.name}: {count} edges are too few to hold {fractions[1]:g} and "
            f"{fractions[2]:g} of them out; say larger shares, --split 0.6 0.2 0.2."
        )
    order = rng.permutation(count)
    parts = np.split(graph.edges[order], [test, test + valid])
    others = _other_pairs(graph, test + valid, rng)
    cut = len(others) * test // (test + valid)
    held = {"valid": Pairs(parts[1], others[cut:]), "test": Pairs(parts[0], others[:cut])}
    return held, parts[2]


def _other_pairs(graph: Graph, wanted: int, rng: np.random.Generator) -> Array:
    """Pairs that are no edge, uniformly, each once; as many as wanted, or all that there are."""
    nodes, taken = graph.nodes, graph.edges @ np.array([graph.nodes, 1])
    free = nodes * (nodes - 1) // 2 - len(taken)
    if free < 4 * wanted:  # a dense graph, and so a small one
        codes = np.flatnonzero(np.triu(np.ones((nodes, nodes), bool), 1))
        codes = rng.permutation(np.setdiff1d(codes, taken))
    else:
        codes = np.zeros(0, np.int64)
        while len(codes) < wanted:
            first, second = rng.integers(nodes, size=(2, 2 * wanted))
            drawn = np.minimum(first, second) * nodes + np.maximum(first, second)
            drawn = drawn[(first != second) & ~np.isin(drawn, taken)]
            codes = np.concatenate([codes, drawn])
            codes = codes[np.sort(np.unique(codes, return_index=True)[1])]
    return np.stack(np.divmod(codes[:wanted], nodes), 1)


def _tensor(nodes: int, edges: Array, missing: Array | None = None) -> Tensor:
    """A sparse graph: 1 where there is an edge, NaN where nothing is known."""
    unknown = np.zeros((0, 2), np.int64) if missing is None else missing
    ends = torch.from_numpy(np.concatenate([edges, unknown])).T
    values = torch.cat([torch.ones(len(edges)), torch.full((len(unknown),), torch.nan)])
    indices = torch.cat([torch.zeros_like(ends[:1]), ends])
    size = (1, nodes, nodes)
    return torch.sparse_coo_tensor(indices, values, size, check_invariants=True).coalesce()


def _sparse(features: Any) -> Tensor:
    whole = features.tocoo()
    indices = np.stack([np.zeros_like(whole.row), whole.row, whole.col]).astype(np.int64)
    size, values = (1, *whole.shape), torch.from_numpy(whole.data)
    found = torch.sparse_coo_tensor(torch.from_numpy(indices), values, size, check_invariants=True)
    return found.coalesce()


def _dense(features: Any) -> Tensor:
    return torch.from_numpy(features.toarray())[None]


def _edges(graph: Graph, learned: Array, missing: Array) -> Variable:
    """What an edge is; its mean is the share of the pairs that are known."""
    pairs = graph.nodes * (graph.nodes - 1) // 2 - len(missing)
    share = torch.tensor(min(len(learned) / pairs, 1 - 0.5 / pairs), dtype=torch.float64)
    return Variable(
        name="a", shape=(), kind="graph", likelihood="bernoulli", mean=share,
        std=(share * (1 - share)).sqrt(), minimum=0.0, maximum=1.0, levels=graph.nodes,
        categories=graph.names,
    )  # fmt: skip


def _features(features: Any) -> Variable:
    """What features are; where they are no flags, networks see them in units of their spread."""
    rows = features.astype(np.float64)
    mean = np.asarray(rows.mean(0)).reshape(-1)
    square = np.asarray(rows.multiply(rows).mean(0)).reshape(-1)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    binary = bool(np.isin(rows.data, (0.0, 1.0)).all())
    return Variable(
        name="x", shape=(len(mean),), kind="binary" if binary else "real",
        likelihood="bernoulli" if binary else "gaussian", mean=torch.from_numpy(mean),
        std=torch.from_numpy(np.where(spread > 0, spread, 1.0)),
        minimum=float(rows.min()), maximum=float(rows.max()),
    )  # fmt: skip


def _refuse_other(graph: Graph, found: Mapping[str, Variable], known: Description) -> None:
    """Refuse a graph that a model of another one cannot read."""
    if found.keys() != known.variables.keys():
        has = "features" if "x" in found else "no features"
        raise DataError(f"{graph.name}: its nodes have {has}, unlike those of {known.name}.")
    if "x" in found and found["x"].shape != known.variables["x"].shape:
        raise DataError(
            f"{graph.name}: its nodes have {found['x'].shape[0]:,} features, and those of "
            f"{known.name} {known.variables['x'].shape[0]:,}."
        )
    own, theirs = found["a"], known.variables["a"]
    if "x" not in found and (own.levels, own.categories) != (theirs.levels, theirs.categories):
        raise DataError(
            f"{graph.name}: without features a model knows only the nodes that it has learned, "
            f"those of {known.name}; these are others."
        )


def _fingerprint(graph: Graph, options: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(f"{graph.nodes} {options['split']} {options['seed']}".encode())
    digest.update(np.ascontiguousarray(graph.edges).data)
    if graph.features is not None:
        for part in (graph.features.data, graph.features.indices, graph.features.indptr):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
