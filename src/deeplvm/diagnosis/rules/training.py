"""Faults that the curves of training show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deeplvm.diagnosis.remedies import networks, one_of, stopping, untried
from deeplvm.diagnosis.verdict import Verdict
from deeplvm.evaluation.examination import CannotMeasure, Examination

_EPOCHS = 8  # with fewer a curve says nothing
_RISE = 0.1  # nats; what is left to gain below that is not worth another run


def still_rising(seen: Examination) -> Verdict | None:
    """The held-out bound was rising when training ended."""
    values, bound = held_out_curve(seen.metrics)
    if len(values) < _EPOCHS:
        raise CannotMeasure(f"{len(values)} epochs of a held-out bound are too few for a curve.")
    quarter = max(3, len(values) // 4)
    late = values[-quarter:]
    noise = np.diff(values[-2 * quarter :]).std() / math.sqrt(quarter)
    rise = float(np.polyfit(np.arange(quarter), late, 1)[0]) * (quarter - 1)
    best = int(np.argmax(values)) + 1
    if not (rise > max(_RISE, 4 * noise) and best > len(values) - max(1, quarter // 3)):
        return None
    return Verdict(
        "training ended early",
        f"In the last {quarter} of {len(values)} epochs the held-out {bound} rose by "
        f"{rise:.2f} nats a row and had not settled.",
        f"Go on with: deeplvm resume RUN --epochs {2 * len(values)}",
        {"rise": rise, "epochs": len(values), "last": quarter},
        rise,
        spoils=True,
    )


def unstable(seen: Examination) -> Verdict | None:
    """The bound fell from a height, or stopped being a number."""
    values, bound = curve(seen.metrics, "train")
    if len(values) < _EPOCHS:
        raise CannotMeasure(f"{len(values)} epochs are too few for a curve.")
    broken = int((~np.isfinite(values)).sum())
    finite = values[np.isfinite(values)]
    late = finite[len(finite) // 4 :]
    steps = np.diff(late)
    # what one epoch usually changes, without the trend of a curve that still rises
    usual = float(np.median(np.abs(steps - np.median(steps)))) if len(steps) else 0.0
    fall = float(-steps.min()) if len(steps) else 0.0
    if not broken and not (fall > 1.0 and fall > 20 * max(usual, 0.01)):
        return None
    how = (
        f"In {broken} of {len(values)} epochs the {bound} of training rows was not finite."
        if broken
        else f"The {bound} of training rows fell by {fall:.1f} nats in one epoch, where epochs "
        f"otherwise differ by {usual:.2f}."
    )
    rate = float(seen.settings.get("learning_rate", 1e-3))
    return Verdict(
        "unstable training",
        how,
        one_of([f"--learning-rate {rate / 3:.1g}", *untried(seen, "--clip 10", "--skip 1000")])
        + " Clipping shortens steps whose gradient is far too large, skipping leaves them out.",
        {"fall": fall, "usual": usual, "not_finite": broken},
        spoils=True,
    )


def over_fitting(seen: Examination) -> Verdict | str | None:
    """Training rows are far more likely than held-out ones from the same source."""
    train, test = seen.estimate("train"), seen.estimate(seen.unseen)
    gap = train.mean - test.mean
    error = math.hypot(train.stderr, test.stderr)
    # heavy weights hide likelihood in both splits; what is compared is the same estimate
    least = max(0.5, 0.02 * abs(test.mean))
    if not (gap > 4 * error and gap > least):
        return f"a gap of {max(least, 4 * error):.2f} nats would have been seen"
    values, _ = held_out_curve(seen.metrics)
    fallen = len(values) >= _EPOCHS and int(np.argmax(values)) < 0.7 * len(values)
    stop = stopping(seen) if fallen else []
    decay = untried(seen, "--weight-decay 1e-4 --optimizer adamw")
    return Verdict(
        "over-fitting",
        f"Training rows have {gap:.2f} ± {error:.2f} nats more than {seen.unseen} rows, which are "
        f"from the same source: the model has learned rows by heart.",
        one_of([*networks(seen, 0.5), *decay, *stop, "more rows"]),
        {"gap": gap, "stderr": error},
        gap,
    )


def held_out_curve(metrics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, str]:
    """The held-out bound by epoch, and its name: of those that can be compared, if any can."""
    comparable = [record for record in metrics if record.get("comparable", True)]
    return curve(comparable or metrics, "valid")


def curve(metrics: Sequence[Mapping[str, Any]], split: str) -> tuple[np.ndarray, str]:
    """A bound by epoch, NaN where it was not a number, and its name."""
    records = [record[split] for record in metrics if record.get(split)]
    if not records:
        return np.array([]), "bound"
    name = "elbo" if "elbo" in records[-1] else next(iter(records[-1]))
    values = [record.get(name) for record in records]
    return np.array([math.nan if v is None else float(v) for v in values]), name
