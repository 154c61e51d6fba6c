"""Models of what moves under controls, from pictures or numbers: states in which one can plan."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals import Gaussian, LinearisedTransition, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import score
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP, Features, LocallyLinear, SequenceEncoder, StepCount
from deeplvm.objectives import auxiliary_elbo, elbo
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import at_least_one
from deeplvm.recipes.sequences import steps_of
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear

_TRAINED: dict[str, Any] = {"compile": False, "batch_size": 50, "clip": 10.0}


# The weight of the divergence grows from 0, as annealing does in the paper.
@trained_with(**_TRAINED, objective=partial(elbo, form="analytic"), kl_weight=linear(20))
def dvbf(
    data: Data | Description,
    *,
    latent: int = 4,
    state: int = 64,
    hidden: tuple[int, ...] = (128,),
    maps: int = 16,
) -> LatentVariableModel:
    r"""Deep variational Bayes filter: states follow from controls and what is random in a step.

    .. math:: p(x, b | u) = \prod_t N(b_t; 0, I)\, p(x_t | z_t), \qquad
              z_t = \sum_i w_i(z_{t-1}, u_t) (A_i z_{t-1} + B_i u_t + C_i b_t)

    q infers b alone, so that what is learned of x has to go through the transition.

    Deep Variational Bayes Filters: Unsupervised Learning of State Space Models from Raw Data (Karl
    et al., 2017), https://arxiv.org/abs/1605.06432

    Args:
        data: Sequences, such as pictures, with controls (``u``) or without.
        latent: Dimensions of z and of b in each step.
        state: Width of the backward network of q, and of the layer that weighs the maps.
        hidden: Widths of the hidden layers of the likelihood, in reverse those of q.
        maps: How many linear maps a step mixes.

    Raises:
        RecipeError: If the data are not sequences.
    """
    at_least_one(latent=latent, state=state, hidden=hidden, maps=maps)
    x = steps_of(data, "dvbf", latent, *hidden)
    move = Features(LocallyLinear(latent, x.inputs + latent, state, maps=maps))
    step = {f"z | z[-1]{x.w}, b": move}
    start: dict[str, Any] = {"z": nn.Parameter(torch.zeros(latent))}
    p = Recurrent(
        {"b": StandardNormal(latent), "x | z": x.likelihood, **step, **x.known},
        start=start,
        length="n",
    )
    read = MLP(x.seen, *hidden[::-1])
    seen = Recurrent({**x.read, "e | f": Features(read)}, start={}, length="n")
    encoder = SequenceEncoder(read.out_features + x.inputs, state, direction="backward")
    posterior = Gaussian(latent, MLP(latent + state, state))
    infer = Recurrent({"b | z[-1], a": posterior, **step}, start=start, length="n")
    q = Joint(
        {
            f"{x.names}, e | {x.given}, n": seen,
            f"a | e{x.w}, n": encoder,
            f"b, z | a{x.w}, n": infer,
        }
    )
    return LatentVariableModel(p, q)


# What the transition predicts is decoded too, as in the paper.
@trained_with(**_TRAINED, objective=partial(auxiliary_elbo, name="r"), averaging=0.0)
def e2c(
    data: Data | Description,
    *,
    latent: int = 4,
    state: int = 64,
    hidden: tuple[int, ...] = (128,),
) -> LatentVariableModel:
    r"""Embed to control: states that move linearly around where they are, to plan in.

    .. math:: p(x, z | u) = \prod_t N(z_t; A z_{t-1} + B u_t + o, \sigma^2)\, p(x_t | z_t),
              \qquad q = \prod_t q(z_t | x_{t-1}, x_t)

    A, B and o are computed from :math:`z_{t-1}`. The divergence of a step is between where the
    encoder sees the state and where the transition brings it, and beside the bound the objective
    has what is decoded of that alone, :math:`E[\log p(x_t | A z_{t-1} + B u_t + o)]`. Plans are
    made by :func:`~deeplvm.inference.control.iterative_linear_quadratic_regulator`.

    Embed to Control: A Locally Linear Latent Dynamics Model for Control from Raw Images (Watter et
    al., 2015), https://arxiv.org/abs/1506.07365

    Args:
        data: Sequences, such as pictures, with controls, ``u``.
        latent: Dimensions of z in each step.
        state: Width of the network of the transition.
        hidden: Widths of the hidden layers of the likelihood, in reverse those of q.

    Raises:
        RecipeError: If the data are not sequences, or nothing controls them.
    """
    at_least_one(latent=latent, state=state, hidden=hidden)
    x = steps_of(data, "e2c", latent, *hidden)
    if not x.inputs:
        raise RecipeError(
            f"e2c learns what controls do, but {data.name} has none; name them by --inputs, or "
            f"take the recipe deep_markov_model."
        )
    move = LinearisedTransition(latent, x.inputs, MLP(latent, state))
    step = {"k | k[-1]": StepCount(), **x.known}
    start: dict[str, Any] = {"z": latent, "k": torch.zeros(())}
    p = Recurrent(
        {
            "z | z[-1], w, k[-1]": move,
            "x | z": x.likelihood,
            "r | z[-1], w, k[-1], x": _Predicted(move, x.likelihood, missing=x.missing),
            **step,
        },
        start=start,
        length="n",
    )
    q = Recurrent(
        {
            **x.read,
            "e | f[-1], f": Features(MLP(2 * x.seen, *hidden[::-1])),
            "z | e": Gaussian(latent, Features(nn.Identity(), hidden[0])),
        },
        start={"f": x.seen},
        length="n",
    )
    return LatentVariableModel(p, q)


class _Predicted(nn.Module):
    """log p(x | z') at the z' that a transition expects; 0 in the first step.

    A node of the parents of the transition and then x.
    """

    accepts_missing = True
    out_shape = ()

    def __init__(self, move: nn.Module, likelihood: nn.Module, *, missing: bool) -> None:
        super().__init__()
        self.move, self.likelihood, self.missing = move, likelihood, missing

    def forward(self, *parents: Tensor) -> Tensor:
        *before, x = parents
        expected = self.move(*before).mean
        found = score("x", self.likelihood(expected), x, missing=self.missing)
        return torch.where(before[-1] > 0, found, 0.0)
