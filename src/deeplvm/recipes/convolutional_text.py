"""Texts by convolutions: a decoder that sees so much, and one that draws a text as a whole."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm.conditionals import BagOfWords
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.ragged import LENGTH
from deeplvm.data.records import Data, Description
from deeplvm.networks import (
    GRU,
    MLP,
    ConvolutionalSequenceEncoder,
    DilatedConvolutions,
    Features,
    SequenceDeconvolutions,
)
from deeplvm.objectives import auxiliary_elbo
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.plain import at_least_one, text_of
from deeplvm.recipes.words import before, decoded, ended, longest_of, reader
from deeplvm.recurrent import Recurrent
from deeplvm.training.schedules import linear


@trained_with(clip=5.0, kl_weight=linear(10))
def dilated_text_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    width: int = 128,
    dilations: tuple[int, ...] = (1, 2, 4),
    hidden: int = 64,
    keep: float = 1.0,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Text given a code, by causal convolutions: their dilations set how many words they see.

    .. math:: p(x, z) = p(z) \prod_t p(x_t | x_{t-R}, \dots, x_{t-1}, z), \qquad
              R = 1 + 2 \sum_l d_l

    The fewer words a decoder sees, the more it must read from z. Dilations 1, 2, 4 see 15 words
    (the paper's SCNN), 1, 2, 4, 8, 16 see 63 (MCNN), and these twice 125 (LCNN). q reads the words
    both ways.

    Improved Variational Autoencoders for Text Modeling using Dilated Convolutions (Yang et al.,
    2017), https://arxiv.org/abs/1702.08139

    Args:
        data: Texts.
        latent: Dimensions of z.
        features: Width of a word's vector.
        width: Of the convolutions, even.
        dilations: Of each layer, whose convolution reads three words so far apart.
        hidden: Width of q's recurrent network in each direction.
        keep: Share of the words that the decoder sees in training; at 0 it never sees one.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no texts.
    """
    at_least_one(latent=latent, features=features, width=width, dilations=dilations, hidden=hidden)
    x = text_of(data, "dilated_text_vae")
    if width % 2:
        raise RecipeError(f"width must be even, found {width}.")
    network = DilatedConvolutions(features + latent, width, dilations=dilations)
    step = decoded(x, network, "z", features=features, width=width, keep=keep)
    words = Recurrent(step, outside=["z"], **ended(longest_of(data)))
    code = posterior_of(posterior, latent, MLP(2 * hidden))
    return LatentVariableModel(
        Joint({"z": prior_of(prior, latent), f"{', '.join(words.names)} | z": words}),
        Joint({**reader(features, hidden), "z | s": code}),
    )


@trained_with(clip=5.0, kl_weight=linear(10), objective=partial(auxiliary_elbo, weight=0.2))
def hybrid_text_vae(
    data: Data | Description,
    *,
    latent: int = 32,
    features: int = 64,
    channels: tuple[int, ...] = (128, 256),
    hidden: int = 128,
    longest: int = 64,
    keep: float = 1.0,
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    r"""Text drawn as a whole from a code by deconvolutions, and then word by word.

    .. math:: d = \mathrm{deconvolutions}(z), \qquad h_t = \mathrm{GRU}(x_{t-1}, d_t, h_{t-1}),
              \qquad p(x, z) = p(z) \prod_t p(x_t | h_t)

    The words are also known from :math:`d_t` alone, :math:`r(x_t | d_t)`, whose logarithm times
    0.2 the objective adds, so that z is used; another weight is ``--objective
    "auxiliary_elbo(weight=0.5)"``. What is measured is the bound without it.

    A Hybrid Convolutional Variational Autoencoder for Text Generation (Semeniuta et al., 2017),
    https://arxiv.org/abs/1702.02390

    Args:
        data: Texts.
        latent: Dimensions of z.
        features: Width of a word's vector, and of :math:`d_t`.
        channels: Of the convolutions of stride 2, from the words inwards.
        hidden: Width of the recurrent network.
        longest: How many words q reads of a text, and :math:`d` is of; later ones are drawn from
            the words before alone.
        keep: Share of the words that the recurrent network sees in training; at 0 it never sees
            one.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"mixture(components=50)"``; :func:`~deeplvm.conditionals.priors.known` has them all,
            and those made of a q(z | x) alone are not for this recipe.

    Raises:
        RecipeError: If the data are no texts.
    """
    at_least_one(
        latent=latent, features=features, channels=channels, hidden=hidden, longest=longest
    )
    x = text_of(data, "hybrid_text_vae")
    cell = GRU(2 * features, hidden)
    whole = Features(nn.Identity(), features)
    words = Recurrent(
        {
            **decoded(x, cell, "d, h[-1]", features=features, width=hidden, keep=keep),
            f"d | {before(keep)}, z": SequenceDeconvolutions(latent, longest, channels, features),
            "a | d, x": BagOfWords(x.levels or 2, whole),
        },
        outside=["z"],
        **ended(longest_of(data), h=hidden),
    )
    code = posterior_of(posterior, latent, MLP(hidden))
    encoder = ConvolutionalSequenceEncoder(features, longest, channels, hidden)
    return LatentVariableModel(
        Joint({"z": prior_of(prior, latent), f"{', '.join(words.names)} | z": words}),
        Joint({f"s | x, {LENGTH}": encoder, "z | s": code}),
    )
