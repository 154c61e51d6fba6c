"""Layers that start from the statistics of data: once, before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class StartsFromData(Protocol):
    """A layer whose first parameters are set by what arrives at it.

    While it is ``watching``, a pass through it sets them by the values that it meets, and goes on
    with what it then makes of these.

    Attributes:
        watching: Whether the next pass sets them.
        started: Whether they are no longer where they were made: such a layer stays as it is.
    """

    watching: bool

    @property
    def started(self) -> bool:
        """Whether it has been set, or trained."""
        ...


def waiting(*modules: nn.Module) -> list[StartsFromData]:
    """The layers in some modules that have not started."""
    found = {id(each): each for module in modules for each in module.modules()}
    return [e for e in found.values() if isinstance(e, StartsFromData) and not e.started]


@contextmanager
def starting(*modules: nn.Module) -> Iterator[None]:
    """A pass through the modules in here sets what waits in them; no gradient.

    The same numbers as long as rows, parameters and noise are: to be done on every process alike.
    """
    layers = waiting(*modules)
    for each in layers:
        each.watching = True
    try:
        with torch.no_grad():
            yield
    finally:
        for each in layers:
            each.watching = False
