"""Every bad input ends with exit code 2 and one clear line."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]
Copy = Callable[[Path], Path]

ROWS = "".join(f"{i}.5,{(7 * i) % 11}.25\n" for i in range(40))

# file: its content, and a word that the line must have
FILES: dict[str, tuple[str, str]] = {
    "empty.csv": ("", "empty"),
    "header only.csv": ("a,b\n", "no row"),
    "ragged.csv": (f"a,b\n{ROWS}1,2,3\n", "42"),
    "text.csv": (f"a,b\n{ROWS}1,hello\n", "hello"),
    "nothing.csv": ("a,b\n" + "".join(f"{i}.5,\n" for i in range(40)), "'b'"),
    "constant.csv": ("a,b\n" + "".join(f"{i}.5,1.0\n" for i in range(40)), "'b'"),
    "infinite.csv": (f"a,b\n{ROWS}1.5,inf\n", "infinite"),
    "one row.csv": ("a,b\n1.5,2.5\n", "row"),
    "unknown.xyz": ("a,b\n", "supported"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_file(deeplvm: Run, name: str) -> None:
    content, word = FILES[name]
    Path(name).write_text(content)
    outcome = deeplvm("fit", name, "--epochs", 1)
    assert outcome.code == 2
    assert name.split(".")[0] in outcome.line
    assert word in outcome.line
    assert not Path("runs").exists()


def test_array_of_nan_and_file_that_is_no_array(deeplvm: Run) -> None:
    np.save("nan.npy", np.full((20, 3), np.nan))
    Path("cut.npy").write_bytes(Path("nan.npy").read_bytes()[:40])
    for name in ("nan.npy", "cut.npy"):
        outcome = deeplvm("fit", name)
        assert outcome.code == 2
        assert name in outcome.line


# words after `deeplvm`, and what the line must have
USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": (("fit", "there-is-no.csv"), "no such file"),
    "close data set": (("fit", "digit"), "digits"),
    "no data": (("fit",), "Which data?"),
    "no such verb": (("fti", "digits"), "fit"),
    "no such recipe": (("fit", "digits", "--recipe", "vea"), "did you mean vae"),
    "no such module": (("fit", "digits", "--recipe", "no_such:thing"), "no module 'no_such'"),
    "no such function": (("fit", "digits", "--recipe", "math:thing"), "no function 'thing'"),
    "option of another recipe": (
        ("fit", "digits", "--points", "2"),
        "--points belongs to the recipe 'variational_gaussian_process', not to 'vae'",
    ),
    "no such option": (("fit", "digits", "--epoch", "2"), "--epochs"),
    "text for a number": (("fit", "digits", "--epochs", "many"), "many"),
    "negative epochs": (("fit", "digits", "--epochs", "-3"), "epochs"),
    "no epochs": (("fit", "digits", "--epochs", "0"), "epochs"),
    "no latent": (("fit", "digits", "--latent", "0"), "latent"),
    "no width": (("fit", "digits", "--hidden", "0"), "hidden"),
    "learning rate 0": (("fit", "digits", "--learning-rate", "0"), "learning_rate"),
    "batch size 0": (("fit", "digits", "--batch-size", "0"), "batch_size"),
    "particles 0": (("fit", "digits", "--particles", "0"), "particles"),
    "evaluation particles 0": (
        ("fit", "digits", "--evaluation-particles", "0"),
        "evaluation-particles",
    ),
    "averaging 1": (("fit", "digits", "--averaging", "1"), "averaging"),
    "no such objective": (("fit", "digits", "--objective", "elbow"), "elbo"),
    "no such argument": (("fit", "digits", "--objective", "elbo(colour=1)"), "colour"),
    "code for an objective": (("fit", "digits", "--objective", "elbo(__import__('os'))"), "elbo"),
    "no such likelihood": (("fit", "digits", "--likelihood", "normal"), "gaussian"),
    "no such device": (("fit", "digits", "--device", "tpu"), "device"),
    "labels needed": (("fit", "iris.csv", "--recipe", "conditional_vae"), "--label"),
    "images needed": (("fit", "iris.csv", "--recipe", "convolutional_vae"), "take the recipe vae"),
    "no such configuration": (("fit", "--config", "none.toml"), "none.toml"),
    "flag without its value": (("fit", "digits", "--out"), "--out"),
    "no run": (("sample", "runs/none", "-o", "a.png"), "There is no RUN folder"),
    "no output": (("sample", "runs/none"), "--output"),
    "no such ending": (("sample", "runs/none", "-o", "a.jpeg"), ".png"),
    "no ending": (("sample", "runs/none", "-o", "samples"), "no ending"),
    "no folder to decompress to": (
        ("decompress", "runs/none", "a.dlvm", "-o", "nowhere/a.csv"),
        "nowhere does not exist; make the folder first",
    ),
    "no such folder": (("sample", "runs/none", "-o", "nowhere/a.png"), "nowhere"),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage(deeplvm: Run, case: str) -> None:
    words, expected = USAGE[case]
    Path("iris.csv").write_text(f"a,b\n{ROWS}")
    outcome = deeplvm(*words)
    assert outcome.code == 2
    assert expected in outcome.line
    assert outcome.out == ""
    assert not Path("runs").exists()


def test_configuration_files(deeplvm: Run) -> None:
    cases = {
        "data = [": "not a TOML file",
        "colour = 1": "colour",
        "data = 3": "data",
        "format = 99": "newer",
        'data = "digits"\n[training]\nepoch = 3': "epoch",
        'data = "digits"\n[training]\nepochs = "many"': "many",
        'data = "digits"\n[recipe_options]\npoints = 2': "--points belongs to the recipe",
    }
    for text, expected in cases.items():
        Path("options.toml").write_text(text)
        outcome = deeplvm("fit", "--config", "options.toml")
        assert outcome.code == 2
        assert expected in outcome.line


def test_a_recipe_that_cannot_be_used(deeplvm: Run) -> None:
    Path("broken_recipe.py").write_text("def model(:\n")
    Path("wrong_recipe.py").write_text("def model(data):\n    return 3\n")
    assert "SyntaxError" in deeplvm("fit", "digits", "--recipe", "broken_recipe:model").line
    assert (
        "must return a LatentVariableModel"
        in deeplvm("fit", "digits", "--recipe", "wrong_recipe:model").line
    )


def test_run_folder_that_exists(deeplvm: Run, table_run: Path, csv: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in table_run.iterdir()}
    outcome = deeplvm("fit", csv, "--label", "kind", "--out", table_run)
    assert outcome.code == 2
    assert "name another folder with --out" in outcome.line
    assert "deeplvm resume" in outcome.line
    assert before == {path.name: path.stat().st_mtime_ns for path in table_run.iterdir()}


def test_somebody_elses_folder_or_file_as_out(deeplvm: Run) -> None:
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("...")
    for name in ("thesis", "thesis/thesis.tex"):
        outcome = deeplvm("fit", "digits", "--out", name)
        assert outcome.code == 2
        assert "name another folder with --out" in outcome.line
    assert os.listdir("thesis") == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(deeplvm: Run) -> None:
    Path("locked").mkdir(mode=0o500)
    outcome = deeplvm("fit", "digits", "--out", "locked/run")
    assert outcome.code == 2
    assert "locked/run" in outcome.line


def test_full_disk_is_one_line(deeplvm: Run, table_run: Path, monkeypatch: Any) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # of which file, a write does not say

    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    outcome = deeplvm("sample", table_run, "-o", "draws.csv")
    assert outcome.code == 2
    assert "The disk is full (draws.csv)" in outcome.line


def test_half_written_run_folder(deeplvm: Run, table_run: Path, copy_of: Copy) -> None:
    run = copy_of(table_run)
    (run / "model.safetensors").rename(run / "kept")
    outcome = deeplvm("sample", run, "-o", "a.csv")
    assert outcome.code == 2
    assert f"deeplvm resume {run}" in outcome.line
    (run / "kept").rename(run / "model.safetensors")
    (run / "data.json").unlink()
    assert "half-written" in deeplvm("sample", run, "-o", "a.csv").line
    (run / "data.json").write_text('{"format": 1, "name"')
    assert "damaged" in deeplvm("sample", run, "-o", "a.csv").line
    (run / "config.toml").unlink()
    assert "no config.toml" in deeplvm("evaluate", run).line
    assert deeplvm("evaluate", run / "data.json").code == 2


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)


def _newer(path: Path) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["deeplvm"])
    header["__metadata__"]["deeplvm"] = json.dumps(inner | {"version": "99"})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def _foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")


DAMAGE = {"cut short": _cut, "tampered with": _tamper, "newer": _newer, "foreign": _foreign}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model(deeplvm: Run, table_run: Path, copy_of: Copy, damage: str) -> None:
    run = copy_of(table_run)
    DAMAGE[damage](run / "model.safetensors")
    outcome = deeplvm("sample", run, "-o", "a.csv")
    assert outcome.code == 2
    assert "model.safetensors" in outcome.line
    assert not Path("a.csv").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint(deeplvm: Run, table_run: Path, copy_of: Copy, damage: str) -> None:
    run = copy_of(table_run)
    for path in (run / "checkpoint").iterdir():
        DAMAGE[damage](path)
    outcome = deeplvm("resume", run, "--epochs", 3)
    assert outcome.code == 2
    assert "state.safetensors" in outcome.line


def test_newer_run_folder(deeplvm: Run, table_run: Path, copy_of: Copy) -> None:
    run = copy_of(table_run)
    config = (run / "config.toml").read_text().replace("format = 1", "format = 99")
    (run / "config.toml").write_text(config)
    outcome = deeplvm("sample", run, "-o", "a.csv")
    assert outcome.code == 2
    assert "newer deeplvm" in outcome.line


def test_options_that_no_longer_fit_the_weights(
    deeplvm: Run, table_run: Path, copy_of: Copy
) -> None:
    run = copy_of(table_run)
    config = (run / "config.toml").read_text().replace("latent = 2", "latent = 3")
    (run / "config.toml").write_text(config)
    outcome = deeplvm("sample", run, "-o", "a.csv")
    assert outcome.code == 2
    assert "does not fit" in outcome.line


def test_data_that_changed(deeplvm: Run, csv: Path, table: Any) -> None:
    table(80).to_csv("mine.csv", index=False)
    words = ("--label", "kind", "--epochs", 1, "--latent", 1, "--hidden", 4, "--no-evaluate")
    assert deeplvm("fit", "mine.csv", *words, "--out", "run").code == 0
    table(70).to_csv("mine.csv", index=False)
    outcome = deeplvm("evaluate", "run")
    assert outcome.code == 2
    assert "no longer what run was fitted to" in outcome.line
    Path("mine.csv").unlink()
    assert "mine.csv" in deeplvm("evaluate", "run").line
    assert deeplvm("sample", "run", "-o", "a.csv").code == 0  # needs no data


def test_other_data_that_do_not_fit(deeplvm: Run, table_run: Path, table: Any) -> None:
    table(20).drop(columns="age").to_csv("other.csv", index=False)
    outcome = deeplvm("score", table_run, "other.csv", "-o", "scores.csv")
    assert outcome.code == 2
    assert "age" in outcome.line


def test_a_table_is_no_picture(deeplvm: Run, table_run: Path) -> None:
    outcome = deeplvm("sample", table_run, "-o", "a.png")
    assert outcome.code == 2
    assert "not images" in outcome.line


@pytest.mark.parametrize("flag", ["--particles", "--rows"])
def test_none_of_something(deeplvm: Run, table_run: Path, flag: str) -> None:
    verb = "sample" if flag == "--rows" else "score"
    outcome = deeplvm(verb, table_run, flag, 0, "-o", "a.csv")
    assert outcome.code == 2
    assert flag.lstrip("-") in outcome.line


def test_an_error_of_ours_keeps_its_traceback_in_a_file(deeplvm: Run, monkeypatch: Any) -> None:
    def broken() -> None:
        raise RuntimeError("should not happen")

    monkeypatch.setattr("deeplvm.data.datasets", broken)
    outcome = deeplvm("datasets")
    assert outcome.code == 1
    path = Path(outcome.line.rsplit(" ", 1)[1])
    assert "Traceback" in path.read_text()
    path.unlink()
    assert "Traceback" in deeplvm("datasets", "--debug").err


def test_interrupt_is_one_line(deeplvm: Run, csv: Path, monkeypatch: Any) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deeplvm.data.load", interrupted)
    outcome = deeplvm("fit", csv)
    assert outcome.code == 130
    assert outcome.line == "deeplvm: Interrupted."


def test_an_interrupted_fit_keeps_its_best_model(
    deeplvm: Run, csv: Path, monkeypatch: Any
) -> None:
    from deeplvm.training.callbacks import Progress

    said = Progress.epoch

    def interrupt(self: Progress, record: Any, *, best: bool) -> None:
        said(self, record, best=best)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch", interrupt)
    words = ("--label", "kind", "--latent", 1, "--hidden", 4, "--epochs", 5, "--out", "run")
    outcome = deeplvm("fit", csv, *words)
    assert outcome.code == 130
    assert outcome.line.endswith("Go on with: deeplvm resume run")
    assert deeplvm("sample", "run", "-n", 2, "-o", "a.csv").code == 0
    monkeypatch.setattr(Progress, "epoch", said)
    assert deeplvm("resume", "run", "--no-evaluate").code == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 5


def test_numbers_that_explode_are_one_line(deeplvm: Run, csv: Path) -> None:
    words = ("--label", "kind", "--learning-rate", "1e30", "--epochs", 3, "--out", "run")
    outcome = deeplvm("fit", csv, *words)
    assert outcome.code == 2
    assert "learning rate" in outcome.line
