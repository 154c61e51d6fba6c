"""Single precision gives what double precision gives of the same numbers, at any size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from deeplvm.distributions import Beta, Dirichlet, Gamma, NegativeBinomial, Poisson, StudentT

SIZES = (1e-2, 0.3, 1.0, 15.0, 19.9, 20.1, 1e2, 1e3, 1e4, 1e5, 1e6)

# of a size, the parameters
MEMBERS: dict[str, tuple[Callable[..., Distribution], Callable[[float], tuple]]] = {
    "poisson": (lambda rate: Poisson(rate, validate_args=False), lambda m: (m,)),
    "negative binomial, wide": (NegativeBinomial, lambda m: (m, 2.0)),
    "negative binomial, small dispersion": (NegativeBinomial, lambda m: (m, 0.05)),
    "negative binomial, narrow": (NegativeBinomial, lambda m: (m, 1e6)),
    "negative binomial, large dispersion": (NegativeBinomial, lambda m: (3.0, m)),
    "gamma": (lambda a, b: Gamma(a, b, validate_args=False), lambda m: (m, m)),
    "beta": (Beta, lambda m: (m, m)),
    "beta, skewed": (Beta, lambda m: (m, 0.5)),
    "dirichlet": (Dirichlet, lambda m: ([m, 2 * m, m],)),
    # with fewer degrees of freedom draws have squares beyond single precision
    "student t": (StudentT, lambda m: (max(m, 0.3), 0.0, 1.0)),
}


def made(name: str, size: float, dtype: torch.dtype) -> Distribution:
    """Of parameters that single precision holds exactly."""
    maker, parameters = MEMBERS[name]
    return maker(*[torch.tensor(each).float().to(dtype) for each in parameters(size)])


def drawn(name: str, size: float, count: int = 2_000) -> Tensor:
    torch.manual_seed(0)
    return made(name, size, torch.float32).sample(torch.Size((count,)))


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("size", SIZES)
def test_a_log_probability_keeps_its_digits(name: str, size: float) -> None:
    values = drawn(name, size)
    single = made(name, size, torch.float32).log_prob(values).double()
    double = made(name, size, torch.float64).log_prob(values.double())
    known = double.isfinite() & double.gt(-1e4)
    assert known.float().mean() > 0.5
    # what rounding of one parameter by half a unit changes is no fault of the formula: the score
    # of a draw is at most some standard deviations, and a mean of m is rounded by 6e-8 m
    room = 2e-5 + 4e-6 * double.abs() + 1.2e-6 * size**0.5
    assert bool(((single - double).abs() <= room)[known].all())
    assert bool((single.isfinite() == double.isfinite())[known].all())


ORACLES: dict[str, Callable] = {
    "poisson": lambda x, m: stats.poisson.logpmf(x, m),
    "negative binomial": lambda x, m, r: stats.nbinom.logpmf(x, r, r / (r + m)),
    "gamma": lambda x, a, b: stats.gamma.logpdf(x, a, scale=1 / b),
    "beta": lambda x, a, b: stats.beta.logpdf(x, a, b),
    "student t": lambda x, df, loc, scale: stats.t.logpdf(x, df, loc, scale),
}


@pytest.mark.parametrize("name", [name for name in MEMBERS if name.split(",")[0] in ORACLES])
def test_double_precision_is_the_law_of_scipy(name: str) -> None:
    oracle = ORACLES[name.split(",")[0]]
    for size in SIZES[:-3]:
        values = drawn(name, size, 50).double()
        parameters = [torch.tensor(each).float().item() for each in MEMBERS[name][1](size)]
        expected = torch.from_numpy(oracle(values.numpy(), *parameters))
        found = made(name, size, torch.float64).log_prob(values)
        known = expected.isfinite()
        torch.testing.assert_close(found[known], expected[known], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("size", [0.3, 50.0, 1e6])
def test_gradients_are_those_of_double_precision(name: str, size: float) -> None:
    """Relative to the largest: a gradient of a draw is of the size of the score."""
    maker, parameters = MEMBERS[name]
    values = drawn(name, size, 100)
    grads = []
    for dtype in (torch.float32, torch.float64):
        own = [torch.tensor(each).float().to(dtype).requires_grad_() for each in parameters(size)]
        log_prob = maker(*[each.expand((100, *each.shape)) for each in own]).log_prob(
            values.to(dtype)
        )
        kept = log_prob.isfinite()
        grads.append(
            torch.cat(
                [g.double().flatten() for g in torch.autograd.grad(log_prob[kept].sum(), own)]
            )
        )
    single, double = grads
    assert bool(single.isfinite().all())
    scale = double.abs().clamp(min=1e-3)
    assert bool(((single - double).abs() <= 2e-2 * scale + 1e-4 * double.abs().max() + 1e-6).all())


@pytest.mark.parametrize("name", ["gamma", "beta", "dirichlet"])
def test_divergences_of_large_concentrations(name: str) -> None:
    def both(dtype: torch.dtype) -> Tensor:
        return kl_divergence(made(name, 1e6, dtype), made(name, 1.0001e6, dtype)).double()

    assert both(torch.float32).item() == pytest.approx(both(torch.float64).item(), rel=1e-5)
