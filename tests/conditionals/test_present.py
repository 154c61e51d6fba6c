"""What is said of objects that are there, and the chain of their presences."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from deeplvm.conditionals import Bernoulli, Gaussian, IfPresent, Presence
from deeplvm.networks import MLP


def test_a_gaussian_of_what_is_there_is_itself_and_else_the_standard_normal() -> None:
    inner = Gaussian(3, MLP(4, 8))
    outer, features = IfPresent(inner), torch.randn(2, 5, 4)
    there = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]).unsqueeze(-1)
    found, own = outer(there, features), inner(features)
    value = torch.randn(2, 5, 3)
    scores, open_ = found.log_prob(value), there.squeeze(-1) == 1
    torch.testing.assert_close(scores[:, open_], own.log_prob(value)[:, open_])
    normal = Normal(0.0, 1.0).log_prob(value).sum(-1)
    torch.testing.assert_close(scores[:, ~open_], normal[:, ~open_])
    cost = kl_divergence(Normal(found.mean, found.stddev), Normal(0.0, 1.0)).sum(-1)
    assert not cost[:, ~open_].any()
    assert (cost[:, open_] > 0).all()


def test_presences_end_and_their_counts_have_probabilities_that_sum_to_one() -> None:
    chain = Presence(Bernoulli(1, mean=0.3))
    total = 0.0
    for count in range(3):  # of two steps: present for `count` of them, then no more
        values = torch.tensor([1.0] * count + [0.0] * (2 - count)).view(2, 1)
        before = torch.cat([torch.ones(1, 1), values[:-1]])
        probability = chain(before).log_prob(values).sum().exp()
        expected = 0.3**count * (0.7 if count < 2 else 1.0)
        torch.testing.assert_close(probability, torch.tensor(expected))
        total += float(probability.detach())
    assert abs(total - 1) < 1e-12
    never = chain(torch.zeros(1, 1))
    assert never.log_prob(torch.ones(1, 1)) < -1e3
    assert not never.sample((100,)).any()
