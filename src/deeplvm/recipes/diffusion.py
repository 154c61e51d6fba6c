"""Diffusion: from noise to data by many small steps, learned from a chain that adds noise."""

from __future__ import annotations

import torch

from deeplvm.conditionals import StandardNormal
from deeplvm.conditionals.diffusion import Denoising, Diffused, Schedule, Times, Undiffused
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks.u_net import TimedMLP, UNet
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, of_one_likelihood


@trained_with(learning_rate=2e-3, averaging=0.999)
@given_label
def diffusion(
    data: Data | Description,
    *,
    steps: int | None = None,
    channels: tuple[int, ...] = (32, 64),
    hidden: tuple[int, ...] = (256, 256),
    times: int = 1,
    measured: int = 8,
    draws: int = 200,
) -> LatentVariableModel:
    """Diffusion with a learned schedule: each row is looked at, at a random time of its chain.

    Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630

    With ``steps`` it is the chain of Deep Unsupervised Learning using Nonequilibrium
    Thermodynamics (Sohl-Dickstein et al., 2015), https://arxiv.org/abs/1503.03585, so many steps
    long; without, its limit of infinitely many.

    Args:
        data: Binary, levels or reals; images have a U-Net, vectors a perceptron.
        steps: Of the chain; without it time is continuous.
        channels: Width of each stage of the U-Net; each halves height and width.
        hidden: Widths of the hidden layers of the perceptron.
        times: At how many times a row is looked at in a training step.
        measured: At how many where a bound in continuous time is measured; of a chain of steps, at
            all of them.
        draws: Steps of a draw in continuous time.
    """
    at_least_one(channels=channels, hidden=hidden, times=times, measured=measured, draws=draws)
    at_least_one(steps=1 if steps is None else steps)
    x = of_one_likelihood(data, "gaussian")
    if x.parts or x.missing or x.likelihood not in _KINDS:
        why = "some elements are missing" if x.missing else f"there is {x}"
        raise RecipeError(
            f"diffusion models 0 and 1, levels or reals, all of them observed, by a likelihood of "
            f"its own, but in {data.name} {why}; take the recipe vae, or autoregressive_table."
        )
    top = {"binary": 2, "levels": x.levels}.get(x.kind)
    units = (x.mean, x.std) if top is None else (torch.tensor(0.5 * (top - 1)),) * 2
    # in continuous time the bound depends on the ends of the schedule alone
    pieces = 1 if steps is None else 16
    schedule = Schedule(-9.0 if top is None or top > 32 else -6.0, 5.0, pieces=pieces)
    network = UNet(x.shape, channels) if x.is_image else TimedMLP(x.shape, hidden)
    p = {
        "z1": StandardNormal(x.shape),
        "t, z, z0 | z1": Denoising(x.shape, network, schedule, steps, draws=draws),
        "x | z0": Undiffused(x.shape, schedule, units=units, levels=top),
    }
    q = {
        "z1 | x": Diffused(x.shape, schedule, 1.0, units=units),
        "t": Times(steps, times, measured),
        "z | x, t": Diffused(x.shape, schedule, units=units),
        "z0 | x": Diffused(x.shape, schedule, 0.0, units=units),
    }
    return LatentVariableModel(Joint(p), Joint(q))


_KINDS = ("bernoulli", "discretized-logistic", "gaussian")
