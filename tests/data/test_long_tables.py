"""Sequences in files: long tables, folders of tables, lines of JSON."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.data import DataError, Description, load
from deeplvm.data.tabular import cells_of_file

START = pd.Timestamp("2026-01-01")
ASKED: dict[str, Any] = {
    "sequence": "patient",
    "order": "time",
    "inputs": ["dose"],
    "label": "ward",
}


def readings(patients=12, seed=0, *, regular=False):
    """A long table of patients, with holes, categories and irregular times."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(patients):
        hours = np.cumsum(rng.integers(1, 2 if regular else 9, rng.integers(2, 9)))
        rows += [
            {
                "patient": f"p{number:02d}",
                "time": START + pd.Timedelta(hours=hour),
                "pulse": round(rng.normal(70, 9), 1),
                "heat": round(rng.normal(37, 0.5), 2) if rng.random() > 0.2 else None,
                "state": rng.choice(["rest", "run"]),
                "dose": int(rng.integers(0, 3)),
                "ward": "ab"[number % 2],
            }
            for hour in hours.tolist()
        ]
    return pd.DataFrame(rows)


def by_patient(data, column):
    """The values of a column in all splits, a row each, whatever their order."""
    found = []
    for split in ("train", "valid", "test"):
        rows = data[split]["x"]
        found += [rows.at([row]).values[:, column].tolist() for row in range(len(rows))]
    return sorted(map(str, found))


def test_a_long_table_is_the_same_in_any_form(tmp_path):
    frame = readings()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    text, parquet = (load(tmp_path / name, **ASKED) for name in ("a.csv", "a.parquet"))
    assert text.fingerprint == parquet.fingerprint == load(frame, **ASKED).fingerprint
    x, u = text.variables["x"], text.variables["u"]
    assert x.columns == ("pulse", "heat", "state")
    assert x.parts[2].categories == ("rest", "run")
    assert u.columns == ("dose", "time_hours")
    assert {x.length, u.length} == {"n"}
    assert text.missing == {"x"}
    assert text.classes == ("a", "b")
    assert sum(text.description.rows.values()) == 12
    assert sum(text.description.steps.values()) == len(frame)
    assert float(x.mean[0]) == pytest.approx(float(text.train["x"].values[:, 0].double().mean()))
    hours = text.train["u"].at([0]).values[:, 1]
    assert hours[0] == 0
    assert torch.equal(hours, hours.round())


def test_unsorted_and_interleaved_rows_are_put_together():
    frame = readings()
    shuffled = frame.sample(frac=1, random_state=3)
    one, other = load(frame, **ASKED), load(shuffled, **ASKED)
    assert by_patient(one, 0) == by_patient(other, 0)
    assert "sorted by 'time'" in other.describe()
    assert "sorted by" not in one.describe()
    interleaved = frame.sort_values("time", kind="stable")
    later = load(interleaved, sequence="patient", drop=["time"], label="ward")
    assert by_patient(one, 0) == by_patient(later, 0)
    assert "put together, in the order of the file" in later.describe()


def test_regular_steps_have_no_differences_and_ties_are_told():
    regular = load(readings(regular=True), **ASKED)
    assert regular.variables["u"].columns == ("dose",)
    frame = readings()
    frame.loc[1, "time"] = frame.loc[0, "time"]
    assert "1 times 'time' is that of the step before" in load(frame, **ASKED).describe()
    numbers = readings().assign(time=lambda rows: (rows["time"] - START) / pd.Timedelta(hours=1))
    data = load(numbers, **ASKED)
    assert data.variables["u"].columns == ("dose", "time_difference")
    again = load(numbers, like=data.description).test["u"].values[:, 1]
    assert float(again.max()) == float(data.train["u"].values[:, 1].max()) == 8


def test_other_files_are_read_as_the_training_data(tmp_path):
    frame = readings()
    frame.to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", **ASKED)
    known = Description.from_dict(json.loads(json.dumps(data.description.to_dict())))
    other = readings(3, seed=1, regular=True).sample(frac=1, random_state=0)
    other.to_csv(tmp_path / "b.csv", index=False)
    again = load(tmp_path / "b.csv", like=known)
    assert again.rows("test") == 3
    assert again.test["u"].values.shape[1] == 2
    assert set(again.test["u"].values[:, 1].tolist()) <= {0.0, 1.0}
    cells = cells_of_file(str(tmp_path / "b.csv"), known)
    assert cells["pulse"].astype(float) == pytest.approx(again.test["x"].values[:, 0].numpy())
    order = pd.DataFrame(cells).groupby("patient", sort=False)["time"]
    assert all(times.is_monotonic_increasing for _, times in order)


def test_a_folder_has_a_sequence_in_each_file(tmp_path):
    frame = readings()
    for patient, rows in frame.groupby("patient"):
        folder = tmp_path / "sub" / rows["ward"].iloc[0]
        folder.mkdir(parents=True, exist_ok=True)
        rows.drop(columns=["patient", "ward"]).to_csv(folder / f"{patient}.csv", index=False)
    data = load(tmp_path / "sub", order="time", inputs=["dose"])
    whole = load(frame, **ASKED)
    assert data.classes == ("a", "b")
    assert by_patient(data, 1) == by_patient(whole, 1)
    frames = [rows for _, rows in frame.drop(columns="ward").groupby("patient")]
    listed = load(frames, order="time", inputs=["dose"], drop=["patient"])
    assert by_patient(listed, 0) == by_patient(whole, 0)
    with pytest.raises(DataError, match="in a folder each file is a sequence"):
        load(tmp_path / "sub", sequence="state")
    (tmp_path / "sub" / "a" / "p00.csv").write_text("pulse\n1\n")
    with pytest.raises(DataError, match="its columns are not those of"):
        load(tmp_path / "sub")


def test_a_line_of_json_is_a_sequence(tmp_path):
    rows = [[[1.5, None], [2.5, 1.0]], [[0.5, 2.0]], *[[[i / 3, i / 7]] * 3 for i in range(5)]]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load(path)
    assert sum(data.description.steps.values()) == 18
    assert data.missing == {"x"}
    named = [
        {"heat": [36.5 + i, 37.0], "state": ["rest", "run"], "u": [0.5, 0.7], "y": i % 2}
        for i in range(20)
    ]
    path.write_text("\n".join(map(json.dumps, named)))
    data = load(path)  # no array is x: the lists are columns
    assert data.variables["u"].columns == ("u",)
    assert data.variables["x"].columns == ("heat", "state")
    assert data.classes == ("0", "1")
    path.write_text("\n".join(json.dumps({"id": i // 3, "a": i / 7}) for i in range(30)))
    assert load(path, sequence="id").rows("train") == 8
    path.write_text("[1, 2]\n[1, [2]]\n")
    with pytest.raises(DataError, match="line 2, x: its steps are not alike"):
        load(path)
    path.write_text('{"a": [1], "b": [1, 2]}')
    with pytest.raises(DataError, match="line 1: its lists have unequal numbers of steps"):
        load(path)
    path.write_text('{"x": [1, 2], "id": "p"}')
    with pytest.raises(DataError, match="'id' is one value a line, beside lists"):
        load(path)
    path.write_text("\n".join(json.dumps({"step": ["a", "b"] * i}) for i in range(1, 9)))
    assert {"a", "b"} <= {*(load(path).variables["x"].categories or ())}
    path.write_text("[1, 2]\nnonsense\n")
    with pytest.raises(DataError, match="line 2: this is no JSON"):
        load(path)


def test_pieces_are_rows_and_their_split_is_honest():
    frame = pd.DataFrame({"id": np.repeat(np.arange(150), 7), "a": np.arange(1050) / 7})
    frame["b"] = np.random.default_rng(0).normal(size=1050)
    many = load(frame, sequence="id", pieces=3)
    assert "whole sequences, random with seed 0: 80% / 10% / 10%" in many.split
    assert [many.rows(split) for split in ("train", "valid", "test")] == [360, 45, 45]
    owners = [
        {int(step * 7) // 7 for step in many[split]["x"].values[:, 0].double().round(decimals=3)}
        for split in ("train", "valid", "test")
    ]
    assert sum(map(len, owners)) == 150
    assert many.train["n"].unique().tolist() == [1, 3]
    one = load(frame.assign(id="alone"), sequence="id", pieces=21)
    assert "the pieces of each sequence in their order: 80% / 10% / 10%" in one.split
    assert [one.rows(split) for split in ("train", "valid", "test")] == [40, 5, 5]
    ends = [one[split]["x"].values[:, 0] for split in ("train", "valid", "test")]
    assert ends[0].max() < ends[1].min() < ends[1].max() < ends[2].min()
    other = load(frame.assign(id="alone"), like=one.description)
    assert other.test["n"].tolist() == [1050]
    for source, size, words in (
        (frame.assign(id="alone"), 300, "makes 4 pieces, too few"),
        (frame.assign(id="alone"), 0, "at least 1 is needed"),
        (frame[["a", "b"]], 3, "cuts sequences of values, and these are none"),
    ):
        with pytest.raises(DataError, match=words):
            load(source, sequence="id" if "id" in source else None, pieces=size)


@pytest.mark.parametrize(
    "change, options, words",
    [
        (lambda f: f.assign(patient=f["patient"].where(f.index != 4)), {}, "row 5, column 'pati"),
        (lambda f: f.assign(time=f["time"].where(f.index != 4)), {}, "place of the step is not"),
        (lambda f: f.assign(time="soon"), {}, "ordered by numbers or by dates, but the column"),
        (lambda f: f.assign(patient=1), {"label": None}, "1 sequence cannot be split"),
        (lambda f: f, {"sequence": "pat"}, "there is no column 'pat'"),
        (lambda f: f, {"label": "state"}, "a label is of a whole sequence"),
        (lambda f: f, {"order": "patient"}, "and not the order of their steps"),
        (lambda f: f, {"label": "time"}, "leave out one of the two"),
        (lambda f: f, {"inputs": ["heat"]}, "u is what is known of every step, and some of it is"),
        (lambda f: f[["patient", "time", "dose"]], {"label": None}, "none is left to be modelled"),
        (lambda f: f, {"sequence": None}, "--order time is of the steps of a sequence"),
        (lambda f: f, {"group": {"u": ["state"]}}, "choose another name"),
        (lambda f: f, {"group": {"n": ["state"]}}, "n is the number of steps"),
    ],
)
def test_what_does_not_go_together_is_refused(change, options, words):
    with pytest.raises(DataError, match=words):
        load(change(readings()), **{**ASKED, **options})


def test_what_is_no_table_has_no_sequences():
    with pytest.raises(DataError, match="--sequence id does not apply"):
        load("digits", sequence="id")
    with pytest.raises(DataError, match="--inputs a does not apply"):
        load(np.zeros((9, 2)), inputs=["a"])
    with pytest.raises(DataError, match="--order a does not apply"):
        load("iris", order="a")
