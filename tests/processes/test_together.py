"""One run by several processes: the same numbers, one that writes and speaks, errors told once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file

from long_form import FULL

# In the long form more processes, more models, more epochs.
COUNTS = (2, 3, 5) if FULL else (2,)
EPOCHS = "20" if FULL else "2"
MANY = "40" if FULL else "12"

DIGITS = ("fit", "digits", "--latent", "3", "--hidden", "16")
SMALL = (*DIGITS, "--limit", "200", "--batch-size", "61")
PEOPLE = ("fit", "people.csv", "--label", "kind", "--batch-size", "33", "--latent", "2")
# What is trained; batches are ragged, and rows do not divide by the number of processes.
CASES: dict[str, tuple[str, ...]] = {
    "levels": SMALL,
    "renewed bits, two particles, averaged": (
        *SMALL, "--recipe", "iwae", "--layers", "1", "--particles", "2",
        "--binarize", "dynamic", "--averaging", "0.9", "--clip", "5",
    ),
    "a table with holes": (*PEOPLE, "--hidden", "8"),
    "sequences": (
        "fit", "readings.csv", "--sequence", "unit", "--recipe", "deep_markov_model",
        "--latent", "2", "--state", "4", "--hidden", "4", "--batch-size", "7",
    ),
}  # fmt: skip
if FULL:
    CASES |= {
        "pictures": (
            "fit", "digits", "--limit", "200", "--batch-size", "61", "--latent", "3",
            "--recipe", "convolutional_vae", "--channels", "4",
        ),
        "given a label": (*PEOPLE, "--recipe", "conditional_vae"),
        "more processes than rows": (*DIGITS, "--limit", "5", "--batch-size", "2"),
        "texts": (
            "fit", "lines.txt", "--recipe", "sentence_vae", "--latent", "2", "--hidden", "8",
            "--batch-size", "13",
        ),
        "messages": (
            "fit", "readings.csv", "--sequence", "unit", "--recipe", "structured_vae",
            "--latent", "2", "--hidden", "4", "--batch-size", "7",
        ),
    }  # fmt: skip
PLAIN = ("--epochs", EPOCHS, "--device", "cpu", "--no-compile", "--no-evaluate")

Start = Callable[..., Any]


def write_people(folder: Path) -> None:
    """A table with a label and holes in a tenth of it, the same as sequences, and texts."""
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(101, 3))
    label = np.where(draws[:, 0] > 0, "tall", "small")
    draws[generator.random((101, 3)) < 0.1] = np.nan
    frame = pandas.DataFrame(draws, columns=["height", "weight", "age"])
    frame.assign(kind=label).to_csv(folder / "people.csv", index=False)
    unit = np.sort(generator.integers(0, 25, len(frame)))
    frame.assign(unit=unit).to_csv(folder / "readings.csv", index=False)
    words = generator.choice(["a", "b", "c", "d"], (60, 5))
    lines = [" ".join(row[: 1 + i % 5]) for i, row in enumerate(words)]
    (folder / "lines.txt").write_text("\n".join(lines))


def metrics(run: Path) -> list[dict[str, Any]]:
    """What was measured of each epoch, without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("epoch", "train", "valid", "objective", "learning_rate", "kl_weight")
    return [{name: line[name] for name in kept if name in line} for line in lines]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal words, and numbers to a relative tolerance, through dicts and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    else:
        assert found == expected


def assert_same_run(found: Path, expected: Path) -> None:
    """The same losses and the same best model, to 1e-5."""
    assert_close(metrics(found), metrics(expected))
    weights, others = (
        load_file(found / "model.safetensors"),
        load_file(expected / "model.safetensors"),
    )
    assert weights.keys() == others.keys()
    for name, value in others.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, starting: Start) -> Path:
    """Every case trained by one process and by several."""
    folder = tmp_path_factory.mktemp("runs")
    write_people(folder)
    for case, words in CASES.items():
        names = {count: f"{case}-{count}" for count in (1, *COUNTS)}
        teams = [
            starting(folder, name, count, words=[*words, *PLAIN, "--out", name])
            for count, name in names.items()
        ]
        for team in teams:
            assert set(team.codes()) == {0}, team.said()
    return folder


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one_does(runs: Path, case: str, count: int) -> None:
    assert len(metrics(runs / f"{case}-1")) == int(EPOCHS)
    assert_same_run(runs / f"{case}-{count}", runs / f"{case}-1")


def test_only_the_first_speaks(runs: Path) -> None:
    first, second = [(runs / f"levels-2.err.{rank}").read_text() for rank in (0, 1)]
    assert first.count(f"epoch {EPOCHS}/{EPOCHS}") == 1
    assert second == ""
    assert (runs / "levels-2.out.1").read_text() == ""


@pytest.mark.parametrize("case", ["levels", "sequences"])
@pytest.mark.parametrize("count", COUNTS)
def test_several_processes_evaluate_as_one_does(
    runs: Path, starting: Start, tmp_path: Path, case: str, count: int
) -> None:
    shutil.copytree(runs / f"{case}-1", tmp_path / "run")
    write_people(tmp_path)
    words = ["evaluate", "run", "--particles", "20", "--device", "cpu", "--json"]
    teams = [starting(tmp_path, f"of{n}", n, words=words) for n in (1, count)]
    assert [set(team.codes()) for team in teams] == [{0}, {0}], teams[1].said()
    alone, shared = [json.loads(team.said("out")) for team in teams]
    assert_close(shared, alone, 1e-6)


def test_with_a_disk_of_its_own_each(runs: Path, starting: Start, tmp_path: Path) -> None:
    for machine in ("0", "1"):
        (tmp_path / machine).mkdir()
        write_people(tmp_path / machine)
    words = [*CASES["a table with holes"], *PLAIN, "--out", "run"]
    team = starting(tmp_path, "fit", 2, disks=True, words=words)
    assert set(team.codes()) == {0}, team.said()
    assert_same_run(tmp_path / "0/run", runs / "a table with holes-1")
    assert sorted(os.listdir(tmp_path / "1")) == ["lines.txt", "people.csv", "readings.csv"]
    words = ["resume", "run", "--epochs", str(int(EPOCHS) + 1), "--evaluation-particles", "5"]
    team = starting(tmp_path, "resume", 2, disks=True, words=words)
    assert set(team.codes()) == {0}, team.said()
    assert (tmp_path / "0/run/report.html").exists()
    assert len(os.listdir(tmp_path / "1")) == 3


def told(team: Any) -> str:
    """The one line of an error, whoever told it."""
    lines = [line for line in team.said().splitlines() if line.startswith("deeplvm: ")]
    assert len(lines) == 1, team.said()
    assert "Traceback" not in team.said()
    return lines[0]


def test_bad_input_is_code_2_in_all_and_one_line(
    runs: Path, starting: Start, tmp_path: Path
) -> None:
    shutil.copytree(runs / "levels-1", tmp_path / "levels-1")
    words = {
        "data": ["fit", "no-such.csv"],
        "usage": ["fit", "digits", "--epochs", "many"],
        "option": ["fit", "digits", "--learning-rate", "0", "--out", "new"],
        "folder": ["fit", "digits", "--out", "levels-1"],
        "run": ["evaluate", "no-such-run"],
    }
    teams = {case: starting(tmp_path, case, 2, words=each) for case, each in words.items()}
    expected = {
        "data": "no such file",
        "usage": "many",
        "option": "learning_rate",
        "folder": "name another folder",
        "run": "There is no RUN folder no-such-run",
    }
    for case, team in teams.items():
        assert team.codes() == [2, 2], (case, team.said())
        assert expected[case] in told(team)
    assert not (tmp_path / "new").exists()


def test_what_one_machine_alone_lacks(starting: Start, tmp_path: Path) -> None:
    other, none = tmp_path / "other", tmp_path / "none"
    for folder in (other, none):
        for machine in ("0", "1"):
            (folder / machine).mkdir(parents=True)
            write_people(folder / machine)
    text = (other / "1/people.csv").read_text()
    (other / "1/people.csv").write_text(text.replace("tall", "small", 1))
    (none / "1/people.csv").unlink()
    words = [*PEOPLE, *PLAIN]
    teams = [starting(folder, "fit", 2, disks=True, words=words) for folder in (other, none)]
    assert teams[0].codes() == [2, 2]
    assert "Not all processes read the same data" in told(teams[0])
    assert teams[1].codes() == [1, 2]
    assert "people.csv: no such file" in told(teams[1])
    data = ["lines.txt", "people.csv", "readings.csv"]
    assert [sorted(os.listdir(folder / "0")) for folder in (other, none)] == [data] * 2


def test_verbs_of_one_process_are_done_by_the_first(
    runs: Path, starting: Start, tmp_path: Path
) -> None:
    shutil.copytree(runs / "levels-1", tmp_path / "run")
    words = ["sample", "run", "-n", "4", "--device", "cpu", "-o", "draws.csv"]
    team = starting(tmp_path, "sample", 2, words=words)
    assert set(team.codes()) == {0}, team.said()
    assert len(pandas.read_csv(tmp_path / "draws.csv")) == 4


LONG = (
    *DIGITS, "--limit", "600", "--batch-size", "61", "--epochs", MANY,
    "--device", "cpu", "--no-compile", "--no-evaluate",
)  # fmt: skip


def test_the_time_is_over_for_all_at_the_same_step(starting: Start, tmp_path: Path) -> None:
    words = [*LONG, "--minutes", "1e-9", "--out", "run"]
    team = starting(tmp_path, "fit", 2, words=words)
    assert set(team.codes()) == {0}, team.said()
    (line,) = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["part"] == 0.2  # two of ten steps: the second is told of the time


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_at_the_same_step(
    starting: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    team = starting(tmp_path, "fit", 2, words=[*LONG, "--out", "run"])
    wait_for_epochs(tmp_path / "run", 2, lambda: team.members[0].is_alive())
    os.kill(team.members[1].pid, number)  # the second alone: the first must hear of it
    assert team.codes(30) == [code, code], team.said()
    assert "Go on with: deeplvm resume run" in told(team)
    if FULL or number == signal.SIGINT:
        again = starting(tmp_path, "resume", 1, words=["resume", "run", "--no-evaluate"])
        assert again.codes() == [0], again.said()
        assert len(metrics(tmp_path / "run")) == int(MANY)


def wait_for_epochs(run: Path, count: int, lives: Callable[[], bool]) -> None:
    """Return when so many epochs are done, and fail if nobody is there to do them."""
    end = time.monotonic() + 180
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert lives()
        assert time.monotonic() < end
        time.sleep(0.01)


def workers_of(agent: int) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    listed = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    found = {}
    for number in listed:
        environment = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        ranks = [each[5:] for each in environment if each.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0])] = int(number)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
@pytest.mark.parametrize("victim", [0, 1] if FULL else [1])
def test_a_killed_worker_ends_all_and_the_run_goes_on(
    starting: Start, tmp_path: Path, victim: int
) -> None:
    undisturbed = starting(tmp_path, "undisturbed", 1, words=[*LONG, "--out", "undisturbed"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with (tmp_path / "err").open("w") as errors:
        agent = subprocess.Popen(
            [*torchrun, "-m", "deeplvm", *LONG, "--out", "run"],
            cwd=tmp_path,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        )
    try:
        wait_for_epochs(tmp_path / "run", 2, lambda: agent.poll() is None)
        os.kill(workers_of(agent.pid)[victim], signal.SIGKILL)
        began = time.monotonic()
        assert agent.wait(30) != 0
        assert time.monotonic() - began < 15
    finally:
        agent.kill()
        agent.wait()
    lines = [
        line
        for line in (tmp_path / "err").read_text().splitlines()
        if line.startswith("deeplvm: ")
    ]
    assert len(lines) == 1
    assert "another process ended" in lines[0].lower()  # seen, or told by the launcher
    assert "Go on with: deeplvm resume run" in lines[0]
    assert len(metrics(tmp_path / "run")) < int(MANY)

    assert undisturbed.codes() == [0], undisturbed.said()
    for count in (1, 3) if FULL else (3,):
        shutil.copytree(tmp_path / "run", tmp_path / f"again-{count}")
        words = ["resume", f"again-{count}", "--no-evaluate"]
        again = starting(tmp_path, f"resume-{count}", count, words=words)
        assert set(again.codes()) == {0}, again.said()
        assert_same_run(tmp_path / f"again-{count}", tmp_path / "undisturbed")


BULK = {
    "embed": ("embed", "run", "--scales"),
    "score": ("score", "run", "--particles", "20"),
    "impute": ("impute", "run", "--particles", "400"),  # some 25 rows at a time
}


@pytest.fixture
def people(runs: Path, tmp_path: Path) -> Path:
    """A run, and three files of which no two processes have the same share."""
    shutil.copytree(runs / "a table with holes-1", tmp_path / "run")
    write_people(tmp_path)
    frame = pandas.read_csv(tmp_path / "people.csv")
    for name, rows in (("few", 3), ("some", 40), ("many", 101)):
        frame[:rows].to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("count", COUNTS)
def test_rows_of_one_file_are_shared(starting: Start, people: Path, count: int) -> None:
    teams = []
    for verb, words in BULK.items():
        for n in (1, count):
            order = [*words, "people.csv", "-o", f"{verb}-{n}.csv"]
            teams.append(starting(people, f"{verb}-{n}", n, words=order))
    for team in teams:
        assert set(team.codes()) == {0}, team.said()
    for verb in BULK:
        alone, shared = [(people / f"{verb}-{n}.csv").read_bytes() for n in (1, count)]
        assert shared == alone
    frame = pandas.read_csv(people / "people.csv")
    assert len(pandas.read_csv(people / f"impute-{count}.csv")) == len(frame)


@pytest.mark.parametrize("count", COUNTS)
def test_many_files_are_shared(starting: Start, people: Path, count: int) -> None:
    names = ["few.csv", "many.csv", "some.csv"]
    teams = {}
    for verb, words in BULK.items():
        for n in (1, count):
            name = f"{verb}-{n}"
            teams[name] = starting(people, name, n, words=[*words, *names, "-o", name])
    for name, team in teams.items():
        assert set(team.codes()) == {0}, team.said()
        assert team.said().splitlines()[-1] == f"{name}: 3 files"
    for verb in BULK:
        for name in names:
            alone, shared = [(people / f"{verb}-{n}" / name).read_bytes() for n in (1, count)]
            assert shared == alone
        assert sorted(os.listdir(people / f"{verb}-{count}")) == names


def test_one_bad_file_of_many_is_one_line(starting: Start, people: Path) -> None:
    (people / "some.csv").write_text("height\ntall\n")
    words = ["embed", "run", "few.csv", "many.csv", "some.csv", "-o", "out"]
    team = starting(people, "embed", 2, words=words)
    codes = team.codes()
    assert codes[1] == 2
    assert codes[0] != 0
    assert "some.csv" in told(team)
