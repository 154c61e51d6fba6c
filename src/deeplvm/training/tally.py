"""The objective of an epoch's steps, and the look whether it is finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deeplvm.evidence import Evidence
from deeplvm.training.batches import Batches
from deeplvm.training.failures import NonFiniteError, explained, non_finite
from deeplvm.training.phases import Step
from deeplvm.training.state import State
from deeplvm.training.together import Part

_MOST_WAITING = 10_000


class Tally:
    """Takes the steps of an epoch, and keeps their mean objective in the state.

    A GPU is not waited for at every step: there the look whether values are finite comes at the
    end of an epoch, before a checkpoint, or after ten thousand steps.

    Args:
        state: Its total and number of rows grow.
        batches: Where rows are from.
    """

    def __init__(self, state: State, batches: Batches) -> None:
        self.state, self.batches = state, batches
        self.last: Tensor | float = 0.0  # the latest step's mean objective
        self.waiting: list[tuple[Tensor, Part, Step]] = []

    def add(self, step: Step, batch: dict[str, Any], part: Part, weight: Tensor | float) -> None:
        """Take a step, and take in its mean objective.

        Raises:
            NonFiniteError: If that is not finite.
        """
        try:
            value = step(batch, part, weight)
        except ValueError as error:
            found = self._found(batch, part.index)
            cause = explained(error, lambda: step.mean(batch, 1.0)[1], **found)
            if cause is error:
                raise
            raise cause from error
        self.last = value
        if isinstance(value, Tensor):
            self.waiting.append((value, part, step))
            if len(self.waiting) == _MOST_WAITING:
                self.look()
            return
        if not math.isfinite(value):
            raise self._error(part.index, batch, step)
        self.state.total += value * part.batch
        self.state.rows += part.batch

    def look(self) -> None:
        """Wait for the values of a GPU."""
        for value, part, step in self.waiting:
            number = float(value)
            if not math.isfinite(number):
                raise self._error(part.index, self.batches("train", part.index), step)
            self.state.total += number * part.batch
            self.state.rows += part.batch
        self.waiting.clear()

    def mean(self) -> float:
        """Mean per row; with several phases, over their objectives too."""
        self.look()
        return self.state.total / self.state.rows

    def _error(self, index: Tensor, batch: dict[str, Any], step: Step) -> NonFiniteError:
        evidence = step.evidence
        if evidence is None:  # a compiled step keeps no ledger: draw one again
            with torch.no_grad():
                evidence = step.mean(batch, 1.0)[1]
        evidence = evidence if isinstance(evidence, Evidence) else None
        return non_finite(evidence=evidence, **self._found(batch, index))

    def _found(self, batch: dict[str, Any], index: Tensor) -> dict[str, Any]:
        return {
            "model": self.state.model,
            "batch": batch,
            "index": index,
            "missing": self.batches.missing,
            "epoch": self.state.epoch + 1,
            "split": "train",
        }
