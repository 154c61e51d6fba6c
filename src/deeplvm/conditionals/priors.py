"""Priors by name, as recipes and ``--prior`` take them: ``"vamp(components=500)"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from torch import nn

from deeplvm.conditionals import Gaussian, GaussianMixture, StandardNormal, posteriors
from deeplvm.conditionals.autoregressive import Autoregressive
from deeplvm.conditionals.vamp import Aggregated, VampPrior
from deeplvm.registry import Bounds, Count, call_of

Shape = int | Sequence[int]


def gaussian(shape: Shape, _: object = None) -> StandardNormal:
    """The standard normal."""
    return StandardNormal(shape)


def learned(shape: Shape, _: object = None) -> Gaussian:
    """A Gaussian of independent elements, whose means and scales are learned."""
    return Gaussian(shape)


def mixture(
    shape: Shape, _: object = None, *, components: Annotated[int, Bounds(1, 100_000)] = 20
) -> GaussianMixture:
    """A mixture of Gaussians of independent elements.

    Args:
        shape: Of z.
        components: How many.
    """
    return GaussianMixture(shape, components=components)


def vamp(
    shape: Shape,
    of: Aggregated | None = None,
    *,
    components: Annotated[int, Bounds(1, 1_000_000)] = 500,
    inputs: Literal["learned", "data"] = "learned",
) -> VampPrior:
    """The mean of q(z | u) over pseudo-inputs u; see :class:`~deeplvm.conditionals.VampPrior`.

    Args:
        shape: Of z.
        of: The posterior, and what it reads.
        components: How many pseudo-inputs.
        inputs: Whether they are learned, or rows of the data, which the model then keeps.

    Raises:
        ValueError: There is no q(z | x) that reads the data alone.
    """
    if of is None:
        raise ValueError(
            "the prior vamp is a mean of q(z | u) over pseudo-inputs u, and this model has no "
            "q(z | x) of a row alone; take another, such as mixture or maf."
        )
    if tuple(of.posterior.event_shape) != ((shape,) if isinstance(shape, int) else tuple(shape)):  # type: ignore[arg-type]
        raise ValueError(f"the prior vamp is of the posterior's shape, found {shape}.")
    return VampPrior(of, components=components, learned=inputs == "learned")


def autoregressive(
    shape: Shape,
    _: object = None,
    *,
    width: Annotated[int, Bounds(1, 65_536)] = 128,
    blocks: Count = 1,
) -> Autoregressive:
    """Each element a Gaussian given those before it; scored in one pass, drawn in one each.

    Args:
        shape: Of z.
        width: Units of each layer of the masked network.
        blocks: Its residual blocks, of two layers each.
    """
    return Autoregressive(Gaussian(shape), width=width, blocks=blocks, any_order=False)


_OWN: dict[str, Callable[..., nn.Module]] = {
    "gaussian": gaussian,
    "learned": learned,
    "mixture": mixture,
    "vamp": vamp,
    "autoregressive": autoregressive,
}


def known() -> dict[str, Callable[..., nn.Module]]:
    """The names that there are, each of a function ``(shape, of, *, options)``."""
    return _OWN | {name: each for name, each in posteriors.known().items() if name not in _OWN}


def prior_of(
    choice: str | Callable[..., nn.Module], shape: Shape, of: Aggregated | None = None
) -> nn.Module:
    """A conditional without parents from its name, or a call written as text.

    Args:
        choice: ``"learned"``, ``"vamp(components=500)"``, any family of
            :mod:`~deeplvm.conditionals.posteriors`, or any function of a shape.
        shape: The event shape, such as the dimensions of z.
        of: The posterior of the same latent, for priors that are made of it.

    Raises:
        ValueError: There is none of that name, or it has no such option.

    >>> prior_of("mixture(components=3)", 2).components
    3
    >>> prior_of("mixtur", 2)
    Traceback (most recent call last):
    deeplvm.registry.SpellingError: 'mixtur' is not a prior; there are gaussian, learned, ...
    """
    if not isinstance(choice, str):
        return choice(shape)
    call = call_of(choice, "prior")
    return call(shape, of if call.function is vamp else None)
