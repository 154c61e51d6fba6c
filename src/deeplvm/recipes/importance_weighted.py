"""The importance weighted autoencoder."""

from __future__ import annotations

from typing import Literal

from torch import nn

from deeplvm import objectives
from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP, glorot
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import aggregated, at_least_one, observed, seen


# The paper trains with 1, 5 and 50 particles; 5 is what a CPU bears.
@trained_with(objective=objectives.iwae, particles=5)
@given_label
def iwae(
    data: Data | Description,
    *,
    layers: Literal[1, 2] = 1,
    latent: int = 50,
    hidden: int = 200,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Importance weighted autoencoder, with one or two layers of latents.

    Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Tanh units, Glorot's initialization, and a decoder that starts at the mean of the data. With
    two layers, z1 has twice as many dimensions as z2, whose networks are half as wide.

    Args:
        data: What is modelled; its kind decides the likelihood.
        layers: How many layers of latents, 1 or 2.
        latent: Dimensions of the highest latent.
        hidden: Width of the two hidden layers of each network next to x.
        posterior: Family of each layer of q, by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p of the highest latent, by its name, with options in parentheses if any:
            ``"vamp(components=500)"``, of one layer alone;
            :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)

    def network(features: int | tuple[int, ...], width: int) -> MLP:
        return MLP(features, width, width, activation=nn.Tanh, initialization=glorot)

    if layers == 1:
        row = likelihood_of(x, network(latent, hidden))
        q = posterior_of(posterior, latent, network(seen(x), hidden))
        p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
        return LatentVariableModel(p, Joint({"z | x": q}))
    lower, narrow = 2 * latent, max(1, hidden // 2)
    return LatentVariableModel(
        Joint(
            {
                "z2": prior_of(prior, latent),
                "z1 | z2": Gaussian(lower, network(latent, narrow)),
                "x | z1": likelihood_of(x, network(lower, hidden)),
            }
        ),
        Joint(
            {
                "z1 | x": posterior_of(posterior, lower, network(seen(x), hidden)),
                "z2 | z1": posterior_of(posterior, latent, network(lower, narrow)),
            }
        ),
    )
