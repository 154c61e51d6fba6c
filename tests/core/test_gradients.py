"""How latents are drawn: reparameterised gradients (R2.4), enumeration, and what refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Enumerated, Reparameterised, Sampled
from deeplvm.objectives import elbo, iwae


def test_reparameterised_gradient_is_unbiased() -> None:
    """grad E[z^2] = (2 mu, 2 sigma) and grad E[sigmoid(3 z)] by quadrature, within 5 standard
    errors over 100,000 draws: failure rate about 2e-6 a comparison."""
    torch.manual_seed(0)
    n = 100_000
    mu = torch.full((n,), 0.7, requires_grad=True)
    sigma = torch.full((n,), 0.4, requires_grad=True)
    value, log_prob, shape, measure = Reparameterised()("z", Normal(mu, sigma), (n,), 1)
    assert shape == (n,)
    assert measure == 0.0
    assert torch.allclose(log_prob, Normal(mu, sigma).log_prob(value))
    nodes = torch.linspace(-8, 8, 4001)
    weights = Normal(0.0, 1.0).log_prob(nodes).exp() * (nodes[1] - nodes[0])
    z = 0.7 + 0.4 * nodes
    slope = 3 * torch.sigmoid(3 * z) * (1 - torch.sigmoid(3 * z))
    exact = {
        "square": (1.4, 0.8),
        "sigmoid": ((weights * slope).sum().item(), (weights * slope * nodes).sum().item()),
    }
    functions = {"square": value.square(), "sigmoid": torch.sigmoid(3 * value)}
    for name, expected in exact.items():
        grads = torch.autograd.grad(functions[name].sum(), (mu, sigma), retain_graph=True)
        for each, truth in zip(grads, expected, strict=True):
            error = each.std() / math.sqrt(n)
            assert abs(each.mean() - truth) < 5 * error


@pytest.mark.parametrize(
    "build, count",
    [
        (lambda: Categorical(logits=torch.randn(5, 3)), 3),
        (lambda: Independent(Bernoulli(logits=torch.randn(5, 4)), 1), 16),
        (lambda: Independent(Bernoulli(logits=torch.randn(5, 2, 2)), 2), 16),
        (lambda: Independent(Categorical(logits=torch.randn(5, 2, 3)), 1), 9),
        (lambda: torch.distributions.OneHotCategorical(logits=torch.randn(5, 3)), 3),
    ],
)
def test_enumerated_values_have_all_the_mass(
    build: Callable[[], Distribution], count: int
) -> None:
    distribution = build()
    value, log_prob, shape, measure = Enumerated()("y", distribution, (2, 5), 1)
    assert shape == (count, 2, 5)
    assert value.shape == (count, 2, 5, *distribution.event_shape)
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(2, 5), atol=1e-12)
    assert measure is log_prob
    flat = value[:, 0, 0].reshape(count, -1)
    assert len({tuple(row.tolist()) for row in flat}) == count


def test_what_cannot_be_listed_says_so() -> None:
    with pytest.raises(
        ValueError, match="'y' is drawn from a Poisson, whose values cannot be listed"
    ):
        Enumerated()("y", Poisson(torch.ones(5)), (5,), 1)
    with pytest.raises(ValueError, match=r"2 \*\* 20 values, more than the 65536"):
        Enumerated()("y", Independent(Bernoulli(logits=torch.zeros(5, 20)), 1), (5,), 1)
    with pytest.raises(ValueError, match="repeats inside a row"):
        Enumerated()("y", Bernoulli(logits=torch.zeros(5, 4)), (5,), 1)


def test_no_gradient_is_lost_silently() -> None:
    with pytest.raises(ValueError, match="no reparameterised draw, so its gradient would be lost"):
        Reparameterised()("y", Bernoulli(logits=torch.zeros(5)), (5,), 1)
    with torch.no_grad():
        value, *_ = Reparameterised()("y", Bernoulli(logits=torch.zeros(5)), (5,), 1)
    assert value.shape == (5,)


def test_sampled_has_no_gradient_through_the_value() -> None:
    mean = torch.zeros(5, requires_grad=True)
    value, *_ = Sampled()("z", Normal(mean, 1.0), (3, 5), 1)
    assert value.shape == (3, 5)
    assert not value.requires_grad


class Table(nn.Module):
    """A distribution over three values given three others: rows of a matrix of logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.event_shape = torch.Size(())

    def forward(self, *parents: Tensor) -> Distribution:
        return Categorical(logits=self.logits[parents[0]] if parents else self.logits)


def test_two_enumerated_latents_sum_over_all_pairs() -> None:
    """TB2: log p(x) exactly, whatever q is, from iwae; the ELBO from its definition."""
    torch.manual_seed(0)
    p = Joint(
        {
            "a": Table(torch.randn(3)),
            "b | a": Table(torch.randn(3, 3)),
            "x | b": Table(torch.randn(3, 3)),
        }
    )
    q = Joint({"a | x": Table(torch.randn(3, 3)), "b | a": Table(torch.randn(3, 3))})
    model = LatentVariableModel(p, q)
    x = torch.tensor([0, 1, 2, 2])
    evidence = model.evidence({"x": x}, draw={"a": Enumerated(), "b": Enumerated()})
    assert evidence.log_weight.shape == (3, 3, 4)
    joint = (
        p["a"].logits.log_softmax(-1)[:, None, None]
        + p["b"].logits.log_softmax(-1)[:, :, None]
        + p["x"].logits.log_softmax(-1)[None]
    )  # (a, b, x)
    exact = torch.logsumexp(joint, (0, 1))[x]
    assert torch.allclose(iwae(evidence), exact, atol=1e-12)
    guide = q["a"].logits.log_softmax(-1).T[:, None, :] + q["b"].logits.log_softmax(-1)[:, :, None]
    bound = (guide.exp() * (joint - guide)).sum((0, 1))[x]
    assert torch.allclose(elbo(evidence), bound, atol=1e-12)
    # Many continuous draws beside it change nothing in an exact sum.
    again = model.evidence({"x": x}, particles=5, draw={"a": Enumerated(), "b": Enumerated()})
    assert torch.allclose(iwae(again), exact, atol=1e-12)


def test_a_value_of_probability_zero_weighs_nothing() -> None:
    """q gives one value no mass: the ELBO leaves it out, the exact sum over p does not."""
    p = Joint({"a": Table(torch.randn(3)), "x | a": Table(torch.randn(3, 3))})
    logits = torch.tensor([[0.0, 0.5, -torch.inf]]).expand(3, 3)
    q = Joint({"a | x": Table(logits.clone())})
    x = torch.tensor([0, 2])
    evidence = LatentVariableModel(p, q).evidence({"x": x}, draw={"a": Enumerated()})
    joint = (p["a"].logits.log_softmax(-1)[:, None] + p["x"].logits.log_softmax(-1))[:, x]
    assert torch.allclose(iwae(evidence), torch.logsumexp(joint, 0), atol=1e-10)
    guide = logits[0, :2].log_softmax(-1)
    expected = (guide.exp()[:, None] * (joint[:2] - guide[:, None])).sum(0)
    assert torch.allclose(elbo(evidence), expected, atol=1e-10)
