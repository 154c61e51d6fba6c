"""Glow: normalise, multiply channels by a matrix, couple them; again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from deeplvm.conditionals.flows.activation_normalisation import ActivationNormalisation
from deeplvm.conditionals.flows.coupling import Coupling, coupling_mask
from deeplvm.conditionals.flows.flow import Base, Flow, Transform, context_width
from deeplvm.conditionals.flows.multi_scale import MultiScale
from deeplvm.conditionals.flows.permutation import InvertibleLinear
from deeplvm.conditionals.heads import Network, Shape, at_least, event_shape_of
from deeplvm.registry import Count


class Glow(Flow):
    r"""A density by steps of normalisation, an invertible 1x1 convolution, and a coupling.

    From data to noise, each step normalises activations, multiplies the channels of every pixel by
    one matrix, and shifts and stretches half of the channels by the others. Of maps this is done
    after each squeeze, see :class:`~deeplvm.conditionals.flows.multi_scale.MultiScale`; of a
    vector its elements are the channels.

    Args:
        transforms: Number of steps, of maps at each scale; the paper has 32 at each of three.
        scales: Resolutions of a map, each after a squeeze; 0 for none, as of a vector.

    Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039

    Examples:
        >>> import torch
        >>> flow = Glow((1, 8, 8), scales=2, transforms=2, hidden=(8,))
        >>> flow().log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 4,
        hidden: Sequence[int] = (64, 64),
        scales: int = 0,
        context: int | None = None,
        **base: Unpack[Base],
    ) -> None:
        sizes = event_shape_of(shape, type(self).__name__)
        width = context_width(network, context)
        many = at_least(transforms, 1, type(self).__name__, "transforms")

        def steps(shape: tuple[int, ...]) -> list[Transform]:
            mask = coupling_mask(shape, "half" if len(shape) == 1 else "channel")
            made: list[Transform] = []
            for _ in range(many):
                made.append(Coupling(mask, width, hidden))
                made += [InvertibleLinear(shape), ActivationNormalisation(shape)]
            return made

        # after the last squeeze nothing is left to be fine
        own = [MultiScale(sizes, scales + 1, lambda _: (), steps)] if scales else steps(sizes)
        super().__init__(sizes, network, own, context=width, **base)
