"""What processes tell each other, and how they end when one of them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm.parallel.processes import Processes, announcement, joined, processes

Found = list[dict[str, Any]]
COUNT = 3


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, starting: Any) -> Callable[[str], Any]:
    """All scenes at once, and what each left when it ended."""
    names = ("laws", "fails", "dies")
    began = time.monotonic()
    teams = {
        name: starting(tmp_path_factory.mktemp(name), name, COUNT, scene=name) for name in names
    }
    codes = {name: team.codes(60 - (time.monotonic() - began)) for name, team in teams.items()}

    def outcome(name: str) -> Any:
        found = [
            json.loads(path.read_text()) for path in sorted(teams[name].folder.glob("*.json"))
        ]
        return codes[name], found, teams[name].said()

    return outcome


def test_one_process_is_itself() -> None:
    here = Processes()
    x = torch.arange(3.0)
    assert here == processes()
    assert here.sum(x) is x
    assert here.gather({"x": x})["x"] is x
    assert here.from_first("a") == "a"
    assert not here.any(False)
    assert here.claim("a")
    assert here.claim("a")
    here.wait()
    with joined() as still:
        assert still == here


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_those_of_array_split(n: int, count: int) -> None:
    parts = [range(n)[Processes(rank, count).part(n)] for rank in range(count)]
    expected = np.array_split(np.arange(n), count)
    assert [list(part) for part in parts] == [list(part) for part in expected]


def test_what_processes_tell_each_other(scenes: Callable[[str], Any]) -> None:
    codes, found, said = scenes("laws")
    assert codes == [0] * COUNT, said
    index = [i**2 for i in range(10)]
    assert [each["share"] for each in found] == [index[:4], index[4:7], index[7:]]
    assert [each["nothing"] for each in found] == [[0], [], []]
    assert sum([claim for each in found for claim in each["claims"]]) == 1
    for rank, each in enumerate(found):
        assert each["rank"] == rank
        assert each["same"]
        assert each["apart"]
        assert each["sum"] == [4.5, 3.0]
        assert each["kept"] == [rank + 0.5, 1.0]
        assert not each["gradient"]
        assert each["transposed"] == [[3.0] * 2] * 3
        assert each["gathered"]["x"] == [
            [r + 3.0 * i, r + 3.0 * i + 1, r + 3.0 * i + 2] for r in range(3) for i in range(2 * r)
        ]
        assert each["gathered"]["y"] == [0, 0, 1, 0, 1, 2]
        assert each["partly"] == [True, True]
        assert each["from first"] == {"folder": "runs/a"}
        assert each["any"] == [False, True]


def test_an_error_of_one_ends_all_and_is_told_once(scenes: Callable[[str], Any]) -> None:
    codes, found, said = scenes("fails")
    assert codes == [1] * COUNT
    assert said.count("OSError: a disk of this process alone") == 1
    assert len(found) == COUNT - 1
    for each in found:
        assert "Another process ended" in each["error"]
        assert each["seconds"] < 10
        assert not each["speaks"]


def test_a_killed_process_ends_all_and_one_tells_it(scenes: Callable[[str], Any]) -> None:
    codes, found, _ = scenes("dies")
    assert codes == [-9, 1, 1]
    assert all(["Another process ended" in each["error"] for each in found])
    assert all([each["seconds"] < 10 for each in found])
    assert [each["speaks"] for each in found].count(True) == 1


SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_ID": "123456",
}


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("gpu12", "gpu12"),
        ("a,b", "a"),
        ("node[03-04,7]", "node03"),
        ("n[1,4]-x", "n1-x"),
        ("c[01-02],d5", "c01"),
    ],
)
def test_tasks_of_slurm(hosts: str, first: str) -> None:
    found = announcement(SLURM | {"SLURM_STEP_NODELIST": hosts})
    assert found is not None
    assert (found.rank, found.count, found.local_rank) == (5, 8, 1)
    assert found.address == first
    assert 20_000 <= found.port < 30_000
    mine = announcement(SLURM | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"})
    assert mine is not None
    assert (mine.address, mine.port) == ("10.0.0.7", 1234)


def test_a_batch_script_is_no_task_of_several() -> None:
    assert announcement({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert announcement({}) is None
    assert announcement({"WORLD_SIZE": "1", "RANK": "0"}) is None


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"RANK": None}, "not RANK; start them with torchrun"),
        ({"MASTER_ADDR": None}, "not MASTER_ADDR; start"),
        ({"MASTER_PORT": "http"}, "wrong number"),
        ({"WORLD_SIZE": "two"}, "wrong number"),
        ({"RANK": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
    ],
)
def test_an_announcement_that_is_wrong(change: dict[str, Any], message: str) -> None:
    environment = {k: v for k, v in (TORCHRUN | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        announcement(environment)


def test_nobody_is_imported_before_there_are_several() -> None:
    code = (
        "import sys; from deeplvm.parallel.processes import joined, processes;"
        "assert processes().alone; joined().__enter__();"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
