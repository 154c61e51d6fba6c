"""Graph convolutions against dense products, and nodes in another order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplvm.networks import GraphConvolutions, normalised_adjacency

NODES = 9


def random_graph(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A symmetric adjacency matrix, with a node alone, and its upper half, sparse."""
    generator = torch.Generator().manual_seed(seed)
    whole = (torch.rand(NODES, NODES, generator=generator) < 0.3).double().triu(1)
    whole[:, -1] = 0
    return whole + whole.T, whole.to_sparse()


def test_the_normalised_adjacency_is_that_of_dense_products() -> None:
    whole, half = random_graph()
    loops = whole + torch.eye(NODES)
    degrees = torch.diag(loops.sum(1) ** -0.5)
    expected = degrees @ loops @ degrees
    for given in (half, whole.to_sparse()):  # in one direction, or in both
        torch.testing.assert_close(normalised_adjacency(given).to_dense(), expected)


def test_pairs_that_are_not_known_are_no_edges() -> None:
    _, half = random_graph()
    dense = half.to_dense()
    first, second = (dense.triu(1) == 0).nonzero()[3]
    if first < second:
        dense[first, second] = torch.nan
    expected = normalised_adjacency(half).to_dense()
    torch.testing.assert_close(normalised_adjacency(dense.to_sparse()).to_dense(), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_layers_are_products_with_the_adjacency(*, sparse: bool) -> None:
    whole, half = random_graph()
    x = torch.randn(NODES, 4, generator=torch.Generator().manual_seed(1))
    network = GraphConvolutions(4, 5, 3, units=torch.tensor([1.0, 2.0, 4.0, 0.5]))
    a = normalised_adjacency(whole.to_sparse()).to_dense()
    w0, w1 = network.weights
    h = torch.relu(a @ (x / torch.tensor([1.0, 2.0, 4.0, 0.5])) @ w0)
    expected = a @ torch.relu(a @ h @ w1)
    given = x[None].to_sparse() if sparse else x[None]
    torch.testing.assert_close(network(half[None], given)[0], expected)


def test_other_numbers_of_nodes_give_the_same_in_that_order() -> None:
    whole, _ = random_graph()
    x = torch.randn(NODES, 4, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(2))
    network = GraphConvolutions(4, 5)
    plain = network(whole.to_sparse()[None], x[None])[0]
    other = network(whole[order][:, order].triu(1).to_sparse()[None], x[order][None])[0]
    torch.testing.assert_close(other, plain[order], rtol=0, atol=1e-12)


def test_without_features_the_first_weights_are_a_table() -> None:
    whole, half = random_graph()
    network = GraphConvolutions(NODES, 5, given=False)
    a = normalised_adjacency(whole.to_sparse()).to_dense()
    expected = a @ torch.relu(a @ network.weights[0])
    torch.testing.assert_close(network(half[None])[0], expected)
    with pytest.raises(ValueError, match="without features of nodes, and some are given"):
        network(half[None], torch.zeros(1, NODES, 5))
