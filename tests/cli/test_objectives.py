"""Objectives as they are written on the command line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deeplvm import objectives
from deeplvm.registry import known, meant, written
from deeplvm.training.measure import name_of


@pytest.mark.parametrize(
    "text, name, options",
    [
        ("renyi(alpha=0.5)", "renyi", {"alpha": 0.5}),
        ("renyi(-1)", "renyi", {"alpha": -1}),
        ("vr_max", "vr_max", {}),
        ("beta_elbo(beta=1000, capacity=25)", "beta_elbo", {"beta": 1000, "capacity": 25}),
        ("beta_tc_elbo(rows=60000)", "beta_tc_elbo", {"rows": 60000}),
        ("info_vae(kernel='imq')", "info_vae", {"kernel": "imq"}),
    ],
)
def test_a_function_with_its_options(text: str, name: str, options: dict[str, Any]) -> None:
    found = meant("objective", text)
    assert name_of(found) == name
    assert getattr(found, "func", found) is getattr(objectives, name)
    assert getattr(found, "keywords", {}) == options


@pytest.mark.parametrize(
    "text, kind, name",
    [
        ("soft_free_bits({'z': 3.0})", objectives.SoftFreeBits, "soft_free_bits"),
        ("constrained(most=80.0)", objectives.Constrained, "constrained"),
        ("growing_capacity", objectives.GrowingCapacity, "growing_capacity"),
    ],
)
def test_one_with_a_state_is_made(text: str, kind: type, name: str) -> None:
    found = meant("objective", text)
    assert isinstance(found, kind)
    assert name_of(found) == name


@pytest.mark.parametrize(
    "text, said",
    [
        ("constrained", "most"),
        ("resample", "cannot be 'resample'"),  # reads evidence, but is no objective
        ("divergence_parts(10)", "cannot be"),
        ("Constrained(most=1.0)", "constrained"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        meant("objective", text)


def test_all_objectives_and_nothing_else() -> None:
    found = known("objective")
    for value in found.values():
        assert inspect.isclass(value) or inspect.isfunction(value)
    assert not {"resample", "divergence_parts", "rbf", "imq", "sleep", "wake_phi"} & set(found)
    assert {"elbo", "iwae", "free_bits", "renyi", "vr_max", "constrained"} <= set(found)


def test_fit_with_one(deeplvm: Callable[..., Any], csv: Path) -> None:
    words = ("--objective", "renyi(alpha=0.5)", "--particles", 3, "--label", "kind")
    outcome = deeplvm("fit", csv, *words, "--out", "run", "--no-evaluate", "--epochs", 1)
    assert outcome.code == 0, outcome.err
    (record,) = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert record["train"]["renyi"] >= record["train"]["elbo"]


@pytest.mark.parametrize(
    "objective",
    [
        objectives.SoftFreeBits({"z": 5.0}),
        objectives.SoftFreeBits({"z": 5.0, "w": [1.0, 2.0]}, tolerance=0.1),
        objectives.GrowingCapacity(capacity=3.0),
        objectives.Constrained(most=2.0),
    ],
)
def test_an_objective_that_a_recipe_brings_is_written_as_it_is_read(objective: Any) -> None:
    again = meant("objective", written(objective))
    assert type(again) is type(objective)
    assert written(again) == written(objective)
    torch.testing.assert_close(again.state_dict(), objective.state_dict())
