"""Sums over log-weights that stream by are those of all log-weights at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deeplvm.core.evidence import Evidence
from deeplvm.core.trace import Trace
from deeplvm.inference.diagnostics import pareto_k, tail_length
from deeplvm.likelihood.importance import Totals

ROWS = 3


def evidence(log_weight: Tensor) -> Evidence:
    """Log-weights of shape ``(particles, rows)`` as two names' terms."""
    trace = Trace({}, tuple(log_weight.shape))
    terms = {"x": 0.25 * log_weight, "z": 0.75 * log_weight}
    return Evidence(terms, -math.log(len(log_weight)), trace, trace, ("z",), ("x",))


def result(log_weight: Tensor, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    totals = Totals(len(log_weight))
    for part in log_weight.split(list(sizes)):
        totals.add(evidence(part), len(part))
    return totals.result(exact=False)


SPLITS = [(1_000,), (500, 500), (16, 984), (256, 256, 256, 232), (7, 93, 300, 600)]


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_the_formulas(sizes: tuple[int, ...]) -> None:
    log_weight = 2 * torch.randn(1_000, ROWS) - 300  # exp underflows
    found = result(log_weight, sizes)
    count = len(log_weight)
    log_px = torch.logsumexp(log_weight, 0) - math.log(count)
    share = torch.softmax(log_weight, 0)
    ess = 1 / share.square().sum(0)
    variance = (count * share).var(0) / count
    tail = log_weight.sort(0, descending=True).values[: tail_length(count) + 1]
    expected = {
        "log_px": log_px,
        "log_px_stderr": variance.sqrt(),
        "elbo": log_weight.mean(0),
        "ess": ess,
        "pareto_k": pareto_k(tail, precision=torch.finfo(torch.float64).eps),
        "terms/x": 0.25 * log_weight.mean(0),
        "curve/1": log_weight.mean(0),
        "curve/50": (log_weight.unflatten(0, (20, 50)).logsumexp(1) - math.log(50)).mean(0),
        "curve/1000": log_px,
    }
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-12), name


def test_groups_that_are_not_full_do_not_count() -> None:
    """Of 12 particles two groups of five; the last two wait."""
    log_weight = torch.randn(12, ROWS)
    found = result(log_weight, (3, 4, 5))
    groups = log_weight[:10].unflatten(0, (2, 5)).logsumexp(1) - math.log(5)
    assert torch.allclose(found["curve/5"], groups.mean(0))
    ten = log_weight[:10].logsumexp(0) - math.log(10)
    assert torch.allclose(found["curve/10"], ten)
    assert [name for name in found if name.startswith("curve")] == [
        "curve/1",
        "curve/5",
        "curve/10",
        "curve/12",
    ]


def test_drawn_but_not_used_particles_do_not_count() -> None:
    log_weight = torch.randn(16, ROWS)
    totals = Totals(5)
    totals.add(evidence(log_weight), 5)
    found, expected = totals.result(exact=False), result(log_weight[:5], (5,))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, equal_nan=True), name


def test_a_weight_of_zero_is_minus_infinity_and_spoils_no_other() -> None:
    log_weight = torch.randn(600, ROWS)
    log_weight[:300, 0] = -math.inf
    log_weight[:, 1] = -math.inf
    found = result(log_weight, (300, 300))
    expected = log_weight[300:, 0].logsumexp(0) - math.log(600)
    assert torch.allclose(found["log_px"][0], expected)
    assert found["log_px"][1] == -math.inf
    assert torch.isfinite(found["log_px"][2])


def test_what_is_kept_does_not_grow() -> None:
    """After 64,000 particles: a tail of about 3 sqrt(K), and less than 1,000 that wait."""
    count = 64_000
    totals = Totals(count)
    for _ in range(count // 500):
        totals.add(evidence(torch.randn(500, 1)), 500)
    assert totals.largest is not None
    assert len(totals.largest) == tail_length(count) + 1 < 1_000
    waiting = [each for level in totals.levels if (each := level.pending) is not None]
    assert sum([len(each) for each in (*totals.waiting, *waiting)]) < 1_000


def test_float32_is_summed_in_float64() -> None:
    """Of 100,000 equal weights: a sum in float32 would be off."""
    log_weight = torch.full((100_000, 1), 0.1, dtype=torch.float32)
    found = result(log_weight, (50_000, 50_000))
    assert found["log_px"].dtype == torch.float64
    exact = float(torch.tensor(0.1, dtype=torch.float32))
    assert abs(found["log_px"].item() - exact) < 1e-12
    assert abs(found["ess"].item() - 100_000) < 1e-6
