"""The variational autoencoder, with a diagonal and with a full posterior covariance."""

from __future__ import annotations

from functools import partial

from deeplvm.conditionals import FullCovarianceGaussian
from deeplvm.data.records import Data, Description
from deeplvm.model import LatentVariableModel
from deeplvm.posteriors import posterior_of
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.one_latent import one_latent


# Averaged weights cost nothing and are about a nat better on digits.
@trained_with(averaging=0.99)
def vae(
    data: Data | Description,
    *,
    latent: int = 16,
    hidden: tuple[int, ...] = (256, 256),
    posterior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder with multilayer perceptrons, for any kind of data.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.posteriors.known` has them all.
    """
    return one_latent(data, partial(posterior_of, posterior), latent=latent, hidden=hidden)


@trained_with(averaging=0.99)
def full_covariance_vae(
    data: Data | Description, *, latent: int = 16, hidden: tuple[int, ...] = (256, 256)
) -> LatentVariableModel:
    """Variational autoencoder whose posterior knows how the latents go together.

    The covariance of q(z | x) is full, with a triangular factor computed by the network (section
    2.5.1). An Introduction to Variational Autoencoders (Kingma & Welling, 2019),
    https://arxiv.org/abs/1906.02691

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z; the network has a square number of outputs.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    return one_latent(data, FullCovarianceGaussian, latent=latent, hidden=hidden)
