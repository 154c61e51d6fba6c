"""Can a rod be swung up by plans that are made in states learned from pictures alone?

Embed to Control: A Locally Linear Latent Dynamics Model for Control from Raw Images (Watter et
al., 2015), https://arxiv.org/abs/1506.07365
"""

import math

import numpy as np
import torch

from deeplvm.data import load
from deeplvm.data.synthetic.pendulum import TORQUE, moved, pictures
from deeplvm.inference.control import (
    expected_transition,
    iterative_linear_quadratic_regulator,
    last_state,
)
from deeplvm.recipes import e2c, training_of
from deeplvm.training import fit, unfolded

torch.manual_seed(0)
swings = load("pendulum", binarize="dynamic")
model = e2c(swings, latent=3)
options = {"batch_size": 16, "learning_rate": 3e-3, "schedule": "cosine", "quiet": True}
unfolded(fit)(model, swings, epochs=30, **{**training_of(e2c), **options})


def state(angles: list[float], torques: list[float]) -> torch.Tensor:
    """After the last four pictures, and the torques that led to them."""
    x, u = pictures(np.array(angles[-4:])), np.float32(torques[-4:])[:, None]
    given = {"x": torch.from_numpy(x), "u": torch.from_numpy(u), "n": torch.tensor(len(x))}
    return last_state(model, {name: each[None] for name, each in given.items()})


upright, move = state([0.0] * 4, [0.0] * 4), expected_transition(model)
rod, angles, torques = np.array([math.pi, 0.0]), [math.pi] * 4, [0.0] * 4  # it hangs, at rest
plan = torch.full((5, 1), TORQUE)
for _ in range(40):
    now = state(angles, torques)
    plan = iterative_linear_quadratic_regulator(
        move, now, plan, upright, control_cost=0.01, final_cost=1.0, bound=TORQUE, iterations=3
    ).controls
    rod = moved(rod, plan[0, 0].numpy())
    angles.append(float(rod[0]))
    torques.append(float(plan[0, 0]))
    plan = torch.cat([plan[1:], plan[-1:]])

shown = [pictures(np.array(each), 8)[0] for each in angles[3::5]]
for lines in zip(*shown, strict=True):
    print("  ".join(["".join(["█" if pixel > 0.5 else "·" for pixel in line]) for line in lines]))
off = [abs(math.remainder(each, math.tau)) for each in angles[-5:]]
print(f"in its last half second the rod is at most {math.degrees(max(off)):.0f}° off")
