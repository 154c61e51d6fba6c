"""Reliability: whether what has probability p happens in that share of the cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deeplvm.evaluation.numbers import finite, stderr_of
from deeplvm.evaluation.samples.predictive_checks import holm_steps

_BINS = 10
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Reliability:
    r"""Predictive probabilities of one binary column, or of one with categories.

    Attributes:
        title: The column.
        probability: Binary: of a one. Categories: of the most probable one. Shape ``(hidden,)``.
        outcome: Whether it came, 0 or 1, shape ``(hidden,)``.
        brier: Mean of :math:`(p - y)^2`; of categories, of its sum over them. The noise of the
            draws is in it, at most one over four times the effective particles.
        brier_stderr: Its standard error.
        calibration_error: Expected calibration error, :math:`\sum_b n_b / n\, |\bar p_b -
            \bar y_b|` over ten bins of equal width.
        calibration_error_stderr: By the bootstrap.
        if_calibrated: What it would be on average if every probability were right: above zero.
        p_value: How often it would then be at least as large.
        adjusted: The same after Holm's steps over all columns.
    """

    title: str
    probability: Tensor
    outcome: Tensor
    brier: float
    brier_stderr: float
    calibration_error: float
    calibration_error_stderr: float
    if_calibrated: float
    p_value: float
    adjusted: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, without the probabilities."""
        return {
            "hidden": len(self.outcome),
            "brier": self.brier,
            "brier_stderr": finite(self.brier_stderr),
            "calibration_error": self.calibration_error,
            "calibration_error_stderr": self.calibration_error_stderr,
            "calibration_error_if_calibrated": self.if_calibrated,
            "p_value": self.p_value,
            "adjusted": self.adjusted,
        }

    def __str__(self) -> str:
        return (
            f"{self.title}: Brier score {self.brier:.4f} ± {self.brier_stderr:.4f}, calibration "
            f"error {self.calibration_error:.3f} ± {self.calibration_error_stderr:.3f}, "
            f"{self.if_calibrated:.3f} if calibrated (p = {self.adjusted:.2g})"
        )


def reliability(
    columns: Mapping[str, tuple[Tensor, Tensor]], seed: int
) -> tuple[Reliability, ...]:
    """How right the probabilities of every column are, the worst first.

    Args:
        columns: By title the probabilities, of a one, shape ``(hidden,)``, or of every category,
            shape ``(hidden, categories)``, and the values, shape ``(hidden,)``.
        seed: Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    each = [_of(title, *values, generator) for title, values in columns.items()]
    adjusted = holm_steps(np.array([one["p_value"] for one in each]))
    found = [Reliability(**one, adjusted=float(a)) for one, a in zip(each, adjusted, strict=True)]
    return tuple(sorted(found, key=lambda one: (one.adjusted, one.p_value)))


def _of(
    title: str, shares: Tensor, value: Tensor, generator: np.random.Generator
) -> dict[str, Any]:
    if shares.dim() > 1:
        levels = torch.arange(shares.shape[1])
        brier = (shares - (value[:, None] == levels).double()).square().sum(1)
        probability, best = shares.max(1)
        outcome = (best == value).double()
    else:
        probability, outcome = shares.clamp(0, 1), value
        brier = (probability - outcome).square()
    p, y = probability.numpy(), outcome.numpy()
    error = calibration_error(p, y)
    again = generator.integers(len(p), size=(_RESAMPLES, len(p)))
    bootstrap = [calibration_error(p[index], y[index]) for index in again]
    by_chance = generator.random((_RESAMPLES, len(p))) < p
    expected = np.array([calibration_error(p, drawn.astype(float)) for drawn in by_chance])
    return {
        "title": title,
        "probability": probability,
        "outcome": outcome,
        "brier": float(brier.mean()),
        "brier_stderr": stderr_of(brier),
        "calibration_error": error,
        "calibration_error_stderr": float(np.std(bootstrap)),
        "if_calibrated": float(expected.mean()),
        "p_value": float((1 + (expected >= error - 1e-12).sum()) / (_RESAMPLES + 1)),
    }


def calibration_error(probability: Any, outcome: Any) -> float:
    """Expected calibration error over ten bins of equal width.

    >>> calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([0.0, 1.0, 0.0, 1.0]))
    0.25
    """
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, probability - outcome, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(probability))
