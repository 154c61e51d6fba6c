"""Plans: the Riccati solution of what is linear, and a pendulum swung up by weak torques."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm.data.synthetic.pendulum import moved
from deeplvm.inference.control import iterative_linear_quadratic_regulator


def test_of_linear_dynamics_one_iteration_is_the_least_cost() -> None:
    torch.manual_seed(0)
    a, b = torch.eye(3) + 0.2 * torch.randn(3, 3), torch.randn(3, 2)
    start, goal, steps = torch.randn(3), torch.zeros(3), 6

    def cost(controls: Tensor) -> Tensor:
        z, total = start, 0.3 * controls.square().sum()
        for t, u in enumerate(controls):
            z = a @ z + b @ u
            total = total + (5.0 if t == steps - 1 else 1.0) * (z - goal).square().sum()
        return total

    plan = iterative_linear_quadratic_regulator(
        lambda z, u: a @ z + b @ u, start, torch.zeros(steps, 2), goal,
        control_cost=0.3, final_cost=5.0, iterations=1,
    )  # fmt: skip
    slope = torch.func.grad(cost)(plan.controls)
    assert slope.abs().max() < 1e-10
    assert math.isclose(plan.costs[-1], float(cost(plan.controls)), rel_tol=1e-12)


def swing(state: Tensor, torque: Tensor) -> Tensor:
    """The pendulum of the data, in cosine, sine and velocity."""
    angle, velocity = torch.atan2(state[1], state[0]), state[2]
    for _ in range(5):
        velocity = velocity + 0.02 * (15 * angle.sin() + 3 * torque[0] - velocity / 2)
        angle = angle + 0.02 * velocity
    return torch.stack([angle.cos(), angle.sin(), velocity])


def test_a_pendulum_swings_up_with_less_torque_than_gravity_has() -> None:
    ours = swing(torch.tensor([math.cos(2.0), math.sin(2.0), 0.5]), torch.tensor([1.5]))
    angle, velocity = moved(np.array([2.0, 0.5]), np.array(1.5))
    torch.testing.assert_close(ours, torch.tensor([np.cos(angle), np.sin(angle), velocity]))
    hanging, upright = torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    guess = 3 * torch.sin(torch.arange(30) / 3.0)[:, None]
    plan = iterative_linear_quadratic_regulator(
        swing, hanging, guess, upright, state_cost=0.0, control_cost=0.05, final_cost=100.0,
        bound=4.0, iterations=25,
    )  # fmt: skip
    assert plan.controls.abs().max() <= 4.0
    assert (plan.states[-1] - upright).abs().max() < 0.05
    assert all([after < before for before, after in pairwise(plan.costs)])
    state = np.array([np.pi, 0.0])
    for torque in plan.controls[:, 0].numpy():
        state = moved(state, torque)
    assert abs(math.remainder(state[0], 2 * math.pi)) < 0.1


def test_costs_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="control_cost must be positive"):
        iterative_linear_quadratic_regulator(
            lambda z, u: z, torch.zeros(1), torch.zeros(1, 1), torch.zeros(1), control_cost=0.0
        )
