"""A function of one's own, which returns a p and a q, on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

MODELS = """
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.networks import MLP


def pair(data=None):
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    return p, Joint({"z | x": Gaussian(2, MLP(3, 4))})


def model(data):
    return LatentVariableModel(*pair())


def plain():
    return pair()


def three(data):
    return *pair(), 3


def one(data):
    return pair()[0]


def nothing(data):
    pass


def raises(data):
    raise RuntimeError("my own fault")


def attribute(data):
    return data.no_such_thing


def leaves(data):
    raise SystemExit(3)


def other_names(data):
    p = Joint({"z": StandardNormal(2), "w | z": Gaussian(3, MLP(2, 4))})
    return p, Joint({"z | w": Gaussian(2, MLP(3, 4))})


class Broken(torch.nn.Module):
    out_features = 2

    def forward(self, z):
        raise RuntimeError("inside the network")


def broken(data):
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, Broken())})
    return p, Joint({"z | x": Gaussian(2, MLP(3, 4))})
"""


@pytest.fixture(autouse=True)
def own(here: Path) -> Iterator[None]:
    """A file of models, forgotten after the test."""
    (here / "own_models.py").write_text(MODELS)
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name == "own_models" or name.endswith(".py"):
            del sys.modules[name]


@pytest.fixture
def csv(here: Path, table: Any) -> Path:
    table(80).drop(columns="kind").to_csv("people.csv", index=False)
    return here / "people.csv"


def line_of(text: str) -> str:
    """The line of the file where a text stands."""
    return f"(line {1 + [text in line for line in MODELS.splitlines()].index(True)} of "


@pytest.mark.parametrize("function", ["pair", "model", "plain"])
def test_it_is_measured_on_data(deeplvm: Run, csv: Path, function: str) -> None:
    words = (csv, "--particles", 10, "--device", "cpu")
    outcome = deeplvm("evaluate", f"own_models:{function}", *words)
    assert outcome.code == 0, outcome.err
    assert "people, test, 8 rows" in outcome.out
    found = json.loads(deeplvm("evaluate", f"own_models.py:{function}", *words, "--json").out)
    assert found["log_px"]["particles"] == 10
    assert found["log_px"]["value"] > found["elbo"]["value"]


def test_it_is_measured_in_every_way(deeplvm: Run, csv: Path) -> None:
    outcome = deeplvm(
        "evaluate", "own_models:pair", csv, "--particles", 10, "--ais", "--sandwich", "--gaps",
        "--annealed-rows", 3, "--gap-rows", 2, "--temperatures", 5, "--annealed-particles", 2,
        "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["annealing"]["rows"] == found["sandwich"]["rows"] == 3
    assert found["gaps"]["rows"] == 2


# function: what the line must have
REFUSED = {
    "three": "it returned a tuple of Joint, Joint, int",
    "one": "it returned an object of type Joint",
    "nothing": "it returned nothing",
    "raises": "RuntimeError: my own fault " + line_of("my own fault"),
    "attribute": "no attribute 'no_such_thing' " + line_of("no_such"),
    "leaves": "SystemExit: 3 " + line_of("SystemExit"),
    "other_names": "its names are w, z: call one of them as the data do",
    "missing": "has no function 'missing'",
}


@pytest.mark.parametrize("function", REFUSED)
def test_one_that_cannot_be_used(deeplvm: Run, csv: Path, function: str) -> None:
    outcome = deeplvm("evaluate", f"own_models:{function}", csv, "--particles", 5)
    assert outcome.code == 2
    assert REFUSED[function] in outcome.line
    assert outcome.out == ""


def test_an_error_in_its_networks_is_not_called_ours(deeplvm: Run, csv: Path) -> None:
    outcome = deeplvm("evaluate", "own_models:broken", csv, "--particles", 5)
    assert outcome.code == 1
    assert "ours" not in outcome.line
    assert "inside the network " + line_of("inside the") in outcome.line
    path = Path(outcome.line.rsplit(" ", 1)[1])
    assert "Traceback" in path.read_text()
    path.unlink()


def test_a_function_has_no_data_of_its_own(deeplvm: Run) -> None:
    outcome = deeplvm("evaluate", "own_models:pair")
    assert outcome.code == 2
    assert "deeplvm evaluate own_models:pair DATA" in outcome.line


def test_a_file_is_taken_by_its_place_and_not_by_its_name(deeplvm: Run, csv: Path) -> None:
    Path("sub.folder").mkdir()
    for name in ("random.py", "own_models.py", "two.dots.py"):
        text = MODELS if name != "own_models.py" else "def pair(data):\n    return 5\n"
        Path("sub.folder", name).write_text(text)
    words = (csv, "--particles", 5)
    assert deeplvm("evaluate", "own_models:pair", *words).code == 0
    assert "type int" in deeplvm("evaluate", "sub.folder/own_models.py:pair", *words).line
    for name in ("random.py", "two.dots.py"):
        outcome = deeplvm("evaluate", f"sub.folder/{name}:pair", *words)
        assert outcome.code == 0, outcome.err
    assert "There is no file" in deeplvm("evaluate", "sub.folder/none.py:pair", *words).line


def test_a_run_of_it_is_opened_from_any_folder(
    deeplvm: Run, csv: Path, here: Path, monkeypatch: Any
) -> None:
    Path("elsewhere").mkdir()
    (here / "own_models.py").rename("elsewhere/own_models.py")
    words = (csv, "--epochs", 1, "--no-evaluate", "--out", "run")
    outcome = deeplvm("fit", *words, "--recipe", "elsewhere/own_models.py:pair")
    assert outcome.code == 0, outcome.err
    run = here / "run"
    monkeypatch.chdir(here / "elsewhere")
    assert deeplvm("evaluate", run, "--particles", 5, "--trust").code == 0


@pytest.mark.parametrize(
    "text", ["import no_such_module", "1 / 0", "raise SystemExit(0)", "def ("]
)
def test_a_file_that_cannot_be_imported(deeplvm: Run, csv: Path, text: str) -> None:
    Path("bad_models.py").write_text(f"{text}\n")
    for name in ("bad_models:pair", "bad_models.py:pair"):
        outcome = deeplvm("evaluate", name, csv)
        assert outcome.code == 2
        assert "bad_models" in outcome.line
