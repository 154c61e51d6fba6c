"""Companions: modules that move or learn beside a model and are no part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.training.checkpoints import CheckpointError, restore


class Companions(nn.Module):
    """The baselines of estimators, the multipliers of objectives: trained, moved and saved along.

    A companion that has a method ``at(epoch)`` is told the progress before each step. One with
    ``judge(model, take)`` is shown the model after each epoch, with ``take(n)`` the first n rows
    that are held out (where none are, of those measured); what it returns is told to the user.

    Args:
        candidates: Objectives, ways of drawing, conditions of phases; those that are modules are
            companions.
        device: Where they go.
        dtype: Of their numbers.
    """

    def __init__(
        self, candidates: Iterable[Any], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        found = [each for each in candidates if isinstance(each, nn.Module)]
        self.members = nn.ModuleList(dict.fromkeys(found)).to(device=device, dtype=dtype)
        self.told = [each for each in self.members.modules() if hasattr(each, "at")]
        self.judges = [each for each in self.members.modules() if hasattr(each, "judge")]

    def __len__(self) -> int:
        return len(self.members)

    def at(self, epoch: float) -> None:
        """Tell those that anneal the progress of training."""
        for each in self.told:
            each.at(epoch)  # type: ignore[operator]

    def judge(self, model: nn.Module, take: Callable[[int], dict[str, Any]]) -> list[str]:
        """Let those look that do; what they say, if anything."""
        said = [each.judge(model, take) for each in self.judges]  # type: ignore[operator]
        return [text for text in said if text]

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def load(self, state: Any, folder: str) -> None:
        """The inverse of :meth:`state`.

        Raises:
            CheckpointError: If the checkpoint is of other companions.
        """
        try:
            restore(self, state)
        except CheckpointError as error:
            raise CheckpointError(
                f"The checkpoint in {folder} is of a run with another objective or estimator. "
                f"{error}"
            ) from error


def parameters_of(*candidates: Any) -> list[nn.Parameter]:
    """The parameters that those of them learn which are modules."""
    modules = [each for each in candidates if isinstance(each, nn.Module)]
    return [p for module in modules for p in module.parameters() if p.requires_grad]
