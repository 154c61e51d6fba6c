"""Plans: the Riccati solution of what is linear, and a pendulum swung up by weak torques."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm.data import load
from deeplvm.data.synthetic.pendulum import moved
from deeplvm.inference.compression import AtCentre
from deeplvm.inference.control import (
    expected_transition,
    iterative_linear_quadratic_regulator,
    last_state,
)
from deeplvm.recipes import deep_markov_model, dvbf, e2c, srnn, vrnn
from deeplvm.runs.run import build


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


@pytest.mark.parametrize("recipe", [e2c, dvbf, deep_markov_model])
def test_a_plan_in_states_is_where_p_goes_without_noise(recipe: Any) -> None:
    """Also under a derivative, from the last state that q sees."""
    data = load("pendulum", limit=6)
    model = build(recipe, data, {"latent": 2, "state": 4, "hidden": (5,)}, 0).double()
    given = {n: v.double() for n, v in data.batch("train", slice(1)).items()}
    move, known = expected_transition(model), {n: given[n] for n in ("u", "n")}
    path = model.p(known, (1,), default=AtCentre())["z"].value[0]
    for t in range(1, 4):
        torch.testing.assert_close(move(path[t - 1], given["u"][0, t]), path[t])
    start = last_state(model, given)
    seen = model.posterior(given, default=AtCentre())["z"].value
    torch.testing.assert_close(start, seen.reshape(20, 2)[-1])
    slope = torch.func.jacrev(move, 1)(start, given["u"][0, 1])
    assert slope.shape == (2, 1)
    assert slope.abs().max() > 0
    plan = iterative_linear_quadratic_regulator(
        move, start, torch.zeros(3, 1), path[0].detach(), iterations=2
    )
    assert len(plan.costs) > 1


def test_other_models_have_no_states_to_plan_in() -> None:
    data = load("pendulum", limit=6)
    for recipe in (vrnn, srnn):
        model = build(recipe, data, {"latent": 2, "state": 4, "hidden": (5,)}, 0)
        with pytest.raises(ValueError, match="A plan needs states z that follow from"):
            expected_transition(model)


def test_costs_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="control_cost must be positive"):
        iterative_linear_quadratic_regulator(
            lambda z, u: z, torch.zeros(1), torch.zeros(1, 1), torch.zeros(1), control_cost=0.0
        )
