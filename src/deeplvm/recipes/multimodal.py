"""Models of several names of a row: views, modalities, of which any may be missing."""

from __future__ import annotations

from typing import Literal

from deeplvm.conditionals import Gaussian, MixtureOfExperts, ProductOfExperts, StandardNormal
from deeplvm.core.joint import Joint, view_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import at_least_one, refuse_sequences, seen


# An expert that never stood alone would not know what to say of z by itself.
@trained_with(hide_names=0.5)
def multimodal_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    experts: Literal["product", "mixture"] = "product",
) -> LatentVariableModel:
    """Variational autoencoder of several names, any of which a row may lack.

    Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu & Goodman, 2018),
    https://arxiv.org/abs/1802.05335

    The posterior is the product of the prior and an expert for each name that is there; a name
    that is missing in a row is left out of it, and of the row's likelihood. Training shows half of
    the rows with some of their names alone (``--hide-names``).

    Args:
        data: What is modelled, several names; their kinds decide their likelihoods.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of each expert, from its name to z; those of p in
            reverse.
        experts: What the posterior is of them: their product and the prior's, or the mixture of
            those whose names are there (MMVAE, https://arxiv.org/abs/1911.03393).

    Raises:
        RecipeError: If the data have one name alone, or one that is the latent's.
    """
    at_least_one(latent=latent, hidden=hidden)
    refuse_sequences(data, "multimodal_vae")
    names = tuple(data.variables)
    if len(names) < 2 or "z" in names:
        why = (
            "has one alone; give --group, or take vae" if len(names) < 2 else "has 'z', the latent"
        )
        raise RecipeError(f"multimodal_vae models several names, and {data.name} {why}.")
    each = {
        name: likelihood_of(variable, MLP(latent, *hidden[::-1]))
        for name, variable in data.variables.items()
    }
    p = Joint({"z": StandardNormal(latent), **{f"{name} | z": each[name] for name in names}})
    each_alone = [Gaussian(latent, MLP(seen(v), *hidden)) for v in data.variables.values()]
    views = [view_of(each[name]) for name in names]
    posterior = {"product": ProductOfExperts, "mixture": MixtureOfExperts}[experts]
    q = Joint({f"z | {', '.join(names)}": posterior(each_alone, views=views)})
    return LatentVariableModel(p, q)
