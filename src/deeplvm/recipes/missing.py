"""Models for data with holes."""

from __future__ import annotations

from deeplvm import objectives
from deeplvm.conditionals import Gaussian, SelfMasking, WithMask
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint, view_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import MLP
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, gaussian, observed


# Particles keep small tables from collapse; the epoch that fills in best is among the first.
@trained_with(
    objective=objectives.iwae, particles=20, hide=0.2, epochs=2000, patience=100, batch_size=64
)
def miwae(
    data: Data | Description,
    *,
    latent: int = 10,
    hidden: tuple[int, ...] = (128, 128),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Importance weighted autoencoder for values that are missing at random.

    MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets (Mattei & Frellsen,
    2019), https://arxiv.org/abs/1812.02633

    The encoder reads which values are missing beside the values, and is trained under more masks
    than those of the data (``--hide``).

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = observed(data)
    p = Joint(
        {"z": prior_of(prior, latent), "x | z": likelihood_of(x, MLP(latent, *hidden[::-1]))}
    )
    encoder = Gaussian(latent, MLP(x.features + x.elements, *hidden))
    view = view_of(p["x"])
    return LatentVariableModel(p, Joint({"z | x": WithMask(encoder, x.shape, view)}))


@trained_with(objective=objectives.iwae, particles=20, epochs=1000, patience=100, batch_size=64)
def not_miwae(
    data: Data | Description,
    *,
    latent: int = 10,
    hidden: tuple[int, ...] = (128, 128),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """MIWAE for reals that are missing because of what they are, with a model of the holes.

    not-MIWAE: Deep Generative Modelling with Missing not at Random Data (Ipsen, Mattei & Frellsen,
    2021), https://arxiv.org/abs/2006.12871

    Each value is missing with a probability that depends on itself (self-masking). What is learned
    rests on that assumption, which the data cannot check. Likelihoods are those of the values and
    of their holes together.

    Args:
        data: Real numbers with holes.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the values are not modelled by a Gaussian.
    """
    at_least_one(latent=latent, hidden=hidden)
    x = gaussian(data, "not_miwae, which draws what is missing,", "; or use miwae")
    row = likelihood_of(x, MLP(latent, *hidden[::-1]))
    reason = SelfMasking(x.shape, (x.mean, x.std))
    p = Joint({"z": prior_of(prior, latent), "x | z": row, "x_observed | x": reason})
    encoder = Gaussian(latent, MLP(2 * x.elements, *hidden))
    view = view_of(row)
    return LatentVariableModel(
        p, Joint({"z | x_seen": WithMask(encoder, x.shape, view), "x | z": row})
    )
