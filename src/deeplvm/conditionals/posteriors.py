"""Posteriors by name, as recipes and ``--posterior`` take them: ``"iaf(transforms=4)"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from deeplvm.conditionals import (
    FullCovarianceGaussian,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    flows,
)
from deeplvm.registry import call_of


def convex_linear_iaf(
    shape: int | Sequence[int],
    network: nn.Module | None = None,
    *,
    components: int = 4,
    **options: Any,
) -> flows.Flow:
    """Linear inverse autoregressive flow of several triangular matrices, convexly combined.

    Improving Variational Auto-Encoders using Convex Combination Linear Inverse Autoregressive
    Flow (Tomczak & Welling, 2017), https://arxiv.org/abs/1706.02326

    Args:
        shape: Dimensions of z.
        network: Maps the parents to features.
        components: How many matrices.
        options: As of ``linear_iaf``.
    """
    return flows.LinearInverseAutoregressiveFlow(shape, network, components=components, **options)


_KNOWN: dict[str, Callable[..., nn.Module]] = {
    "gaussian": Gaussian,
    "full_covariance": FullCovarianceGaussian,
    "low_rank": LowRankGaussian,
    "mixture": GaussianMixture,
    "planar": flows.PlanarFlow,
    "radial": flows.RadialFlow,
    "sylvester": flows.SylvesterFlow,
    "householder": flows.HouseholderFlow,
    "linear_iaf": flows.LinearInverseAutoregressiveFlow,
    "convex_linear_iaf": convex_linear_iaf,
    "nice": flows.NICE,
    "real_nvp": flows.RealNVP,
    "maf": flows.MaskedAutoregressiveFlow,
    "iaf": flows.InverseAutoregressiveFlow,
    "naf": flows.NeuralAutoregressiveFlow,
    "nsf": flows.NeuralSplineFlow,
}


def known() -> dict[str, Callable[..., nn.Module]]:
    """The names that there are, each of a function ``(shape, network, *, options)``."""
    return dict(_KNOWN)


def posterior_of(
    choice: str | Callable[..., nn.Module],
    shape: int | Sequence[int],
    network: nn.Module | None = None,
) -> nn.Module:
    """A conditional from its name, or a call written as text, for an event and a network.

    Every one of them is as well a prior, without a network, and most are likelihoods.

    Args:
        choice: ``"planar"``, ``"iaf(transforms=4, hidden=(320, 320))"``, or any function of a
            shape and a network.
        shape: The event shape, such as the dimensions of z.
        network: Maps the parents to features.

    Raises:
        ValueError: There is none of that name, or it has no such option.

    >>> from deeplvm.networks import MLP
    >>> len(posterior_of("planar(transforms=4)", 2, MLP(6, 8)).transforms)
    4
    >>> posterior_of("planer", 2)
    Traceback (most recent call last):
    deeplvm.registry.SpellingError: 'planer' is not a posterior; there are gaussian, ...
    """
    if not isinstance(choice, str):
        return choice(shape, network)
    return call_of(choice, "posterior")(shape, network)
