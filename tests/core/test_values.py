"""Values that are no dense tensors, and features that are made where they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.utils._python_dispatch import TorchDispatchMode

from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import STACKED
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.objectives import elbo
from deeplvm.training import fit

ROWS = 12


class Graph(NamedTuple):
    nodes: Tensor  # (rows, nodes, 2)
    edges: Tensor  # (rows, nodes, nodes)


class Scored(Distribution):
    """What is scored by a function of the value, for conditionals of values of any kind."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form

    def __init__(self, score: Callable[[Any], Tensor], rows: torch.Size) -> None:
        super().__init__(rows, validate_args=False)
        self.score = score

    def log_prob(self, value: Any) -> Tensor:
        return self.score(value)


class Nodes(nn.Module):
    """p(graph | z): nodes about z, edges by the distance of the nodes."""

    event_shape = torch.Size([])

    def forward(self, z: Tensor) -> Distribution:
        def score(graph: Graph) -> Tensor:
            nodes = Normal(z.unsqueeze(-2), 1.0).log_prob(graph.nodes).sum((-1, -2))
            logits = 1.0 - torch.cdist(graph.nodes, graph.nodes)
            edges = torch.distributions.Bernoulli(logits=logits).log_prob(graph.edges)
            return nodes + edges.sum((-1, -2))

        return Scored(score, z.shape[:-1])


class ReadGraph(nn.Module):
    """One round of messages, and the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 2
        self.layer = nn.Linear(2, 2)

    def forward(self, graph: Graph) -> Tensor:
        return self.layer(graph.edges @ graph.nodes).tanh().mean(-2)


class Words(nn.Module):
    """p(counts | z) of a bag of words whose counts are sparse rows."""

    event_shape = torch.Size([6])

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 6)

    def forward(self, z: Tensor) -> Distribution:
        logits = self.layer(z).log_softmax(-1)

        def score(counts: Tensor) -> Tensor:
            found = counts.to_sparse_coo().coalesce()
            row, word = found.indices()
            each = logits[..., row, word] * found.values()
            return torch.zeros(logits.shape[:-1]).index_add(-1, row, each)

        return Scored(score, z.shape[:-1])


class ReadWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_features = 2
        self.weight = nn.Parameter(torch.randn(6, 2))

    def forward(self, counts: Tensor) -> Tensor:
        return torch.sparse.mm(counts, self.weight)


class Bags:
    """Rows of unequal size: the entries of all rows in a line, and where each row begins."""

    def count(self, value: tuple[Tensor, Tensor]) -> int:
        return len(value[1]) - 1

    def take(self, value: tuple[Tensor, Tensor], index: slice | Tensor) -> tuple[Tensor, Tensor]:
        entries, begins = value
        rows = torch.arange(self.count(value))[index]
        parts = [entries[begins[row] : begins[row + 1]] for row in rows]
        sizes = torch.tensor([0, *[len(part) for part in parts]])
        return torch.cat(parts), sizes.cumsum(0)

    def change(self, value: Any, of: Callable[[Tensor], Tensor]) -> Any:
        return of(value[0]), of(value[1])


class Bag(nn.Module):
    """p(bag | z): every entry about z."""

    event_shape = torch.Size([2])
    values = Bags()

    def forward(self, z: Tensor) -> Distribution:
        def score(bag: tuple[Tensor, Tensor]) -> Tensor:
            row = torch.repeat_interleave(bag[1].diff())
            each = Normal(z[..., row, :], 1.0).log_prob(bag[0]).sum(-1)
            return torch.zeros(z.shape[:-1]).index_add(-1, row, each)

        return Scored(score, z.shape[:-1])


class ReadBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_features, self.layer = 2, nn.Linear(2, 2)

    def forward(self, bag: tuple[Tensor, Tensor]) -> Tensor:
        row = torch.repeat_interleave(bag[1].diff())
        return torch.zeros(len(bag[1]) - 1, 2).index_add(0, row, self.layer(bag[0]))


def cases() -> dict[str, tuple[nn.Module, nn.Module, Any, Any]]:
    """The likelihood, the encoder, values of all rows, and those of the third and the first."""
    torch.manual_seed(0)
    graph = Graph(torch.randn(ROWS, 4, 2), torch.bernoulli(torch.full((ROWS, 4, 4), 0.4)))
    counts = torch.poisson(torch.full((ROWS, 6), 0.5))
    sizes = torch.randint(1, 5, (ROWS,))
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    entries = torch.randn(int(sizes.sum()), 2)
    some = torch.tensor([2, 0])
    return {
        "graph": (Nodes(), ReadGraph(), graph, Graph(graph.nodes[some], graph.edges[some])),
        "coo": (Words(), ReadWords(), counts.to_sparse_coo(), counts[some].to_sparse_coo()),
        "csr": (Words(), ReadWords(), counts.to_sparse_csr(), counts[some].to_sparse_csr()),
        "bags": (Bag(), ReadBag(), (entries, begins), Bags().take((entries, begins), some)),
    }


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", ["graph", "coo", "csr", "bags"])
def test_values_of_any_kind_are_observed(kind: str) -> None:
    likelihood, reader, values, some = cases()[kind]
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, reader)}))
    evidence = model.evidence({"x": values}, particles=3)
    assert evidence.batch_shape == (3, ROWS)
    z = evidence.q["z"].value
    assert torch.allclose(evidence.terms["x"], likelihood(z).log_prob(values), atol=1e-12)
    assert elbo(evidence).isfinite().all()
    # a row is the same alone
    estimate = importance_sampling(model, {"x": values}, 32, batch_size=5)
    again = importance_sampling(model, {"x": some}, 32).log_px
    assert torch.allclose(estimate.log_px[[2, 0]], again, atol=1e-9)
    fit(model, {"x": values}, epochs=30, batch_size=5, seed=0)
    after = importance_sampling(model, {"x": values}, 32)
    assert after.elbo.mean() > estimate.elbo.mean()


def test_parts_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="The parts of a tuple have 2, 3 rows"):
        STACKED.count((torch.zeros(2), torch.zeros(3)))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return out


class Mean(nn.Module):
    """A bag of words: the mean of what is seen of each."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features, self.layer = 4, nn.Linear(features, 4)

    def forward(self, seen: Tensor) -> Tensor:
        return self.layer(seen.mean(-2))


def test_a_value_that_nobody_reads_is_not_embedded() -> None:
    words, length = 1_000, 25
    p = Joint({"z": StandardNormal(2), "x | z": Categorical(words, MLP(2, 4), shape=length)})
    x = torch.randint(words, (8, length))
    with Largest() as largest:
        site = p({"x": x, "z": torch.zeros(1, 2)}, (8,))["x"]
    assert largest.bytes < 8 * 8 * length * words  # one-hot rows
    assert site.features.shape == (8, length, words)


@pytest.mark.parametrize("missing", [False, True])
def test_a_table_is_a_linear_map_of_one_hot_rows(missing: bool) -> None:
    torch.manual_seed(0)
    words, length = 50, 6
    plain = Categorical(words, MLP(2, 4), shape=length)
    tokens = Categorical(words, MLP(2, 4), shape=length, features=3)
    assert tokens.table is not None
    value = torch.randint(words, (5, length)).double()
    if missing:
        value[0, 2] = torch.nan
    expected = plain.embed(value) @ tokens.table.weight
    assert torch.allclose(tokens.embed(value), expected, atol=1e-12)
    p = Joint({"z": StandardNormal(2), "x | z": tokens})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, Mean(3))}))
    with Largest() as largest:
        model.posterior({"x": value})
    assert largest.bytes < 8 * 5 * length * words / 2
    elbo(model.evidence({"x": value})).sum().backward()
    slope = tokens.table.weight.grad
    assert slope is not None
    assert set(slope.abs().sum(-1).nonzero().flatten().tolist()) == set(
        value[~value.isnan()].long().tolist()
    )
