"""What a network has to be for elements to be drawn one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Size, Tensor

#: From what is seen and a place to the outputs, of which only those of the element at that place
#: are read. It is called for each place from 0 on, in order, with every element before it seen.
Step = Callable[[Tensor, int], Tensor]


class CausalNetwork(Protocol):
    r"""A module whose outputs for an element depend on the elements before it, in one pass.

    It serves some fixed orders, often one (that of the pixels, row after row): then nothing may be
    missing. Or it serves any order, another in each row too (:class:`AnyOrder`). It may also offer
    steps, which draw with what was computed before (:class:`Stepwise`): a draw is then one step an
    element, and not one pass an element.

    :class:`~deeplvm.conditionals.Autoregressive` makes one from the layout of its elements,
    ``causal(inputs, outputs, context=Size, **options)``; so ``causal`` is the class or a function:

    * ``inputs``: the element that each input belongs to. Without columns of several kinds they are
      in the order of the value's numbers: an image's ``seen`` is a flat ``(*event, features of a
      number)``.
    * ``outputs``: the element that each output belongs to. Without columns of several kinds they
      are a flat ``(parameters of an element, *elements)``, as of a convolution.
    * ``context``: the event shape of the features of the parents; ``()`` without parents.

    Attributes:
        orders: The place of each element in each order that it serves, whole numbers of shape
            ``(orders, elements)``, in a buffer; ``None`` for any order.
    """

    @property
    def orders(self) -> Tensor | None: ...

    def __call__(
        self, seen: Tensor, positions: Tensor, context: Tensor | None = None, /
    ) -> Tensor:
        """The outputs, shape ``(*particles, *lead, outputs)``.

        Args:
            seen: The value as its conditional shows it to networks, one vector a row, ``(*lead,
                inputs)``. Elements that are not drawn yet have any value, those that are missing
                zeros.
            positions: The place of each element in the order, ``(elements,)``: a row of
                ``orders``.
            context: Features of the parents, ``(*particles, *lead, *context)``; ``None`` without.
                The leading dimensions of both broadcast.
        """
        ...


class AnyOrder(CausalNetwork, Protocol):
    """A causal network that serves any order; ``orders`` is ``None``.

    ``positions`` may be ``(*lead, elements)`` too, the order of each row. What is missing comes
    last, and the network is told what is there.
    """

    def __call__(
        self,
        seen: Tensor,
        positions: Tensor,
        context: Tensor | None = None,
        known: Tensor | None = None,
        /,
    ) -> Tensor:
        """The outputs; ``known`` is 1 where an element is there, 0 where not, as positions."""
        ...


class Stepwise(CausalNetwork, Protocol):
    """A causal network that remembers, while it draws, what it has computed."""

    def steps(self, lead: Size, positions: Tensor, context: Tensor | None = None, /) -> Step:
        """What draws rows of leading shape ``lead``; it holds its memory, and serves one draw.

        The step gives ``(*lead, outputs)``, of which those of elements at other places are not
        read. It is asked of a network with fixed orders, so positions are ``(elements,)``.
        """
        ...


class OverSteps(Protocol):
    r"""A network of all steps of a sequence, ``"h | x[-1], z"`` of a :class:`Recurrent`.

    What it puts out at a step follows from its parents at that step and those before. So where
    all steps are known they are one pass, and a draw is one step after another, with a memory.
    """

    def __call__(self, *parents: Tensor) -> Tensor:
        """The outputs of all steps, ``(*lead, steps, features)``.

        Args:
            parents: Each ``(*lead, steps, features)``, or of one step where it is the same in all;
                leading dimensions broadcast.
        """
        ...

    def next_step(self, memory: dict[str, Tensor], /, *parents: Tensor) -> Tensor:
        """The outputs of the next step, ``(*lead, features)``.

        Args:
            memory: What it needs of the steps before, each ``(*lead, ...)``; empty at the first.
            parents: Of that step, each ``(*lead, features)``.
        """
        ...


#: Makes a causal network of a layout; see :class:`CausalNetwork`.
Causal = Callable[..., CausalNetwork]


def listed(outputs: Tensor, orders: int, owner: str) -> Tensor:
    """The places of the elements in each order, ``(orders, elements)``, the same in every model.

    Raises:
        ValueError: there is none.
    """
    if orders < 1:
        raise ValueError(f"{owner} expects orders of at least 1, found {orders}.")
    elements = int(outputs.max()) + 1
    shuffled = [
        torch.randperm(elements, generator=torch.Generator().manual_seed(index))
        for index in range(1, orders)
    ]
    return torch.stack([torch.arange(elements), *shuffled])
