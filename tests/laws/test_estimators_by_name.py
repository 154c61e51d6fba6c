"""An estimator is the same in training however it is named: fit, a phase, a latent, a recipe."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deeplvm import Joint, LatentVariableModel, Plate, Recurrent
from deeplvm.cli import main
from deeplvm.conditionals import Bernoulli, Gaussian, OneHot, StandardNormal
from deeplvm.gradients.named import estimator_of
from deeplvm.networks import MLP, Features
from deeplvm.training import Machine, Optimization, Phase, fit


def layers() -> LatentVariableModel:
    p = Joint(
        {
            "k": Bernoulli(2),
            "f | k": Features(MLP(2, 4), out_shape=4),
            "x | f": Bernoulli(3, MLP(4)),
        }
    )
    return LatentVariableModel(p, Joint({"k | x": Bernoulli(2, MLP(3, 4))}))


def chain(length: str | None = None) -> LatentVariableModel:
    p = Recurrent(
        {"k | k[-1]": OneHot(2, MLP(2)), "x | k": Bernoulli(3, MLP(2))},
        start={"k": 2}, length=length,
    )  # fmt: skip
    q = Recurrent({"k | x, k[-1]": OneHot(2, MLP(5))}, start={"k": 2}, length=length)
    return LatentVariableModel(p, q)


def plate(length: str | None = None) -> LatentVariableModel:
    p = Plate({"k": OneHot(2), "x | k": Bernoulli(3, MLP(2))}, length=length)
    return LatentVariableModel(p, Plate({"k | x": OneHot(2, MLP(3))}, length=length))


MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "layers": layers,
    "chain": chain,
    "chain with lengths": partial(chain, "n"),
    "plate": plate,
    "plate with lengths": partial(plate, "n"),
}
WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "its name": lambda text: {"estimator": text},
    "itself": lambda text: {"estimator": estimator_of(text)},
    "a latent's": lambda text: {"draw": {"k": estimator_of(text)}},
    "both names": lambda text: {"draw": {"k": text}},
    "a phase's": lambda text: {"phases": [Phase(estimator=estimator_of(text))]},
    "a phase's name": lambda text: {"phases": [Phase(estimator=text)]},
    "a latent's in a phase": lambda text: {"phases": [Phase(draw={"k": text})]},
}


def learned(make: Callable[[], LatentVariableModel], **ways: Any) -> Tensor:
    """Where two steps of gradient ascent take the parameters."""
    torch.manual_seed(0)
    model = make()
    x = (torch.rand(8, *(() if make is layers else (3,)), 3) < 0.5).double()
    fit(
        model,
        {"x": x, "n": torch.arange(8) % 3 + 1},  # the lengths, where they are read
        epochs=1,
        batch_size=4,
        particles=3,
        optimization=Optimization(learning_rate=0.1, averaging=0.0),
        machine=Machine(compile=False, device="cpu"),
        quiet=True,
        **ways,
    )
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("text", ["score_function", "vimco", "nvil(hidden=(4,))"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_way_of_naming_it_learns_the_same(name: str, text: str) -> None:
    """To the last bit, as the draws are the same."""
    found = [learned(MODELS[name], **way(text)) for way in WAYS.values()]
    assert all([torch.equal(each, found[0]) for each in found[1:]])


def continuous() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 4))}))


@pytest.mark.parametrize(
    "ways",
    [
        {"estimator": "generalised"},
        {"estimator": "vimco", "draw": {"z": "antithetic"}},
        {"phases": [Phase(estimator="vimco")]},
        {"phases": [Phase(evidence=lambda model, batch: batch, estimator="antithetic")]},
    ],
    ids=["of another family", "named beside it", "in a phase", "a phase with its own evidence"],
)
def test_an_estimator_that_draws_nothing_is_refused(ways: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"would draw nothing|draws its latents there"):
        fit(
            continuous(), {"x": torch.zeros(8, 3)}, epochs=1, particles=2, quiet=True,
            machine=Machine(compile=False, device="cpu"), **ways,
        )  # fmt: skip


OWN = """
import torch
from deeplvm import Enumerated, Joint
from deeplvm.conditionals import Bernoulli
from deeplvm.gradients.score_function import LeaveOneOut, ScoreFunction
from deeplvm.networks import MLP
from deeplvm.recipes import trained_with


def plain():
    p = Joint({"k": Bernoulli(2), "x | k": Bernoulli(3, MLP(2, 4))})
    return p, Joint({"k | x": Bernoulli(2, MLP(3, 4))})


@trained_with(estimator="vimco")
def default():
    return plain()


@trained_with(draw={"k": ScoreFunction(LeaveOneOut())})
def latent():
    return plain()


@trained_with(draw={"k": "vimco"})
def names():
    return plain()


@trained_with(draw={"k": Enumerated()})
def enumerated():
    return plain()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes of one's own, and data."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Path("mine.py").write_text(OWN)
    x = (torch.rand(60, 3) < 0.5).int()
    Path("x.csv").write_text("a,b,c\n" + "\n".join([",".join(map(str, r)) for r in x.tolist()]))
    return tmp_path


def trained(recipe: str, folder: str, *words: str, epochs: int = 2) -> dict[str, Tensor]:
    command = ["fit", "x.csv", "--recipe", f"mine.py:{recipe}", "--out", folder]
    options = ["--epochs", str(epochs), "--particles", "3", "--device", "cpu", "--no-evaluate"]
    assert main([*command, *options, *words]) == 0
    return load_file(Path(folder, "model.safetensors"))


def same(some: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models are the same to the last bit."""
    return all([torch.equal(value, other[name]) for name, value in some.items()])


def test_a_recipe_and_the_command_line_learn_the_same(here: Path) -> None:
    found = [
        trained("plain", "a", "--estimator", "vimco"),
        trained("default", "b"),
        trained("latent", "c"),
        trained("names", "d"),
    ]
    assert all([same(each, found[0]) for each in found[1:]])
    assert "draw" not in tomllib.loads(Path("c/config.toml").read_text())["training"]


def test_how_a_recipe_draws_holds_in_resume_and_evaluate(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A latent that is summed over leaves no noise: its bound is log p(x) of two draws or 200."""
    whole = trained("enumerated", "whole", epochs=4)
    trained("enumerated", "run", epochs=2)
    assert main(["resume", "run", "--epochs", "4", "--no-evaluate", "--trust"]) == 0
    assert same(load_file("run/model.safetensors"), whole)
    found = []
    for particles in ("2", "200"):
        capsys.readouterr()
        assert main(["evaluate", "run", "--particles", particles, "--json", "--trust"]) == 0
        found.append(json.loads(capsys.readouterr().out)["log_px"])
    assert found[0]["value"] == pytest.approx(found[1]["value"], abs=1e-5)
    assert main(["score", "run", "-o", "few.csv", "--particles", "2", "--trust"]) == 0
    assert main(["score", "run", "-o", "many.csv", "--particles", "200", "--trust"]) == 0
    few, many = [pandas.read_csv(f"{n}.csv")["log_px"].to_numpy() for n in ("few", "many")]
    assert few == pytest.approx(many, abs=1e-5)


def test_an_estimator_beside_a_recipe_that_sums_over_the_latent_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "x.csv", "--recipe", "mine.py:enumerated", "--out", "run"]
    assert main([*command, "--estimator", "vimco", "--particles", "2", "--device", "cpu"]) == 2
    assert "would draw nothing" in capsys.readouterr().err
    assert not Path("run").exists()
