"""A refused command changes nothing: neither somebody else's folder, nor a run, nor its inputs."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deeplvm.data
from deeplvm.files import alone, write_atomically
from deeplvm.runs.run import RunError

pytestmark = pytest.mark.usefixtures("workplace")
FIT = ("fit", "a.npy", "--latent", 2, "--hidden", 4, "--epochs", 1, "--device", "cpu",
       "--no-compile", "--no-evaluate")  # fmt: skip


@pytest.fixture
def data(workplace: Path) -> None:
    np.save("a.npy", np.random.default_rng(0).normal(size=(60, 3)))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.usefixtures("data")
def test_a_refused_fit_removes_nothing_that_others_made(end: Any, monkeypatch: Any) -> None:
    """Another process writes into the same folders while this one looks at its data."""
    load = deeplvm.data.load

    def meanwhile(*words: Any, **options: Any) -> Any:
        Path("runs/other").mkdir(parents=True)
        Path("runs/other/config.toml").write_text("...")
        return load(*words, **options)

    monkeypatch.setattr("deeplvm.data.load", meanwhile)
    assert end(*FIT, "--out", "runs/mine", "--clip", -1)[0] == 2
    assert content(Path("runs")) == {"runs/other/config.toml": b"..."}
    shutil.rmtree("runs")
    assert end(*FIT, "--clip", -1)[0] == 2  # runs/a-vae, made when the data are known
    assert content(Path("runs")) == {"runs/other/config.toml": b"..."}


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("words", [("--clip", -1), ("--learning-rate", 1e308), ("--latent", 0)])
def test_a_refused_fit_leaves_no_run(end: Any, words: Any) -> None:
    assert end(*FIT, *words)[0] == 2
    assert sorted(os.listdir()) == ["a.npy"]
    Path("empty").mkdir()
    assert end(*FIT, *words, "--out", "empty")[0] == 2
    assert os.listdir("empty") == []


def test_a_cell_beyond_single_precision_leaves_no_run(end: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    rows[:, 1] = 1e39 * rows[:, 0]
    np.savetxt("a.csv", rows, delimiter=",")
    assert end("fit", "a.csv", *FIT[2:])[0] == 2
    assert os.listdir() == ["a.csv"]


@pytest.mark.usefixtures("data")
def test_two_fits_into_one_folder(end: Any) -> None:
    """The second is refused before it reads its data, and by default finds another folder."""
    fcntl = pytest.importorskip("fcntl")
    Path("runs/a-vae").mkdir(parents=True)
    first = os.open("runs/a-vae", os.O_RDONLY)  # the lock of another process is like this one
    fcntl.flock(first, fcntl.LOCK_EX)
    code, line = end("fit", "none.npy", "--out", "runs/a-vae")
    assert code == 2
    assert "Another process is training in runs/a-vae" in line
    assert end(*FIT)[0] == 0
    assert Path("runs/a-vae-2/model.safetensors").exists()
    assert os.listdir("runs/a-vae") == []
    os.close(first)
    assert end(*FIT, "--out", "runs/a-vae")[0] == 0


def test_a_finished_run_is_not_trained_anew(end: Any, run: Path) -> None:
    shutil.rmtree(run / "checkpoint")
    before = content(run)
    for words in ((), ("--epochs", 5)):
        code, line = end("resume", run, *words)
        assert code == 2
        assert "no checkpoint/ to go on from" in line
        assert content(run) == before


def test_epochs_are_written_when_they_take_effect(end: Any, run: Path, monkeypatch: Any) -> None:
    config = (run / "config.toml").read_bytes()
    source = Path(tomllib.loads(config.decode())["data"])
    kept = source.read_bytes()
    source.unlink()
    assert end("resume", run, "--epochs", 5)[0] == 2
    source.write_bytes(kept)
    assert (run / "config.toml").read_bytes() == config
    assert end("resume", run, "--epochs", 3, "--no-evaluate")[0] == 0
    assert tomllib.loads((run / "config.toml").read_text())["training"]["epochs"] == 3
    before = content(run)
    code, line = end("resume", run, "--epochs", 2, "--no-evaluate")
    assert code == 2
    assert "3 epochs already" in line
    assert content(run) == before


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("what", ["moved", "removed"])
def test_a_run_that_goes_while_it_trains(end: Any, monkeypatch: Any, what: str) -> None:
    from deeplvm.training.callbacks import Progress

    said = Progress.epoch

    def go(self: Progress, record: Any, *, best: bool) -> None:
        said(self, record, best=best)
        if record["epoch"] == 2:
            Path("run").rename("elsewhere") if what == "moved" else shutil.rmtree("run")

    monkeypatch.setattr(Progress, "epoch", go)
    words = [word if word != 1 else 5 for word in FIT]
    code, line = end(*words, "--out", "run", "--checkpoint-every", 1)
    assert code == 2
    assert "was removed" in line or f"was {what} to" in line
    assert not Path("run").exists()
    if what == "moved":
        monkeypatch.setattr(Progress, "epoch", said)
        assert f"deeplvm resume {os.getcwd()}/elsewhere" in line
        assert end("resume", "elsewhere", "--no-evaluate")[0] == 0
        lines = Path("elsewhere/metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["epoch"] for line in lines]
        assert epochs == [1, 2, 3, 4, 5]


def test_links_are_not_followed_out_of_a_run(end: Any, run: Path, workplace: Path) -> None:
    for name in ("metrics.jsonl", "evaluation.json", "model.safetensors", "report.html"):
        (workplace / name).write_bytes((run / name).read_bytes())
        (run / name).unlink()
        (run / name).symlink_to(workplace / name)
    before = {path.name: path.read_bytes() for path in workplace.iterdir() if path.is_file()}
    assert end("resume", run, "--epochs", 2, "--evaluation-particles", 5)[0] == 0
    assert {p.name: p.read_bytes() for p in workplace.iterdir() if p.is_file()} == before
    (run / "checkpoint").rename(workplace / "states")
    (run / "checkpoint").symlink_to(workplace / "states")
    code, line = end("resume", run, "--epochs", 3)
    assert code == 2
    assert "checkpoint is a link" in line


def test_what_a_killed_process_has_left_goes(workplace: Path) -> None:
    Path(".a.csv.12345678.writing").write_text("half")
    Path(".b.csv.12345678.writing").write_text("another file's")
    write_atomically(Path("a.csv"), b"whole")
    assert sorted(os.listdir()) == [".b.csv.12345678.writing", "a.csv"]


def test_an_error_names_the_file_and_not_the_temporary_one(workplace: Path) -> None:
    Path("taken.csv").mkdir()
    for path, why in (("nowhere/a.csv", "No such file"), ("taken.csv", "Is a directory")):
        with pytest.raises(OSError, match=why) as error:
            write_atomically(Path(path), b"")
        assert error.value.filename == path
    assert os.listdir("taken.csv") == []


def test_a_folder_that_is_gone_is_not_kept(workplace: Path) -> None:
    with alone(Path("run"), RunError):
        os.rmdir("run")
        with pytest.raises(ValueError, match="was removed"):
            write_atomically(Path("run/a"), b"")
    assert not Path("run").exists()
