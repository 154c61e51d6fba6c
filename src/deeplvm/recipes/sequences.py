"""Stochastic recurrent models: a latent at every step of a sequence."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Size, nn

from deeplvm.conditionals import (
    GatedTransition,
    Gaussian,
    ResidualGaussian,
    StandardNormal,
    ValueAndMask,
)
from deeplvm.conditionals.heads import Units
from deeplvm.core.joint import Joint, view_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import GRU, MLP, Combiner, Features, SequenceEncoder
from deeplvm.objectives import elbo
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, sequence_of
from deeplvm.recurrent import Recurrent

# Rows differ in their steps, and a compiled step is of one number of them; the divergence in
# closed form is that of the papers.
_TRAINED = {
    "objective": partial(elbo, form="analytic"),
    "compile": False,
    "batch_size": 20,
    "learning_rate": 1e-3,
    "clip": 10.0,
}


class Steps(NamedTuple):
    """What a model of sequences is made of.

    Attributes:
        likelihood: Of x in a step.
        missing: Whether some of x is.
        known: ``"w | u"``, what networks see of known inputs, where there are any.
        read: The same and ``"f | x"``, what they see of a step.
        seen: Width of f.
        inputs: Width of w, 0 where there is none.
        w: ``", w"`` where there is.
        names, given: Left and right of the bar of a joint of these, ``"f, w"`` and ``"x, u"``.
    """

    likelihood: nn.Module
    missing: bool
    known: dict[str, nn.Module]
    read: dict[str, nn.Module]
    seen: int
    inputs: int
    w: str
    names: str
    given: str

    @property
    def width(self) -> int:
        """Of all that networks see of a step."""
        return self.seen + self.inputs


def steps_of(
    data: Data | Description, recipe: str, parents: int, *hidden: int, read_inputs: bool = False
) -> Steps:
    """The parts of a model of sequences, with a likelihood of parents of this width."""
    x, u = sequence_of(data, recipe), data.variables.get("u")
    inputs = 0 if u is None else u.elements * (1 + u.missing)
    likelihood = likelihood_of(x, MLP(parents + (inputs if read_inputs else 0), *hidden))
    seen: dict[str, nn.Module] = {
        "f | x": ValueAndMask(x.shape, view_of(likelihood), mask=x.missing)
    }
    width = x.features + (x.elements if x.missing else 0)
    if u is None:
        return Steps(likelihood, x.missing, {}, seen, width, 0, "", "f", "x")
    units = Units((u.mean, u.std.where(u.std > 0, 1.0)), Size(u.shape), recipe)
    known: dict[str, nn.Module] = {"w | u": ValueAndMask(u.shape, units, mask=u.missing)}
    return Steps(likelihood, x.missing, known, seen | known, width, inputs, ", w", "f, w", "x, u")


@trained_with(**_TRAINED)
def storn(
    data: Data | Description,
    *,
    latent: int = 16,
    state: int = 64,
    hidden: tuple[int, ...] = (64,),
) -> LatentVariableModel:
    r"""Recurrent network with independent noise at every step, inferred from the steps so far.

    .. math:: p(x, z) = \prod_t N(z_t; 0, I)\, p(x_t | h_t), \qquad
              h_t = \mathrm{GRU}(x_{t-1}, z_t, h_{t-1}), \qquad q = \prod_t q(z_t | x_{1:t})

    Learning Stochastic Recurrent Networks (Bayer & Osendorfer, 2014),
    https://arxiv.org/abs/1411.7610

    Args:
        data: Sequences; the kind of their steps decides the likelihood.
        latent: Dimensions of z in each step.
        state: Width of the recurrent states.
        hidden: Widths of the hidden layers of the other networks.

    Raises:
        RecipeError: If the data are not sequences.
    """
    at_least_one(latent=latent, state=state, hidden=hidden)
    x = steps_of(data, "storn", state, *hidden)
    p = Recurrent(
        {
            "z": StandardNormal(latent),
            f"h | f[-1], z{x.w}, h[-1]": GRU(x.width + latent, state),
            "x | h": x.likelihood,
            **x.read,
        },
        start={"h": state, "f": x.seen},
        length="n",
    )
    posterior = Gaussian(latent, MLP(state, *hidden))
    encoder = SequenceEncoder(x.width, state, direction="forward")
    q = Joint(
        {
            **x.read,
            f"a | f{x.w}, n": encoder,
            "z | a, n": Recurrent({"z | a": posterior}, start={}, length="n"),
        }
    )
    return LatentVariableModel(p, q)


@trained_with(**_TRAINED)
def vrnn(
    data: Data | Description,
    *,
    latent: int = 16,
    state: int = 64,
    hidden: tuple[int, ...] = (64,),
) -> LatentVariableModel:
    r"""Variational recurrent network: prior, likelihood and posterior of a step read one state.

    .. math:: p(x, z) = \prod_t p(z_t | h_{t-1})\, p(x_t | z_t, h_{t-1}), \qquad
              q = \prod_t q(z_t | x_t, h_{t-1}), \qquad h_t = \mathrm{GRU}(x_t, z_t, h_{t-1})

    A mixture in every step, as in the paper, is ``--likelihood mixture``.

    A Recurrent Latent Variable Model for Sequential Data (Chung et al., 2015),
    https://arxiv.org/abs/1506.02216

    Args:
        data: Sequences; the kind of their steps decides the likelihood.
        latent: Dimensions of z in each step.
        state: Width of the recurrent state.
        hidden: Widths of the hidden layers of the other networks.

    Raises:
        RecipeError: If the data are not sequences.
    """
    at_least_one(latent=latent, state=state, hidden=hidden)
    spread = MLP(latent, *hidden)
    x = steps_of(data, "vrnn", spread.out_features + state, *hidden, read_inputs=True)
    seen = MLP(x.width, *hidden)
    remember = {
        **x.read,
        f"e | f{x.w}": Features(seen),
        "v | z": Features(spread),
        "h | e, v, h[-1]": GRU(seen.out_features + spread.out_features, state),
    }
    p = Recurrent(
        {
            f"z | h[-1]{x.w}": Gaussian(latent, MLP(state + x.inputs, *hidden)),
            f"x | v, h[-1]{x.w}": x.likelihood,
            **remember,
        },
        start={"h": state},
        length="n",
    )
    posterior = Gaussian(latent, MLP(seen.out_features + state, *hidden))
    q = Recurrent({"z | e, h[-1]": posterior, **remember}, start={"h": state}, length="n")
    return LatentVariableModel(p, q)


@trained_with(**_TRAINED)
def srnn(
    data: Data | Description,
    *,
    inference: Literal["smoothing", "filtering"] = "smoothing",
    latent: int = 16,
    state: int = 64,
    hidden: tuple[int, ...] = (64,),
) -> LatentVariableModel:
    r"""A chain of latents over a deterministic recurrent layer, inferred backwards in time.

    .. math:: p(x, z) = \prod_t p(z_t | z_{t-1}, d_t)\, p(x_t | z_t, d_t), \qquad
              d_t = \mathrm{GRU}(x_{t-1}, d_{t-1})

    The posterior of a step corrects its prior by what it reads of :math:`a_t`, which is a backward
    network of :math:`(x_{t:T}, d_{t:T})` (smoothing), or of :math:`(x_t, d_t)` alone (filtering).

    Sequential Neural Models with Stochastic Layers (Fraccaro et al., 2016),
    https://arxiv.org/abs/1605.07571

    Args:
        data: Sequences; the kind of their steps decides the likelihood.
        inference: Whether q sees the steps to come, ``smoothing``, or not, ``filtering``.
        latent: Dimensions of z in each step.
        state: Width of the deterministic states.
        hidden: Widths of the hidden layers of the other networks.

    Raises:
        RecipeError: If the data are not sequences.
    """
    at_least_one(latent=latent, state=state, hidden=hidden)
    x = steps_of(data, "srnn", latent + state, *hidden)
    layer = {f"d | f[-1]{x.w}, d[-1]": GRU(x.width, state)}
    before = {"d": state, "f": x.seen}
    prior = Gaussian(latent, MLP(latent + state, *hidden))
    p = Recurrent(
        {"z | z[-1], d": prior, "x | z, d": x.likelihood, **x.read, **layer},
        start={"z": latent, **before},
        length="n",
    )
    code: nn.Module = SequenceEncoder(x.seen + state, state, direction="backward")
    if inference == "filtering":
        code = Features(MLP(x.seen + state, state))
    posterior = ResidualGaussian(prior, MLP(latent + 2 * state, *hidden), prior_parents=2)
    q = Joint(
        {
            f"{x.names}, d | {x.given}, n": Recurrent(
                {**x.read, **layer}, start=before, length="n"
            ),
            f"a | f, d{', n' if inference == 'smoothing' else ''}": code,
            "z | d, a, n": Recurrent(
                {"z | z[-1], d, a": posterior}, start={"z": latent}, length="n"
            ),
        }
    )
    return LatentVariableModel(p, q)


@trained_with(**_TRAINED)
def deep_markov_model(
    data: Data | Description,
    *,
    inference: Literal["both", "right", "left", "mean_field"] = "both",
    transition: Literal["gated", "linear"] = "gated",
    latent: int = 32,
    state: int = 100,
    hidden: tuple[int, ...] = (100,),
) -> LatentVariableModel:
    r"""A Markov chain of latents with a gated transition, inferred by structured networks.

    .. math:: p(x, z) = \prod_t p(z_t | z_{t-1})\, p(x_t | z_t), \qquad
              q = \prod_t q(z_t | z_{t-1}, x)

    The posterior joins the state before with what recurrent networks say of the steps so far, of
    this and those to come, or of both, which is ST-LR of the paper; ``mean_field`` leaves the
    state out, and all steps are one evaluation. With ``--transition linear`` and no ``--hidden``
    it is the linear Gaussian state space model. Inputs, such as the time since the step before,
    change the transition.

    Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017),
    https://arxiv.org/abs/1609.09869

    Args:
        data: Sequences; the kind of their steps decides the likelihood.
        inference: What q knows of x: the steps so far (``left``), this and those to come
            (``right``, which is all that the exact posterior needs), or ``both``.
        transition: ``gated`` between a linear and a nonlinear map, or ``linear``.
        latent: Dimensions of z in each step.
        state: Width of the recurrent networks of q, and of the transition's hidden layers.
        hidden: Widths of the hidden layers of the likelihood.

    Raises:
        RecipeError: If the data are not sequences.
    """
    at_least_one(latent=latent, state=state, hidden=hidden)
    x = steps_of(data, "deep_markov_model", latent, *hidden)
    move: nn.Module = GatedTransition(latent, state, inputs=x.inputs)
    if transition == "linear":
        move = Gaussian(latent, MLP(latent + x.inputs), scale="dimension")
    p = Recurrent(
        {f"z | z[-1]{x.w}": move, "x | z": x.likelihood, **x.known},
        start={"z": nn.Parameter(torch.zeros(latent))},
        length="n",
    )
    ways: dict[str, Any] = {"left": "forward", "right": "backward"}
    encoder = SequenceEncoder(x.width, state, direction=ways.get(inference, "both"))
    codes = encoder.out_features // state
    if inference == "mean_field":
        step: nn.Module = Recurrent(
            {"z | a": Gaussian(latent, Features(nn.Identity(), 2 * state))}, start={}, length="n"
        )
    else:
        step = Recurrent(
            {"z | z[-1], a": Gaussian(latent, Combiner(latent, state, codes=codes))},
            start={"z": nn.Parameter(torch.zeros(latent))},
            length="n",
        )
    return LatentVariableModel(p, Joint({**x.read, f"a | f{x.w}, n": encoder, "z | a, n": step}))
