"""Inference models that are not left behind: several steps of q for each of p."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.core.model import LatentVariableModel
from deeplvm.learning.wake_sleep import of_p, of_q
from deeplvm.registry import Count
from deeplvm.training.phases import Objective, Phase

_ROWS = 1_000  # N² densities: a second or less on a CPU


def aggressive(
    objective: Objective | None = None,
    *,
    repeats: Count = 10,
    stop: bool = True,
    rows: int = _ROWS,
) -> list[Phase]:
    r"""Phases that let q follow the posterior before p moves: a remedy for posterior collapse.

    On every minibatch q takes ``repeats`` steps, then p one, which costs about ``repeats + 1``
    ordinary steps. After the first epoch in which the mutual information :math:`I_q(x; z)` of held
    out rows does not climb, training goes on in the ordinary way, with an optimiser that starts
    afresh. The paper draws a new minibatch for each step of q, and goes on until the bound no
    longer rises.

    Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al.,
    2019), https://arxiv.org/abs/1901.05534

    Args:
        objective: Of all; ``fit``'s by default.
        repeats: Steps of q for each of p.
        stop: Whether to return to ordinary training; else the two phases go on to the end.
        rows: How many held-out rows are looked at, from the first on (without held-out rows, of
            those trained on).

    Raises:
        ValueError: If ``repeats`` is below 1, or ``rows`` below 2.

    >>> [phase.repeats for phase in aggressive(repeats=5)]
    [5, 1, 1]
    >>> [phase.repeats for phase in aggressive(repeats=5, stop=False)]
    [5, 1]
    """
    if repeats < 1:
        raise ValueError(
            f"repeats is the number of steps of q for each of p, 1 or more, not {repeats}."
        )
    if not stop:
        return [Phase(objective, of_q, repeats=repeats), Phase(objective, of_p)]
    rising = Rising(rows)
    return [
        Phase(objective, of_q, repeats=repeats, when=rising),
        Phase(objective, of_p, when=rising),
        Phase(objective, when=lambda: not rising()),
    ]


class Rising(nn.Module):
    r"""Whether :math:`I_q(x; z)` of the same rows has climbed in every epoch so far.

    It is the ``aggregate`` of :func:`~deeplvm.evaluation.latents.mutual_information`, of all
    latents together, with the same random numbers each time. Once it did not climb, it is not
    looked at again.

    The estimate is at most the logarithm of the number of rows: of a q that tells all of them
    apart, it stops climbing there.

    Args:
        rows: How many, 2 or more.
    """

    information: Tensor
    climbing: Tensor

    def __init__(self, rows: int = _ROWS) -> None:
        super().__init__()
        if rows < 2:
            raise ValueError(
                f"rows is the number of rows that are looked at, 2 or more, not {rows}."
            )
        self.rows = rows
        self.register_buffer("information", torch.tensor(-math.inf))
        self.register_buffer("climbing", torch.tensor(True))  # noqa: FBT003

    def forward(self) -> bool:
        """Whether it has."""
        return bool(self.climbing)

    def judge(self, model: LatentVariableModel, take: Callable[[int], dict[str, Any]]) -> str:
        """Look at the model; what there is to tell.

        Raises:
            ValueError: If a model has no such information: without latents, or with one that all
                rows share, say.
        """
        if not self():
            return ""
        # deeplvm.evaluation needs much that training does not
        from deeplvm.evaluation.latents.mutual_information import mutual_information

        try:
            *_, found = mutual_information(model, take(self.rows)).values()
        except ValueError as error:
            raise ValueError(
                f"aggressive() stops by the mutual information of a row and its latents, and here "
                f"there is none to see: {error} aggressive(stop=False) does without."
            ) from error
        before, now = float(self.information), found["aggregate"].value
        self.information.fill_(now)
        self.climbing.fill_(self.information.item() > before)
        if self():
            return ""
        return (
            f"I(x; z) is {now:.3f} nats after {before:.3f}, and climbs no more: q and p move "
            f"together from now on"
        )
