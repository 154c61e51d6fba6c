"""A run that is killed at any moment and resumed ends as an undisturbed one, bit for bit."""

from __future__ import annotations

import ast
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from long_form import FULL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

# Everything that a checkpoint holds takes part: an average, bits drawn anew, a schedule, clipping.
EPOCHS = "6" if FULL else "3"
FIT = (
    "fit", "digits", "--limit", "300", "--batch-size", "20", "--recipe", "iwae", "--layers", "1",
    "--latent", "3", "--hidden", "32", "--particles", "3", "--binarize", "dynamic",
    "--averaging", "0.9", "--schedule", "cosine", "--clip", "5", "--epochs", EPOCHS,
    "--checkpoint-every", "1", "--checkpoint-seconds", "0.01", "--no-compile", "--device", "cpu",
    "--no-evaluate", "--out", "run",
)  # fmt: skip
RESUME = ("resume", "run", "--device", "cpu", "--no-evaluate")
MOST_DEATHS = 4  # of one run; then it is left to end


@dataclass(frozen=True)
class Undisturbed:
    folder: Path
    seconds: float
    calls: dict[str, int]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, born: Any) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    end(born(folder, words=[]), folder)  # starts the server
    began = time.monotonic()
    assert end(born(folder, words=FIT), folder) == 0
    seconds = time.monotonic() - began
    return Undisturbed(folder, seconds, ast.literal_eval((folder / "counts").read_text()))


def end(child: Any, folder: Path) -> int:
    child.join(120)
    assert child.exitcode is not None, (folder / "said").read_text()
    return child.exitcode


def measured(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what the clock and the memory say."""
    clock = ("seconds", "rows_per_second", "fraction_of_limit", "peak_memory")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in clock} for line in lines]


def words(folder: Path) -> tuple[str, ...]:
    return RESUME if (folder / "run" / "config.toml").exists() else FIT


def assert_same(folder: Path, undisturbed: Undisturbed) -> None:
    run, expected = folder / "run", undisturbed.folder / "run"
    assert (run / "model.safetensors").read_bytes() == (
        expected / "model.safetensors"
    ).read_bytes()
    assert measured(run) == measured(expected)
    names = [sorted(path.name for path in each.rglob("*")) for each in (run, expected)]
    assert names[0] == names[1]  # no half-written file is left


def test_any_moment(
    undisturbed: Undisturbed, born: Any, tmp_path: Path, full: bool, tell: Any
) -> None:
    chance = random.Random(0)
    wanted = 100 if full else 3
    killed = inside = runs = 0
    while killed < wanted:
        folder = tmp_path / str(runs)
        folder.mkdir()
        for _ in range(MOST_DEATHS):
            child = born(folder, words=words(folder))
            child.join(chance.uniform(0.01, undisturbed.seconds))
            child.kill()
            if end(child, folder) == 0:
                break
            killed += 1
            inside += any((folder / "run").glob("**/*.writing"))
        else:
            assert end(born(folder, words=words(folder)), folder) == 0
        assert_same(folder, undisturbed)
        runs += 1
    tell(f"{killed} killed in {runs} runs, {inside} seen inside a checkpoint's write")


def test_inside_a_write(
    undisturbed: Undisturbed, born: Any, tmp_path: Path, full: bool, tell: Any
) -> None:
    """At the n-th flush, with a part of the file on the disk, or just before the n-th rename."""
    chance = random.Random(1)
    wanted = 60 if full else 3
    deaths: list[str] = []
    runs = 0
    while len(deaths) < wanted:
        folder = tmp_path / str(runs)
        folder.mkdir()
        for _ in range(MOST_DEATHS):
            call = chance.choice(["fsync", "replace"])
            dies = (call, chance.randint(1, undisturbed.calls[call]), chance.random())
            if end(born(folder, words=words(folder), dies=dies), folder) == 0:
                break
        else:
            assert end(born(folder, words=words(folder)), folder) == 0
        assert_same(folder, undisturbed)
        if (folder / "deaths").exists():
            deaths += (folder / "deaths").read_text().splitlines()
        runs += 1
    inside = [path for path in deaths if path.endswith("state.safetensors.writing")]
    assert len(inside) >= wanted // 5
    tell(f"{len(deaths)} died at the disk in {runs} runs, {len(inside)} in a checkpoint's write")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_while_the_folder_is_made(born: Any, tmp_path: Path, call: str) -> None:
    """Before there is anything to resume, the same command makes the folder anew."""
    short = [{EPOCHS: "1", "300": "40"}.get(word, word) for word in FIT]
    for number in (1, 2):  # of data.json, of config.toml
        assert end(born(tmp_path, words=short, dies=(call, number, 0.5)), tmp_path) != 0
        assert not (tmp_path / "run" / "config.toml").exists()
    assert any((tmp_path / "run").iterdir())
    assert end(born(tmp_path, words=short), tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "README.md",
        "checkpoint",
        "config.toml",
        "data.json",
        "metrics.jsonl",
        "model.safetensors",
    ]


def test_while_an_archive_is_written_or_read(born: Any, tmp_path: Path, full: bool) -> None:
    """There is the whole file, or the one that was there before, or none."""
    pytest.importorskip("constriction")
    (tmp_path / "x.csv").write_text(
        "\n".join(["a,b", *[f"{n % 3},{n % 5 // 2}" for n in range(40)]])
    )
    fit = ("fit", "x.csv", "--epochs", "1", "--latent", "2", "--hidden", "4", "--no-evaluate")
    assert end(born(tmp_path, words=(*fit, "--out", "run")), tmp_path) == 0
    pack = ("compress", "run", "x.csv", "-o", "x.dlvm")
    read = ("decompress", "run", "x.dlvm", "-o", "back.csv")
    deaths = 0
    for words, name in ((pack, "x.dlvm"), (read, "back.csv")) if full else ((pack, "x.dlvm"),):
        path = tmp_path / name
        for before in (False, True) if full else (False,):
            kept = path.read_bytes() if before else None
            for call in ("fsync", "replace") if full else ("fsync",):
                assert end(born(tmp_path, words=words, dies=(call, 1, 0.5)), tmp_path) != 0
                assert (path.read_bytes() if path.exists() else None) == kept
                deaths += 1
            assert end(born(tmp_path, words=words), tmp_path) == 0
    assert len((tmp_path / "deaths").read_text().splitlines()) == deaths
    assert end(born(tmp_path, words=read), tmp_path) == 0
    assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()
    names = {"run", "x.csv", "x.dlvm", "back.csv", "said", "deaths", "counts"}
    assert {each.name for each in tmp_path.iterdir()} == names


SEQUENCES: dict[str, tuple[str, ...]] = {
    "srnn": ("--state", "3", "--inference", "filtering"),
    "structured_vae": (),
}
if FULL:
    SEQUENCES |= dict.fromkeys(("deep_markov_model", "storn", "vrnn"), ("--state", "3"))
    SEQUENCES |= {"dvbf": ()}


@pytest.mark.parametrize("recipe", SEQUENCES)
def test_sequences_of_unequal_length(recipe: str, born: Any, tmp_path: Path) -> None:
    """Killed before the last of its writes, and again at another one."""
    rows = [
        f"{unit},{(7 * unit + 3 * step) % 5}" for unit in range(14) for step in range(unit % 4 + 1)
    ]
    fit = (
        "fit", "readings.csv", "--sequence", "unit", "--recipe", recipe, "--latent", "1",
        "--hidden", "3", *SEQUENCES[recipe], "--batch-size", "4", "--epochs", "2",
        "--checkpoint-every", "1", "--checkpoint-seconds", "0.01", "--device", "cpu",
        "--no-evaluate", "--out", "run",
    )  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for each in (whole, folder):
        each.mkdir()
        (each / "readings.csv").write_text("\n".join(["unit,level", *rows]))
    assert end(born(whole, words=fit), whole) == 0
    counts = ast.literal_eval((whole / "counts").read_text())
    for share in (0.4, 0.8):
        dies = ("replace", int(share * counts["replace"]), 0.5)
        again = RESUME if (folder / "run" / "config.toml").exists() else fit
        end(born(folder, words=again, dies=dies), folder)
    assert (folder / "deaths").exists()
    again = RESUME if (folder / "run" / "config.toml").exists() else fit
    assert end(born(folder, words=again), folder) == 0
    assert_same(folder, Undisturbed(whole, 0.0, counts))
