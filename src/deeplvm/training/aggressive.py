"""Inference models that are not left behind: several steps of q for each of p."""

from __future__ import annotations

from deeplvm.training.phases import Objective, Phase
from deeplvm.training.wake_sleep import of_p, of_q


def aggressive(objective: Objective | None = None, *, repeats: int = 10) -> list[Phase]:
    r"""Phases that let q follow the posterior before p moves: a remedy for posterior collapse.

    On every minibatch q takes ``repeats`` steps, then p one. The paper draws a new minibatch for
    each step of q, goes on until the bound no longer rises, and returns to ordinary training when
    the mutual information of a held-out set, :func:`~deeplvm.objectives.divergence_parts`, no
    longer does. A step's phases are the same from the first to the last, so that is for the
    caller: ``fit`` some epochs with these phases, look, and ``fit`` on without them. It costs
    about ``repeats + 1`` ordinary steps a step.

    Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al.,
    2019), https://arxiv.org/abs/1901.05534

    Args:
        objective: Of both; ``fit``'s by default.
        repeats: Steps of q for each of p.

    Raises:
        ValueError: If ``repeats`` is below 1.

    >>> [phase.repeats for phase in aggressive(repeats=5)]
    [5, 1]
    """
    if repeats < 1:
        raise ValueError(
            f"repeats is the number of steps of q for each of p, 1 or more, not {repeats}."
        )
    return [Phase(objective, of_q, repeats=repeats), Phase(objective, of_p)]
