"""The KL weight of a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deeplvm.model import LatentVariableModel
from deeplvm.training.checks import dtype_of, non_negative
from deeplvm.training.schedules import Schedule


class KLWeight:
    """The weight of the latents' terms: a plain number where it never changes, else a tensor.

    The tensor is filled before each step, so that a compiled step need not be compiled again.
    """

    def __init__(
        self,
        weight: float | Callable[[float], float],
        model: LatentVariableModel,
        device: torch.device,
    ) -> None:
        self.schedule = weight if callable(weight) else None
        self.value: Tensor | float
        if self.schedule is None:
            self.value = non_negative("kl_weight", float(weight))  # type: ignore[arg-type]
            self.text = repr(self.value)
        else:
            self.value = torch.ones((), dtype=dtype_of(model), device=device)
            self.text = repr(weight) if isinstance(weight, Schedule) else "a function"

    def at(self, epoch: float) -> None:
        """Set it for a step at this progress."""
        if self.schedule is not None:
            number = non_negative("kl_weight", self.schedule(epoch))
            self.value.fill_(number)  # type: ignore[union-attr]
