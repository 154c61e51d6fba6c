"""A mixed density sums and integrates to one, and its moments and quantiles are its own."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from deeplvm.conditionals import Columns, Spiked
from deeplvm.distributions.spiked import PiecewiseLinear
from deeplvm.distributions.spiked import Spiked as SpikedDistribution

KNOTS = torch.tensor([1.0, 1.5, 4.0, 30.0], dtype=torch.float64)
ATOMS = (None, [0.0, 7.0], [7.0, math.nan, 0.0])


def made(
    atoms: list[float] | None = None,
    bounds: tuple[float, float] | None = None,
    step: float | None = None,
    knots: Tensor = KNOTS,
    *,
    truncated: bool = False,
) -> SpikedDistribution:
    """One element whose parameters are drawn once, of three logistics."""
    torch.manual_seed(5)
    given = torch.tensor(atoms or [], dtype=torch.float64)
    module = Spiked(
        (), knots=knots, atoms=given, components=3, bounds=bounds, step=step, truncated=truncated
    )
    with torch.no_grad():
        module.head.free.normal_()
    return module().base_dist  # type: ignore[return-value]


def below(distribution: SpikedDistribution, x: float) -> float:
    return float(distribution.cdf(torch.tensor(x)).detach())


@pytest.mark.parametrize(
    "bounds, truncated, atoms",
    [
        *product([None, (0.0, 40.0), (-math.inf, 31.0)], [False], ATOMS),
        ((0.0, 40.0), True, [7.0, math.nan, 0.0]),
        ((-math.inf, 31.0), True, None),
    ],
)
@torch.no_grad()
def test_counting_at_atoms_and_length_elsewhere_make_one(
    bounds: tuple[float, float] | None,
    truncated: bool,
    atoms: list[float] | None,
) -> None:
    distribution = made(atoms, bounds, truncated=truncated)
    low, high = bounds or (-math.inf, math.inf)
    known = {a for a in atoms or [] if not math.isnan(a)}
    special = {*known, low, high} - {-math.inf, math.inf}
    probable = known if truncated else special
    mass = sum(float(distribution.log_prob(torch.tensor(a)).exp()) for a in probable)

    def density(x: float) -> float:
        return float(distribution.log_prob(torch.tensor(x + 1e-13)).exp())

    if truncated:
        beyond = distribution.log_prob(torch.tensor([low - 1e-6, high + 1e-6]))
        assert (beyond.isinf() | torch.tensor([low, high]).isinf()).all()
    inside = sorted({*KNOTS.tolist(), *special, max(low, -800.0), min(high, 1500.0)})
    parts = [
        integrate.quad(density, a, b, limit=500, epsabs=1e-11)[0] for a, b in pairwise(inside)
    ]
    assert mass + sum(parts) == pytest.approx(1, abs=1e-8)
    # and the distribution function is that sum, its mean that of all draws
    at = 12.0
    upto = [x for x in inside if x < at]
    mass = sum(float(distribution.log_prob(torch.tensor(a)).exp()) for a in probable if a <= at)
    parts = [
        integrate.quad(density, a, b, limit=500, epsabs=1e-11)[0]
        for a, b in zip(upto, [*upto[1:], at], strict=True)
    ]
    assert below(distribution, at) == pytest.approx(mass + sum(parts), abs=1e-8)


@pytest.mark.parametrize("step", [1.0, 0.5])
@pytest.mark.parametrize("bounds", [None, (0.0, math.inf)])
@pytest.mark.parametrize("atoms", [None, [0.0, 7.0]])
@torch.no_grad()
def test_the_multiples_of_a_step_make_one(
    step: float, bounds: tuple[float, float] | None, atoms: list[float] | None
) -> None:
    distribution = made(atoms, bounds, step)
    values = torch.arange(-500.0 if bounds is None else 0.0, 1500.0, step)
    mass = distribution.log_prob(values).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(distribution.cdf(values + 0.4 * step), mass.cumsum(0))
    for p in (0.01, 0.3, 0.5, 0.9, 0.999):
        first = values[(mass.cumsum(0) >= p).nonzero()[0]]
        assert torch.equal(distribution.icdf(torch.tensor([p])), first)
    assert float(distribution.mode) == float(values[mass.argmax()]) or atoms is None


@pytest.mark.parametrize(
    "bounds, truncated",
    [(None, False), ((1.0, 40.0), False), ((1.0, 40.0), True), ((0.0, math.inf), True)],
)
@torch.no_grad()
def test_the_mean_is_the_integral(
    bounds: tuple[float, float] | None,
    truncated: bool,
) -> None:
    distribution = made([0.0 if bounds is None else 2.0, 7.0], bounds, truncated=truncated)
    level = (torch.arange(20_000) + 0.5) / 20_000
    values = distribution.icdf(level)
    assert float(values.mean()) == pytest.approx(float(distribution.mean), rel=1e-3)
    assert float(values.var()) == pytest.approx(float(distribution.variance), rel=2e-2)


@pytest.mark.parametrize("atoms", [None, [0.0, 7.0]])
@pytest.mark.parametrize(
    "options", [{}, {"step": 1.0}, {"bounds": (0.0, 40.0), "truncated": True}]
)
@torch.no_grad()
def test_quantiles_undo_the_distribution_function(
    atoms: list[float] | None, options: dict[str, Any]
) -> None:
    distribution = made(atoms, **options)
    level = torch.linspace(0.001, 0.999, 301)
    value = distribution.icdf(level)
    assert (distribution.cdf(value) >= level - 1e-12).all()
    assert (distribution.cdf(value - 1e-6 * (1 + value.abs())) <= level).all()


@pytest.mark.parametrize(
    "options", [{}, {"step": 1.0}, {"bounds": (0.0, 40.0), "truncated": True}]
)
@torch.no_grad()
def test_draws_are_those_of_the_distribution_function(options: dict[str, Any]) -> None:
    """Kolmogorov's test of the parts that are no atoms: fails by chance once in 1,000; fixed."""
    distribution, step = made([0.0, 7.0], **options), options.get("step")
    torch.manual_seed(1)
    draws = distribution.sample((4000,))
    for atom in (0.0, 7.0):
        share = float(
            distribution.cdf(torch.tensor(atom))
            - distribution.cdf(torch.tensor(atom - 0.9 * (step or 1e-9)))
        )
        found = int((draws == atom).sum())
        assert stats.binomtest(found, 4000, share).pvalue > 1e-3
    if step is None:
        rest = draws[(draws != 0) & (draws != 7)]
        spikes = distribution.spikes.exp()
        jump = spikes[0] * (rest >= 0) + spikes[1] * (rest >= 7)
        uniform = (distribution.cdf(rest) - jump) / (1 - spikes.sum())
        assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    else:
        assert torch.equal(draws, draws.round())


def test_small_steps_keep_their_digits_in_single_precision() -> None:
    """A whole number of six digits: what float64 says, to a ten-thousandth of a nat."""
    knots = torch.tensor([12_000.0, 90_000.0, 180_000.0, 400_000.0])
    value = torch.tensor([12_285.0, 77_516.0, 83_311.0, 399_999.0, 700_000.0])
    module = Spiked((), knots=knots, step=1.0, components=2)
    exact = module()
    single = module.float()()
    torch.testing.assert_close(
        single.log_prob(value).double(), exact.log_prob(value.double()), rtol=0, atol=1e-4
    )


def test_a_map_and_its_inverse() -> None:
    line = PiecewiseLinear(KNOTS, torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    x = torch.tensor([-50.0, 1.0, 1.2, 3.0, 30.0, 99.0])
    score, slope = line(x)
    torch.testing.assert_close(line.inverse(score), x)
    torch.testing.assert_close((line(x + 1e-7)[0] - score) / 1e-7, slope, rtol=1e-6, atol=1e-6)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="knots that rise"):
        Spiked((), knots=torch.tensor([0.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="a number of knots of at least 2"):
        Spiked((), knots=torch.tensor([0.0]))
    with pytest.raises(ValueError, match="not inside the knots"):
        Spiked((), knots=torch.tensor([0.0, 1.0]), bounds=(0.5, 2.0))
    with pytest.raises(ValueError, match="scores that rise"):
        Spiked((), knots=torch.tensor([0.0, 1.0]), scores=torch.zeros(2))
    with pytest.raises(ValueError, match="truncates reals at bounds"):
        Spiked((), knots=torch.tensor([0.0, 1.0]), truncated=True)


def test_columns_of_unlike_atoms_stand_side_by_side() -> None:
    knots = torch.stack([KNOTS, 2 * KNOTS])
    one = lambda network: Spiked(1, network, knots=KNOTS, atoms=torch.zeros(1, 1))  # noqa: E731
    two = lambda network: Spiked(2, network, knots=knots)  # noqa: E731
    row = Columns([((1,), one), ((0, 2), two)])
    x = torch.tensor([[1.0, 0.0, 3.0], [2.0, math.nan, 5.0]])
    assert row.embed(x).shape == (2, row.features) == (2, 4)
    assert not row.embed(x)[1, :2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_steps_that_floats_do_not_hold_count_what_is_at_them(dtype: torch.dtype) -> None:
    """0.3 / 0.1 is below 3 in floats; P(X <= 0.3) has the probability of 0.3 all the same."""
    one, line = torch.ones(1, dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
    distribution = SpikedDistribution(
        one, 0 * one, one, torch.empty(0, dtype=dtype), PiecewiseLinear(line, line), step=0.1
    )
    multiples = torch.arange(-60, 61, dtype=dtype) / 10
    mass, cdf = distribution.log_prob(multiples).exp(), distribution.cdf(multiples)
    torch.testing.assert_close(cdf.diff(), mass[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(distribution.icdf(cdf - mass / 2), multiples, atol=1e-5, rtol=0)


def test_a_variance_takes_the_memory_of_few_values_an_element(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many particles the 256 values of each logistic at once would be gigabytes."""
    largest, own = [0], SpikedDistribution._value

    def value(self: SpikedDistribution, score: Tensor) -> Tensor:
        largest.append(score.numel())
        return own(self, score)

    monkeypatch.setattr(SpikedDistribution, "_value", value)
    many = made([0.0, 7.0]).expand(torch.Size([50]))
    assert torch.allclose(many.variance, made([0.0, 7.0]).variance)
    assert max(largest) <= 16 * 3 * 50
