"""Classification: how right the probabilities of labels are, those of q and those of p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.core.draws import Draw
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.predictive.calibration import reliability, reliability_bins
from deeplvm.inference.classes import class_probabilities
from deeplvm.inference.rows import at_random, taken
from deeplvm.results import Estimate, Record

_LEAST = 1e-12  # a probability of 0 costs no more than this


@dataclass(frozen=True)
class Classifier(Record):
    r"""How right probabilities of labels are. Lower is better.

    Attributes:
        error: Share of rows whose most probable label is wrong.
        log_loss: Mean of :math:`-\log p(y | x)` of the right one, nats.
        brier: Mean of :math:`\sum_c (p_c - [y = c])^2`.
        calibration_error: Of the probability of the most probable label, over ten bins.
        if_calibrated: What that would be on average if every probability were right.
        bins: The mean probability of the most probable label in each bin, the share of rows that
            have it, and their number; those of a reliability diagram.
    """

    error: Estimate
    log_loss: Estimate
    brier: Estimate
    calibration_error: Estimate
    if_calibrated: float
    bins: list[dict[str, float]]

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, seed: int = 0) -> Classifier:
        """That of probabilities ``(rows, classes)`` and the labels of the rows, ``(rows,)``.

        >>> sure = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> Classifier.of(sure, torch.tensor([0, 0, 1, 0])).error.value
        0.25
        """
        (one,) = reliability({"y": (probabilities.double(), labels.double())}, seed)
        right = probabilities.gather(1, labels[:, None].long()).squeeze(1)
        return cls(
            Estimate.of(1.0 - one.outcome),
            Estimate.of(-right.double().clamp(min=_LEAST).log()),
            one.brier,
            one.calibration_error,
            one.if_calibrated,
            reliability_bins(one.probability.numpy(), one.outcome.numpy()),
        )


@dataclass(frozen=True)
class Classification(Record):
    """Labels by the encoder, :math:`q(y | x)`, and by the model, :math:`p(y | x)`.

    Attributes:
        encoder: Of q.
        model: Of p, by importance weights.
        rows: Labelled rows that were looked at.
        particles: Draws of each.
    """

    encoder: Classifier
    model: Classifier
    rows: int
    particles: int


def classification(
    model: LatentVariableModel,
    data: NamedRows,
    *,
    rows: int = 2_000,
    particles: int = 50,
    label: str = "y",
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> Classification:
    """How right a model is on rows that have a label, and how sure it may be.

    Args:
        model: Left as it was.
        data: Rows, of which some have a label: ``data.test``, or named tensors.
        rows: How many of them at most, chosen at random.
        particles: Draws of each; see :func:`~deeplvm.inference.class_probabilities`.
        label: The label's name.
        draw: How other latents are drawn.
        seed: Same seed, same numbers.

    Raises:
        ValueError: If p does not score the label, or no row has one.
    """
    labels: Any = data[label][:]
    known = (~labels.isnan()).nonzero().flatten()
    if not len(known):
        raise ValueError(f"No row has a label {label!r}, so nothing tells how right labels are.")
    chosen = at_random(taken(data, known), rows, seed)
    found = class_probabilities(
        model, chosen, particles=particles, label=label, draw=draw, seed=seed
    )
    truth = torch.as_tensor(chosen[label][:]).cpu().long()
    encoder, model_ = (Classifier.of(one, truth, seed) for one in (found.encoder, found.model))
    return Classification(encoder, model_, len(truth), particles)
