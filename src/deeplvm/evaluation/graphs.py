"""How well a model of a graph tells edges that it has not seen from other pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.draws import Draw, Drawn, Sampled
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.graphs import GraphData
from deeplvm.distributions.graph import InnerProductGraph
from deeplvm.inference.compression import AtCentre
from deeplvm.objectives import elbo
from deeplvm.randomness import evaluating
from deeplvm.results import Array, Estimate, Record, digest_of

_RESAMPLED = 200  # times that pairs are drawn again for the error of an average precision


@dataclass(frozen=True, eq=False)
class GraphEvaluation(Record):
    """Edges that were held out, and the bound.

    Attributes:
        data: Name and which held-out pairs, ``split``.
        auc: The share of pairs of an edge and another pair in which the edge is thought more
            probable, by the means of the codes; with its error over pairs (DeLong et al., 1988).
        average_precision: Mean precision over the held-out edges, ranked so; its error by drawing
            pairs again.
        held_out_edge: Mean log-probability of a held-out edge, over draws of q; nats.
        held_out_other: The same of a held-out pair without an edge.
        elbo: Of the graph that was learned from: the lower bound on log p(a), nats; its error is
            that of the draws.
        per_node: The bound for each node.
        per_pair: The bound for each pair of nodes that is known.
        kl_per_node: What the code of a node costs, nats.
        independent: What the graph has, for each node, if every pair is an edge with the same
            probability; nats.
        nodes: How many there are.
        edges: How many were learned from.
        draws: Of q.
        settings: Seed, and the digest of the model.
    """

    data: dict[str, str]
    auc: Estimate
    average_precision: Estimate
    held_out_edge: Estimate
    held_out_other: Estimate
    elbo: Estimate
    per_node: float
    per_pair: float
    kl_per_node: float
    independent: float
    nodes: int
    edges: int
    draws: int
    settings: dict[str, Any] = field(default_factory=dict)

    header: ClassVar = ("quantity", "value", "what it means")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> GraphEvaluation:
        """What :meth:`to_dict` wrote.

        Raises:
            ValueError: If an entry is missing, or no such number.
        """
        values = dict(plain)
        try:
            for name in ("auc", "average_precision", "held_out_edge", "held_out_other", "elbo"):
                each = values[name]
                values[name] = Estimate(*[_number(each[key]) for key in ("value", "stderr")])
            for name in ("per_node", "per_pair", "kl_per_node", "independent"):
                values[name] = _number(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error} of the evaluation of a graph") from error

    def heading(self) -> str:
        """What was measured."""
        return (
            f"{self.data['name']}, {self.data['split']} pairs: {self.nodes:,} nodes, "
            f"{self.edges:,} edges learned from, {self.draws} draws of q"
        )

    def table(self) -> list[tuple[str, str, str]]:
        """Every number and what it is."""
        return [
            ("AUC", str(self.auc), "an edge before another pair; held out"),
            ("average precision", str(self.average_precision), "of held-out edges"),
            ("log p of an edge", str(self.held_out_edge), "nats, held out"),
            ("log p of another pair", str(self.held_out_other), "nats, held out"),
            ("ELBO", str(self.elbo), "nats, of the graph learned from"),
            ("ELBO a node", f"{self.per_node:.3f}", f"of which codes cost {self.kl_per_node:.3f}"),
            ("ELBO a pair", f"{self.per_pair:.5f}", "nats"),
            ("independent edges", f"{self.independent:.3f}", "nats a node, all alike"),
        ]

    def notes(self) -> list[str]:
        """What the bound is worth."""
        if self.per_node >= self.independent:
            return []
        less = self.independent - self.per_node
        said = (
            f"The bound is {less:.2f} nats a node below the likelihood of independent edges: "
            f"codes that rank pairs well cost more than they save. Edges that are balanced in "
            f"training do not ask for a bound; fit --objective elbo does."
        )
        return [said]


def _number(value: Any) -> float:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{value!r} is no number")
    return math.nan if value is None else float(value)


def given_of(
    model: LatentVariableModel, data: GraphData, *, whole: bool = False
) -> dict[str, Any]:
    """The row of a graph that a model reads; with all edges, or without those held out."""
    row = data.complete() if whole else data.batch("test", slice(1))
    like = next(model.parameters())
    return {name: each.to(like) for name, each in row.items() if name in model.names}


@dataclass(frozen=True)
class _Codes:
    """Draws codes, and no graph of them, as that would be all pairs."""

    way: Draw

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        if isinstance(distribution, InnerProductGraph):
            none = distribution.codes.new_zeros(batch_shape)
            return Drawn(none, none, batch_shape, 0.0)
        return self.way(name, distribution, batch_shape, batch_dims)


def graph_at(
    model: LatentVariableModel, given: Mapping[str, Any], *, mean: bool = True
) -> InnerProductGraph:
    """p(a | z) at the means of the codes given a graph, or at one draw of them.

    Raises:
        ValueError: If the model has no such likelihood of ``a``.
    """
    way = _Codes(AtCentre() if mean else Sampled())
    names = model.p.names
    found = model.reconstruct(given, default=way)["a"].distribution if "a" in names else None
    if not isinstance(found, InnerProductGraph):
        raise ValueError(
            "The model has no graph, 'a', whose edges follow inner products; the recipe "
            "variational_graph_autoencoder has."
        )
    return found


def edge_probabilities(
    model: LatentVariableModel,
    given: Mapping[str, Any],
    pairs: Tensor,
    *,
    draws: int = 20,
    seed: int = 0,
) -> Tensor:
    """The probability of an edge between pairs ``(pairs, 2)``, over draws of q: ``(pairs,)``."""
    with evaluating(model, seed):
        pairs = pairs.to(next(model.parameters()).device)
        each = [
            graph_at(model, given, mean=False).log_odds(pairs)[0].sigmoid() for _ in range(draws)
        ]
        return torch.stack(each).mean(0).clone()


def likeliest_pairs(
    model: LatentVariableModel, given: Mapping[str, Any], count: int, *, known: bool
) -> Tensor:
    """The pairs that are edges with the highest probability, by the means of the codes.

    Args:
        model: Of a graph.
        given: The graph that is known.
        count: How many pairs; fewer where there are no more.
        known: Whether edges that are known are among them.

    Returns:
        Shape ``(count, 2)``, the most probable first.
    """
    with evaluating(model, 0):
        graph = graph_at(model, given)
        codes, a = graph.codes[0], given["a"].coalesce()
        edges = a.indices()[1:, a.values() == 1]
        best, where = codes.new_zeros(0), torch.zeros(0, 2, dtype=torch.int64, device=codes.device)
        for start, stop in graph.blocks():
            odds = codes[start:stop] @ codes[start:].T
            odds = odds.masked_fill(torch.ones_like(odds).tril(0).bool(), -math.inf)
            if not known:
                inside = (edges[0] >= start) & (edges[0] < stop)
                odds[edges[0, inside] - start, edges[1, inside] - start] = -math.inf
            found, at = odds.flatten().topk(min(count, odds.numel()))
            pairs = torch.stack([at // odds.shape[1], at % odds.shape[1]], 1) + start
            best, where = torch.cat([best, found]), torch.cat([where, pairs])
            best, order = best.topk(min(count, len(best)))
            where = where[order]
        return where[best > -math.inf].cpu().clone()


def evaluate_graph(
    model: LatentVariableModel,
    data: GraphData,
    *,
    split: Literal["valid", "test"] = "test",
    draws: int = 20,
    seed: int = 0,
) -> GraphEvaluation:
    """Rank held-out pairs, and measure the bound of the graph that is known.

    Args:
        model: Of a graph ``a``, with codes of its nodes.
        data: A graph with held-out pairs.
        split: Which of these.
        draws: Of q.
        seed: Of these.

    Raises:
        ValueError: If the model has no such graph.
    """
    given, held = given_of(model, data), data.held[split]
    pairs, labels = held.all, held.labels.numpy()
    with evaluating(model, seed):
        device = next(model.parameters()).device
        odds = graph_at(model, given).log_odds(pairs.to(device))[0].double().cpu().numpy()
        ledgers = [model.evidence(given) for _ in range(draws)]
        bounds = [elbo(each, "analytic").double().cpu()[0] for each in ledgers]
        kl = sum([float(ledgers[0].kl(name)) for name in ledgers[0].latents])
    probability = edge_probabilities(model, given, pairs, draws=draws, seed=seed).double().cpu()
    log_p = torch.where(torch.from_numpy(labels) == 1, probability.log(), (-probability).log1p())
    edges = torch.from_numpy(labels) == 1
    bound = Estimate.of(torch.stack(bounds))
    nodes, known = data.graph.nodes, given["a"].coalesce().values()
    unknown, count = int(known.isnan().sum()), int((known == 1).sum())
    total = nodes * (nodes - 1) // 2 - unknown
    share = count / total
    each = share * math.log(share) + ((1 - share) * math.log1p(-share) if share < 1 else 0.0)
    return GraphEvaluation(
        {"name": data.name, "split": split},
        area_under_curve(labels, odds),
        _average_precision(labels, odds, seed),
        Estimate.of(log_p[edges]),
        Estimate.of(log_p[~edges]),
        bound,
        bound.value / nodes,
        bound.value / total,
        kl / nodes,
        total * each / nodes,
        nodes,
        count,
        draws,
        {"model": digest_of(model), "seed": seed},
    )


def area_under_curve(labels: Array, scores: Array) -> Estimate:
    """Area under the ROC curve, with its error.

    Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves
    (DeLong et al., 1988), https://doi.org/10.2307/2531595

    >>> print(area_under_curve(np.array([1, 1, 0, 0]), np.array([3.0, 1.0, 2.0, 0.0])))
    0.75 ± 0.35
    """
    from scipy.stats import rankdata

    first, second = scores[labels == 1], scores[labels == 0]
    ranks = rankdata(np.concatenate([first, second]))
    above = (ranks[: len(first)] - rankdata(first)) / len(second)  # of each edge: others below
    below = 1 - (ranks[len(first) :] - rankdata(second)) / len(first)
    pair = min(len(first), len(second)) > 1
    error = (
        sum([np.var(each, ddof=1) / len(each) for each in (above, below)]) if pair else math.nan
    )
    return Estimate(float(above.mean()), math.sqrt(error))


def _average_precision(labels: Array, scores: Array, seed: int) -> Estimate:
    from sklearn.metrics import average_precision_score

    rng, kinds = np.random.default_rng(seed), [np.flatnonzero(labels == k) for k in (1, 0)]
    again = []
    for _ in range(_RESAMPLED):
        rows = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        again.append(average_precision_score(labels[rows], scores[rows]))
    return Estimate(float(average_precision_score(labels, scores)), float(np.std(again, ddof=1)))
