"""A study of a recipe's options, as a user would ask for one, stopped and gone on with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deeplvm.cli import tune as command
from deeplvm.evaluation import compare
from deeplvm.recipes import find
from deeplvm.runs import study as module
from deeplvm.runs.run import RunError, open_run
from deeplvm.runs.search import Choice, Range, read, usual
from deeplvm.runs.study import read_study

pytest.importorskip("optuna")
Run = Callable[..., Any]
SEARCH = "latent=1..3,learning_rate=1e-5..1e-1"
WORDS = ("--hidden", "8", "--epochs", "6", "--threads", "1", "--search", SEARCH)


def found(folder: Path) -> list[tuple[Any, ...]]:
    """What no clock decides, of every trial."""
    trials = read_study(folder).trials
    return [(t.number, t.options, t.state, t.score, t.epochs, t.curve) for t in trials]


def test_a_study_and_the_same_one_killed(
    deeplvm: Run, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ("tune", csv, *WORDS, "--trials", "10", "--evaluation-particles", "5")
    outcome = deeplvm(*words, "--out", whole)
    assert outcome.code == 0, outcome.err
    assert "10 trials of vae on" in outcome.out
    assert "best" in outcome.out
    study = read_study(whole)
    states = {each.state for each in study.trials}
    assert states == {"done", "stopped"}
    assert all([t.epochs < 6 for t in study.trials if t.state == "stopped"])
    assert study.best is not None
    assert study.best.score == max(
        [t.score for t in study.trials if t.score and t.state == "done"]
    )
    assert study.importance is not None
    assert study.importance["learning_rate"] > 0.5
    # the runs that are kept are runs like any other, and of the trials that they should be
    best, defaults = open_run(whole / "best"), open_run(whole / "defaults")
    assert best.config.recipe_options["latent"] == study.best.options["latent"]
    assert best.config.training["learning_rate"] == study.best.options["learning_rate"]
    assert defaults.config.training["learning_rate"] == 1e-3
    assert (whole / "best" / "evaluation.json").exists()
    assert "<svg" in (whole / "report.html").read_text()
    assert {each.name for each in whole.iterdir()} == {
        "best", "defaults", "report.html", "study.json"
    }  # fmt: skip
    assert "its best run is" in deeplvm("evaluate", whole).line

    class Killed(BaseException):
        pass

    right, last = module._Watch.epoch_ended, study.ranked[1].number or study.ranked[0].number

    moments = [(0, 2), (last, 3)]

    def dies(self: Any, record: dict[str, Any]) -> None:
        right(self, record)
        if (self.number, record["epoch"]) in moments:
            moments.remove((self.number, record["epoch"]))
            raise Killed

    monkeypatch.setattr(module._Watch, "epoch_ended", dies)
    for number, begin in ((0, (*words, "--out", killed)), (last, ("resume", killed))):
        with pytest.raises(Killed):
            deeplvm(*begin)
        assert read_study(killed).trials[-1].number == number
        assert read_study(killed).trials[-1].state == "running"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert deeplvm("resume", killed, "--no-evaluate", "--json").code == 0
    assert found(killed) == found(whole)


def test_what_is_kept_wherever_it_is_killed(tmp_path: Path) -> None:
    """The steps of moving runs, cut short after each of them."""
    options = {"latent": 1}
    trials = [module.Trial(n, options, "done", score=float(n)) for n in range(2)]
    config = module.Config("digits", "vae", training={"seed": 0}, recipe_options={"latent": 2})
    study = module.Study(config, {"latent": "1..3"}, trials=tuple(trials))

    def folders(*names: str) -> Path:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        for name in names:
            (tmp_path / "s" / name).mkdir(parents=True)
            (tmp_path / "s" / name / "which").write_text("new" if "1" in name else "first")
        return tmp_path / "s"

    for names in (
        ("best", "trials/1"),
        ("defaults", "trials/1"),
        ("best", "defaults", "trials/1"),
    ):
        folder = folders(*names)
        for _ in range(2):  # again changes nothing
            tuner = module._Tuner(folder, study, None, find("vae"), print)  # type: ignore[arg-type]
            tuner.settle()
            assert (folder / "best/which").read_text() == "new"
            assert (folder / "defaults/which").read_text() == "first"
            assert not (folder / "trials").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ("latent", "write an option and its values: latent=4..64"),
        ("latent=8..4", "a range goes from less to more"),
        ("latent=a|b", "latent must be a whole number, not 'a'"),
        ("latent=4", "one value alone is --latent 4"),
        ("latnt=1|2", "latnt is no option of vae, which has latent"),
        ("epochs=1|2", "how trials are trained and judged"),
        ("binarize=static|dynamic", "likelihoods of other data do not compare"),
        ("latent=1..2,latent=3..4", "names latent twice"),
        ("kl_weight=linear(-1)|1.0", "epochs must be a number above 0, not -1"),
        ("hidden=2.5..10", "hidden must be several, each a whole number"),
    ],
)
def test_what_cannot_be_searched(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read([text], find("vae"), {"latent": 16, "hidden": (256, 256)})


def test_what_is_searched() -> None:
    texts = [
        "latent=4..64,hidden=50|(100,50)",
        "learning-rate=1e-4..1e-2,kl_weight=1|linear(9, 0)",
    ]
    dimensions = read(texts, find("vae"), {"latent": 16, "hidden": (256, 256)})
    assert {name: each.values for name, each in dimensions.items()} == {
        "latent": Range(4, 64),
        "hidden": Choice(((50,), (100, 50))),
        "learning_rate": Range(1e-4, 1e-2),
        "kl_weight": Choice((1, "linear(9, 0)")),
    }
    # what is written down is read as it was
    again = [f"{name}={each.values}" for name, each in dimensions.items()]
    assert [str(e.values) for e in read(again, find("vae"), {}).values()] == [
        str(e.values) for e in dimensions.values()
    ]
    training = {
        "learning_rate": 1e-3, "batch_size": 100, "averaging": 0.99, "kl_weight": 1.0, "epochs": 20
    }  # fmt: skip
    options = {"latent": 16, "hidden": (256, 256), "prior": "gaussian", "given_label": False}
    chosen = usual(options, training, rows=150, latents=True, fixed=("batch_size",))
    assert list(chosen) == ["latent", "hidden", "learning_rate", "averaging", "kl_weight"]
    assert str(chosen["kl_weight"].values) == "1.0|linear(5)"


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ("--search", "given_label=true|false"),
            "likelihood of the first is given nothing, that",
        ),
        (("--search", "latent=0..4"), "latent=0..4: latent must be at least 1, found 0"),
        (("--search", "latent=4..99999999999"), "GiB are more than"),
        (("--search", "hidden=(0,)|10"), "hidden=(0,)|(10,): hidden must be at least 1, found 0"),
        (("--search", "learning_rate=0..1"), "learning_rate must be a positive number, not 0.0"),
        (("--search", "averaging=0.5..1.5"), "averaging is a decay in [0, 1), such as 0.999"),
        (("--search", "batch_size=0..9"), "batch_size must be a positive integer, not 0"),
        (("--epochs", "9", "--search", "kl_weight=1|linear(50)"), "1|linear(50): Trials are"),
        (("--search", "particles=1|5"), "--measure elbo compares all by the same"),
        (("--search", SEARCH, "--latent", "2"), "--latent says one value, and --search latent="),
        (("--recipe", "auto"), "tune searches the options of one; name it"),
        (("--minutes", "-1"), "minutes must be a positive number"),
        (("--trial-minutes", "20"), "are those of all trials together"),
        (("--epochs", "1", "--kl-weight", "linear(5)"), "has not come to 1 after 1 epochs"),
        (
            ("--learning-rate", "1e9", "--trials", "2", "--epochs", "1"),
            "was done: The log-density",
        ),
    ],
)
def test_what_is_refused(
    deeplvm: Run, csv: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    folder = tmp_path / "study"
    outcome = deeplvm("tune", csv, "--label", "kind", "--out", folder, *words)
    assert outcome.code == 2
    assert said in outcome.line
    assert not folder.exists() or "was done" in said  # nothing was made before it was known


def test_a_bound_that_disagrees_with_the_likelihood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tuple([module.Trial(n, {"latent": n + 1}, "done", score=float(n)) for n in (0, 1)])
    config = module.Config("people.csv", "vae")
    study = module.Study(config, {"latent": "1..3"}, bound="cells", trials=trials)
    likelier = compare(
        {"best": torch.tensor([-3.0, -5.0, -4.0]), "defaults": torch.tensor([-1.9, -4.1, -3.0])},
        what=", the test rows of people.csv",
    )
    for name, found in (("search", study), ("finish", None), ("_compared", likelier)):
        monkeypatch.setattr(command, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(command, "run_of", lambda *_, **__: SimpleNamespace(model=None))
    (tmp_path / "defaults").mkdir()
    own = {"evaluate": True, "evaluation_particles": 5, "json": False}
    command._carry_out(tmp_path, study, None, find("vae"), own)  # type: ignore[arg-type]
    said = (
        "Trial 1 is the best by held-out cells, but the test rows of people.csv are likelier by "
        "the options as they are: log p(x) is 1.000 ± 0.058 nats a row higher (0.75 to 1.25)"
    )
    out, err = capsys.readouterr()
    assert f"! {said}." in out
    assert err.endswith(f"{said}; where that is what counts, use {tmp_path / 'defaults'}.\n")
    assert said in (tmp_path / "report.html").read_text()
    assert "how likely hidden values of a row are given its others" in out
    assert study.otherwise(compare({"best": torch.ones(3), "defaults": torch.zeros(3)})) == ""


def test_a_damaged_study(deeplvm: Run, tmp_path: Path) -> None:
    whole = module.Study(module.Config("digits", "vae"), {"latent": "1..3"})
    whole.write(tmp_path)
    assert read_study(tmp_path) == whole
    plain = json.loads((tmp_path / "study.json").read_text())
    for damage in ({"trials": 3}, {"minutes": "x"}, {"direction": "up"}, {"config": 1}):
        (tmp_path / "study.json").write_text(json.dumps(plain | damage))
        with pytest.raises(RunError, match="is damaged"):
            read_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    assert "is damaged" in deeplvm("resume", tmp_path).line
