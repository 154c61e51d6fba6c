"""Graphs: read from what people have, cleaned in words, and split by edges."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from deeplvm.data import DataError, Description, load
from deeplvm.data.graphs import GraphData
from deeplvm.recipes import RecipeError, find, published
from deeplvm.runs.run import build

# a ring of 30 nodes with some chords; the last node of the numbers is alone
EDGES = np.array(
    [(i, (i + 1) % 30) for i in range(30)] + [(i, (i + 7) % 30) for i in range(0, 30, 2)]
)
PLAIN = np.unique(np.sort(EDGES, 1), axis=0)


def loaded(source: Any, **options: Any) -> GraphData:
    found = load(source, graph=True, **options)
    assert isinstance(found, GraphData)
    return found


def matrix() -> Any:
    ones = np.ones(len(EDGES))
    return sparse.coo_array((ones, (EDGES[:, 0], EDGES[:, 1])), shape=(31, 31))


def network() -> Any:
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph([(f"n{a:02d}", f"n{b:02d}") for a, b in EDGES])
    graph.add_node("n99")
    return graph


def geometric() -> Any:
    """What a Data of PyTorch Geometric has, in both directions."""
    both = torch.from_numpy(np.concatenate([EDGES, EDGES[:, ::-1]]).T.copy())
    return SimpleNamespace(edge_index=both, x=None, y=None, num_nodes=31)


@pytest.mark.parametrize(
    "form", ["matrix", "networkx", "geometric", "arrays", "npz", "scipy", "npy"]
)
def test_every_form_is_the_same_graph(form: str, tmp_path: Path) -> None:
    source: Any = {
        "matrix": matrix, "networkx": network, "geometric": geometric,
        "arrays": lambda: {"edges": EDGES, "num_nodes": np.array(31)},
    }.get(form, lambda: tmp_path / "graph.npz")()  # fmt: skip
    if form == "npz":
        np.savez(source, edge_index=EDGES.T, num_nodes=31)
    elif form == "scipy":
        sparse.save_npz(source, matrix())
    elif form == "npy":
        source = tmp_path / "graph.npy"
        np.save(source, EDGES)
    data = loaded(source)
    np.testing.assert_array_equal(data.graph.edges, PLAIN)
    assert data.graph.nodes == (30 if form == "npy" else 31)
    alone = "1 of 31 nodes have no edge; they stay." in data.notes
    assert alone == (form != "npy")
    if form == "networkx":
        assert "edges are taken without their direction." in data.notes
        assert data.graph.names is not None
        assert data.graph.names[-1] == "n99"


LISTS = {
    "names": ("ann bo\nbo cy\ncy dee\nann cy\n", 4, 4, ""),
    "header": ("from,to\nann,bo\nbo,cy\ncy,dee\ndee,ann\n", 4, 4, "(from, to) is taken"),
    "comments": ("# Nodes: 4\n# From\tTo\n0\t10\n10\t2\n2\t3\n3\t0\n", 4, 4, ""),
    "repeats": ("0,1\n1,0\n2,2\n1,2\n2,3\n3,0\n", 4, 4, "1 edges from a node to itself"),
    "words above numbers": ("a,b\n0,1\n1,2\n2,3\n3,0\n", 4, 4, "(a, b) is taken"),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_edge_lists(name: str, tmp_path: Path) -> None:
    text, nodes, edges, said = LISTS[name]
    (tmp_path / "edges.csv").write_text(text)
    data = loaded(tmp_path / "edges.csv", split=(0.5, 0.25, 0.25))
    assert (data.graph.nodes, len(data.graph.edges)) == (nodes, edges)
    assert any([said in note for note in data.notes])


def test_numbers_of_nodes_keep_their_order_and_weights_can_be_dropped(tmp_path: Path) -> None:
    lines = [f"{a * 100},{b * 100},0.5" for a, b in EDGES]
    (tmp_path / "edges.csv").write_text("u,v,w\n" + "\n".join(lines))
    with pytest.raises(DataError, match=r"two columns.*here are 3: 0, 1, 2.*--drop 2"):
        loaded(tmp_path / "edges.csv")
    with pytest.raises(DataError, match=r"two columns.*here are 3: u, v, w.*--drop w"):
        loaded(tmp_path / "edges.csv", header=True)
    data = loaded(tmp_path / "edges.csv", header=True, drop=["w"])
    np.testing.assert_array_equal(data.graph.edges, PLAIN)
    assert data.graph.names == tuple([str(100 * node) for node in range(30)])


def test_held_out_pairs_are_in_no_graph_that_is_learned_from() -> None:
    data = loaded(matrix(), split=(0.6, 0.2, 0.2))
    a = data.batch("train", slice(1))["a"]
    dense = a.to_dense()[0]
    first, second = a.indices()[1:, a.values() == 1]
    learned = {*zip(first.tolist(), second.tolist(), strict=True)}
    edges, seen = {*map(tuple, PLAIN.tolist())}, set(learned)
    for pairs in data.held.values():
        assert len(pairs.edges) == len(pairs.others) == 9
        for pair, edge in zip(pairs.all.tolist(), pairs.labels.tolist(), strict=True):
            assert (tuple(pair) in edges) == bool(edge)
            assert dense[pair[0], pair[1]].isnan()
            assert tuple(pair) not in seen
            seen.add(tuple(pair))
    assert edges <= seen
    assert "of 45 edges 27 are learned from, 9 are for validation, 9 for the test" in data.split
    again, other = loaded(matrix(), split=(0.6, 0.2, 0.2)), loaded(matrix(), seed=1)
    assert again.fingerprint == data.fingerprint != other.fingerprint
    np.testing.assert_array_equal(again.held["test"].others, data.held["test"].others)
    whole = data.complete()["a"]
    assert int(whole.values().sum()) == len(PLAIN)


def test_a_dense_graph_has_as_many_other_pairs_as_there_are() -> None:
    whole = np.triu(np.ones((8, 8)), 1)
    whole[0, 1:4] = 0
    data = loaded(sparse.csr_array(whole), split=(0.6, 0.2, 0.2))
    assert sum([len(pairs.others) for pairs in data.held.values()]) == 3


def test_a_description_is_kept_without_the_data() -> None:
    data = loaded({"edges": EDGES, "x": np.random.default_rng(0).normal(size=(30, 3))})
    again = Description.from_dict(data.to_dict())
    assert again.options["graph"]
    assert again.variables["a"].levels == 30
    assert str(again.variables["a"]) == "a: 30 nodes, edges of a graph; likelihood bernoulli"
    other = load({"edges": EDGES[:40], "x": np.ones((33, 3))}, like=again)
    assert isinstance(other, GraphData)
    assert other.graph.nodes == 33
    assert float(other.variables["a"].mean) == float(data.variables["a"].mean)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no graph": (np.zeros((5, 3)), {}, "pairs of whole numbers"),
    "a name": ("digits", {}, "a graph is one file"),
    "rectangle": (sparse.csr_array(np.ones((2, 3))), {}, "a row and a column for each node"),
    "holes": (sparse.csr_array([[0, np.nan], [1, 0]]), {}, "some elements are NaN"),
    "no edge": ({"edges": np.array([(1, 1)])}, {}, "no edge between two nodes"),
    "few edges": ({"edges": EDGES[:5]}, {}, "5 edges are too few"),
    "nodes": ({"edges": EDGES, "x": np.ones((3, 2))}, {}, "edges speak of node 29"),
    "negative": ({"edges": EDGES - 1}, {}, "counted from 0"),
    "feature": ({"edges": EDGES, "x": np.full((30, 2), np.nan)}, {}, "some features of nodes"),
    "binarize": ({"edges": EDGES}, {"binarize": "static"}, "--binarize is of rows of values"),
    "limit": ({"edges": EDGES}, {"limit": 3}, "--limit is of rows of values"),
    "likelihood": ({"edges": EDGES}, {"likelihood": "gaussian"}, "--likelihood is of rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str) -> None:
    source, options, said = WRONG[name]
    with pytest.raises(DataError, match=said):
        loaded(source, **options)


def test_graphs_and_recipes_of_rows_refuse_each_other() -> None:
    data = loaded({"edges": EDGES, "x": np.ones((30, 2))})
    for name in published():
        if name.endswith("graph_autoencoder"):
            with pytest.raises(RecipeError, match="models one graph, and digits is none"):
                build(find(name), load("digits", limit=20), {}, 0)
        else:
            with pytest.raises((RecipeError, DataError), match=r"memory|is a graph"):
                build(find(name), data, {}, 0)


def test_features_of_an_edge_list_are_those_of_its_nodes_table(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("b,a\nb,c\na,c\nc,d\na,d\nb,d\n")
    nodes = "name,age,kind\nd,4,x\nalone,5,y\na,1,x\nb,2,y\nc,3,x\n"
    (tmp_path / "nodes.csv").write_text(nodes)
    nodes = str(tmp_path / "nodes.csv")
    data = load(str(tmp_path / "edges.csv"), graph=True, nodes=nodes, split=(0.6, 0.2, 0.2))
    assert isinstance(data, GraphData)
    assert data.graph.names == ("a", "b", "c", "d", "alone")
    expected = [[1, 1, 0], [2, 0, 1], [3, 1, 0], [4, 1, 0], [5, 0, 1]]  # age, kind x, kind y
    assert data.train["x"][0].to_dense().squeeze(0).tolist() == expected
    again = load(str(tmp_path / "edges.csv"), like=data.description)
    assert again.graph.names == data.graph.names


@pytest.mark.parametrize(
    "nodes, said",
    [
        ("name,age\na,1\nb,2\n", "no line for 'c' and 1 other nodes of the edges"),
        ("name,age\na,1\na,2\nb,1\nc,1\nd,1\n", "two lines for 'a'"),
        ("name,age\na,1\nb,\nc,1\nd,1\n", "row 2, column 'age': the cell is empty"),
        ("name\na\nb\nc\nd\n", "there is no column"),
    ],
)
def test_a_table_of_nodes_that_does_not_fit(tmp_path: Path, nodes: str, said: str) -> None:
    (tmp_path / "edges.csv").write_text("b,a\nb,c\na,c\nc,d\na,d\nb,d\n")
    (tmp_path / "nodes.csv").write_text(nodes)
    path = str(tmp_path / "nodes.csv")
    with pytest.raises(DataError, match=said):
        load(str(tmp_path / "edges.csv"), graph=True, nodes=path)
    with pytest.raises(DataError, match="say --graph too"):
        load(np.zeros((9, 2)), nodes=path)
    with pytest.raises(DataError, match="leave it out"):
        load(np.array([[0, 1], [1, 2], [0, 2]]), graph=True, nodes=path)
