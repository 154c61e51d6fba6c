"""A model of which each process has a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from deeplvm.parallel.sharding import gathered, shard


def test_a_sharded_model_learns_the_same(starting: Any, tmp_path: Path) -> None:
    teams = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        teams[count] = starting(folder, "shards", count, scene="shards")
    found = {}
    for count, team in teams.items():
        assert set(team.codes()) == {0}, team.said()
        paths = sorted((tmp_path / str(count)).glob("*.json"))
        found[count] = [json.loads(path.read_text()) for path in paths]
    (alone,), several = found[1], found[2]
    assert alone["here"] == alone["total"]
    assert 0.49 * alone["total"] < several[0]["here"] < 0.52 * alone["total"]
    for each in several:
        assert each["whole"] == 1  # what is no layer's
        np.testing.assert_allclose(each["losses"], alone["losses"], rtol=1e-5)
        assert each["weights"].keys() == alone["weights"].keys()
        for name, values in alone["weights"].items():
            np.testing.assert_allclose(each["weights"][name], values, rtol=1e-4, atol=1e-4)


def test_one_process_has_nothing_to_shard_over() -> None:
    with pytest.raises(ValueError, match="start with torchrun"):
        shard(nn.Linear(2, 2))


def test_the_weights_of_one_process_are_whole() -> None:
    layer = nn.Linear(2, 2)
    assert gathered(layer).keys() == layer.state_dict().keys()
