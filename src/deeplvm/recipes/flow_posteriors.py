"""Variational autoencoders whose posterior is a flow; each posterior serves other recipes too."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from deeplvm.conditionals.flows import (
    HouseholderFlow,
    InverseAutoregressiveFlow,
    PlanarFlow,
    RadialFlow,
    SylvesterFlow,
)
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, one_latent
from deeplvm.training.schedules import linear


# KL annealing over 10,000 steps of 100 rows of 50,000, from 0.01.
@trained_with(kl_weight=linear(20, start=0.01))
def normalizing_flow_vae(
    data: Data | Description,
    *,
    kind: Literal["planar", "radial"] = "planar",
    transforms: int = 10,
    latent: int = 40,
    hidden: tuple[int, ...] = (400, 400),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder whose posterior is bent by planar or radial steps.

    Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
    https://arxiv.org/abs/1505.05770

    Rectified units, where the paper has maxout.

    Args:
        data: What is modelled; its kind decides the likelihood.
        kind: The steps, planar or radial.
        transforms: Their number; the paper has 2 to 80.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    flow = PlanarFlow if kind == "planar" else RadialFlow
    posterior = partial(flow, transforms=transforms)
    return one_latent(data, posterior, latent=latent, hidden=hidden, prior=prior)


@trained_with(optimizer="adamax", learning_rate=2e-3, averaging=0.999)
def inverse_autoregressive_flow_vae(
    data: Data | Description,
    *,
    transforms: int = 2,
    widths: tuple[int, ...] = (320, 320),
    latent: int = 32,
    hidden: tuple[int, ...] = (450, 450),
    prior: str = "gaussian",
    location_only: bool = False,
) -> LatentVariableModel:
    """Variational autoencoder whose posterior is bent by inverse autoregressive steps.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    The paper's flow on multilayer perceptrons, where its encoder and decoder are residual
    convolutions: for any kind of data.

    Args:
        data: What is modelled; its kind decides the likelihood.
        transforms: Number of steps; the order of the dimensions is reversed after each.
        widths: Of the masked network of each step.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
        location_only: Steps that shift and do not scale.
    """
    at_least_one(widths=widths)
    posterior = partial(
        InverseAutoregressiveFlow,
        transforms=transforms,
        hidden=widths,
        location_only=location_only,
    )
    return one_latent(
        data, posterior, latent=latent, hidden=hidden, prior=prior, activation=nn.ELU
    )


@trained_with(optimizer="adamax", learning_rate=5e-4, kl_weight=linear(100), patience=100)
def sylvester_vae(
    data: Data | Description,
    *,
    kind: Literal["orthogonal", "householder", "triangular"] = "orthogonal",
    transforms: int = 4,
    latent: int = 64,
    hidden: tuple[int, ...] = (300, 300),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder whose posterior is bent by Sylvester steps.

    Sylvester Normalizing Flows for Variational Inference (van den Berg et al., 2018),
    https://arxiv.org/abs/1803.05649

    Multilayer perceptrons, where the paper has gated convolutions: for any kind of data.

    Args:
        data: What is modelled; its kind decides the likelihood.
        kind: How the basis of a step is made: by orthogonalisation, by Householder reflections,
            or none, with the order of the dimensions reversed from step to step (triangular).
        transforms: Number of steps; the paper has 4 to 16.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    posterior = partial(SylvesterFlow, kind=kind, transforms=transforms)
    return one_latent(data, posterior, latent=latent, hidden=hidden, prior=prior)


@trained_with(learning_rate=5e-4, kl_weight=linear(200))
def householder_flow_vae(
    data: Data | Description,
    *,
    transforms: int = 10,
    latent: int = 40,
    hidden: tuple[int, ...] = (300, 300),
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Variational autoencoder whose posterior is reflected by Householder steps.

    Improving Variational Auto-Encoders using Householder Flow (Tomczak & Welling, 2016),
    https://arxiv.org/abs/1611.09630

    Args:
        data: What is modelled; its kind decides the likelihood.
        transforms: Number of reflections.
        latent: Dimensions of z.
        hidden: Widths of the hidden layers of q, from x to z; those of p in reverse.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    posterior = partial(HouseholderFlow, transforms=transforms)
    return one_latent(data, posterior, latent=latent, hidden=hidden, prior=prior)
