"""Graphical models whose latents are inferred by messages, beside networks that are learned."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm.conditionals import (
    Categorical,
    ClassPosterior,
    FullCovarianceGaussian,
    Gaussian,
    KalmanSmoother,
    LinearGaussian,
    MemberPosterior,
)
from deeplvm.core.draws import Enumerated
from deeplvm.core.joint import Joint, view_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.ragged import INPUTS
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP, Features
from deeplvm.objectives import elbo
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, observed, seen, sequence_of
from deeplvm.recurrent import Recurrent


@trained_with(objective=partial(elbo, form="analytic"), draw={"k": Enumerated()})
def structured_vae(
    data: Data | Description,
    *,
    latent: int = 10,
    classes: int = 10,
    hidden: tuple[int, ...] = (256, 256),
) -> LatentVariableModel:
    r"""Classes of codes, or of sequences linear dynamics of codes; messages infer, networks see.

    .. math:: p = p(k)\, p(z | k)\, p(x | z) \quad \text{or} \quad
              \textstyle\prod_t N(z_t; A z_{t-1} + b, Q)\, p(x_t | z_t)

    A network of x gives Gaussian potentials of z; q is p(z) times these, exactly, with all that
    the classes or the dynamics of p imply. Data whose rows are sequences have dynamics (in which
    what is known of every step takes part), all others classes, of which each row's is embedded
    beside z.

    Composing Graphical Models with Neural Networks for Structured Representations and Fast
    Inference (Johnson et al., 2016), https://arxiv.org/abs/1603.06277

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        classes: Number of classes, where rows are no sequences.
        hidden: Widths of the hidden layers of the network from x to the potentials; those of p in
            reverse.
    """
    at_least_one(latent=latent, classes=classes, hidden=hidden)
    if any([each.length for each in data.variables.values()]):
        return _dynamics(data, latent, hidden)
    x = observed(data)
    row = likelihood_of(x, MLP(latent, *hidden[::-1]))
    kinds, members = Categorical(classes), FullCovarianceGaussian(latent, MLP(classes))
    nn.init.normal_(members.head.layer.weight[:latent])  # alike they would stay alike
    encoder = MLP(seen(x), *hidden)
    potential = Gaussian(latent, MLP(encoder.out_features))
    q = {
        "h | x": Features(encoder),
        "k | h": ClassPosterior(kinds, members, potential),
        "z | h, k": MemberPosterior(members, potential),
    }
    return LatentVariableModel(Joint({"k": kinds, "z | k": members, "x | z": row}), Joint(q))


def _dynamics(
    data: Data | Description, latent: int, hidden: tuple[int, ...]
) -> LatentVariableModel:
    """A linear dynamical system whose observations a network makes."""
    x, u = sequence_of(data, "structured_vae"), data.variables.get(INPUTS)
    units = None if u is None else (u.mean.flatten(), u.std.flatten())
    state = LinearGaussian(latent, 0 if u is None else u.elements, units=units)
    row = likelihood_of(x, MLP(latent, *hidden[::-1]))
    known = "" if u is None else f"{INPUTS}, "
    q = KalmanSmoother(
        state,
        Gaussian(latent, MLP(seen(x), *hidden)),
        length=x.length,
        inputs=0 if u is None else 1,
        views=[view_of(row)],
    )
    p = Recurrent(
        {f"z | z[-1]{'' if u is None else f', {INPUTS}'}": state, "x | z": row},
        start={"z": state.start},
        length=x.length,
    )
    return LatentVariableModel(p, Joint({f"z | {known}x, {x.length}": q}))
