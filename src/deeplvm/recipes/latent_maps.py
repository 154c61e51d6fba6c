"""Hierarchies of latent maps: layers at a half, a quarter and an eighth of an image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import nn

from deeplvm.conditionals import Gaussian
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import (
    DepthToSpace,
    Features,
    ResidualNetwork,
    SpaceToDepth,
    WeightNormalisedConvolution,
)
from deeplvm.networks.residual import Convolution, MapShape, half
from deeplvm.objectives import free_bits
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.hierarchies import Inference, hierarchy
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, image_of
from deeplvm.training.schedules import linear


# The code that this follows takes 3e-4 for days; larger steps that end at zero are for an hour.
@trained_with(
    objective=partial(free_bits, minimum=0.5),
    optimizer="adamax",
    learning_rate=5e-3,
    schedule="cosine",
    clip=200.0,
    averaging=0.999,
)
@given_label
def convolutional_ladder_vae(
    data: Data | Description,
    *,
    layers: int = 3,
    latent: int = 8,
    channels: int = 32,
    blocks: int = 2,
    inference: Inference = "top_down",
) -> LatentVariableModel:
    """Variational autoencoder with layers of latent maps and gated residual convolutions.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282, with
    convolutions as of https://github.com/addtt/ladder-vae-pytorch, at a quarter of their cost: the
    image comes in as four neighbours a place, and leaves so.

    The layers lie at a half, a quarter and an eighth of the image's size, as many at each.

    Args:
        data: Images; their kind decides the likelihood.
        layers: How many layers of latents, z1 next to the image; 3, 6, 12.
        latent: Channels of each latent map.
        channels: Channels of the feature maps.
        blocks: Residual blocks between a layer and the next, on the way up and down.
        inference: How q goes through the layers: ``"top_down"`` along p's own path, ``"ladder"``
            so and merged with p by precision, ``"bottom_up"`` from z1 upwards.

    Raises:
        RecipeError: If the data are not images.
    """
    at_least_one(layers=layers, latent=latent, channels=channels, blocks=blocks)
    x = image_of(data, "convolutional_ladder_vae")
    network = partial(ResidualNetwork, blocks=blocks, activation=nn.SiLU)
    at, z = sizes(x.shape, layers, channels), sizes(x.shape, layers, latent)
    merged, drawn = inference == "top_down", inference == "bottom_up"
    return hierarchy(
        likelihood_of(x, DepthToSpace(channels, (8, *x.shape[1:]), activation=nn.SiLU)),
        up=[
            entrance(x.shape, network([at[0]], at[0])),
            *[network([at[n], z[n]][: 1 + drawn], at[n + 1]) for n in range(layers - 1)],
        ],
        down=descent(partial(network, scale=layers**-0.5), at, z),
        priors=[*[Gaussian(z[n], same(at[n])) for n in range(layers - 1)], Gaussian(z[-1])],
        posteriors=[
            Gaussian(z[n], network([at[n]] * (1 + (merged and n + 1 < layers)), at[n], blocks=1))
            for n in range(layers)
        ],
        inference=inference,
    )


# The paper's free bits are 0.25 a latent map, its particles 1; a CPU bears fewer channels.
@trained_with(
    objective=partial(free_bits, minimum=0.25),
    optimizer="adamax",
    learning_rate=2e-3,
    averaging=0.999,
)
@given_label
def resnet_iaf_vae(
    data: Data | Description,
    *,
    layers: int = 3,
    latent: int = 8,
    channels: int = 32,
    blocks: int = 1,
    inference: Literal["top_down", "bottom_up"] = "top_down",
    posterior: str = "iaf(transforms=1, hidden=(32,))",
) -> LatentVariableModel:
    """Residual networks with layers of latent maps, whose posteriors are bent autoregressively.

    Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    https://arxiv.org/abs/1606.04934

    Their appendix C: weight norm that starts from data, ELU, and inference in both directions: up
    without a draw, then down along p's own path. Ungated blocks of two convolutions, each after
    its activation.

    Args:
        data: Images; their kind decides the likelihood: of 8-bit ones discretised logistic.
        layers: How many layers of latents, z1 next to the image.
        latent: Channels of each latent map.
        channels: Channels of the feature maps.
        blocks: Residual blocks between a layer and the next, on the way up and down.
        inference: How q goes through the layers: ``"top_down"``, which the paper calls
            bidirectional, or ``"bottom_up"`` from z1 upwards.
        posterior: Family of each layer of q, by its name, with options in parentheses if any:
            ``"gaussian"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.

    Raises:
        RecipeError: If the data are not images.
    """
    at_least_one(layers=layers, latent=latent, channels=channels, blocks=blocks)
    x = image_of(data, "resnet_iaf_vae")
    weight_norm = WeightNormalisedConvolution
    network = partial(
        ResidualNetwork, blocks=blocks, gated=False, convolution=weight_norm, scale=0.1
    )
    at, z = sizes(x.shape, layers, channels), sizes(x.shape, layers, latent)
    merged, drawn = inference == "top_down", inference == "bottom_up"
    leave = DepthToSpace(channels, (8, *x.shape[1:]), activation=nn.ELU, convolution=weight_norm)
    return hierarchy(
        likelihood_of(x, leave),
        up=[
            entrance(x.shape, network([at[0]], at[0]), weight_norm),
            *[network([at[n], z[n]][: 1 + drawn], at[n + 1]) for n in range(layers - 1)],
        ],
        down=descent(network, at, z),
        priors=[*[Gaussian(z[n], same(at[n])) for n in range(layers - 1)], Gaussian(z[-1])],
        posteriors=[
            posterior_of(
                posterior, z[n], network([at[n]] * (1 + (merged and n + 1 < layers)), at[n])
            )
            for n in range(layers)
        ],
        inference=inference,
    )


@trained_with(
    objective=partial(free_bits, minimum=0.5),
    optimizer="adamax",
    learning_rate=2e-3,
    kl_weight=linear(5, start=0.01),
    averaging=0.999,
)
@given_label
def biva(
    data: Data | Description,
    *,
    layers: int = 3,
    latent: int = 8,
    channels: int = 32,
    blocks: int = 1,
) -> LatentVariableModel:
    r"""Bidirectional-inference variational autoencoder: each layer has two latents.

    :math:`u_l` is drawn on the way up, :math:`z_l` on the way down given it, and p draws both
    given the layers above.

    BIVA: A Very Deep Hierarchy of Latent Variables for Generative Modeling (Maaløe et al., 2019),
    https://arxiv.org/abs/1902.02102

    Args:
        data: Images; their kind decides the likelihood.
        layers: How many layers, z1 and u1 next to the image; the highest has z alone.
        latent: Channels of each latent map.
        channels: Channels of the feature maps.
        blocks: Residual blocks between a layer and the next, on the way up and down.

    Raises:
        RecipeError: If the data are not images.
    """
    at_least_one(layers=layers, latent=latent, channels=channels, blocks=blocks)
    x = image_of(data, "biva")
    network = partial(ResidualNetwork, blocks=blocks, activation=nn.ELU)
    at, z = sizes(x.shape, layers, channels), sizes(x.shape, layers, latent)
    below = range(layers - 1)
    return hierarchy(
        likelihood_of(x, DepthToSpace(channels, (8, *x.shape[1:]), activation=nn.ELU)),
        up=[
            entrance(x.shape, network([at[0]], at[0])),
            *[network([at[n], z[n]], at[n + 1]) for n in below],
        ],
        down=descent(partial(network, scale=layers**-0.5), at, z, second=True),
        priors=[*[Gaussian(z[n], same(at[n])) for n in below], Gaussian(z[-1])],
        posteriors=[
            *[Gaussian(z[n], network([at[n], at[n]], at[n])) for n in below],
            Gaussian(z[-1], network([at[-1]], at[-1])),
        ],
        beside=[
            (Gaussian(z[n], same(at[n])), Gaussian(z[n], network([at[n]], at[n]))) for n in below
        ],
    )


# The weight of the divergence starts near zero, weights are averaged, long gradients shortened
# and those out of all proportion left out, as in all code for very deep ones.
@trained_with(
    optimizer="adamax",
    learning_rate=2e-3,
    schedule="cosine",
    kl_weight=linear(5, start=0.01),
    clip=200.0,
    skip=1e6,
    averaging=0.999,
)
@given_label
def very_deep_vae(
    data: Data | Description,
    *,
    layers: int = 24,
    latent: int = 8,
    channels: int = 48,
    width: int = 16,
) -> LatentVariableModel:
    """Tens of layers of latent maps on one residual path.

    Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images (Child,
    2021), https://arxiv.org/abs/2011.10650

    Blocks of two narrow convolutions between 1x1 ones, on the way down scaled by one over the root
    of the depth; the layers of a size read one map of the encoder. Scales are softplus functions,
    which stay finite where exponentials overflow: Efficient-VDVAE: Less is more (Hazami et al.,
    2022), https://arxiv.org/abs/2203.13751

    Args:
        data: Images; their kind decides the likelihood.
        layers: How many layers of latents, z1 next to the image.
        latent: Channels of each latent map.
        channels: Channels of the feature maps.
        width: Channels of the convolutions inside a block.

    Raises:
        RecipeError: If the data are not images.
    """
    at_least_one(layers=layers, latent=latent, channels=channels, width=width)
    x = image_of(data, "very_deep_vae")
    network = partial(ResidualNetwork, gated=False, activation=nn.SiLU, width=width)
    at, z = sizes(x.shape, layers, channels), sizes(x.shape, layers, latent)
    stages = list(dict.fromkeys(at))
    return hierarchy(
        likelihood_of(x, DepthToSpace(channels, (8, *x.shape[1:]), activation=nn.SiLU)),
        up=[
            entrance(x.shape, network([at[0]], at[0], blocks=2)),
            *[network([a], b, blocks=2) for a, b in pairwise(stages)],
        ],
        down=descent(partial(network, scale=layers**-0.5), at, z),
        priors=[
            *[Gaussian(z[n], network([at[n]], at[n])) for n in range(layers - 1)],
            Gaussian(z[-1]),
        ],
        posteriors=[
            Gaussian(z[n], network([at[n]] * (1 + (n + 1 < layers)), at[n])) for n in range(layers)
        ],
        reads=[1 + stages.index(each) for each in at],
    )


def sizes(image: MapShape, layers: int, channels: int) -> list[tuple[int, int, int]]:
    """The maps of all layers: at a half, a quarter and an eighth of an image's size, as many each.

    >>> sizes((1, 28, 28), 6, 8)[::2]
    [(8, 14, 14), (8, 7, 7), (8, 4, 4)]
    """
    found = [(half(image[1]), half(image[2]))]
    for _ in range(2):
        found.append((half(found[-1][0]), half(found[-1][1])))
    return [(channels, *found[3 * layer // layers]) for layer in range(layers)]


def entrance(
    image: MapShape, network: ResidualNetwork, convolution: Convolution = nn.Conv2d
) -> Features:
    """The first network on the way up: four neighbours a place, then residual blocks."""
    squeezed = SpaceToDepth(image, network.in_shapes[0][0], convolution=convolution)
    return Features(nn.Sequential(squeezed, network), network.out_shape)


def descent(
    network: Callable[..., ResidualNetwork],
    at: Sequence[MapShape],
    z: Sequence[MapShape],
    *,
    second: bool = False,
) -> list[ResidualNetwork]:
    """The networks on the way down: from the path and the latents of a layer to the next path.

    Args:
        network: From the shapes of what is read and of the result.
        at: The path's shape at each layer.
        z: The latent's shape at each layer.
        second: Whether layers below the highest have two latents.
    """
    read = [[at[n], *[z[n]] * (1 + second)] for n in range(len(at) - 1)] + [[z[-1]]]
    return [network(read[n], at[max(0, n - 1)]) for n in range(len(at))]


def same(shape: MapShape) -> ResidualNetwork:
    """The features themselves: a head alone reads them."""
    return ResidualNetwork([shape], shape, blocks=0)
