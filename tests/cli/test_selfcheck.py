"""The installation beside exact answers, and what is said where one differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deeplvm.diagnosis import selfcheck as module

Run = Callable[..., Any]


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """The checks of these names, not all."""
    chosen = {name: each for name, each in module.CHECKS.items() if name in names}
    assert len(chosen) == len(names)
    monkeypatch.setattr(module, "CHECKS", chosen)


def test_all_is_well(deeplvm: Run) -> None:
    """Every check of this very installation; torch is left as it was."""
    before = torch.get_rng_state()
    outcome = deeplvm("selfcheck", "--json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["passed"]
    assert len(found["checks"]) == len(module.CHECKS) + 2
    assert all(each["passed"] and not each["error"] for each in found["checks"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_a_density_that_is_wrong_is_found(deeplvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant that is left out, in one distribution."""
    only(monkeypatch, "integrals of 10 densities", "5 divergences in closed form")
    right = module.d.Logistic.log_prob
    monkeypatch.setattr(module.d.Logistic, "log_prob", lambda self, x: right(self, x) + 1e-3)
    outcome = deeplvm("selfcheck", "--device", "cpu")
    assert outcome.code == 1
    assert outcome.line.startswith("deeplvm: 1 of 4 failed: integrals of 10 densities.")
    assert "FAILED  integrals of 10 densities" in outcome.out


def test_what_cannot_be_computed_has_failed(deeplvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "log p(x), hidden Markov model")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(module, "Recurrent", broken)
    outcome = deeplvm("selfcheck", "--device", "cpu")
    assert outcome.code == 1
    assert "hidden Markov model (RuntimeError: no such operator)" in outcome.line
