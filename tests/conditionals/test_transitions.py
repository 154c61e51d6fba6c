"""States given the one before: what they are at their limits."""

from __future__ import annotations

import torch
from torch.distributions import kl_divergence

from deeplvm.conditionals import GatedTransition, LinearisedTransition, ResidualGaussian
from deeplvm.networks import MLP


def test_a_residual_posterior_with_a_zero_network_is_the_prior() -> None:
    torch.manual_seed(0)
    prior = GatedTransition(2, 4, inputs=1).double()
    posterior = ResidualGaussian(prior, MLP(6, 5), prior_parents=2).double()
    before, u, code = (torch.randn(7, width).double() for width in (2, 1, 3))
    assert kl_divergence(posterior(before, u, code), prior(before, u)).min() > 1e-4
    for parameter in posterior.head.layer.parameters():
        parameter.detach().zero_()
    p, q = prior(before, u), posterior(before, u, code)
    torch.testing.assert_close(q.mean, p.mean, rtol=0, atol=0)
    torch.testing.assert_close(q.stddev, p.stddev, rtol=1e-12, atol=0)
    assert kl_divergence(q, p).abs().max() < 1e-12


def test_a_transition_with_a_closed_gate_is_linear_and_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    transition = GatedTransition(3, 4).double()
    z = torch.randn(7, 3).double()
    with torch.no_grad():
        transition.gate.bias.fill_(-1e3)
        torch.testing.assert_close(transition(z).mean, z)
        transition.linear.weight.copy_(torch.randn(3, 3))
        transition.gate.bias.fill_(1e3)
        candidate = transition.candidate(transition.first(z).relu()[:, 4:])
        torch.testing.assert_close(transition(z).mean, candidate)


def test_a_linearised_transition_is_linear_where_its_parts_do_not_change() -> None:
    torch.manual_seed(0)
    transition = LinearisedTransition(3, 2, MLP(3, 5)).double()
    z, u, steps = torch.randn(7, 3).double(), torch.randn(7, 2).double(), torch.ones(7)
    with torch.no_grad():
        transition.head.layer.weight.zero_()  # the same v, r, o and B everywhere
        v, r, o, *b = transition.head.layer.bias.unflatten(0, (5, 3)).unbind()
        expected = z + (z @ r)[:, None] * v + o + u @ torch.stack(b)
        torch.testing.assert_close(transition(z, u, steps).mean, expected)
        assert (transition(z, u, steps).variance > 0).all()
        first = transition(z, u, 0 * steps)
        torch.testing.assert_close(first.mean, torch.zeros(7, 3))
        torch.testing.assert_close(first.variance, torch.ones(7, 3))
