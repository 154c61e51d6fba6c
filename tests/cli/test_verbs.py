"""Every verb on small data, as a user would call it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from deeplvm.cli.outputs import save_pictures
from deeplvm.data.variable import Variable
from deeplvm.runs.run import open_run

Run = Callable[..., Any]
Table = Callable[[int], pandas.DataFrame]
TINY = ("--epochs", "2", "--latent", "2", "--hidden", "8", "--evaluation-particles", "20")


def test_fit_leaves_a_whole_run_folder(table_run: Path) -> None:
    names = {path.name for path in table_run.iterdir()}
    assert names == {
        "README.md",
        "checkpoint",
        "config.toml",
        "data.json",
        "evaluation.json",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "schema.toml",
    }
    config = tomllib.loads((table_run / "config.toml").read_text())
    assert config["recipe"] == "vae"
    assert config["training"]["epochs"] == 2
    options = {"latent": 2, "hidden": [8], "posterior": "gaussian", "prior": "gaussian"}
    assert config["recipe_options"] == {**options, "given_label": False}
    assert config["data_options"]["label"] == "kind"
    metrics = [json.loads(line) for line in (table_run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in metrics] == [1, 2]
    evaluation = json.loads((table_run / "evaluation.json").read_text())
    assert {"data", "elbo", "log_px", "kl", "active_units"} <= set(evaluation)


def test_fit_of_images_draws_samples(image_run: Path) -> None:
    with Image.open(image_run / "samples.png") as picture:
        assert picture.size[0] == picture.size[1] > 500
    assert (image_run / "report.html").stat().st_size > 10_000


def test_fit_says_where_everything_is(deeplvm: Run, csv: Path) -> None:
    outcome = deeplvm("fit", csv, "--label", "kind", *TINY)
    assert outcome.code == 0
    assert "log p(x)" in outcome.out
    assert "runs/people-vae/report.html" in outcome.out
    assert "epoch 2/2" in outcome.err
    again = deeplvm("fit", csv, "--label", "kind", "--no-evaluate", *TINY)
    assert "runs/people-vae-2/model.safetensors" in again.out


def test_tensorboard_goes_on_when_the_run_does(deeplvm: Run, csv: Path) -> None:
    outcome = deeplvm("fit", csv, "--out", "run", "--tensorboard", "--no-evaluate", *TINY)
    assert outcome.code == 0, outcome.err
    assert len(list(Path("run/tensorboard").iterdir())) == 1
    assert deeplvm("resume", "run", "--epochs", 3, "--no-evaluate").code == 0
    assert len(list(Path("run/tensorboard").iterdir())) == 2
    refused = deeplvm("fit", csv, "--out", "new", "--tensorboard", "--clip", "-1")
    assert refused.code == 2
    assert not Path("new").exists()


def test_json_is_the_evaluation_and_nothing_else(deeplvm: Run, csv: Path) -> None:
    outcome = deeplvm("fit", csv, "--label", "kind", "--json", "--out", "run", *TINY)
    assert json.loads(outcome.out) == json.loads(Path("run/evaluation.json").read_text())


def test_a_configuration_repeats_a_run(deeplvm: Run, table_run: Path) -> None:
    assert deeplvm("fit", "--config", table_run / "config.toml", "--out", "again").code == 0
    first, second = open_run(table_run).model, open_run("again").model
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())


def test_a_flag_goes_before_the_configuration(deeplvm: Run, table_run: Path) -> None:
    words = ("--epochs", 1, "--no-evaluate", "--out", "run")
    assert deeplvm("fit", "--config", table_run / "config.toml", *words).code == 0
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert config["training"]["epochs"] == 1
    assert config["recipe_options"]["latent"] == 2


def test_somebodys_own_recipe_needs_no_registration(deeplvm: Run, csv: Path, here: Path) -> None:
    (here / "mine.py").write_text(
        '"""My models."""\n'
        "from deeplvm.recipes import vae\n\n\n"
        "def small(data, *, width=4, latent: int = 2):\n"
        '    """A small one."""\n'
        "    return vae(data, latent=latent, hidden=(width,))\n"
    )
    words = ("--recipe", "mine:small", "--width", 3, "--epochs", 1, "--label", "kind")
    outcome = deeplvm("fit", csv, *words, "--no-evaluate", "--out", "run")
    assert outcome.code == 0, outcome.err
    assert open_run("run").config.recipe == "mine:small"
    assert deeplvm("sample", "run", "-n", 5, "-o", "draws.csv", "--trust").code == 0


def test_objective_and_schedule_by_name_and_as_a_call(deeplvm: Run, csv: Path) -> None:
    words = (
        "--objective",
        "free_bits(minimum=0.1)",
        "--kl-weight",
        "linear(2)",
        "--label",
        "kind",
    )
    outcome = deeplvm("fit", csv, *words, "--out", "run", "--no-evaluate", *TINY)
    assert outcome.code == 0, outcome.err
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["kl_weight"] for record in metrics] == [0.0, 0.5]  # at the last step of each


def test_resume_of_a_longer_run_is_the_longer_run(deeplvm: Run, csv: Path) -> None:
    common = ("--label", "kind", "--no-evaluate", "--latent", 2, "--hidden", 8)
    assert deeplvm("fit", csv, *common, "--epochs", 4, "--out", "whole").code == 0
    assert deeplvm("fit", csv, *common, "--epochs", 2, "--out", "parts").code == 0
    assert deeplvm("resume", "parts", "--epochs", 4, "--no-evaluate").code == 0
    whole, parts = open_run("whole"), open_run("parts")
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())
    assert parts.config.training["epochs"] == 4


def test_minutes_end_a_run_and_more_of_them_go_on(deeplvm: Run, csv: Path) -> None:
    common = ("--label", "kind", "--no-evaluate", "--latent", 2, "--hidden", 8)
    words = ("--epochs", 3, "--minutes", "1e-9", "--batch-size", 1000, "--out", "parts")
    outcome = deeplvm("fit", csv, *common, *words)
    assert outcome.code == 0, outcome.err
    assert "the time is over" in outcome.err
    assert len(Path("parts/metrics.jsonl").read_text().splitlines()) == 1
    assert "minutes already" in deeplvm("resume", "parts", "--minutes", "1e-9").line
    assert deeplvm("resume", "parts", "--minutes", 5, "--no-evaluate").code == 0
    assert len(Path("parts/metrics.jsonl").read_text().splitlines()) == 3
    assert open_run("parts").config.training["minutes"] == 5


def test_evaluate(deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]) -> None:
    run = copy_of(table_run)
    outcome = deeplvm("evaluate", run, "--particles", 30, "--json")
    assert outcome.code == 0
    stored = json.loads((run / "evaluation.json").read_text())
    assert json.loads(outcome.out) == stored
    assert stored["log_px"]["particles"] == 30
    assert "log p(x)" in deeplvm("evaluate", run, "--particles", 30).out


def test_evaluate_gaps(deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]) -> None:
    """On the rows asked for; in the file and in the table."""
    run = copy_of(table_run)
    words = ("evaluate", run, "--particles", 20, "--gaps", "--gap-rows", 3)
    assert "amortisation gap" in deeplvm(*words).out
    gaps = json.loads((run / "evaluation.json").read_text())["gaps"]
    assert gaps["rows"] == 3
    assert gaps["amortisation"]["value"] > 0
    assert "--gap-rows must be a whole number" in deeplvm(*words[:-1], 0).line


def test_evaluate_other_data(deeplvm: Run, table_run: Path, table: Table) -> None:
    before = (table_run / "evaluation.json").read_text()
    table(30).to_csv("other.csv", index=False)
    outcome = deeplvm("evaluate", table_run, "other.csv", "--particles", 20, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["data"]["rows"] == 30
    assert (table_run / "evaluation.json").read_text() == before


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_sample_a_table(deeplvm: Run, table_run: Path, ending: str) -> None:
    outcome = deeplvm("sample", table_run, "-n", 7, "-o", f"draws.{ending}")
    assert outcome.code == 0, outcome.err
    frame = _read(f"draws.{ending}")
    assert frame.shape[0] == 7
    if ending != "npz":
        assert list(frame.columns) == ["height", "weight", "age"]


def test_sample_is_decided_by_its_seed(deeplvm: Run, table_run: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        deeplvm("sample", table_run, "-n", 3, "--seed", seed, "-o", f"{name}.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text() != Path("c.csv").read_text()


def test_pictures(deeplvm: Run, image_run: Path) -> None:
    assert deeplvm("sample", image_run, "-n", 9, "-o", "samples.png").code == 0
    assert deeplvm("sample", image_run, "--no-mean", "-n", 9, "-o", "draws.png").code == 0
    assert deeplvm("reconstruct", image_run, "-n", 8, "-o", "pairs.png").code == 0
    lossy = deeplvm("reconstruct", image_run, "-n", 8, "-o", "lossy.npz", "--depth", "all")
    assert "depth 0: 0.00 nats a row" in lossy.err
    assert {"x_depth_0", "x_depth_1", "x_original"} == set(np.load("lossy.npz"))
    for words, message in (
        (("--depth", "2"), "0 to 1 of them can be kept, not 2"),
        (("--depth", "most"), "whole numbers from 0 on, or all; found 'most'"),
        (("--rest", "draw"), "--rest is of the latents that --depth leaves out"),
    ):
        refused = deeplvm("reconstruct", image_run, "-o", "lossy.png", *words)
        assert refused.code == 2
        assert message in refused.err
    assert Path("samples.png").read_bytes() != Path("draws.png").read_bytes()
    for name in ("samples.png", "pairs.png"):
        with Image.open(name) as picture:
            assert picture.mode == "L"
            assert 600 < max(picture.size) <= 800


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "L"), (3, "RGB"), (4, "L")])
def test_a_picture_of_any_channels(tmp_path: Path, channels: int, mode: str) -> None:
    images = torch.zeros(4, channels, 3, 3)
    images[:, 0] = 1.0
    shape = (channels, 3, 3)
    mean, std = torch.zeros(shape), torch.ones(shape)
    variable = Variable("x", shape, "unit", "continuous-bernoulli", mean, std, 0.0, 1.0)
    save_pictures(tmp_path / "a.png", images, variable)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
        assert picture.getpixel((150, 150)) == (255 if mode == "L" else (255, 0, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_embed(deeplvm: Run, table_run: Path, csv: Path, ending: str) -> None:
    outcome = deeplvm("embed", table_run, csv, "--scales", "-o", f"latents.{ending}")
    assert outcome.code == 0, outcome.err
    frame = _read(f"latents.{ending}")
    assert len(frame) == 80
    if ending != "npz":
        assert list(frame.columns) == ["z_0", "z_1", "z_sd_0", "z_sd_1", "y", "label"]
        assert set(frame["label"]) == {"tall", "small"}


def test_embed_the_runs_own_rows(deeplvm: Run, image_run: Path) -> None:
    assert deeplvm("embed", image_run, "--split", "train", "-o", "latents.csv").code == 0
    assert _read("latents.csv").shape == (40, 3)  # z_0, z_1, y


def test_reconstruct_a_table(deeplvm: Run, table_run: Path) -> None:
    assert deeplvm("reconstruct", table_run, "-n", 4, "-o", "means.npz").code == 0
    with np.load("means.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"x": (4, 3), "x_original": (4, 3)}


def test_score(deeplvm: Run, table_run: Path, table: Table) -> None:
    strange = table(20)
    strange.loc[0, "age"] = 40.0
    strange.to_csv("strange.csv", index=False)
    outcome = deeplvm("score", table_run, "strange.csv", "--particles", 50, "-o", "scores.csv")
    assert outcome.code == 0, outcome.err
    frame = _read("scores.csv")
    assert list(frame.columns)[:4] == ["log_px", "log_px_stderr", "anomaly", "percentile"]
    assert frame["anomaly"].argmax() == 0
    assert frame["percentile"][0] == 100
    np.testing.assert_allclose(frame["anomaly"], -frame["log_px"])


def test_impute_fills_what_is_missing_and_nothing_else(
    deeplvm: Run, table_run: Path, table: Table
) -> None:
    holes = table(10)
    holes.loc[3, "weight"] = np.nan
    holes.loc[5, "age"] = np.nan
    holes.to_csv("holes.csv", index=False)
    outcome = deeplvm("impute", table_run, "holes.csv", "--particles", 50, "-o", "filled.csv")
    assert outcome.code == 0, outcome.err
    assert "2 missing values filled" in outcome.err
    filled, columns = _read("filled.csv"), ["height", "weight", "age"]
    assert not filled[columns].isna().any().any()
    known = holes[columns].notna().to_numpy()
    np.testing.assert_allclose(
        filled[columns].to_numpy()[known], holes[columns].to_numpy()[known], rtol=1e-5
    )


def test_report(deeplvm: Run, table_run: Path, copy_of: Callable[[Path], Path]) -> None:
    run = copy_of(table_run)
    (run / "report.html").unlink()
    assert deeplvm("report", run).code == 0
    assert "<html" in (run / "report.html").read_text().lower()


def test_recipes_and_datasets(deeplvm: Run) -> None:
    recipes = deeplvm("recipes").out
    assert "Counts of words or genes:" in recipes
    assert "iwae" in recipes
    assert "(Burda et al., 2016), https://arxiv.org/abs/1509.00519" in recipes
    assert "digits" in deeplvm("datasets").out


def test_conditional_samples_by_label(deeplvm: Run, csv: Path) -> None:
    words = ("--recipe", "conditional_vae", "--label", "kind", "--out", "run", *TINY)
    assert deeplvm("fit", csv, *words).code == 0
    assert deeplvm("sample", "run", "-n", 4, "-o", "all.csv").code == 0
    assert sorted(_read("all.csv")["kind"]) == ["small", "small", "tall", "tall"]
    assert deeplvm("sample", "run", "-n", 4, "--label", "tall", "-o", "tall.csv").code == 0
    assert set(_read("tall.csv")["kind"]) == {"tall"}
    assert (
        "There is no label 'huge'"
        in deeplvm("sample", "run", "--label", "huge", "-o", "a.csv").line
    )


def test_help_of_a_recipe_shows_its_options(deeplvm: Run) -> None:
    outcome = deeplvm("fit", "--recipe", "iwae", "--help")
    assert outcome.code == 0
    for flag in ("--layers", "--particles", "--binarize", "--out", "--data-seed"):
        assert flag in outcome.out
    assert "--channels" not in outcome.out
    assert "--channels" in deeplvm("fit", "--recipe", "convolutional_vae", "--help").out


def _read(name: str) -> pandas.DataFrame:
    if name.endswith("parquet"):
        return pandas.read_parquet(name)
    if name.endswith("csv"):
        return pandas.read_csv(name)
    with np.load(name) as arrays:
        first = arrays[next(iter(arrays))]
        return pandas.DataFrame(first.reshape(len(first), -1))


def test_impute_by_draws_and_with_details(deeplvm: Run, table_run: Path, table: Table) -> None:
    frame = table(4).drop(columns="kind")
    frame.loc[1, "weight"] = np.nan
    frame.loc[3, ["height", "age"]] = np.nan
    frame.to_csv("holes.csv", index=False)
    words = ("impute", table_run, "holes.csv", "--particles", 50)
    outcome = deeplvm(*words, "--draws", 3, "-o", "draws.csv")
    assert outcome.code == 0, outcome.err
    draws = _read("draws.csv")
    assert list(draws.columns) == ["draw", "row", "height", "weight", "age"]
    assert list(draws["row"]) == [0, 1, 2, 3] * 3
    assert draws["weight"][draws["row"] == 1].nunique() == 3
    np.testing.assert_allclose(draws["age"][:3], frame["age"][:3], rtol=1e-6)
    outcome = deeplvm(*words, "-o", "filled.csv", "--details", "why.csv", "--level", 0.8)
    assert outcome.code == 0, outcome.err
    filled, why = _read("filled.csv"), _read("why.csv")
    assert list(why["row"]) == [1, 3, 3]
    assert list(why["column"]) == ["weight", "height", "age"]
    for line in why.itertuples():
        assert filled.loc[line.row, line.column] == pytest.approx(line.value)
        assert line.low < line.value < line.high
    by_median = deeplvm(*words, "--by", "median", "-o", "median.csv")
    assert by_median.code == 0, by_median.err
    assert "--level is of the intervals" in deeplvm(*words, "-o", "a.csv", "--level", 0.5).line
    refused = deeplvm(*words, "-o", "a.csv", "--draws", 2, "--by", "mean")
    assert refused.code == 2
    assert "leave one out" in refused.line
    refused = deeplvm(*words, "-o", "a.csv", "--details", "holes.csv")
    assert "would overwrite its own input" in refused.line


def test_score_cells_and_false_alarms(deeplvm: Run, table_run: Path, table: Table) -> None:
    frame = table(3)
    frame.loc[2, "weight"] = 60.0
    frame.to_csv("odd.csv", index=False)
    words = ("score", table_run, "odd.csv", "--particles", 50, "-o", "scores.csv")
    outcome = deeplvm(*words, "--cells", "--false-alarms", 0.2)
    assert outcome.code == 0, outcome.err
    scores = _read("scores.csv")
    assert list(scores["odd"]) == [False, False, True]
    assert scores["oddest"][2] == "weight"
    assert (
        scores["nats_weight"][2] == scores[["nats_height", "nats_weight", "nats_age"]].max().max()
    )
    assert "at most 20 % would be" in outcome.err
    refused = deeplvm(*words, "--false-alarms", 0.001)
    assert refused.code == 2
    assert "needs 1000 held-out rows or more, and the run has 8" in refused.line
    assert "particles" not in refused.err  # before rows are scored


def test_sample_given_some_columns(deeplvm: Run, table_run: Path) -> None:
    words = ("sample", table_run, "-n", 30, "-o", "draws.csv")
    outcome = deeplvm(*words, "--given", "height=1.25, age = -0.5")
    assert outcome.code == 0, outcome.err
    draws = _read("draws.csv")
    assert draws.shape == (30, 3)
    assert (draws["height"] == 1.25).all()
    assert (draws["age"] == -0.5).all()
    assert draws["weight"].nunique() == 30
    for given, said in (
        ("hight=1", "there is no column 'hight'; did you mean"),
        ("height", "is not column=value, such as height=..."),
        ("height=1,height=2", "says twice what 'height' is"),
        ("height=1,weight=2,age=3", "nothing left to draw"),
        ("height=tall", "--given"),
        ("age=1,height=nan", "is a missing value; leave 'height' out"),
        ("", "--given says nothing"),
    ):
        refused = deeplvm(*words, "--given", given)
        assert refused.code == 2
        assert said in refused.line
    assert "does not go with --given" in deeplvm(*words, "--given", "age=1", "--mean").line


def test_given_columns_tell_the_others(deeplvm: Run) -> None:
    """Of a linear relation learned well; the mean of 300 draws, within 0.3 of 0.5 * 6."""
    generator = np.random.default_rng(0)
    length = generator.normal(5, 1, 800)
    rows = {"length": length, "width": 0.5 * length + generator.normal(0, 0.1, 800)}
    pandas.DataFrame(rows).assign(kind=np.where(length > 5, "big", "small")).to_csv(
        "c.csv", index=False
    )
    words = ("--epochs", 60, "--latent", 2, "--hidden", 32, "--learning-rate", 3e-3)
    assert deeplvm("fit", "c.csv", "--out", "run", "--no-evaluate", *words).code == 0
    outcome = deeplvm("sample", "run", "-n", 300, "--given", "length=6,kind=big", "-o", "s.csv")
    assert outcome.code == 0, outcome.err
    draws = _read("s.csv")
    assert abs(draws["width"].mean() - 3.0) < 0.3
    assert draws["width"].std() > 0.02
    assert set(draws["kind"]) == {"big"}
    refused = deeplvm("sample", "run", "--given", "kind=huge", "-o", "s.csv")
    assert "huge" in refused.line
