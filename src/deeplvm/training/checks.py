"""Options that make no sense are refused before anything is done."""

from __future__ import annotations

import math

import torch


def check(**numbers: float | None) -> None:
    """Counts are positive integers, the rest positive numbers."""
    real = ("learning_rate", "clip", "skip", "checkpoint_seconds", "compile_budget")
    for name, number in numbers.items():
        if number is None:
            continue
        if name in real:
            if not (isinstance(number, int | float) and 0 < number < math.inf):
                raise ValueError(f"{name} must be a positive number, not {number!r}.")
        elif isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, not {number!r}.")


def non_negative(name: str, number: float) -> float:
    """The number, if it is one and not below zero."""
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a number of at least 0, not {number}.")
    return float(number)


def bfloat16_for(precision: str, device: torch.device) -> bool:
    """Whether matrix products are computed in bfloat16."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(
            f"precision is 'auto', 'float32' or 'bfloat16', not {precision!r}; log-densities are "
            "never less than float32."
        )
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"
