"""Rows under another label: the latents are those of the row, and p is told another label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.cli.app import main
from deeplvm.data import Data, load
from deeplvm.inference import converted
from deeplvm.recipes import find
from deeplvm.runs.run import build
from deeplvm.training import Optimization, fit


def frames(rows: int = 400) -> pd.DataFrame:
    """What is said moves all columns, who says it two of them, each speaker their own way."""
    rng = np.random.default_rng(0)
    said, speaker = rng.normal(size=(rows, 1)), np.arange(rows) % 2
    x = said * [3.0, -2.0, 1.0] + np.where(speaker[:, None] == 0, [4.0, 0, 0], [0.0, 4.0, 0])
    table = pd.DataFrame(x + 0.1 * rng.normal(size=(rows, 3)), columns=["a", "b", "c"])
    return table.assign(who=np.array(["ann", "bo"])[speaker])


def loaded() -> Data:
    return load(frames(), label="who", likelihood="gaussian")


@pytest.mark.parametrize("recipe", ["voice_conversion", "conditional_vae", "vae"])
def test_the_own_label_changes_nothing(recipe: str) -> None:
    data = loaded()
    own = {"given_label": True} if recipe == "vae" else {}
    model = build(find(recipe), data, {"latent": 2, "hidden": (8,)} | own, 0)
    given = {n: v[data.train["y"][:20] == 1] for n, v in data.batch("train", slice(20)).items()}
    traces = []
    for label in (1, 0, None):
        torch.manual_seed(0)
        trace = model.reconstruct(given) if label is None else converted(model, given, label)
        traces.append(trace["x"].distribution.mean)
    torch.testing.assert_close(traces[0], traces[2])
    assert not torch.allclose(traces[1], traces[2])


def test_a_model_that_is_not_told_the_label_cannot_be_told_another() -> None:
    data = loaded()
    model = build(find("vae"), data, {"latent": 2, "hidden": (8,)}, 0)
    with pytest.raises(ValueError, match="decodes x without it"):
        converted(model, data.batch("train", slice(3)), 0)


def test_a_converted_frame_says_the_same_in_another_voice() -> None:
    data = loaded()
    model = build(find("voice_conversion"), data, {"latent": 1, "hidden": (16,)}, 0)
    assert "y" not in model.q.inputs
    faster = Optimization(learning_rate=1e-2)
    fit(model, data, epochs=40, batch_size=50, optimization=faster, quiet=True, seed=0)
    rows = data.batch("test", slice(0, None))
    ann = {name: value[rows["y"] == 0] for name, value in rows.items()}
    torch.manual_seed(0)
    with torch.no_grad():
        moved = converted(model, ann, 1, particles=50)["x"].distribution.mean.mean(0) - ann["x"]
    # more than half of the way
    torch.testing.assert_close(moved.mean(0), torch.tensor([-4.0, 4.0, 0.0]), rtol=0, atol=2.0)


def test_the_command_decodes_all_rows_with_one_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames(60).to_csv(tmp_path / "frames.csv", index=False)
    run = str(tmp_path / "run")
    words = ["--label", "who", "--recipe", "voice-conversion", "--latent", "1", "--hidden", "4"]
    words += ["--likelihood", "gaussian", "--epochs", "1", "--no-evaluate", "--out", run]
    assert main(["fit", str(tmp_path / "frames.csv"), *words]) == 0
    output = tmp_path / "out.csv"
    assert main(["reconstruct", run, "--label", "bo", "-o", str(output)]) == 0
    assert [*pd.read_csv(output).columns] == ["a", "b", "c"]
    for words, said in (
        (["--label", "zoe"], "no label 'zoe'; there are ann, bo"),
        (["--label", "bo", "--depth", "all"], "--depth does not"),
    ):
        assert main(["reconstruct", run, *words, "-o", str(tmp_path / "x.npz")]) == 2
        assert said in capsys.readouterr().err
