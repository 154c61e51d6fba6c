"""What a diagnosis measures within its minutes, by a model whose passes are counted as seconds."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel
from deeplvm.diagnosis import CannotMeasure, Effort, Examination

from .patients import linear, loadings, rows_of


class _Slow(nn.Module):
    """A conditional of which every row and particle takes so many seconds of its own clock."""

    def __init__(self, conditional: nn.Module, seconds: float) -> None:
        super().__init__()
        self.conditional, self.seconds, self.time = conditional, seconds, 0.0

    def forward(self, z: Tensor) -> Distribution:
        self.time += self.seconds * z[..., 0].numel()
        return self.conditional(z)


def _seen(seconds: float, effort: Effort) -> tuple[Examination, _Slow]:
    weight = loadings(2)
    plain = linear(weight)
    likelihood = _Slow(plain.p["x"], seconds)
    p = Joint({"z": plain.p["z"], "x | z": likelihood})
    model, data = LatentVariableModel(p, plain.q), rows_of(weight, train=400)
    return Examination(
        model, data, "test", effort=effort, clock=lambda: likelihood.time
    ), likelihood  # fmt: skip


EFFORT = Effort(rows=100, particles=100, gap_rows=20, annealed_rows=10, temperatures=30)


def test_what_there_is_time_for_is_measured_whole() -> None:
    quick, _ = _seen(1e-6, EFFORT)
    assert quick.estimate("test").particles == 100
    assert not quick.fewer
    assert not quick.impossible


def test_what_takes_longer_is_measured_with_less_and_said() -> None:
    slow, clock = _seen(1e-3, EFFORT)
    train, test = slow.estimate("train"), slow.estimate("test")
    assert test.particles == train.particles < 100  # splits that are compared
    assert test.rows == train.rows
    assert f"{test.particles} particles of 100" in slow.fewer["log p(x)"]
    assert "--minutes" in slow.fewer["log p(x)"]
    with pytest.raises(CannotMeasure, match=r"minutes at the least.* are left for it: --minutes"):
        _ = slow.generalisation
    assert clock.time < 120.0


def test_the_minutes_are_what_is_spent() -> None:
    """Of each measurement in turn, until there is no time for what is left."""
    slow, clock = _seen(2e-4, Effort(rows=100, particles=100, annealed_rows=10, temperatures=30))
    for measure in ("use", "generalisation", "checks", "calibration", "copying"):
        with contextlib.suppress(CannotMeasure):
            getattr(slow, measure)
    assert 20.0 < clock.time < 130.0
    assert slow.fewer or slow.impossible
    assert all(["--minutes" in why for why in slow.impossible.values()])


def test_without_minutes_nothing_is_left_out() -> None:
    slow, _ = _seen(10.0, Effort(rows=20, particles=20, minutes=None))
    assert slow.estimate("test").particles == 20
    assert not slow.fewer
    assert torch.isfinite(slow.estimate("test").log_px).all()
