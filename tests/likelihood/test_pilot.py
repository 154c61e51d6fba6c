"""What a pass takes is found by a pilot, and no more is measured than there is time for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.likelihood.pilot import affordable, seconds_each
from deeplvm.networks import MLP


class Slow(nn.Module):
    """A conditional whose clock goes on by so many seconds for every row and particle."""

    def __init__(self, conditional: nn.Module, seconds: float) -> None:
        super().__init__()
        self.conditional, self.seconds, self.time = conditional, seconds, 0.0

    def forward(self, z: Tensor) -> Distribution:
        self.time += self.seconds * z[..., 0].numel()
        return self.conditional(z)

    def clock(self) -> float:
        """Seconds so far."""
        return self.time


def slow(seconds: float) -> tuple[LatentVariableModel, Slow]:
    """A model of three columns of which each particle takes so long."""
    likelihood = Slow(Gaussian(3, MLP(2), scale=1.0), seconds)
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))})), likelihood


def test_the_best_of_growing_numbers_counts() -> None:
    """A fixed cost is shared by many, and one hiccup is no measure."""
    spent, done = [0.0], []

    def work(count: int) -> None:
        done.append(count)
        spent[0] += 0.01 + 0.001 * count + (1.0 if len(done) == 2 else 0.0)

    found = seconds_each(work, clock=lambda: spent[0])
    assert done == [1, 4, 4, 16, 64]
    assert abs(found - (0.01 + 0.064) / 64) < 1e-9


def test_fewer_particles_and_then_fewer_rows_are_affordable() -> None:
    rows = {"x": torch.zeros(500, 3)}
    for seconds, expected in (
        (1e-6, (500, 1_000)),
        (1e-3, (500, 88)),  # 60 s / 1 ms / 500 rows, less 32
        (1e-2, (125, 16)),  # 60 s / 10 ms / 48 particles
        (10.0, (20, 16)),  # the least that is worth having
    ):
        model, clock = slow(seconds)
        found = affordable(model, rows, 1_000, 60.0, beside=32, clock=clock.clock)
        assert found == expected


def test_the_pilot_of_a_slow_model_is_short() -> None:
    model, clock = slow(0.1)
    affordable(model, {"x": torch.zeros(500, 3)}, 1_000, 60.0, clock=clock.clock)
    assert clock.time < 5.0  # 16 particles of one row, twice, and what plan looks at
