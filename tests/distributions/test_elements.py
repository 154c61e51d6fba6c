"""Distributions of one element: golden values, and accuracy where torch's classes lose it."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from deeplvm.distributions import (
    Bernoulli,
    Beta,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Multinomial,
    NegativeBinomial,
    OfTotal,
    OneHotCategorical,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflated,
    cumulative_logits,
)
from deeplvm.distributions.gamma_functions import log_rising


@pytest.mark.parametrize("loc", [-3.0, -1.0, -0.99, 0.0, 0.4, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 1e4])
def test_trap_4_all_levels_sum_to_one(loc: float, scale: float) -> None:
    pixel = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale))
    assert pixel.log_prob(torch.arange(256)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_trap_4_the_printed_formula_does_not() -> None:
    """CDF(x + 1/256) - CDF(x) over the 256 bins sums to 0.99966 at mu = .4, s = .05."""
    x = torch.arange(256) / 256
    loc, scale = 0.4, 0.05
    printed = torch.sigmoid((x + 1 / 256 - loc) / scale) - torch.sigmoid((x - loc) / scale)
    assert printed.sum().item() == pytest.approx(0.99966, abs=1e-5)


def test_discretized_logistic_mean_and_uniform_limit() -> None:
    pixel = DiscretizedLogistic(torch.tensor([-2.0, 0.1, 0.9]), torch.tensor(0.2))
    levels = torch.arange(256.0)
    probabilities = pixel.log_prob(levels[:, None]).exp()
    torch.testing.assert_close(pixel.mean, (levels[:, None] * probabilities).sum(0))


def exact_continuous_bernoulli(logit: float, x: float) -> float:
    with mpmath.workdps(60):
        eta = mpmath.mpf(logit)
        width = mpmath.mpf(1) if eta == 0 else mpmath.expm1(eta) / eta
        return float(eta * mpmath.mpf(x) - mpmath.log(width))


@pytest.mark.parametrize(
    "logit", [0.0, 1e-12, -1e-6, 1e-3, 0.0999, 0.1001, -0.5, 3.0, -40.0, 1e4, -1e4]
)
def test_continuous_bernoulli_is_exact(logit: float) -> None:
    eta = torch.tensor(logit, requires_grad=True)
    for x in (0.0, 0.3, 1.0):
        value = ContinuousBernoulli(eta).log_prob(torch.tensor(x))
        expected = exact_continuous_bernoulli(logit, x)
        assert value.item() == pytest.approx(expected, rel=1e-11, abs=1e-11)
        (gradient,) = torch.autograd.grad(value, eta)
        mean = ContinuousBernoulli(eta).mean
        torch.testing.assert_close(gradient, x - mean.detach(), rtol=1e-7, atol=1e-9)


def test_continuous_bernoulli_in_float32_keeps_the_digits() -> None:
    eta = torch.tensor([1e4, -1e4, 0.05, 20.0], dtype=torch.float32)
    x = torch.tensor([1.0, 0.0, 0.5, 0.5], dtype=torch.float32)
    value = ContinuousBernoulli(eta).log_prob(x)
    for found, logit, at in zip(value, eta, x, strict=True):
        expected = exact_continuous_bernoulli(logit.item(), at.item())
        assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("logit", [-1e4, -5.0, -1e-4, 0.0, 1e-4, 0.02, 5.0, 1e4])
def test_continuous_bernoulli_inverse_of_its_cdf(logit: float) -> None:
    grey = ContinuousBernoulli(torch.tensor(logit))
    u = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(grey.cdf(grey.icdf(u)), u, rtol=1e-6, atol=1e-8)


def test_continuous_bernoulli_divergence_is_the_integral() -> None:
    q, p = ContinuousBernoulli(torch.tensor(1.5)), ContinuousBernoulli(torch.tensor(-0.02))
    x = (torch.arange(100_000) + 0.5) / 100_000
    integral = (q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))).mean()
    torch.testing.assert_close(kl_divergence(q, p), integral, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("start", [1e-3, 0.7, 19.9, 20.1, 1e3, 1e6])
@pytest.mark.parametrize("steps", [0.0, 0.5, 1.0, 10.0, 1e5])
def test_log_rising(start: float, steps: float) -> None:
    with mpmath.workdps(60):
        exact = float(mpmath.loggamma(start + steps) - mpmath.loggamma(start))
    found = log_rising(torch.tensor(start), torch.tensor(steps))
    assert found.item() == pytest.approx(exact, rel=1e-10, abs=1e-10)
    single = log_rising(torch.tensor(start).float(), torch.tensor(steps).float())
    assert single.item() == pytest.approx(exact, rel=2e-5, abs=2e-5)


def test_negative_binomial_tends_to_poisson() -> None:
    x = torch.arange(20)
    counts = NegativeBinomial(torch.tensor(3.0), torch.tensor(1e9)).log_prob(x)
    torch.testing.assert_close(
        counts, torch.tensor(stats.poisson.logpmf(x, 3.0)), rtol=1e-6, atol=0
    )


def test_student_t_tends_to_a_normal() -> None:
    x = torch.linspace(-4, 4, 9)
    found = StudentT(torch.tensor(1e10), torch.tensor(0.0), torch.tensor(1.0)).log_prob(x)
    torch.testing.assert_close(found, torch.tensor(stats.norm.logpdf(x)), rtol=1e-8, atol=0)


def test_student_t_moments_that_do_not_exist() -> None:
    t = StudentT(torch.tensor([0.5, 1.5, 4.0]), torch.zeros(3), torch.ones(3))
    assert t.mean.isnan().tolist() == [True, False, False]
    assert t.variance.tolist()[1:] == [float("inf"), 2.0]


def test_beta_divergence_and_entropy_are_torchs() -> None:
    up, down = torch.tensor([0.3, 2.0, 50.0]), torch.tensor([1.5, 0.4, 80.0])
    q, p = Beta(up, down), Beta(down, up)
    other_q, other_p = torch.distributions.Beta(up, down), torch.distributions.Beta(down, up)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(other_q, other_p))
    torch.testing.assert_close(q.entropy(), other_q.entropy())
    torch.testing.assert_close(q.variance, other_q.variance)


def test_beta_draws_stay_inside() -> None:
    torch.manual_seed(0)
    draws = Beta(torch.full((10_000,), 0.02), torch.tensor(0.02)).sample()
    assert ((draws > 0) & (draws < 1)).all()


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_beta_draws_have_pathwise_gradients(shape: float) -> None:
    """d E[x] / d a = b / (a + b)^2, within 5 standard errors of 1e5 draws; seed fixed."""
    torch.manual_seed(1)
    a = torch.tensor(shape, requires_grad=True)
    draws = Beta(a.expand(100_000), torch.tensor(2.0)).rsample()
    (gradient,) = torch.autograd.grad(draws.mean(), a)
    assert gradient.item() == pytest.approx(2 / (shape + 2) ** 2, rel=0.03)


def test_bernoulli_at_certainty() -> None:
    """R1.7: from logits, finite at p in {0, 1}."""
    logits = torch.tensor([1e4, -1e4, 1e4], requires_grad=True)
    log_prob = Bernoulli(logits=logits).log_prob(torch.tensor([1, 0, 0]))
    assert log_prob.tolist() == [0.0, 0.0, -1e4]
    log_prob.sum().backward()
    assert logits.grad.tolist() == [0.0, 0.0, -1.0]


def test_bernoulli_divergence() -> None:
    """Broadcast (one prior for all rows), exact, and finite where torch's is infinite."""
    q_logits, p_logits = torch.tensor([[0.3, -2.0], [1.0, 4.0]]), torch.tensor([0.1, -0.7])
    q, p = Bernoulli(logits=q_logits), Bernoulli(logits=p_logits)
    theirs = torch.distributions.Bernoulli
    expected = kl_divergence(
        theirs(logits=q_logits), theirs(logits=p_logits.expand(2, 2).contiguous())
    )
    torch.testing.assert_close(kl_divergence(q, p), expected)
    far = kl_divergence(Bernoulli(logits=torch.tensor(1e4)), Bernoulli(logits=torch.tensor(-1e4)))
    assert far.item() == pytest.approx(1e4)


@pytest.mark.parametrize("location", [0.0, 3.0, -1e4, 1e4])
def test_ordinal_probabilities(location: float) -> None:
    logits = cumulative_logits(torch.tensor(location), torch.tensor([-2.0, 0.5, 0.6]))
    assert logits.isfinite().all()
    assert logits.exp().sum().item() == pytest.approx(1, abs=1e-12)
    ordinal = Ordinal(logits=logits)
    expected = torch.sigmoid(torch.tensor([-2.0, 0.5, 0.6]) - location)
    torch.testing.assert_close(logits.exp().cumsum(-1)[:-1], expected)
    draws = torch.arange(4.0)
    torch.testing.assert_close(ordinal.mean, (draws * ordinal.probs).sum())


def test_one_hot_marginals() -> None:
    one = OneHotCategorical(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    nan = torch.nan
    value = torch.tensor([[0.0, 1, nan, nan], [0, nan, nan, 0], [nan, nan, nan, nan]])
    found = one.observed_log_prob(value, ~value.isnan()).exp()
    torch.testing.assert_close(found, torch.tensor([0.2, 0.5, 1.0]))
    torch.testing.assert_close(one.enumerate_support(), torch.eye(4))


@pytest.mark.parametrize(
    "loc, scale, level", [(0.99, 0.3, 255), (-0.99, 0.3, 0), (0.1, 0.01, 140)]
)
def test_the_mode_of_a_discretized_logistic_is_the_most_probable_level(
    loc: float, scale: float, level: int
) -> None:
    """An end has the whole tail beyond it."""
    distribution = DiscretizedLogistic(torch.tensor([loc, loc]), torch.tensor([scale, scale]), 256)
    best = distribution.log_prob(distribution.enumerate_support()).argmax(0)
    assert distribution.mode.tolist() == best.tolist() == [level, level]


def test_multinomial_is_scipys_at_any_total() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    counts = torch.tensor([[3.0, 0.0, 5.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    found = Multinomial(logits, total=10).log_prob(counts)
    shares = logits.softmax(-1).numpy()
    rows = zip(counts.numpy(), shares, strict=True)
    expected = [float(stats.multinomial(int(x.sum()), p).logpmf(x)) for x, p in rows]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


COUNTED: dict[str, Callable[[Tensor], Distribution]] = {
    "poisson": lambda mean: Poisson(mean, validate_args=False),
    "negative binomial": lambda mean: NegativeBinomial(mean, torch.tensor([0.5, 2.0, 7.0])),
    "zero-inflated": lambda mean: ZeroInflated(
        NegativeBinomial(mean, torch.tensor(2.0)), torch.tensor([-1.0, 0.0, 3.0])
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_of_their_own_total_sum_to_the_probability_of_the_total(name: str) -> None:
    """Of Poisson counts given that, what is left is the multinomial."""
    logits, numbers = torch.tensor([0.3, -1.0, 2.0]), torch.arange(5.0)
    values = torch.cartesian_prod(numbers, numbers, numbers)
    values = values[values.sum(1) == 4]
    law = COUNTED[name]
    counts = OfTotal(logits, law, total=9)
    found = counts.log_prob(values)
    each = law(4 * logits.softmax(-1)).log_prob(numbers[:, None]).exp()  # of 0 .. 4, by column
    total = np.convolve(np.convolve(*each.T[:2].numpy()), each[:, 2].numpy())[4]
    assert found.exp().sum().item() == pytest.approx(total, abs=1e-12)
    torch.testing.assert_close(counts.mean, law(9 * logits.softmax(-1)).mean)
    assert (counts.expand(torch.Size((5, 2))).sample((3,)).shape) == (3, 5, 2, 3)
    if name == "poisson":
        expected = Multinomial(logits, 4).log_prob(values)
        torch.testing.assert_close(found - math.log(total), expected)


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_zeros_are_looked_at_once(name: str, share: float) -> None:
    """The short way over the zeros gives what the law gives, and its gradient; NaN stays so."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 4, 3, generator=generator).mul(9).floor().add(1)
    x = torch.where(torch.rand(3, 4, 3, generator=generator) < share, 0.0, x).double()
    x[0, 0, 0] = torch.nan if share == 0.5 else x[0, 0, 0]
    mean = torch.rand(4, 3, generator=generator).double().add(0.1).requires_grad_()
    law = COUNTED[name]
    found = law(mean).log_prob(x)
    by_one = torch.stack([law(mean).log_prob(row.nan_to_num(1.0)) for row in x.unbind()])
    torch.testing.assert_close(found.nan_to_num(), by_one.where(~x.isnan(), 0.0))
    assert bool((found.isnan() == x.isnan()).all())
    known = x.nan_to_num(1.0)
    numeric = [law(mean.detach() + step).log_prob(known).sum() for step in (1e-6, -1e-6)]
    (gradient,) = torch.autograd.grad(law(mean).log_prob(known).sum(), mean)
    assert float(gradient.sum()) == pytest.approx(float(numeric[0] - numeric[1]) / 2e-6, rel=1e-6)


def test_multinomial_sums_to_one_over_the_values_of_a_total() -> None:
    numbers = torch.arange(5.0, dtype=torch.float64)
    values = torch.cartesian_prod(numbers, numbers, numbers)
    values = values[values.sum(1) == 4]
    words = Multinomial(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), total=4)
    assert words.log_prob(values).exp().sum().item() == pytest.approx(1, abs=1e-12)
    draws = words.sample((20_000,))
    assert (draws.sum(-1) == 4).all()
    # a mean of 20,000 draws of variance at most 1: five errors are 0.036, and three are looked at
    torch.testing.assert_close(draws.mean(0), words.mean, rtol=0, atol=0.036)
    torch.testing.assert_close(draws.var(0), words.variance, rtol=0.1, atol=0)
