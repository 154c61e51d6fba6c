"""Hierarchies of latent maps: several layers, each drawn given those above it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from deeplvm.conditionals import Gaussian, PrecisionWeighted
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import DepthToSpace, Features, ResidualNetwork, SpaceToDepth
from deeplvm.networks.residual import MapShape, half
from deeplvm.objectives import free_bits
from deeplvm.recipes.catalogue import trained_with
from deeplvm.recipes.plain import at_least_one, image_of

# How q goes through the layers; see `hierarchy`.
Inference = Literal["top_down", "ladder", "bottom_up"]


# The paper's code has 3e-4 for days; larger steps with their end at zero are for an hour.
@trained_with(
    objective=partial(free_bits, minimum=0.5),
    optimizer="adamax",
    learning_rate=3e-3,
    schedule="cosine",
    averaging=0.999,
)
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
    at = [(channels, *size) for size in sizes(x.shape, layers)]
    z = [(latent, *size) for _, *size in at]
    sees = [[at[n], z[n]] if inference == "bottom_up" else [at[n]] for n in range(layers)]
    enter = nn.Sequential(SpaceToDepth(x.shape, channels), network([at[0]], at[0]))
    leave = DepthToSpace(channels, (8, *x.shape[1:]), activation=nn.SiLU)
    merged = inference == "top_down"
    return hierarchy(
        likelihood_of(x, leave),
        up=[Features(enter, at[0]), *[network(sees[n], at[n + 1]) for n in range(layers - 1)]],
        down=[
            network([at[n], z[n]] if n + 1 < layers else [z[n]], at[max(0, n - 1)])
            for n in range(layers)
        ],
        priors=[*[Gaussian(z[n], _same(at[n])) for n in range(layers - 1)], Gaussian(z[-1])],
        posteriors=[
            Gaussian(z[n], network([at[n]] * (1 + (merged and n + 1 < layers)), at[n], blocks=1))
            for n in range(layers)
        ],
        inference=inference,
    )


def hierarchy(
    likelihood: nn.Module,
    *,
    up: Sequence[nn.Module],
    down: Sequence[nn.Module],
    priors: Sequence[nn.Module],
    posteriors: Sequence[nn.Module],
    inference: Inference = "top_down",
    reads: Sequence[int] | None = None,
) -> LatentVariableModel:
    r"""Layers of latents :math:`z_1, \dots, z_L` with paths of features down and up.

    .. math:: p(x, z) = p(z_L)\, p(x | d_0) \prod_{l < L} p(z_l | d_l), \qquad
              d_l = f_l(d_{l+1}, z_{l+1}), \qquad h_l = g_l(h_{l-1}), \; h_0 = x

    Top-down, :math:`q(z | x) = q(z_L | h_L) \prod_{l<L} q(z_l | d_l, h_l)`: drawn in the order of
    p, whose path d is its own, evaluated once. The ladder is that, with q(z_l) the normalised
    product of :math:`p(z_l | d_l)` and a Gaussian given :math:`h_l`. Bottom-up,
    :math:`q = \prod_l q(z_l | h_l)` with :math:`h_{l+1} = g_{l+1}(h_l, z_l)`.

    Args:
        likelihood: Of ``"x | d0"``.
        up: The networks g of :math:`h_1, h_2, \dots`
        down: The networks f of :math:`d_0, \dots, d_{L-1}`; the last reads z alone.
        priors: Of :math:`z_1, \dots, z_L`, the last without parents.
        posteriors: Of the same; that of L reads h alone, and for the ladder the others do too.
        inference: How q goes through the layers.
        reads: The number of the h that each layer reads, where it is not its own.
    """
    top = len(priors)
    reads = range(1, top + 1) if reads is None else reads
    p: dict[str, nn.Module] = {f"z{top}": priors[-1]}
    for n in reversed(range(top)):
        above = f"d{n + 1}, z{n + 1}" if n + 1 < top else f"z{top}"
        p[f"d{n} | {above}"] = down[n]
        if n:
            p[f"z{n} | d{n}"] = priors[n - 1]
    p["x | d0"] = likelihood
    q: dict[str, nn.Module] = {"h1 | x": up[0]}
    if inference == "bottom_up":
        for n in range(1, top + 1):
            q[f"z{n} | h{n}"] = posteriors[n - 1]
            if n < top:
                q[f"h{n + 1} | h{n}, z{n}"] = up[n]
        return LatentVariableModel(Joint(p), Joint(q))
    q |= {f"h{n + 1} | h{n}": up[n] for n in range(1, len(up))}
    q[f"z{top} | h{reads[-1]}"] = posteriors[-1]
    for n in reversed(range(1, top)):
        above = f"d{n + 1}, z{n + 1}" if n + 1 < top else f"z{top}"
        own = posteriors[n - 1]
        q[f"d{n} | {above}"] = down[n]
        q[f"z{n} | d{n}, h{reads[n - 1]}"] = (
            PrecisionWeighted(priors[n - 1], own) if inference == "ladder" else own
        )
    return LatentVariableModel(Joint(p), Joint(q))


def sizes(shape: MapShape, layers: int) -> list[tuple[int, int]]:
    """Height and width of each layer: a half, a quarter, an eighth of the image's, as many each.

    >>> sizes((1, 28, 28), 6)
    [(14, 14), (14, 14), (7, 7), (7, 7), (4, 4), (4, 4)]
    """
    found = [(half(shape[1]), half(shape[2]))]
    for _ in range(2):
        found.append((half(found[-1][0]), half(found[-1][1])))
    return [found[3 * layer // layers] for layer in range(layers)]


def _same(shape: MapShape) -> ResidualNetwork:
    """The features themselves: a head alone reads them."""
    return ResidualNetwork([shape], shape, blocks=0)
