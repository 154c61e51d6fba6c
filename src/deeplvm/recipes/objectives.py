"""The plain model under objectives that have made a name of their own."""

from __future__ import annotations

from functools import partial

from torch import nn

from deeplvm import objectives
from deeplvm.conditionals import Gaussian
from deeplvm.data.records import Data, Description
from deeplvm.model import LatentVariableModel
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.one_latent import one_latent


@trained_with(objective=partial(objectives.beta_elbo, beta=4.0))
def beta_vae(
    data: Data | Description, *, latent: int = 10, hidden: tuple[int, ...] = (1200, 1200)
) -> LatentVariableModel:
    """Variational autoencoder whose divergence weighs beta times, for disentangled latents.

    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
    al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    Another weight is ``--objective "beta_elbo(beta=10)"``; a capacity instead is
    ``--objective "growing_capacity(capacity=25)"``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    return one_latent(data, Gaussian, latent=latent, hidden=hidden)


@trained_with(objective=partial(objectives.beta_tc_elbo, beta=6.0), batch_size=2048)
def beta_tc_vae(
    data: Data | Description, *, latent: int = 10, hidden: tuple[int, ...] = (1200, 1200)
) -> LatentVariableModel:
    """Variational autoencoder that pays more for latents that depend on each other.

    Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
    https://arxiv.org/abs/1802.04942

    The aggregate posterior is estimated from the minibatch, which is therefore large. The number
    of rows of the data is filled in by the training.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    return one_latent(data, Gaussian, latent=latent, hidden=hidden, activation=nn.Tanh)


@trained_with(objective=partial(objectives.renyi, alpha=0.5), particles=5)
def renyi_vae(
    data: Data | Description, *, latent: int = 50, hidden: tuple[int, ...] = (200, 200)
) -> LatentVariableModel:
    """Variational autoencoder trained on a Rényi bound.

    Rényi Divergence Variational Inference (Li & Turner, 2016), https://arxiv.org/abs/1602.02311

    Another order is ``--objective "renyi(alpha=-1)"``, the limit ``--objective vr_max``.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
    """
    return one_latent(data, Gaussian, latent=latent, hidden=hidden, activation=nn.Tanh)
