"""The variational autoencoder for images."""

from __future__ import annotations

from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import ConvolutionalDecoder, ConvolutionalEncoder
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import aggregated, at_least_one, image_of


@given_label
def convolutional_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    channels: tuple[int, ...] = (32, 64),
    features: int = 256,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder for images of any size, with residual convolutions.

    The model of Auto-Encoding Variational Bayes with the residual networks of the monograph's
    section 2.8. An Introduction to Variational Autoencoders (Kingma & Welling, 2019),
    https://arxiv.org/abs/1906.02691

    Args:
        data: Images; their kind decides the likelihood.
        latent: Dimensions of z.
        channels: Width of each stage; a stage halves height and width.
        features: Width of the layer between the last stage and z.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.

    Raises:
        RecipeError: If the data are not images.
    """
    at_least_one(latent=latent, channels=channels, features=features)
    x = image_of(data, "convolutional_vae")
    decoder = ConvolutionalDecoder(latent, x.shape, channels)
    encoder = ConvolutionalEncoder(x.shape, channels, features)
    row, q = likelihood_of(x, decoder), posterior_of(posterior, latent, encoder)
    p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": q}))
