"""Graph convolutions: features of a node are mixed with those of its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


def normalised_adjacency(graph: Tensor) -> Tensor:
    r""":math:`\hat A = D^{-1/2} (A + I) D^{-1/2}`, D the degrees of :math:`A + I`; sparse.

    Args:
        graph: Sparse, ``(nodes, nodes)``: 1 where there is an edge, in one direction or both.
            Elements that are not 1, such as NaN for pairs of which nothing is known, are none.

    >>> edge = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> normalised_adjacency(edge.to_sparse()).to_dense()
    tensor([[0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    graph = graph.coalesce()
    nodes, known = graph.shape[-1], graph.values() == 1
    first, second = graph.indices()[:, known]
    loops = torch.arange(nodes, device=graph.device) * (nodes + 1)
    places = torch.cat([first * nodes + second, second * nodes + first, loops]).unique()
    indices = torch.stack([places // nodes, places % nodes])
    degrees = torch.bincount(indices[0], minlength=nodes).to(graph.dtype)
    values = (degrees[indices[0]] * degrees[indices[1]]).rsqrt()
    return torch.sparse_coo_tensor(
        indices, values, graph.shape, is_coalesced=True, check_invariants=False
    )


class GraphConvolutions(nn.Module):
    r"""Layers :math:`h_{l+1} = f(\hat A h_l W_l)`, and :math:`\hat A h_L` in the end.

    A linear map of what it returns is one layer more, without f. :math:`h_0` are the features of
    the nodes or, without any, a one-hot number of each: the first weights are then a table.
    Memory grows with the edges.

    Semi-Supervised Classification with Graph Convolutional Networks (Kipf & Welling, 2017),
    https://arxiv.org/abs/1609.02907

    Args:
        features: How many features a node has; without features, how many nodes there are.
        hidden: Widths of the layers.
        given: Whether there are features.
        units: What features are divided by, shape ``(features,)``.
        activation: f.

    Shape:
        A sparse graph ``(batch, nodes, nodes)``, and features ``(batch, nodes, features)``, sparse
        or not, give ``(batch, nodes, hidden[-1])``.
    """

    units: Tensor | None

    def __init__(
        self,
        features: int,
        *hidden: int,
        given: bool = True,
        units: Tensor | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.given, self.out_features = given, hidden[-1]
        self.weights = nn.ParameterList(
            [
                nn.init.xavier_uniform_(torch.empty(shape))
                for shape in pairwise((features, *hidden))
            ]
        )
        self.activation = activation()
        scale = None if units is None else 1 / units.to(torch.get_default_dtype())
        self.register_buffer("units", scale, persistent=False)

    def forward(self, graph: Tensor, features: Tensor | None = None) -> Tensor:
        """The features of the nodes, mixed."""
        rows = range(len(graph))
        given = [None if features is None else _row(features, row) for row in rows]
        each = [self._of_one(_row(graph, row), given[row]) for row in rows]
        return torch.stack(each)

    def _of_one(self, graph: Tensor, features: Tensor | None) -> Tensor:
        if self.given != (features is not None):
            raise ValueError(
                f"These graph convolutions are made {'for' if self.given else 'without'} features "
                f"of nodes, and {'none are' if self.given else 'some are'} given."
            )
        adjacency = normalised_adjacency(graph.to(self.weights[0].dtype))
        first, *rest = self.weights
        first = first if self.units is None else self.units[:, None] * first
        hidden = first if features is None else torch.mm(features.to(first.dtype), first)
        hidden = self.activation(torch.sparse.mm(adjacency, hidden))
        for weight in rest:
            hidden = self.activation(torch.sparse.mm(adjacency, hidden @ weight))
        return torch.sparse.mm(adjacency, hidden)

    def extra_repr(self) -> str:
        return " -> ".join(
            [str(each.shape[0]) for each in self.weights] + [str(self.out_features)]
        )


def _row(values: Tensor, row: int) -> Tensor:
    """One row of a tensor, sparse or not."""
    if not values.is_sparse:
        return values[row]
    values = values.coalesce()
    indices, shape = values.indices(), values.shape[1:]
    own = indices[0] == row
    return torch.sparse_coo_tensor(
        indices[1:, own], values.values()[own], shape, is_coalesced=True, check_invariants=False
    )
