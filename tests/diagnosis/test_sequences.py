"""Rows that are sequences: rules of columns are of steps, and rules of rows of whole sequences."""

import numpy as np
import pandas
import pytest
import torch

from deeplvm.data import load
from deeplvm.data.records import Data
from deeplvm.diagnosis import RULES, Effort, diagnose
from deeplvm.evaluation.examination import Examination
from deeplvm.recipes import deep_markov_model

_EFFORT = Effort(
    rows=20, particles=20, gap_rows=5, annealed_rows=5, temperatures=5, replicates=20, minutes=None
)


@pytest.fixture(scope="module")
def data() -> Data:
    """A long table with holes, one column of codes, and units that are repeated."""
    draws = np.random.default_rng(0)
    parts = []
    for unit in range(60):
        steps = int(draws.integers(2, 7))
        level = draws.normal(size=steps).cumsum()
        parts.append(
            pandas.DataFrame({
                "unit": unit, "heat": level, "load": level + draws.normal(size=steps),
                "state": np.where(level > 0, "on", "off"),
                "code": draws.choice([0.2, 0.5, 1.7], steps),
            })
        )  # fmt: skip
    for part in parts:
        part.loc[draws.random(len(part)) < 0.1, "heat"] = np.nan
    parts += [part.assign(unit=100 + i) for i, part in enumerate(parts[:30])]
    frame = pandas.concat(parts, ignore_index=True)
    return load(frame, sequence="unit", split=(0.6, 0.2, 0.2))


def test_all_rules_speak_of_steps_or_say_why_not(data: Data) -> None:
    torch.manual_seed(0)
    model = deep_markov_model(data, latent=1, state=4, hidden=(4,))
    found = diagnose(model, data, effort=_EFFORT)
    assert "rows in two splits" in found.faults
    assert "The data are no table." not in found.impossible.values()
    assert len(found.verdicts) + len(found.sound) + len(found.impossible) >= len(RULES)
    assert "of no one space" in "".join(found.impossible.values())


def test_values_are_of_steps_and_rows_are_whole(data: Data) -> None:
    torch.manual_seed(0)
    model = deep_markov_model(data, latent=1, state=4, hidden=(4,))
    seen = Examination(model, data, "test", effort=_EFFORT)
    lengths = data.train["n"][:]
    assert seen.resting("train").shape == (int(lengths.sum()), 4)
    assert seen.independent("train", 100).shape == (len(lengths), 4)
    assert [len(row) for row in seen.whole("train")] == (4 * lengths).tolist()
    assert seen.steps("z") == pytest.approx(float(data.test["n"][:].double().mean()))
    assert seen.residuals.shape == (int(data.test["n"][:20].sum()), 4)
    for scale, _ in seen.scales.values():
        assert len(scale) == int(data.test["n"][:20].sum())
