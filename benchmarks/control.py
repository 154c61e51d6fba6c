"""Can states that were learned from pictures be planned in, and do they hold angle and speed?

A pendulum under torques is drawn as pictures, which alone are seen. Of `e2c` is said how often
plans in its states bring the rod up, and keep it within 45 degrees of upright, from random starts:
by torques that may be stronger than gravity, and by weaker ones, under which it has to swing. And
of `e2c` and `dvbf`, how well cosine, sine and velocity of other rows are regressions of the states
(R²). What is done is kept, and goes on where it stopped.

    python benchmarks/control.py --list                   # the runs
    python benchmarks/control.py e2c dvbf                 # the table
    python benchmarks/control.py e2c --minutes 0.2 --limit 50 --rows 2      # a trial
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm import LatentVariableModel
from deeplvm.data import load
from deeplvm.data.synthetic.pendulum import moved, pictures, swings
from deeplvm.inference.control import (
    Plan,
    expected_transition,
    iterative_linear_quadratic_regulator,
    last_state,
)
from deeplvm.recipes import find
from deeplvm.training import linear
from fitted import folder_of, table, trained

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Run:
    """One model and its training.

    Attributes:
        what: In words.
        recipe: By its name.
        minutes: Of training at most, which ends after its epochs.
        data: Its name.
        model: Options of the recipe.
        training: Options of ``fit``, over the recipe's own.
        target: R² of the velocity that is asked for.
    """

    what: str
    recipe: str
    minutes: float = 60
    data: str = "pendulum"
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    target: float | None = None


_TRAINING: dict[str, Any] = {
    "epochs": 30, "batch_size": 16, "learning_rate": 3e-3, "schedule": "cosine",
}  # fmt: skip
GROUPS: dict[str, dict[str, Run]] = {
    "recipes": {
        "e2c": Run("embed to control", "e2c", model={"latent": 3}, training=_TRAINING),
        "dvbf": Run(
            "deep variational Bayes filter", "dvbf", model={"latent": 3},
            training=_TRAINING | {"kl_weight": linear(5)}, target=0.9,
        ),
    }
}  # fmt: skip
RUNS = {name: run for group in GROUPS.values() for name, run in group.items()}
PUBLISHED = {
    "Watter et al. (2015), https://arxiv.org/abs/1506.07365": (
        "pictures of 48 x 48; plans keep the rod upright from random starts"
    ),
    "Karl et al. (2017), https://arxiv.org/abs/1605.06432": (
        "pictures of 16 x 16; R² of regressions of the states above 0.9 for sine, cosine and "
        "velocity, where that of a deep Kalman filter is near 0 for the velocity"
    ),
}
_STEPS, _HORIZON, _KEPT = 30, 5, 5  # of an episode, of a plan, and of the end that is judged
_SEEN = 4  # the last pictures, which tell the state
_NEAR = math.pi / 4  # radians from upright
_TORQUES = {"stronger than gravity": 6.0, "weaker than gravity": 3.0}


class Planner:
    """Torques by plans in the states of a model, made anew at each picture.

    Args:
        model: It has seen torques.
        torque: The largest.
    """

    def __init__(self, model: LatentVariableModel, torque: float) -> None:
        self.model, self.torque, self.move = model, torque, expected_transition(model)
        self.goal = self.state([0.0] * _SEEN, [0.0] * _SEEN)
        self.plan: Plan | None = None

    def state(self, angles: list[float], torques: list[float]) -> Tensor:
        """After the last of some pictures, and the torques that led to each."""
        x = torch.from_numpy(pictures(np.array(angles[-_SEEN:])))[None]
        u = torch.tensor(torques[-_SEEN:])[None, :, None]
        return last_state(self.model, {"x": x, "u": u, "n": torch.tensor([x.shape[1]])})

    def best(self, state: Tensor, guess: Tensor, iterations: int) -> Plan:
        """From a guess of the torques."""
        return iterative_linear_quadratic_regulator(
            self.move, state, guess, self.goal, control_cost=0.01, final_cost=1.0,
            bound=self.torque, iterations=iterations,
        )  # fmt: skip

    def next_torque(self, angles: list[float], torques: list[float]) -> float:
        """The first torque of the plan from here; the one before, a step later, is its guess."""
        state, steps = self.state(angles, torques), torch.arange(_HORIZON)[:, None]
        if self.plan is None:  # the best from some guesses
            guesses = [0.0 * steps, *[sign * (steps / 4.0).sin() for sign in (-1, 1)]]
            plans = [self.best(state, self.torque * each, 10) for each in guesses]
            self.plan = min(plans, key=lambda plan: plan.costs[-1])
        else:
            before = self.plan.controls
            self.plan = self.best(state, torch.cat([before[1:], before[-1:]]), 3)
        return float(self.plan.controls[0, 0])


def episode(model: LatentVariableModel | None, torque: float, rng: np.random.Generator) -> Array:
    """Angles of a pendulum from anywhere, moved by plans, or at random without a model."""
    state = np.array([rng.uniform(-math.pi, math.pi), rng.normal()])
    angles, torques, force = [float(state[0])], [0.0], rng.uniform(-torque, torque)
    planner = None if model is None else Planner(model, torque)
    for _ in range(_STEPS):
        state = moved(state, np.array(force))
        angles.append(float(state[0]))
        torques.append(float(force))
        if planner is None:
            force = rng.uniform(-torque, torque)
        else:
            force = planner.next_torque(angles, torques)
    return np.array(angles)


def controlled(model: LatentVariableModel | None, torque: float, rows: int) -> dict[str, Any]:
    """How often the rod is upright in the last steps."""
    rng = np.random.default_rng(0)
    ends = np.stack([episode(model, torque, rng)[-_KEPT:] for _ in range(rows)])
    away = np.abs((ends + math.pi) % (2 * math.pi) - math.pi).max(1)
    share = float((away < _NEAR).mean())
    error = math.sqrt(share * (1 - share) / rows)
    return {"upright": {"value": share, "stderr": error}, "episodes": rows}


@torch.no_grad()
def regressed(model: LatentVariableModel, rows: int) -> dict[str, Any]:
    """R² of what moves by regressions of the states, on other rows than those of the fit."""
    values, torques, states = swings(2 * rows, 20, np.random.default_rng(1))
    torch.manual_seed(0)
    given = {
        "x": torch.from_numpy(values), "u": torch.from_numpy(torques),
        "n": torch.full((2 * rows,), values.shape[1]),
    }  # fmt: skip
    trace = model.posterior(given)
    z = trace["z"].value.reshape(2 * rows, values.shape[1], -1).double().numpy()
    z, states = z[:, 1:], states[:, 1:]  # one picture does not tell a velocity
    angle, velocity = states[..., 0], states[..., 1]
    truth = np.stack([np.cos(angle), np.sin(angle), velocity], -1)
    found = {}
    for name, powers in (("linear", 1), ("quadratic", 2)):
        pairs = z[..., :, None] * z[..., None, :]
        features = np.concatenate(
            [
                np.ones_like(z[..., :1]),
                z,
                *([pairs.reshape(*z.shape[:2], -1)] if powers > 1 else []),
            ],
            -1,
        )
        (fit_x, test_x), (fit_y, test_y) = (
            [each.reshape(-1, each.shape[-1]) for each in np.split(whole, 2)]
            for whole in (features, truth)
        )
        weights = np.linalg.lstsq(fit_x, fit_y, rcond=None)[0]
        left = ((test_y - test_x @ weights) ** 2).sum(0) / ((test_y - test_y.mean(0)) ** 2).sum(0)
        found[name] = dict(zip(("cosine", "sine", "velocity"), (1 - left).tolist(), strict=True))
    return found


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, plan, and regress."""
    run, rows = RUNS[name], options.rows or 20
    folder, minutes = folder_of(name, run, options)
    data = load(run.data, binarize="dynamic", limit=options.limit)
    model, said = trained(
        find(run.recipe), data, run.model, run.training, minutes=minutes, seed=options.seed,
        folder=folder / "run",
    )  # fmt: skip
    model.eval().requires_grad_(requires_grad=False)
    result = {"what": run.what, **said, "target": run.target}
    result["R²"] = regressed(model, 20 * rows)
    if run.recipe == "e2c":
        result["control"] = {
            words: {
                "largest torque": torque,
                "plans": controlled(model, torque, rows),
                "at random": controlled(None, torque, 50 * rows),
            }
            for words, torque in _TORQUES.items()
        }
    return result


if __name__ == "__main__":
    table(__doc__ or "", "control", GROUPS, measured, PUBLISHED)
