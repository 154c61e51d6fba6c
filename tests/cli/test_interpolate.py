"""From one row to another, as a user would ask for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.cli import main

Run = Callable[..., Any]
SMALL = ("--features", 4, "--hidden", 6, "--latent", 2, "--epochs", 1, "--no-evaluate")


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on strings with a property beside them."""
    folder = tmp_path_factory.mktemp("molecules")
    smiles = ["CCO", "CCCC", "CC(=O)N", "c1ccccc1"] * 6
    table = pd.DataFrame({"smiles": smiles, "size": [3, 4, 4, 6] * 6})
    table.to_csv(folder / "mine.csv", index=False)
    words = ["fit", folder / "mine.csv", "--text", "smiles", "--tokens", "smiles"]
    words += ["--group", "size=size", "--recipe", "smiles-vae", "--channels", 4, *SMALL]
    assert main([str(each) for each in (*words, "--out", folder / "run")]) == 0
    return folder / "run"


def test_images_tables_and_a_file_of_one_row(
    deeplvm: Run, image_run: Path, table_run: Path, csv: Path, tmp_path: Path
) -> None:
    from PIL import Image

    done = deeplvm("interpolate", image_run, 0, 1, "--steps", 4, "-o", tmp_path / "way.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "way.png") as picture:
        assert round(picture.width / picture.height) == 6  # the rows themselves at both ends
    table = pd.read_csv(csv)
    table[3:4].to_csv(tmp_path / "one.csv", index=False)
    way, again = tmp_path / "way.csv", tmp_path / "again.csv"
    done = deeplvm("interpolate", table_run, tmp_path / "one.csv", 4, "--data", csv, "-o", way)
    assert done.code == 0, done.err
    assert deeplvm("interpolate", table_run, 3, 4, "--data", csv, "-o", again).code == 0
    assert way.read_text() == again.read_text()
    assert [*pd.read_csv(way)] == ["height", "weight", "age"]
    assert len(pd.read_csv(way)) == 8


def test_molecules_by_what_they_are(deeplvm: Run, molecules: Path, tmp_path: Path) -> None:
    said = deeplvm("interpolate", molecules, "CCO", "CC(=X)N", "--steps", 3)
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) >= 3
    assert "tokens that are not in the vocabulary, <unk>: 1" in said.err
    assert "from: CCO" in said.err
    done = deeplvm("interpolate", molecules, 0, "[X]", "-o", tmp_path / "way.csv", "--beam", 1)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "way.csv", keep_default_na=False)
    assert [*table] == ["x", "size"]
    assert table["size"].std() > 0
    none = deeplvm("interpolate", molecules, 0, "")
    assert none.code == 2
    assert "A text without a word has no code" in none.line
    assert deeplvm("interpolate", molecules, 0, "C" * 300, "--steps", 2, "--beam", 1).code == 0
    pytest.importorskip("rdkit")
    assert deeplvm("interpolate", molecules, 0, "CCO", "-o", tmp_path / "way.png").code == 0
    assert deeplvm("sample", molecules, "-n", 3, "-o", tmp_path / "drawn.png").code == 0
    assert (tmp_path / "drawn.png").read_bytes()[:4] == b"\x89PNG"


def test_strings_with_most_of_a_property(deeplvm: Run, molecules: Path, tmp_path: Path) -> None:
    more, less = tmp_path / "more.csv", tmp_path / "less.txt"
    found = deeplvm("sample", molecules, "--highest", "size", "-n", 3, "-o", more)
    assert found.code == 0, found.err
    assert "training rows: mean" in found.err
    table = pd.read_csv(more, keep_default_na=False)
    assert [*table] == ["x", "size"]
    assert table["x"].is_unique
    assert table["size"].is_monotonic_decreasing
    assert deeplvm("sample", molecules, "--lowest", "size", "-n", 3, "-o", less).code == 0
    for words, said in (
        (("--highest", "age"), "there are size"),
        (("--highest", "size", "--lowest", "size"), "leave out --lowest"),
        (("--highest", "size", "--temperature", 0.5), "leave out --temperature"),
    ):
        assert said in deeplvm("sample", molecules, *words, "-o", more).line


def test_steps_of_sequences_and_turns_of_dialogues(deeplvm: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = [(row, t, rng.normal()) for row in range(20) for t in range(3 + row % 2)]
    pd.DataFrame(steps, columns=["id", "t", "heat"]).to_csv(tmp_path / "s.csv", index=False)
    of_steps = ("--sequence", "id", "--order", "t", "--recipe", "storn", "--state", 4)
    tiny = ("--latent", 2, "--hidden", 4, "--epochs", 1, "--no-evaluate")
    run = tmp_path / "series"
    assert deeplvm("fit", tmp_path / "s.csv", *of_steps, *tiny, "--out", run).code == 0
    way = tmp_path / "way.csv"
    done = deeplvm("interpolate", run, 0, 1, "--steps", 2, "-o", way)
    assert done.code == 0, done.err
    assert [*pd.read_csv(way)] == ["id", "t", "heat"]
    assert f"2 rows, {len(pd.read_csv(way))} steps in all" in done.err
    talk = [["a b", "b", "a"][: 2 + row % 2] for row in range(30)]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, talk)))
    run = tmp_path / "talk"
    turns = ("--recipe", "vhred", "--features", 4, "--state", 4)
    assert deeplvm("fit", tmp_path / "talk.jsonl", *turns, *tiny, "--out", run).code == 0
    done = deeplvm("interpolate", run, "a b | b", "a | b | a", "-o", tmp_path / "w.txt")
    assert done.code == 0, done.err
    assert "the first 2 steps, which both rows have" in done.err
    assert len((tmp_path / "w.txt").read_text().splitlines()) == 8
    assert "--beam is of texts whose end" in deeplvm("interpolate", run, 0, 1, "--beam", 2).line


@pytest.mark.parametrize(
    "words, said",
    [
        ((0, 1), "Where to?"),
        ((0, 99999, "-o", "w.csv"), "There is no row 99999"),
        ((0, "nothing", "-o", "w.csv"), "'nothing' is neither the number of a row"),
        ((0, 1, "-o", "w.txt"), "lines are of texts"),
        ((0, 1, "-o", "w.png"), "the data are not images"),
        ((0, 1, "-o", "w.mid"), "is of sequences"),
        ((0, 1, "-o", "w.csv", "--steps", 1), "--steps"),
        ((0, 1, "-o", "w.csv", "--beam", 2), "--beam is of texts"),
        ((0, "DATA", "-o", "w.csv"), "has 80 rows, of which one is meant: give --data"),
    ],
)
def test_what_cannot_be_asked(
    deeplvm: Run, table_run: Path, csv: Path, words: tuple[Any, ...], said: str
) -> None:
    outcome = deeplvm("interpolate", table_run, *[csv if w == "DATA" else w for w in words])
    assert outcome.code == 2
    assert said in outcome.line
