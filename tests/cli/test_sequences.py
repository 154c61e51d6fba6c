"""Every verb on rows that are sequences: a long table of readings with holes, and music."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from deeplvm.cli import main
from deeplvm.cli.sequences import drawn_keys, midi
from deeplvm.data import load
from deeplvm.report.sections import Subject, _compared, _sequences
from deeplvm.runs.run import open_run

Run = Callable[..., Any]
RECIPE = """
from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Gaussian
from deeplvm.data import likelihood_of
from deeplvm.networks import GRU, MLP


def markov(data):
    x, u = data.variables["x"], data.variables.get("u")
    reads, size = ("", 0) if u is None else (", u", u.features)
    p = {f"z | z[-1]{reads}": Gaussian(2, MLP(2 + size, 4)), "x | z": likelihood_of(x, MLP(2, 4))}
    q = {f"z | x, z[-1]{reads}": Gaussian(2, MLP(x.features + 2 + size, 4))}
    joints = [Recurrent(each, start={"z": 2}, length="n") for each in (p, q)]
    return LatentVariableModel(*joints)
"""


def readings(units: int = 40, seed: int = 0) -> pandas.DataFrame:
    """Three columns, one of categories, at irregular times, a tenth of them missing."""
    draws = np.random.default_rng(seed)
    parts = []
    for unit in range(units):
        steps = int(draws.integers(3, 9))
        level = draws.normal(size=steps).cumsum()
        parts.append(
            pandas.DataFrame(
                {
                    "unit": f"u{unit:02d}",
                    "hour": np.round(draws.exponential(1.0, steps).cumsum() + 0.1, 3),
                    "heat": np.round(20 + level, 2),
                    "load": np.round(level + draws.normal(size=steps), 2),
                    "state": np.where(level > 0, "on", "off").astype(object),
                    "note": f"of {unit}",
                }
            )
        )
    frame = pandas.concat(parts, ignore_index=True)
    for column in ("heat", "load", "state"):
        frame.loc[draws.random(len(frame)) < 0.1, column] = None
    return frame


@pytest.fixture(scope="session")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the readings, their recipe and a run."""
    folder = tmp_path_factory.mktemp("sensors")
    readings().to_csv(folder / "readings.csv", index=False)
    readings(5, seed=1).sample(frac=1, random_state=0).to_csv(folder / "new.csv", index=False)
    (folder / "own.py").write_text(RECIPE)
    code = main(
        [
            "fit", str(folder / "readings.csv"), "--sequence", "unit", "--order", "hour",
            "--drop", "note", "--recipe", f"{folder / 'own.py'}:markov", "--epochs", "1",
            "--out", str(folder / "run"), "--no-evaluate",
        ]
    )  # fmt: skip
    assert code == 0
    return folder


def told(deeplvm: Run, *words: object) -> Any:
    outcome = deeplvm(*words, "--trust", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    return outcome


def test_draws_are_a_long_table_that_can_be_read_again(deeplvm: Run, sensors: Path) -> None:
    run = sensors / "run"
    told(deeplvm, "sample", run, "-n", 6, "-o", "drawn.csv")
    drawn = pandas.read_csv("drawn.csv")
    assert [*drawn.columns] == ["unit", "hour", "heat", "load", "state"]
    assert drawn["unit"].nunique() == 6
    assert (drawn.groupby("unit")["hour"].diff().dropna() > 0).all()
    assert set(drawn["state"]) <= {"on", "off"}
    told(deeplvm, "score", run, "drawn.csv", "-o", "scored.csv", "--particles", 5)
    assert len(pandas.read_csv("scored.csv")) == 6
    told(deeplvm, "sample", run, "-n", 3, "--steps", 3, "-o", "drawn.npz")
    arrays = np.load("drawn.npz")
    assert arrays["offsets"].tolist() == [0, 3, 6, 9]
    told(deeplvm, "sample", run, "-n", 2, "-o", "drawn.png")
    assert Path("drawn.png").read_bytes()[:4] == b"\x89PNG"


def test_holes_are_filled_in_the_order_of_the_steps(deeplvm: Run, sensors: Path) -> None:
    words = ("impute", sensors / "run", sensors / "new.csv", "--particles", 20)
    told(deeplvm, *words, "-o", "filled.csv", "--details", "details.csv")
    given = pandas.read_csv(sensors / "new.csv").sort_values(["unit", "hour"])
    filled = pandas.read_csv("filled.csv").sort_values(["unit", "hour"])
    assert [*filled.columns] == [*given.columns]
    for column in given:
        old, new = given[column].to_numpy(), filled[column].to_numpy()
        there = ~pandas.isna(old)
        assert (old[there] == new[there]).all()
        assert not pandas.isna(new).any()
    details = pandas.read_csv("details.csv")
    assert len(details) == int(given.isna().sum().sum())
    assert [*details.columns][:4] == ["unit", "hour", "column", "value"]
    one = details.iloc[0]
    here = given[(given["unit"] == one["unit"]) & (given["hour"] == one["hour"])]
    assert here[one["column"]].isna().all()
    told(deeplvm, *words, "-o", "drawn.csv", "--draws", 2)
    drawn = pandas.read_csv("drawn.csv")
    assert len(drawn) == 2 * len(given)
    assert drawn["draw"].nunique() == 2


def test_the_future_has_intervals_and_times(deeplvm: Run, sensors: Path) -> None:
    words = ("impute", sensors / "run", sensors / "new.csv", "--horizon", 2, "--particles", 50)
    told(deeplvm, *words, "-o", "future.csv")
    future = pandas.read_csv("future.csv")
    heat = ["heat_0.05", "heat_0.5", "heat_0.95"]
    assert {"unit", "hour", *heat, "state", "state_probability"} <= {*future.columns}
    assert len(future) == 10
    assert (future[heat].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    last = pandas.read_csv(sensors / "new.csv").groupby("unit")["hour"].max()
    assert (future.groupby("unit")["hour"].min() > last).all()
    told(deeplvm, *words, "-o", "draws.csv", "--draws", 3)
    assert [*pandas.read_csv("draws.csv").columns][:3] == ["draw", "unit", "hour"]
    refused = deeplvm(*words, "--trust", "-o", "no.csv", "--by", "mean")
    assert "--by mean is of holes" in refused.line


def test_scores_and_codes_of_rows_and_steps(deeplvm: Run, sensors: Path) -> None:
    run, new = sensors / "run", sensors / "new.csv"
    steps = pandas.read_csv(new).sort_values(["unit", "hour"])
    told(deeplvm, "score", run, new, "-o", "rows.csv", "--particles", 20)
    told(deeplvm, "score", run, new, "-o", "steps.csv", "--particles", 20, "--steps")
    rows, scored = pandas.read_csv("rows.csv"), pandas.read_csv("steps.csv")
    assert next(iter(rows.columns)) == "unit"
    assert len(rows) == 5
    assert [*scored.columns][:3] == ["unit", "hour", "log_px"]
    assert set(zip(scored["unit"], scored["hour"], strict=True)) == set(
        zip(steps["unit"], steps["hour"], strict=True)
    )
    empty = steps[["heat", "load", "state"]].isna().all(axis=1)
    assert scored["percentile"].isna().sum() == empty.sum()
    told(deeplvm, "embed", run, new, "-o", "codes.csv")
    assert [*pandas.read_csv("codes.csv").columns] == ["unit", "z_0", "z_1"]
    told(deeplvm, "embed", run, new, "-o", "each.csv", "--steps", "--scales")
    each = pandas.read_csv("each.csv")
    assert [*each.columns] == ["unit", "hour", "z_0", "z_1", "z_sd_0", "z_sd_1"]
    told(deeplvm, "reconstruct", run, new, "-o", "back.csv")
    assert [*pandas.read_csv("back.csv").columns][:2] == ["unit", "hour"]


@pytest.mark.parametrize(
    "words, said",
    [
        (("score", "-o", "s.csv", "--cells"), "score its steps (--steps) instead"),
        (("score", "-o", "s.csv", "--cells", "--steps"), "--cells are of rows"),
        (("embed", "-o", "s.csv", "--scales"), "say --steps too"),
        (("sample", "-o", "s.mid"), "88 keys of a piano"),
        (("sample", "-o", "s.csv", "--given", "heat=20"), "--horizon what comes after it"),
        (("sample", "-o", "s.csv", "--steps", "100"), "no training row has it of so many"),
        (("reconstruct", "-o", "s.npz", "--depth", "all"), "--depth is of rows of one step"),
    ],
)
def test_what_does_not_fit_is_refused(
    deeplvm: Run, sensors: Path, words: tuple[str, ...], said: str
) -> None:
    verb, *rest = words
    refused = deeplvm(verb, sensors / "run", *rest, "--trust")
    assert refused.code == 2
    assert said in refused.line


def test_a_row_that_is_no_sequence_has_no_steps(deeplvm: Run, table_run: Path) -> None:
    for words in (("embed",), ("score",), ("sample",)):
        steps = ("--steps", 3) if words == ("sample",) else ("--steps",)
        refused = deeplvm(*words, table_run, "-o", "s.csv", *steps)
        assert "is of sequences, and a row of people is none" in refused.line


def notes(music: bytes) -> set[tuple[int, int, int]]:
    """``(key, begin, end)`` in ticks of each note of a file of one track."""
    head, length = struct.unpack(">4sI", music[14:22])
    assert (head, length) == (b"MTrk", len(music) - 22)
    at, now, begun, found = 22, 0, dict[int, int](), set()
    while at < len(music):
        delta = 0
        while True:
            delta = delta << 7 | music[at] & 0x7F
            at += 1
            if not music[at - 1] & 0x80:
                break
        now += delta
        if music[at] == 0xFF:
            at += 3 + music[at + 2]
            continue
        status, key, _ = music[at : at + 3]
        if status == 0x90:
            begun[key] = now
        else:
            found.add((key, begun.pop(key), now))
        at += 3
    assert not begun
    return found


def test_music_is_read_as_it_was_played() -> None:
    roll = np.zeros((400, 88), bool)
    roll[0:3, 39] = roll[2:4, 43] = roll[399, 0] = True
    quarter = 480
    assert notes(midi(roll)) == {
        (60, 0, 3 * quarter),
        (64, 2 * quarter, 4 * quarter),
        (21, 399 * quarter, 400 * quarter),
    }


def test_the_report_shows_rows_with_bands_and_what_comes_after(sensors: Path) -> None:
    opened = open_run(sensors / "run", trust=True)
    subject = Subject(opened.model, opened.data, None, [], None, {}, "train", 0)
    (shown,) = _sequences(subject)
    lines, future = shown.figures
    assert "Blue: the mean of p(x | z)" in lines[1]
    assert "steps as forecast from those before" in future[1]
    drawn, data = _compared(subject.material)
    assert drawn.shape[1] == data.shape[1] == 3
    assert len(data) == opened.data.train["n"].sum()


@pytest.mark.parametrize(
    "hours, said",
    [
        ([1.0, 2.0, 3.0], "hour: begins at 1, and goes on by the usual difference"),
        ([0.5, 0.75, 2.0], "hour: begins at 0.5, and goes on by the time differences of"),
        ("2024-03-01 00:00", "hour: begins at 2024-03-01, and goes on by the usual difference"),
        ("2024-03-01 06:30", "hour: begins at 2024-03-01 06:30:00, and goes on by the time diff"),
    ],
)
def test_drawn_times_begin_and_go_on_as_those_of_the_file(
    tmp_path: Path, hours: Any, said: str
) -> None:
    if isinstance(hours, str):
        first = pandas.Timestamp(hours)
        steps = [0, 1, 2] if first.hour == 0 else [0, 3, 4]
        hours = [str(first + pandas.to_timedelta(step, unit="D")) for step in steps]
    units = [each for unit in "abcdefghij" for each in [unit] * 3]
    frame = {"unit": units, "hour": [*hours] * 10, "heat": np.arange(30.0) / 7}
    pandas.DataFrame(frame).to_csv(tmp_path / "readings.csv", index=False)
    data = load(str(tmp_path / "readings.csv"), sequence="unit", order="hour")
    lengths = torch.tensor([3, 2])
    known = data.train.batch(torch.arange(2), [n for n in ("u",) if n in data.variables])
    keys, told = drawn_keys(lambda: data, data.description, known, lengths)
    assert told.startswith(said)
    assert keys["unit"].tolist() == [0, 0, 0, 1, 1]
    again = pandas.Series(keys["hour"]), pandas.Series([*hours, *hours[:2]])
    as_read = pandas.to_datetime if isinstance(hours[0], str) else pandas.to_numeric
    assert (as_read(again[0]) == as_read(again[1])).all()
