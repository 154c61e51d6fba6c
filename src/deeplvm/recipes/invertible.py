"""Invertible models: an exact density of images and tables by a flow, without latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from deeplvm.conditionals.dequantization import Dequantized, RoundedDown
from deeplvm.conditionals.flows import NICE, Flow, Glow, Logit, RealNVP
from deeplvm.conditionals.flows.multi_scale import most_scales
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.networks import MLP, ConvolutionalEncoder
from deeplvm.recipes.catalogue import RecipeError, loaded_with, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, of_one_likelihood

Noise = Literal["uniform", "variational"]
# Couplings that stretch can send a row that lies between the others far out: its density falls by
# hundreds of nats, and its gradient, hundreds of times the usual, rules Adam for tens of steps.
_CLIP = 5.0


@loaded_with(dequantize="auto")
@trained_with(learning_rate=1e-3)
@given_label
def nice(
    data: Data | Description,
    *,
    transforms: int = 4,
    hidden: tuple[int, ...] = (512, 512),
    alpha: float = 1e-3,
    noise: Noise = "uniform",
) -> LatentVariableModel:
    """Invertible model by shifts of half of the elements by the others, from logistic noise.

    NICE: Non-linear Independent Components Estimation (Dinh et al., 2014),
    https://arxiv.org/abs/1410.8516

    Args:
        data: Reals, whole numbers, or images of these; every element must be there.
        transforms: Number of couplings; the paper has 4.
        hidden: Units of the network of each; the paper has five layers of 1000.
        alpha: How far pixels stay from the ends of the logit that they go through.
        noise: What whole numbers are dequantized by: uniform noise, or a latent that is learned.
    """
    at_least_one(transforms=transforms, hidden=hidden)
    make = partial(
        NICE, transforms=transforms, hidden=hidden, mask="checkerboard", dense=True,
        noise="logistic",
    )  # fmt: skip
    return density(data, "nice", make, alpha, noise)


@loaded_with(dequantize="auto")
@trained_with(learning_rate=1e-3, clip=_CLIP)
@given_label
def real_nvp(
    data: Data | Description,
    *,
    transforms: int = 4,
    hidden: tuple[int, ...] = (32, 32),
    scales: int | None = None,
    alpha: float = 1e-3,
    noise: Noise = "uniform",
) -> LatentVariableModel:
    """Invertible model by affine couplings; of images at several scales, by convolutions.

    Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803

    Args:
        data: Reals, whole numbers, or images of these; every element must be there.
        transforms: Number of couplings; of images before each squeeze and again after it.
        hidden: Units, or channels, of the network of each.
        scales: Resolutions of an image; as many as its size allows up to three.
        alpha: How far pixels stay from the ends of the logit that they go through.
        noise: What whole numbers are dequantized by: uniform noise, or a latent that is learned.
    """
    at_least_one(transforms=transforms, hidden=hidden, scales=scales or 1)

    def make(shape: tuple[int, ...], **base: Any) -> Flow:
        # of a few columns normalisations make steps that go too far
        image = len(shape) == 3
        most = most_scales(shape, 3) if image else 1
        return RealNVP(
            shape, transforms=transforms, hidden=hidden, scales=scales or most, normalised=image,
            **base,
        )  # fmt: skip

    return density(data, "real_nvp", make, alpha, noise)


@loaded_with(dequantize="auto")
@trained_with(learning_rate=1e-3, clip=_CLIP)
@given_label
def glow(
    data: Data | Description,
    *,
    transforms: int = 8,
    hidden: tuple[int, ...] = (32, 32),
    scales: int | None = None,
    alpha: float = 1e-3,
    noise: Noise = "uniform",
) -> LatentVariableModel:
    """Invertible model by normalisations, learned matrices over channels, and couplings.

    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039

    Args:
        data: Reals, whole numbers, or images of these; every element must be there.
        transforms: Number of steps; of images at each scale. The paper has 32.
        hidden: Units, or channels, of the network of each; the paper has two layers of 512.
        scales: How often an image is squeezed; as often as its size allows up to three times.
        alpha: How far pixels stay from the ends of the logit that they go through.
        noise: What whole numbers are dequantized by: uniform noise, or a latent that is learned.
    """
    at_least_one(transforms=transforms, hidden=hidden, scales=scales or 1)

    def make(shape: tuple[int, ...], **base: Any) -> Flow:
        most = most_scales(shape, 4) - 1 if len(shape) == 3 else 0
        if (scales or 0) > (possible := most_scales(shape, 32) - 1 if len(shape) == 3 else 0):
            raise ValueError(f"it can be squeezed {possible} times, found scales={scales}.")
        if len(shape) == 3 and not (scales or most) and shape[0] == 1:
            raise ValueError(
                f"a grey image of {shape[1]} by {shape[2]} pixels has one channel and cannot be "
                f"squeezed, as that takes an even height and width; take real_nvp."
            )
        return Glow(shape, transforms=transforms, hidden=hidden, scales=scales or most, **base)

    return density(data, "glow", make, alpha, noise)


def density(
    data: Data | Description, recipe: str, make: Callable[..., Flow], alpha: float, noise: Noise
) -> LatentVariableModel:
    """``p(x)`` by a flow; or ``p(v) p(x | v) · q(v | x)``, where x is what v is rounded to.

    So it is of whole numbers to which no noise was added (``--dequantize uniform``), and of those
    whose noise is learned.

    Args:
        data: What is modelled.
        recipe: For messages.
        make: From an event shape, and ``units=``, to a flow.
        alpha: As of :class:`~deeplvm.conditionals.flows.Logit`.
        noise: Of whole numbers.

    Raises:
        RecipeError: If the data are not of numbers, some are missing, or the flow does not suit.
    """
    x = _numbers(data, recipe)
    if noise == "variational" and not (x.is_whole or (x.dequantized and x.divisor == 1)):
        raise RecipeError(
            f"noise='variational' is noise of whole numbers, but those of {data.name} are "
            f"{'divided by the number of levels' if x.dequantized else 'not whole'}; leave it out."
        )
    units = (x.mean + 0.5, (x.std.square() + 1 / 12).sqrt()) if x.is_whole else (x.mean, x.std)
    top = 1.0 if x.kind == "unit" else x.levels
    try:
        own = units if top is None else Logit(x.shape, 0.0, float(top), alpha=alpha)
        flow = make(x.shape, units=own)
    except ValueError as error:
        raise RecipeError(f"{recipe} does not suit {x}: {error}") from error
    if noise == "uniform" and not x.is_whole:
        return LatentVariableModel(Joint({"x": flow}))
    inner, noisy = None, x.dequantized
    if noise == "variational":
        seen = ConvolutionalEncoder(x.shape, (16, 32), 64) if x.is_image else MLP(x.shape, 64)
        inner = RealNVP(x.shape, seen, transforms=2, hidden=(32,), noise="logistic")
    p = Joint({"v": flow, "x | v": RoundedDown(x.shape, x.levels, noisy=noisy)})
    q = Joint({"v | x": Dequantized(x.shape, inner, units=units, noisy=noisy)})
    return LatentVariableModel(p, q)


def _numbers(data: Data | Description, recipe: str) -> Variable:
    """What is modelled, if a density of it has a meaning."""
    x = of_one_likelihood(data, "gaussian")
    asked = data.options.get("likelihood", "auto")
    if asked not in ("auto", "gaussian"):
        raise RecipeError(f"{recipe} is a likelihood itself; leave out --likelihood {asked}.")
    if x.kind == "binary":
        raise RecipeError(
            f"{recipe} is a density of continuous values, and x of {data.name} is 0 and 1, of "
            f"which a density can grow without bound; "
            + ("leave out --binarize, " if data.options.get("binarize") else "")
            + "or take the recipe vae."
        )
    if x.parts or x.kind not in ("levels", "counts", "real", "unit", "date"):
        raise RecipeError(
            f"{recipe} is of numbers of one kind, and {data.name} has {x}; take the recipe "
            f"autoregressive_table for columns of several kinds."
        )
    if x.missing:
        raise RecipeError(
            f"{recipe} needs every element of a row, and some of {data.name} are missing; fill "
            f"them in first (deeplvm impute), or take the recipe autoregressive_table."
        )
    if not (x.is_whole or x.dequantized) and (constant := int((x.std <= 0).sum())):
        raise RecipeError(
            f"{recipe} is a density, and {constant} elements of {data.name} are constant in the "
            f"training rows: it would grow without bound; leave them out, or take the recipe vae."
        )
    if math.prod(x.shape) < 2:
        raise RecipeError(f"{recipe} couples elements with each other, but {x} has one alone.")
    return x
