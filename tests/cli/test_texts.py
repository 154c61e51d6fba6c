"""Texts on the command line: fitted, drawn, passed through the latents, scored, reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.data import load
from deeplvm.diagnosis import Diagnosis, Effort, diagnose
from deeplvm.evaluation import evaluate
from deeplvm.recipes import sentence_vae, smiles_vae
from deeplvm.runs.run import open_run

SMALL = ("--features", 6, "--hidden", 8, "--epochs", 1, "--kl-weight", 1)


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice([*"abcd"], rng.integers(1, 6))) for _ in range(80)]
    path = tmp_path / "poems.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_text_goes_through_every_verb(
    poems: Path, tmp_path: Path, deeplvm: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    options = ("--recipe", "sentence-vae", "--latent", 2, "--evaluation-particles", 10)
    fitted = deeplvm("fit", poems, *options, *SMALL, "--out", run)
    assert fitted.code == 0, fitted.err
    asked = deeplvm("evaluate", run, "--particles", 10, "--json")
    told = json.loads(asked.out)
    assert told["data"]["conditions"] == []
    steps, log_px = told["log_px_a_step"]["steps"], told["log_px"]["value"]
    data = open_run(run).data
    assert steps == int(data.test["n"][:].sum())  # the ends among them, and no padding
    per_token = log_px * data.rows("test") / steps
    assert told["log_px_a_step"]["perplexity"] == pytest.approx(math.exp(-per_token), rel=1e-5)
    for output in ("drawn.txt", "drawn.csv"):
        assert deeplvm("sample", run, "-n", 3, "-o", tmp_path / output).code == 0
    lines = (tmp_path / "drawn.txt").read_text().splitlines()
    assert len(lines) == 3
    assert pd.read_csv(tmp_path / "drawn.csv", keep_default_na=False)["x"].tolist() == lines
    back = deeplvm("reconstruct", run, "-n", 2, "--beam", 2, "-o", tmp_path / "back.txt")
    assert "by 2 beams" in back.err
    vocabulary = (tmp_path / "back.txt").read_text().splitlines()
    originals = poems.read_text().splitlines()
    assert len(vocabulary) == 6
    assert vocabulary[0] in originals
    assert vocabulary[2] == ""
    other = tmp_path / "other.txt"
    other.write_text("a b\nd c b z\n")
    for verb in ("score", "embed"):
        assert deeplvm(verb, run, other, "-o", tmp_path / f"{verb}.csv").code == 0
        assert len(pd.read_csv(tmp_path / f"{verb}.csv")) == 2


def test_what_is_not_for_texts_is_refused(
    poems: Path, tmp_path: Path, deeplvm: Callable[..., Any]
) -> None:
    run, plain = tmp_path / "run", tmp_path / "plain"
    for recipe, said in (("vae", "sentence_vae"), ("storn", "recipe of texts")):
        refused = deeplvm("fit", poems, "--recipe", recipe, "--out", run)
        assert refused.code == 2
        assert said in refused.err
    for wrong in (("--keep", 2), ("--dropout", 1), ("--hidden", 0)):
        assert deeplvm("fit", poems, "--recipe", "sentence-vae", *wrong, "--out", run).code == 2
    model = ("--recipe", "recurrent-language-model", *SMALL, "--no-evaluate")
    assert deeplvm("fit", poems, *model, "--out", run).code == 0
    assert "no missing values" in deeplvm("impute", run, poems, "-o", tmp_path / "i.csv").err
    assert "draws no latents" in deeplvm("reconstruct", run, "-o", tmp_path / "r.txt").err
    assert "write .txt" in deeplvm("sample", run, "-o", tmp_path / "s.png").err
    digits = ("--latent", 2, "--hidden", 4, "--epochs", 1, "--limit", 20, "--no-evaluate")
    assert deeplvm("fit", "digits", *digits, "--out", plain).code == 0
    assert "lines are of texts" in deeplvm("sample", plain, "-o", tmp_path / "s.txt").err
    beams = deeplvm("reconstruct", plain, "--beam", 3, "-o", tmp_path / "r.csv")
    assert "--beam is of texts" in beams.err
    assert "sentence_vae models texts" in deeplvm("fit", "digits", "--recipe", "sentence-vae").err


def test_padding_and_neighbours_change_no_likelihood() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([*"abcd"], many)) for many in (1, 5, 2, 3, 4) * 6]
    data = load(texts, tokens="words")
    torch.manual_seed(0)
    model = sentence_vae(data, latent=2, features=4, hidden=6).double().eval()
    batch = data.batch("train", slice(8))
    batch = {"x": batch["x"].double(), "n": batch["n"]}
    z = torch.randn(8, 2).double()
    together = model.p({**batch, "z": z})["x"].log_prob

    def read(given: dict[str, torch.Tensor]) -> torch.Tensor:
        sites = {name: model.site(name, value) for name, value in given.items()}
        return model.q(sites)["z"].distribution.mean

    code = read(batch)
    for row, n in enumerate(batch["n"].tolist()):
        one = {"x": batch["x"][row : row + 1, :n], "n": batch["n"][row : row + 1]}
        alone = model.p({**one, "z": z[row : row + 1]})["x"].log_prob
        assert torch.allclose(alone[0], together[row], atol=1e-12)
        assert torch.allclose(read(one)[0], code[row], atol=1e-12)


def test_dialogues_are_drawn_and_answers_are_judged(
    tmp_path: Path, deeplvm: Callable[..., Any]
) -> None:
    tiny = ("--latent", 2, "--features", 4, "--state", 4, "--hidden", 4, "--epochs", 1)
    talk = [["a b", "b", "a"][: 2 + row % 2] for row in range(30)]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, talk)))
    run, out = tmp_path / "talk", tmp_path / "out.csv"
    asked = (*tiny, "--no-evaluate", "--out")
    assert deeplvm("fit", tmp_path / "talk.jsonl", "--recipe", "vhred", *asked, run).code == 0
    assert deeplvm("sample", run, "-n", 5, "--steps", 2, "-o", out).code == 0
    drawn = pd.read_csv(out, keep_default_na=False)["x"]
    assert [each.count(" | ") for each in drawn] == [1] * 5
    assert deeplvm("sample", run, "-n", 5, "-o", out).code == 0
    drawn = pd.read_csv(out, keep_default_na=False)["x"]
    assert {each.count(" | ") for each in drawn} <= {1, 2}  # as many as training rows have
    assert deeplvm("reconstruct", run, "-n", 1, "-o", tmp_path / "back.txt").code == 0
    pairs = pd.DataFrame({"q": ["a", "b"] * 30, "a": ["b a", "a"] * 30, "y": ["no", "yes"] * 30})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    run = tmp_path / "pairs"
    model = ("--text", "q,a", "--label", "y", "--recipe", "answer-selection")
    assert deeplvm("fit", tmp_path / "pairs.csv", *model, *asked, run).code == 0
    for verb in ("sample", "reconstruct"):
        refused = deeplvm(verb, run, "-o", out)
        assert refused.code == 2
        assert "score RUN DATA --classes" in refused.line
    assert "a row here is a text" in deeplvm("score", run, "--cells", "-o", out).line
    judged = deeplvm("score", run, "--classes", "--particles", 5, "-o", out)
    assert judged.code == 0
    assert {"probability_no", "probability_yes"} <= {*pd.read_csv(out)}
    opened = open_run(run)
    few = Effort(rows=5, particles=2, minutes=0.01)
    found = diagnose(opened.model, opened.data, [], effort=few, everything=False)
    assert any(["draws none of x" in why or "scores none of x" in why for why in _said(found)])


def _said(found: Diagnosis) -> list[str]:
    return [*found.impossible.values()]


def test_a_property_is_no_token_of_a_perplexity() -> None:
    table = pd.DataFrame({"s": ["CCO", "CC", "C"] * 10, "size": [3.0, 2, 1] * 10})
    data = load(table, text="s", tokens="smiles", group="size=size")
    model = smiles_vae(data, latent=2, hidden=4, features=3, channels=(4,))
    told = evaluate(model, data.test, particles=2).to_dict()["log_px_a_step"]
    assert "perplexity" not in told
