"""What objectives and estimators read of a whole batch of which each process has a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deeplvm import Joint, LatentVariableModel, free_bits
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.parallel.processes import Processes, apart
from deeplvm.parallel.statistics import refuse_batch_norm
from deeplvm.parallel.steps import Together
from deeplvm.training import Phase
from deeplvm.training.graph import choose
from deeplvm.training.step import Step

REFUSED = {"total correlation", "discrepancy"}


def by_one_and_two(starting: Any, folder: Path, scene: str) -> list[dict[str, Any]]:
    """What one process finds in a scene, and what two do."""
    teams = {}
    for count in (1, 2):
        (folder / str(count)).mkdir()
        teams[count] = starting(folder / str(count), scene, count, scene=scene)
    for team in teams.values():
        assert set(team.codes()) == {0}, team.said()
    return [json.loads((folder / str(count) / "0.json").read_text()) for count in teams]


def test_two_processes_learn_what_one_does_or_say_why_not(starting: Any, tmp_path: Path) -> None:
    alone, several = by_one_and_two(starting, tmp_path, "statistics")
    for name, values in alone.items():
        if name in REFUSED:
            assert "only a part of a batch: train with one process" in several[name]
        else:
            np.testing.assert_allclose(several[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def test_two_processes_maximise_expectations_as_one_does(starting: Any, tmp_path: Path) -> None:
    """Sums over rows, and chains that both have moved; the last batch leaves one without rows."""
    alone, several = by_one_and_two(starting, tmp_path, "expectation")
    for name, values in alone.items():
        for one, other in zip(values, several[name], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_step_that_reads_the_whole_batch_is_not_compiled() -> None:
    """Compiled code would take this process's rows for the batch."""
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(5, MLP(2, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(5, 8))}))
    together = Together(Processes(0, 2))
    step = Step(
        model, Phase(free_bits, optimizer="adam"), rows=40, missing=frozenset(), log_prior=None,
        clip=None, skip=None, batch_size=4, alone=True, together=together,
    )  # fmt: skip
    part = together.part(torch.arange(8))
    with apart(), pytest.raises(ValueError, match=r"statistics of each batch.*leave out compile"):
        choose(
            [step], {"x": torch.ones(4, 5)}, part, 1.0, wanted=True, left=9, budget=1.0, say=print
        )


def test_networks_that_normalise_over_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="1 is a BatchNorm1d"):
        refuse_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    refuse_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
