"""Metrics sent to trackers, which are stood in for by what they have of functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., Any]
TINY = ("--epochs", "1", "--latent", "2", "--hidden", "4", "--no-evaluate")


class Fake(ModuleType):
    """A tracker of the shape of wandb, and of that of MLflow."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> Any:
        self.told.append(("began", options))
        return SimpleNamespace(id=options.get("id", "abc"))

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.told.append(("numbers", (step, numbers)))

    def finish(self) -> None:
        self.told.append(("ended", None))

    def set_experiment(self, name: str) -> None:
        self.told.append(("experiment", name))

    def start_run(self, run_id: str | None, run_name: str) -> Any:
        self.told.append(("began", {"id": run_id, "name": run_name}))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    def log_params(self, settings: dict[str, Any]) -> None:
        self.told.append(("settings", settings))

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        self.log(numbers, step)

    def end_run(self, status: str) -> None:
        self.told.append(("ended", status))

    def of(self, what: str) -> list[Any]:
        return [value for kind, value in self.told if kind == what]


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_is_told_of_each_epoch_and_goes_on(
    deeplvm: Run, csv: Path, here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    outcome = deeplvm("fit", csv, "--tracker", name, "--out", "run", *TINY)
    assert outcome.code == 0, outcome.err
    assert deeplvm("resume", "run", "--epochs", 2, "--no-evaluate").code == 0
    records = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in fake.of("numbers")] == [1, 2]
    for (_, numbers), record in zip(fake.of("numbers"), records, strict=True):
        assert numbers["elbo/valid"] == pytest.approx(record["valid"]["elbo"])
        assert numbers["training/seconds"] > 0
    first, second = fake.of("began")
    assert first["name"] == second["name"] == "run"
    assert (first.get("id"), second.get("id")) == (None, None if name == "trackio" else "abc")
    settings = fake.of("settings")[0] if name == "mlflow" else first["config"]
    assert (settings["latent"], settings["data"]) == (2, "people")
    assert fake.of("ended") == (["FINISHED"] * 2 if name == "mlflow" else [None] * 2)


def test_a_tracker_that_is_not_installed(
    deeplvm: Run, csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    outcome = deeplvm("fit", csv, "--tracker", "wandb", "--out", "run", *TINY)
    assert outcome.code == 2
    assert "wandb is not installed here; install it with: pip install wandb" in outcome.line
    assert not Path("run").exists()
