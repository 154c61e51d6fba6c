"""Images whose pixels follow from those before them, alone or given latents."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from deeplvm.conditionals import Autoregressive
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.conditionals.priors import prior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.networks import (
    CausalAttention,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    GatedPixelCNN,
    LocallyMaskedPixelCNN,
    PixelCNN,
    RowLSTM,
    ShiftedPixelCNN,
)
from deeplvm.objectives import SoftFreeBits
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import aggregated, at_least_one, image_of, observed

# Pixels share all weights, so that small batches already say much.
SMALL_BATCHES: dict[str, Any] = {"batch_size": 50, "learning_rate": 2e-3}


@trained_with(**SMALL_BATCHES)
@given_label
def pixel_cnn(
    data: Data | Description,
    *,
    width: int = 32,
    blocks: int = 7,
    window: tuple[int, int] = (4, 7),
    kernel: int = 3,
) -> LatentVariableModel:
    """Each pixel given those before it, by masked convolutions; an exact likelihood.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759

    Grey levels and colours are mixtures of discretised logistics, unless --likelihood says
    another; that holds for all recipes of pixels.

    Args:
        data: Images; their kind decides the likelihood.
        width: Channels of the hidden layers.
        blocks: Residual blocks.
        window: Rows, with the pixel's own, and columns that the first layer reads.
        kernel: Columns that the other layers read; with 1 the window is all that is seen.
    """
    at_least_one(width=width, blocks=blocks, window=window, kernel=kernel)
    options = {"width": width, "blocks": blocks, "window": window, "kernel": kernel}
    return _alone(data, "pixel_cnn", PixelCNN, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def gated_pixel_cnn(
    data: Data | Description,
    *,
    width: int = 16,
    layers: int = 8,
    window: tuple[int, int] = (4, 7),
    kernel: int = 3,
) -> LatentVariableModel:
    """Each pixel given all before it, by two stacks of gated convolutions; an exact likelihood.

    Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016),
    https://arxiv.org/abs/1606.05328

    Args:
        data: Images; their kind decides the likelihood.
        width: Channels of each stack.
        layers: Number of layers.
        window: Rows, with the pixel's own, and columns that the first layer reads.
        kernel: Columns that the other layers read; with 1 the window is all that is seen.
    """
    at_least_one(width=width, layers=layers, window=window, kernel=kernel)
    options = {"width": width, "layers": layers, "window": window, "kernel": kernel}
    return _alone(data, "gated_pixel_cnn", GatedPixelCNN, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def pixel_cnn_pp(
    data: Data | Description, *, width: int = 16, blocks: int = 2, levels: int = 3
) -> LatentVariableModel:
    """Each pixel given all before it, at several resolutions (PixelCNN++); an exact likelihood.

    PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Args:
        data: Images; their kind decides the likelihood.
        width: Channels of each of the two streams.
        blocks: Residual blocks at each size, on the way down and as many on the way up.
        levels: Number of sizes, each half the one before.
    """
    at_least_one(width=width, blocks=blocks, levels=levels)
    options = {"width": width, "blocks": blocks, "levels": levels}
    return _alone(data, "pixel_cnn_pp", ShiftedPixelCNN, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def pixel_rnn(
    data: Data | Description,
    *,
    width: int = 16,
    layers: int = 2,
    window: tuple[int, int] = (4, 7),
    kernel: int = 3,
) -> LatentVariableModel:
    """Each pixel given those before it, by memories that go down the rows; an exact likelihood.

    Pixel Recurrent Neural Networks (van den Oord et al., 2016), https://arxiv.org/abs/1601.06759

    The paper's row LSTM.

    Args:
        data: Images; their kind decides the likelihood.
        width: Channels of each layer.
        layers: Number of layers.
        window: Rows, with the pixel's own, and columns that a first convolution reads.
        kernel: Columns that the layers read.
    """
    at_least_one(width=width, layers=layers, window=window, kernel=kernel)
    options = {"width": width, "layers": layers, "window": window, "kernel": kernel}
    return _alone(data, "pixel_rnn", RowLSTM, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def image_transformer(
    data: Data | Description, *, width: int = 32, blocks: int = 4, heads: int = 2
) -> LatentVariableModel:
    """Each pixel given all before it, by attention; an exact likelihood.

    Image Transformer (Parmar et al., 2018), https://arxiv.org/abs/1802.05751

    Each pixel attends to all before it, where the paper keeps to blocks of them.

    Args:
        data: Images; their kind decides the likelihood.
        width: Numbers of a token; a multiple of the heads.
        blocks: Number of blocks.
        heads: Of the attention of each block.
    """
    at_least_one(width=width, blocks=blocks, heads=heads)
    options = {"width": width, "blocks": blocks, "heads": heads}
    return _alone(data, "image_transformer", CausalAttention, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def locally_masked_pixel_cnn(
    data: Data | Description,
    *,
    width: int = 16,
    blocks: int = 4,
    kernel: int = 3,
    curves: int = 8,
) -> LatentVariableModel:
    """Pixels in several orders by the same convolutions; an exact likelihood, their mean.

    Locally Masked Convolution for Autoregressive Models (Jain et al., 2020),
    https://arxiv.org/abs/2006.12486

    Args:
        data: Images; their kind decides the likelihood.
        width: Channels of the hidden layers.
        blocks: Residual blocks.
        kernel: Side of the square that a layer reads.
        curves: Number of orders, S-curves from each corner, 1 to 8; one at random a step of
            training, all where rows are measured.
    """
    at_least_one(width=width, blocks=blocks, kernel=kernel, curves=curves)
    options = {"width": width, "blocks": blocks, "kernel": kernel, "curves": curves}
    return _alone(data, "locally_masked_pixel_cnn", LocallyMaskedPixelCNN, **options)


@trained_with(**SMALL_BATCHES)
@given_label
def pixel_vae(
    data: Data | Description,
    *,
    latent: int = 16,
    channels: tuple[int, ...] = (16, 32),
    features: int = 128,
    width: int = 16,
    layers: int = 3,
    window: tuple[int, int] = (3, 5),
    posterior: str = "gaussian",
    prior: str = "gaussian",
) -> LatentVariableModel:
    """Latents for the whole, and a small gated PixelCNN for the details.

    PixelVAE: A Latent Variable Model for Natural Images (Gulrajani et al., 2017),
    https://arxiv.org/abs/1611.05013

    One layer of latents, where the paper has one or two.

    Args:
        data: Images; their kind decides the likelihood.
        latent: Dimensions of z.
        channels: Width of each stage of encoder and decoder; a stage halves height and width.
        features: Width of the layer between the encoder's last stage and z.
        width: Channels of each stack of the PixelCNN.
        layers: Its layers.
        window: Rows, with the pixel's own, and columns that its first layer reads.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"vamp(components=500)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    at_least_one(width=width, layers=layers, window=window)
    causal = partial(GatedPixelCNN, width=width, layers=layers, window=window)
    sizes = {"latent": latent, "channels": channels, "features": features}
    return _with_latents(data, "pixel_vae", causal, posterior=posterior, prior=prior, **sizes)


@trained_with(**SMALL_BATCHES, objective=SoftFreeBits({"z": 5.0}))
@given_label
def variational_lossy_autoencoder(
    data: Data | Description,
    *,
    latent: int = 16,
    channels: tuple[int, ...] = (16, 32),
    features: int = 128,
    width: int = 16,
    blocks: int = 3,
    window: tuple[int, int] = (3, 5),
    posterior: str = "gaussian",
    prior: str = "maf(transforms=2)",
) -> LatentVariableModel:
    """Latents for what a window of earlier pixels cannot tell, with an autoregressive prior.

    Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731

    Soft free bits hold the divergence near 5 nats where it would be less; another target is
    ``--objective "soft_free_bits(targets={'z': 10})"``.

    Args:
        data: Images; their kind decides the likelihood.
        latent: Dimensions of z.
        channels: Width of each stage of encoder and decoder; a stage halves height and width.
        features: Width of the layer between the encoder's last stage and z.
        width: Channels of the PixelCNN.
        blocks: Its residual blocks.
        window: Rows, with the pixel's own, and columns: all that the PixelCNN sees.
        posterior: Family of q(z | x), by its name, with options in parentheses if any:
            ``"iaf(transforms=4)"``; :func:`~deeplvm.conditionals.posteriors.known` has them all.
        prior: Family of p(z), by its name, with options in parentheses if any:
            ``"maf(transforms=4)"``; :func:`~deeplvm.conditionals.priors.known` has them all.
    """
    at_least_one(width=width, blocks=blocks, window=window)
    causal = partial(PixelCNN, width=width, blocks=blocks, window=window, kernel=1)
    sizes = {"latent": latent, "channels": channels, "features": features}
    name = "variational_lossy_autoencoder"
    return _with_latents(data, name, causal, posterior=posterior, prior=prior, **sizes)


def _alone(
    data: Data | Description, recipe: str, causal: Any, **options: Any
) -> LatentVariableModel:
    """``p(x)``."""
    return LatentVariableModel(Joint({"x": _pixels(data, recipe, partial(causal, **options))}))


def _with_latents(
    data: Data | Description,
    recipe: str,
    causal: Any,
    *,
    latent: int,
    channels: tuple[int, ...],
    features: int,
    posterior: str,
    prior: str,
) -> LatentVariableModel:
    """``p(z) p(x | z) · q(z | x)``, each pixel given z and those before it."""
    at_least_one(latent=latent, channels=channels, features=features)
    x = image_of(data, recipe)
    row = _pixels(data, recipe, causal, ConvolutionalDecoder(latent, x.shape, channels))
    q = posterior_of(posterior, latent, ConvolutionalEncoder(x.shape, channels, features))
    p = Joint({"z": prior_of(prior, latent, aggregated(q, row, data)), "x | z": row})
    return LatentVariableModel(p, Joint({"z | x": q}))


def _pixels(
    data: Data | Description, recipe: str, causal: Any, network: nn.Module | None = None
) -> Autoregressive:
    """Pixels of the data's likelihood, each given those before it."""
    x = observed(data)
    if len(x.shape) != 3:
        raise RecipeError(
            f"{recipe} models images, (channels, height, width), but x of {data.name} is {x}; of "
            f"a table take autoregressive_table."
        )
    chosen = x.kind == "levels" and data.options.get("likelihood", "auto") == "auto"
    elements = likelihood_of(x, likelihood="discretized-logistic-mixture" if chosen else None)
    try:
        return Autoregressive(elements, network, causal=partial(causal, shape=x.shape))
    except ValueError as error:
        raise RecipeError(f"{recipe}: {error}") from error
