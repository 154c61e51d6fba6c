"""Priors by name, as recipes and ``--prior`` take them: ``"vamp(components=500)"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from torch import nn

from deeplvm.conditionals import (
    Autoregressive,
    Bernoulli,
    Gaussian,
    GaussianMixture,
    MixtureDensity,
    Resampled,
    RestrictedBoltzmannMachine,
    StandardNormal,
    posteriors,
)
from deeplvm.conditionals.vamp import Aggregated, VampPrior
from deeplvm.registry import Bounds, Count, Size, call_of

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


def resampled(
    shape: Shape,
    _: object = None,
    *,
    hidden: tuple[Size, ...] = (100, 100),
    truncation: Annotated[int, Bounds(1, 10_000)] = 100,
    samples: Annotated[int, Bounds(2, 1_000_000)] = 1024,
) -> Resampled:
    """A standard normal, of whose draws a network accepts some.

    Args:
        shape: Of z.
        hidden: Widths of the network's hidden layers.
        truncation: The draw that is taken if none before it was accepted.
        samples: Draws that estimate the share accepted, in a step of training.
    """
    return Resampled(shape, hidden=hidden, truncation=truncation, samples=samples)


def bernoulli(shape: Shape, _: object = None) -> Bernoulli:
    """Independent binary units, whose probabilities are learned."""
    return Bernoulli(shape)


def boltzmann(
    shape: Shape, _: object = None, *, hidden: Annotated[int, Bounds(1, 65_536)] = 200
) -> RestrictedBoltzmannMachine:
    """A restricted Boltzmann machine of binary units.

    Args:
        shape: Of z.
        hidden: How many hidden units.
    """
    return RestrictedBoltzmannMachine(shape, hidden=hidden)


def autoregressive(
    shape: Shape,
    elements: nn.Module | None = None,
    *,
    width: Annotated[int, Bounds(1, 65_536)] = 128,
    blocks: Count = 1,
    components: Annotated[int, Bounds(1, 1_000)] = 1,
) -> Autoregressive:
    """Each element given those before it; scored in one pass, drawn in one each.

    Args:
        shape: Of z.
        elements: A conditional of independent elements without a network; Gaussian by default,
            or of several ``components`` a mixture of Gaussians.
        width: Units of each layer of the masked network.
        blocks: Its residual blocks, of two layers each.
        components: Gaussians of each element, where it is a real number.

    Raises:
        ValueError: Several components are asked for of units that are no real numbers.
    """
    if elements is None:
        mixed = components > 1
        elements = MixtureDensity(shape, components=components) if mixed else Gaussian(shape)
    elif components > 1:
        raise ValueError(
            "components of an autoregressive prior are of real numbers; leave it out."
        )
    return Autoregressive(elements, width=width, blocks=blocks, any_order=False)


_OWN: dict[str, Callable[..., nn.Module]] = {
    "gaussian": gaussian,
    "learned": learned,
    "mixture": mixture,
    "vamp": vamp,
    "autoregressive": autoregressive,
    "resampled": resampled,
    "bernoulli": bernoulli,
    "boltzmann": boltzmann,
}
_BINARY = ("bernoulli", "boltzmann", "autoregressive")


def known() -> dict[str, Callable[..., nn.Module]]:
    """The names that there are, each of a function ``(shape, of, *, options)``."""
    return _OWN | {name: each for name, each in posteriors.known().items() if name not in _OWN}


def prior_of(
    choice: str | Callable[..., nn.Module],
    shape: Shape,
    of: Aggregated | None = None,
    *,
    binary: bool = False,
) -> nn.Module:
    """A conditional without parents from its name, or a call written as text.

    Args:
        choice: ``"learned"``, ``"vamp(components=500)"``, any family of
            :mod:`~deeplvm.conditionals.posteriors`, or any function of a shape.
        shape: The event shape, such as the dimensions of z.
        of: The posterior of the same latent, for priors that are made of it.
        binary: Whether z are binary units, and not real numbers.

    Raises:
        ValueError: There is none of that name, it has no such option, or it is of other values.

    >>> prior_of("mixture(components=3)", 2).components
    3
    >>> prior_of("mixtur", 2)
    Traceback (most recent call last):
    deeplvm.registry.SpellingError: 'mixtur' is not a prior; there are gaussian, learned, ...
    """
    if not isinstance(choice, str):
        return choice(shape)
    call = call_of(choice, "prior")
    name = next(name for name, each in known().items() if each is call.function)
    real = [each for each in known() if each not in ("bernoulli", "boltzmann")]
    fitting = _BINARY if binary else real
    if name not in fitting:
        others, kinds = ", ".join(fitting), ("real numbers", "binary units")
        raise ValueError(
            f"the prior {name} is of {kinds[not binary]}, and these latents are {kinds[binary]}; "
            f"take one of {others}."
        )
    if call.function is autoregressive and binary:
        return call(shape, Bernoulli(shape))
    return call(shape, of if call.function is vamp else None)
