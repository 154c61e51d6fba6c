"""Diffusion (R4.5.3s): the fixed chain by names, the subsampled bound, its ends and its units."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.diffusion import (
    Denoising,
    Diffused,
    DiffusionStep,
    Schedule,
    Times,
    Undiffused,
)
from deeplvm.distributions import DiagonalNormal
from deeplvm.inference.temperature import sample_at

SPREAD = 0.7  # of the data, a normal


class Linear(nn.Module):
    """N(a z, v): what Bayes' rule makes of a step back."""

    def __init__(self, a: float, v: float) -> None:
        super().__init__()
        self.event_shape, self.a, self.v = torch.Size((1,)), a, v

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.a * z, torch.full_like(z, math.sqrt(self.v)), 1)


def test_the_optimal_reverse_of_a_gaussian_chain_is_exact() -> None:
    """By names: every weight is log p(x), whatever is drawn, to 1e-12."""
    rates = [0.1, 0.3, 0.6, 0.9]
    variances = [SPREAD**2]  # of z_t, and of x
    q: dict[str, nn.Module] = {}
    p: dict[str, nn.Module] = {}
    for t, rate in enumerate(rates, start=1):
        name, before = f"z{t}", f"z{t - 1}" if t > 1 else "x"
        q[f"{name} | {before}"] = DiffusionStep(1, rate)
        own = variances[-1]
        variances.append((1 - rate) * own + rate)
        gain = math.sqrt(1 - rate) * own / variances[-1]
        p[f"{before} | {name}"] = Linear(gain, own * rate / variances[-1])
    p[f"z{len(rates)}"] = Gaussian(1, scale=math.sqrt(variances[-1]))
    model = LatentVariableModel(Joint(p), Joint(q))
    x = torch.randn(5, 1)
    evidence = model.evidence({"x": x}, particles=7)
    expected = torch.distributions.Normal(0.0, SPREAD).log_prob(x).sum(-1)
    torch.testing.assert_close(evidence.log_weight, expected.expand(7, 5), rtol=0, atol=1e-12)


class Best(nn.Module):
    """The noise that Bayes' rule expects in z, of normal data with this spread."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        gamma = self.schedule(torch.tensor(0.0)) + time * (
            self.schedule(torch.tensor(1.0)) - self.schedule(torch.tensor(0.0))
        )
        signal, noise = (-gamma).sigmoid()[..., None], gamma.sigmoid()[..., None]
        return noise.sqrt() * z / (signal * SPREAD**2 + noise)


def chain(steps: int | None, network: nn.Module | None = None, **options: int) -> tuple:
    schedule = Schedule(-8.0, 8.0, pieces=8)
    with torch.no_grad():
        torch.manual_seed(0)
        schedule.heights.normal_(0, 0.3)
    back = Denoising((1,), network or Best(schedule), schedule, steps, draws=100)
    p = {
        "z1": StandardNormal(1),
        "t, z, z0 | z1": back,
        "x | z0": Undiffused(1, schedule),
    }
    q = {
        "z1 | x": Diffused(1, schedule, 1.0),
        "t": Times(steps, **options),
        "z | x, t": Diffused(1, schedule),
        "z0 | x": Diffused(1, schedule, 0.0),
    }
    return LatentVariableModel(Joint(p), Joint(q)), schedule, back


def expected_cost(schedule: Schedule, steps: int) -> Tensor:
    """Sum over steps of half the rise of 1/noise times the variance that Bayes leaves of x."""
    t = torch.arange(1, steps + 1) / steps
    gamma, before = schedule(t), schedule(t - 1 / steps)
    left = 1 / (1 / SPREAD**2 + (-gamma).exp())
    return 0.5 * (((-before).exp() - (-gamma).exp()) * left).sum()


@pytest.mark.parametrize("steps", [4, 50, None])
@torch.no_grad()
def test_the_bound_of_the_optimal_reverse_is_the_analytic_one(steps: int | None) -> None:
    """Of normal data; for more steps the gap to the entropy closes as 1/T.

    The mean of 20,000 rows: 5 standard errors, seed fixed.
    """
    model, schedule, _ = chain(steps, measured=16)
    model.eval()
    torch.manual_seed(1)
    evidence = model.evidence({"x": SPREAD * torch.randn(20_000, 1)})
    term = evidence.terms["z"]
    right = -expected_cost(schedule, steps or 20_000)
    assert (term.mean() - right).abs() < 5 * term.std() / 20_000**0.5
    entropy = 0.5 * math.log(2 * math.pi * math.e * SPREAD**2)
    gap = -float(elbo(evidence).mean()) - entropy
    assert gap > 0.2 if steps is not None else abs(gap) < 0.05
    some, more, limit = (expected_cost(schedule, t) for t in (200, 400, 40_000))
    assert (some - limit) / (more - limit) == pytest.approx(2.0, rel=0.15)


@torch.no_grad()
def test_terms_that_are_drawn_have_the_sum_as_their_mean() -> None:
    """All T one by one against all at once, of the same noise, to 1e-10."""
    model, _, back = chain(6)
    x = torch.randn(3, 1)
    model.eval()
    at_once = model.evidence({"x": x})
    t, z = at_once.q["t"].value, at_once.q["z"]
    assert torch.equal(t.sort(-1).values, (torch.arange(1, 7) / 6).expand(3, 6))
    made = z.distribution.base_dist  # type: ignore[union-attr]
    noise = (z.value - made.loc) / made.scale
    one = back.divergences(z.value, t, noise)  # each as if it stood for the chain
    torch.testing.assert_close(one.mean(-1), -at_once.terms["z"], rtol=0, atol=1e-10)
    assert torch.equal(at_once.terms["t"], torch.zeros(3))
    assert torch.equal(at_once.terms["z0"], torch.zeros(3))


def test_a_step_is_the_divergence_of_two_normals() -> None:
    """In closed form, from the schedule's noise alone, to 1e-10."""
    _, schedule, back = chain(5)
    x, t, noise = torch.randn(3, 1), torch.tensor([0.4, 0.6, 1.0]), torch.randn(3, 1)
    gamma, before = schedule(t)[:, None], schedule(t - 0.2)[:, None]
    z = (-gamma).sigmoid().sqrt() * x + gamma.sigmoid().sqrt() * noise
    guess = (z - gamma.sigmoid().sqrt() * back.noise(z, gamma[:, 0])) / (-gamma).sigmoid().sqrt()
    share = -torch.expm1(before - gamma)
    scale = (before.sigmoid() * share).sqrt()
    # the means of q(z_s | z_t, x) at x and at what the network guesses of it differ by this
    apart = (-before).sigmoid().sqrt() * share * (x - guess)
    expected = (apart / scale).square().sum(-1) / 2
    torch.testing.assert_close(back.divergences(z, t, noise) / 5, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("steps, times", [(None, 1), (None, 4), (10, 1), (10, 5)])
def test_times_are_spread_evenly(steps: int | None, times: int) -> None:
    """Each step is met equally often; 5 standard errors of 20,000 rows, seed fixed."""
    made = Times(steps, times)
    torch.manual_seed(0)
    t = made().expand(torch.Size((20_000,))).rsample()
    assert t.shape == (20_000, times)
    counts = torch.histc(t - 1e-6, 10, 0.0, 1.0) / t.numel()
    assert (counts - 0.1).abs().max() < 5 * (0.09 / t.numel()) ** 0.5
    if steps is not None:
        assert torch.equal((t * steps).round() / steps, t)


def test_a_schedule_rises_from_end_to_end() -> None:
    schedule = Schedule(-7.0, 3.0, pieces=5)
    with torch.no_grad():
        schedule.heights.normal_()
    assert schedule(torch.tensor(0.0)).item() == pytest.approx(-7.0, abs=1e-5)
    assert schedule(torch.tensor(1.0)).item() == pytest.approx(3.0, abs=1e-5)
    t = torch.tensor([0.05, 0.33, 0.5, 0.91])
    rise = (schedule(t + 1e-6) - schedule(t - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.slope(t), rise, rtol=1e-6, atol=1e-6)
    assert (rise > 0).all()


@torch.no_grad()
def test_draws_of_the_optimal_reverse_are_the_data() -> None:
    """Spread of 4,000 draws within 5 standard errors and what 100 steps leave; seed fixed."""
    model, _, _ = chain(None)
    torch.manual_seed(0)
    draws = model.sample(4000)["x"].value
    assert abs(float(draws.std()) / SPREAD - 1) < 5 / 8000**0.5 + 0.02
    assert sample_at(model, 500, temperature=0.3)["z0"].value.std() < 0.5 * SPREAD


@torch.no_grad()
def test_the_bound_changes_with_the_unit_by_its_logarithm() -> None:
    """256 x instead of x: log 256, to 1e-9; levels have probabilities that sum to one."""
    schedule = Schedule(-3.0, 3.0)
    start, x = torch.randn(4, 2), torch.randn(4, 2)
    one = Undiffused(2, schedule, units=(0.5, 2.0))(start).log_prob(x)
    other = Undiffused(2, schedule, units=(128.0, 512.0))(start).log_prob(256 * x)
    torch.testing.assert_close(one - other, torch.full((4,), 2 * math.log(256)), rtol=0, atol=1e-9)
    for levels in (2, 5):
        units = (0.5 * (levels - 1), 0.5 * (levels - 1))
        likelihood = Undiffused(1, schedule, units=units, levels=levels)(start[:, :1])
        every = torch.arange(levels).double()[:, None, None]
        total = likelihood.log_prob(every.expand(levels, 4, 1)).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(4))


def test_what_is_refused() -> None:
    model, _, _ = chain(3)
    with pytest.raises(ValueError, match="no density in p at values from elsewhere"):
        model.p({"x": torch.zeros(2, 1), "z1": torch.zeros(2, 1), "z": torch.zeros(2, 1, 1),
                 "t": torch.ones(2, 1), "z0": torch.zeros(2, 1)})  # fmt: skip
    with pytest.raises(ValueError, match="times of at least 1, found 0"):
        Times(None, 0)
    with pytest.raises(ValueError, match="A schedule rises, found first=3, last=2"):
        Schedule(3.0, 2.0)
    with pytest.raises(ValueError, match="rate between 0 and 1, found 1"):
        DiffusionStep(2, 1.0)
