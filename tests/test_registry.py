"""Options from a file are of the right type, and a model fits into the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

from deeplvm import files as limits
from deeplvm.registry import amiss, why
from deeplvm.runs.run import within_memory


def takes(
    rate: float,
    sizes: tuple[int, ...] = (),
    *,
    names: Sequence[str] | str = (),
    kind: Literal["a", "b"] | None = None,
    quiet: bool = False,
) -> None: ...


def test_values_that_suit() -> None:
    for name, value in {
        "rate": 1, "sizes": [1, 2], "names": ["a"], "kind": None, "quiet": True,
    }.items():  # fmt: skip
        assert why(takes, name, value) is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("rate", "fast"), ("rate", True), ("sizes", 3), ("sizes", [1.5]), ("sizes", [2**70]),
        ("names", [1]), ("kind", "c"), ("quiet", 1),
    ],
)  # fmt: skip
def test_values_that_do_not(name: str, value: Any) -> None:
    assert "must be " in str(why(takes, name, value))


def test_an_option_that_there_is_not() -> None:
    assert why(takes, "speed", 1) == "is no option of takes, which has names, kind, quiet"


def test_a_model_larger_than_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 1e6)
    with within_memory("vae", ValueError):
        torch.nn.Linear(100, 100)
    with (
        pytest.raises(ValueError, match=r"vae: .* GiB are more than the"),
        within_memory("vae", ValueError),
    ):
        torch.nn.Linear(1000, 1000)


def test_a_number_that_is_none_is_called_so() -> None:
    for value in (math.nan, math.inf):
        assert amiss(value, float | None) == f"must be a finite number, not {value}"
