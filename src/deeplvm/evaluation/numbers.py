"""Numbers with their errors, as tables and files hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def stderr_of(values: Tensor) -> float:
    """Standard error of the mean over rows; NaN for one row."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def finite(value: float) -> float | None:
    """A number that JSON can hold, or ``None``."""
    return value if math.isfinite(value) else None


def number(value: float, stderr: float, digits: Sequence[int] = (2, 6)) -> str:
    """``-91.24 ± 0.35``: as many decimals as two figures of the error need."""
    if not math.isfinite(stderr) or stderr <= 0:
        return f"{value:.4f}"
    decimals = min(max(1 - math.floor(math.log10(stderr)), digits[0]), digits[1])
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def mean_of(values: Tensor) -> dict[str, float | None]:
    """``value`` and ``stderr`` of the mean over rows, as JSON can hold them."""
    return {"value": finite(float(values.mean())), "stderr": finite(stderr_of(values))}


def shown_mean(values: Tensor) -> str:
    """The mean over rows with its standard error."""
    return number(float(values.mean()), stderr_of(values))
