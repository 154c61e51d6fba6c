"""The likelihood of a graph, in blocks and from some pairs, against a Bernoulli of each pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

from deeplvm.conditionals import InnerProduct
from deeplvm.distributions import InnerProductGraph
from deeplvm.distributions import graph as module

NODES, OFFSET = 7, -1.5


def codes(seed: int = 0) -> Tensor:
    """Of three particles and two rows."""
    return torch.randn(3, 2, NODES, 4, generator=torch.Generator().manual_seed(seed))


def graphs() -> tuple[Tensor, Tensor]:
    """Two graphs, of which some pairs are not known; and which are known."""
    generator = torch.Generator().manual_seed(1)
    a = (torch.rand(2, NODES, NODES, generator=generator) < 0.4).double().triu(1)
    unknown = (torch.rand(2, NODES, NODES, generator=generator) < 0.2).triu(1)
    pairs = torch.ones(NODES, NODES, dtype=torch.bool).triu(1)
    return torch.where(unknown, torch.nan, a), pairs & ~unknown


@pytest.mark.parametrize("block", [250_000, 30])
def test_the_density_is_a_bernoulli_of_each_known_pair(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradient too, in one block or several."""
    monkeypatch.setattr(module, "_BLOCK", block)
    z, (a, known) = codes().requires_grad_(), graphs()
    odds = z @ z.mT
    value = a.to_sparse()

    def summed(log_p: Tensor) -> Tensor:
        return torch.where(known, log_p, 0.0).sum((-2, -1))

    each = Bernoulli(logits=odds + OFFSET).log_prob(a.nan_to_num(0.0))
    weight = math.exp(-OFFSET)
    balanced = torch.where(a == 1, weight, 1.0) * Bernoulli(logits=odds).log_prob(
        a.nan_to_num(0.0)
    )
    found = InnerProductGraph(z, OFFSET)
    for got, expected in (
        (found.log_prob(value), summed(each)),
        (found.balanced_log_prob(value), summed(balanced)),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        gradients = [
            torch.autograd.grad(v.sum(), z, retain_graph=True)[0] for v in (got, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_all_graphs_of_four_nodes_have_probability_one() -> None:
    pairs = torch.combinations(torch.arange(4))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * len(pairs))
    a = torch.zeros(len(every), 4, 4)
    a[:, pairs[:, 0], pairs[:, 1]] = every
    z = codes()[0, :1, :4].expand(len(every), 4, 4)
    total = InnerProductGraph(z, OFFSET).log_prob(a.to_sparse()).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(()))


def test_some_pairs_stand_for_all_in_expectation() -> None:
    """5 standard errors of the mean of 2,000 estimates: fails once in a million seeds."""
    torch.manual_seed(0)
    z, value = codes()[:1, :1], graphs()[0][:1].to_sparse()
    exact = InnerProductGraph(z, OFFSET).log_prob(value)
    each = torch.stack([InnerProductGraph(z, OFFSET, 3).log_prob(value) for _ in range(2_000)])
    error = each.std(0) / math.sqrt(len(each))
    assert ((each.mean(0) - exact).abs() < 5 * error).all()


def test_draws_have_the_probabilities_of_their_pairs() -> None:
    torch.manual_seed(0)
    z = codes()
    drawn = InnerProductGraph(z, OFFSET).sample((2_000,))
    assert drawn.is_sparse
    assert drawn.shape == (2_000, 3, 2, NODES, NODES)
    share = drawn.sum(0).to_dense() / 2_000
    probability = (z @ z.mT + OFFSET).sigmoid().triu(1)
    error = (probability * (1 - probability) / 2_000).sqrt()
    assert ((share - probability).abs() <= 5.5 * error + 1e-12).all()  # 126 pairs: 1e-5 seeds


def test_many_pairs_are_sampled_and_wrong_options_refused() -> None:
    assert InnerProduct()(torch.zeros(1, 10_000, 1)).sampled == 2_000_000
    assert InnerProduct()(torch.zeros(1, 2_000, 1)).sampled is None
    assert InnerProduct(density=0.1)(torch.zeros(1, 3, 2)).log_odds(
        torch.tensor([[0, 1]])
    ).sigmoid().item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"density between 0 and 1, found 1\.5"):
        InnerProduct(density=1.5)
    with pytest.raises(ValueError, match="sampled of at least 1"):
        InnerProduct(sampled=0)
