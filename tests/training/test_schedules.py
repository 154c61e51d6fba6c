"""Schedules are exact at their ends (R2.8.1a, RA.3)."""

from __future__ import annotations

import math

import pytest

from deeplvm.training import schedules


@pytest.mark.parametrize(
    "schedule, epoch, expected",
    [
        (schedules.constant(0.3), 7.0, 0.3),
        (schedules.linear(10), 0.0, 0.0),
        (schedules.linear(10), 2.5, 0.25),
        (schedules.linear(10), 10.0, 1.0),
        (schedules.linear(10), 1e9, 1.0),
        (schedules.linear(4, start=0.2, end=0.6), 2.0, 0.4),
        (schedules.logistic(5.0, 2.0), 5.0, 0.5),
        (schedules.logistic(5.0, 2.0), 6.0, 1 / (1 + math.exp(-2.0))),
        (schedules.logistic(1e6, 100.0), 0.0, 0.0),
        (schedules.cyclical(4.0), 0.0, 0.0),
        (schedules.cyclical(4.0), 1.0, 0.5),
        (schedules.cyclical(4.0), 3.0, 1.0),
        (schedules.cyclical(4.0), 4.0, 0.0),
        (schedules.cosine(10), 0.0, 1.0),
        (schedules.cosine(10), 5.0, 0.5),
        (schedules.cosine(10, end=0.1), 99.0, 0.1),
        (schedules.exponential(10, end=0.01), 5.0, 0.1),
        (schedules.warm_up(2), 1.0, 0.5),
        (schedules.warm_up(2, schedules.constant(0.5)), 8.0, 0.5),
    ],
    ids=lambda value: str(value),
)
def test_values(schedule, epoch, expected):
    assert schedule(epoch) == pytest.approx(expected, abs=1e-12)


def test_tripling_is_the_schedule_of_importance_weighted_autoencoders():
    """Stage i = 0…7 lasts 3^i passes at 1e-3 · 10^(-i/7): 3,280 passes in all."""
    schedule = schedules.tripling()
    rates = [1e-3 * schedule(epoch) for epoch in range(3280)]
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert schedule(5000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.linear(0),
        lambda: schedules.cosine(-1),
        lambda: schedules.cyclical(math.nan),
        lambda: schedules.logistic(1.0, 0.0),
        lambda: schedules.tripling(0),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ValueError, match="must be positive"):
        make()


def test_a_ramp_is_a_part_of_its_period():
    with pytest.raises(ValueError, match="ramp is the part"):
        schedules.cyclical(4.0, ramp=1.5)


def test_text_is_how_it_is_written():
    assert repr(schedules.linear(5, end=0.5)) == "linear(epochs=5, start=0.0, end=0.5)"
    assert schedules.linear(5) == schedules.linear(5) != schedules.linear(6)
