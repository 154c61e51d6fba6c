"""Pictures drawn in steps: what each model is where it is known by other means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from deeplvm import Joint, LatentVariableModel, elbo, recipes
from deeplvm.cli.outputs import given, sampled
from deeplvm.cli.texts import caption_of, captions
from deeplvm.conditionals import StandardNormal
from deeplvm.core.draws import Enumerated, Held, Sampled
from deeplvm.data import Data, DataError, load
from deeplvm.data.readers.text import vocabulary_of
from deeplvm.evaluation import evaluate, object_counts
from deeplvm.gradients.score_function import LeaveOneOut, ScoreFunction
from deeplvm.inference.compression import AtCentre
from deeplvm.recipes import RecipeError
from deeplvm.runs.run import build

SMALL: dict[str, Any] = {"latent": 3, "hidden": 6}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30, binarize="static")


def batch(data: Data, rows: int = 5) -> Tensor:
    return data.batch("train", slice(rows))["x"]


class Once(nn.Module):
    """A conditional of a function of its parents."""

    def __init__(self, conditional: nn.Module, function: Any) -> None:
        super().__init__()
        self.conditional, self.function = conditional, function
        self.event_shape = conditional.event_shape

    def forward(self, parent: Tensor) -> Any:
        return self.conditional(self.function(parent))


def test_one_step_without_attention_is_the_plain_vae(digits: Data) -> None:
    model = build(recipes.draw, digits, {**SMALL, "steps": 1, "attention": False}, 0)
    p, q, zeros = model.p, model.q, torch.zeros(1, 12)
    canvas = torch.zeros(1, 1, 8, 8)

    def decode(z: Tensor) -> Tensor:
        return p["c"](p["h"](p["s"](z, zeros)), canvas)

    def encode(x: Tensor) -> Tensor:
        return q["e"](q["r"](x, canvas, zeros[:, :6]), zeros)

    plain = LatentVariableModel(
        Joint({"z": StandardNormal(3), "x | z": Once(p["x"], decode)}),
        Joint({"z | x": Once(q["z"], encode)}),
    )
    x = batch(digits)
    for form in ("sampled", "analytic"):
        bounds = []
        for each in (model, plain):
            torch.manual_seed(0)
            bounds.append(elbo(each.evidence({"x": x}, particles=4), form))
        torch.testing.assert_close(*bounds)


@pytest.mark.parametrize("attention", [True, False], ids=["attention", "whole"])
def test_divergences_of_steps_add_up(digits: Data, *, attention: bool) -> None:
    model = build(recipes.draw, digits, {**SMALL, "steps": 3, "attention": attention}, 0)
    evidence = model.evidence({"x": batch(digits)}, particles=2)
    assert evidence.has_closed_kl("z")
    steps = [
        kl_divergence(Normal(step.mean, step.stddev), Normal(0.0, 1.0)).sum(-1)
        for step in evidence.q["z"].distribution.steps
    ]
    assert len(steps) == 3
    torch.testing.assert_close(evidence.kl("z"), sum(steps).expand(2, 5))
    assert model.common == {"s", "h", "c"}


def test_drawing_on_is_drawing_more(digits: Data) -> None:
    """The canvas of a step is what was written until then, and x follows from the last."""
    model = build(recipes.draw, digits, {**SMALL, "steps": 3}, 0)
    trace = model.sample(4)
    canvas, state = torch.zeros(1, 1, 8, 8), torch.zeros(1, 12)
    for t in range(3):
        state = model.p["s"](trace["z"].value[:, t], state)
        canvas = model.p["c"](model.p["h"](state), canvas)
        torch.testing.assert_close(trace["c"].value[:, t], canvas)
    torch.testing.assert_close(trace["x"].distribution.mean, model.p["x"](canvas).mean)


def test_a_step_of_training_is_one_graph(digits: Data) -> None:
    """Of one step, as each is traced anew."""
    model = build(recipes.draw, digits, {**SMALL, "steps": 1, "read": 2, "write": 2}, 0)
    x = batch(digits)

    def step(x: Tensor) -> Tensor:
        return elbo(model.evidence({"x": x}, missing=()), "analytic").mean()

    torch.manual_seed(0)
    expected = step(x)
    torch.compiler.reset()
    torch.manual_seed(0)
    traced = torch.compile(step, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(traced, expected)


def test_bad_windows_and_sizes_are_refused(digits: Data) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"attention": False, "read": 4}, "read is the side of a window"),
        ({"write": -1}, "write must be at least 1, found -1"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
    ]
    for options, words in bad:
        with pytest.raises(RecipeError, match=words):
            recipes.draw(digits, **options)
    with pytest.raises(RecipeError, match=r"draw models images of numbers.*take the recipe vae"):
        recipes.draw(load("iris"))


AIR: dict[str, Any] = {"steps": 2, "latent": 2, "hidden": 6, "window": 4}


def test_objects_that_are_not_there_cost_nothing_and_show_nothing(digits: Data) -> None:
    model = build(recipes.attend_infer_repeat, digits, AIR, 0)
    x, none = batch(digits), torch.zeros(5, 2, 1)
    with torch.no_grad():
        evidence = model.evidence({"x": x}, draw={"present": Held(none)}, default=Sampled())
    assert not evidence.terms["where"].any()
    assert not evidence.terms["what"].any()
    assert not evidence.p["c"].value.any()
    first = torch.tensor([[1.0], [0.0]]).expand(5, 2, 1)
    with torch.no_grad():
        one = model.evidence({"x": x}, draw={"present": Held(first)}, default=Sampled())
    torch.testing.assert_close(one.p["c"].value[:, 0], one.p["c"].value[:, 1])
    assert one.p["c"].value.any()


def test_an_object_never_follows_none(digits: Data) -> None:
    trace = build(recipes.attend_infer_repeat, digits, {**AIR, "steps": 4}, 0).sample(200)
    there = trace["present"].value.squeeze(-1)
    assert (there[:, 1:] <= there[:, :-1]).all()
    assert set(there.sum(-1).tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_the_gradient_of_presences_is_that_of_enumeration(digits: Data) -> None:
    """Each of the largest derivatives within 5 standard errors, so 1 in 10,000 seeds fails."""
    model = build(recipes.attend_infer_repeat, digits, AIR, 0)
    weights = [p for n, p in model.named_parameters() if n.startswith("q") and "present" in n]
    assert weights
    x = {"x": batch(digits, 2)}

    def gradient(particles: int, way: Any) -> Tensor:
        ways = {"present": way, "where": AtCentre(), "what": AtCentre()}  # no other noise
        value, _ = model.estimate(elbo, x, particles=particles, draw=ways)
        found = torch.autograd.grad(value.sum(), weights)
        return torch.cat([each.flatten() for each in found])

    exact = gradient(1, Enumerated())
    torch.manual_seed(0)
    drawn = torch.stack([gradient(50, ScoreFunction(LeaveOneOut())) for _ in range(60)])
    error = drawn.std(0) / 60**0.5
    largest = exact.abs().topk(5).indices
    assert (exact[largest].abs() > 0).all()
    assert ((drawn.mean(0) - exact)[largest].abs() < 5 * error[largest]).all()


def test_objects_are_counted_against_the_label() -> None:
    data = load("multi-digits", limit=40)
    model = build(recipes.attend_infer_repeat, data, {**AIR, "steps": 2}, 0)
    head = model.q["present"].conditional.head.layer
    with torch.no_grad():
        head.weight.zero_()
        for always, count in ((40.0, 2), (-40.0, 0)):
            head.bias.fill_(always)
            assert (object_counts(model, data.valid) == count).all()
            found = evaluate(model, data.valid, particles=2).objects
            share = float((data.valid["y"][:] == count).double().mean())
            assert found is not None
            assert found["accuracy"]["value"] == pytest.approx(share)
            assert found["by_count"][str(count)] == 1.0
    assert (
        evaluate(recipes.vae(data, latent=2, hidden=(4,)), data.valid, particles=2).objects is None
    )
    with pytest.raises(ValueError, match="No latent of the model says whether an object is there"):
        object_counts(recipes.vae(data, latent=2, hidden=(4,)), data.valid)


WORDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def captioned() -> Data:
    """Pictures of which one half is light, and which, said in one to three words."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 60)
    x = np.zeros((60, 1, 4, 4), int)
    x[side == 0, :, :, :2], x[side == 1, :, :, 2:] = 1, 1
    said = [" ".join((*["the"] * int(k), WORDS[each])) for each, k in zip(side, side, strict=True)]
    return load({"x": x, "caption": said}, group="caption=caption")


ALIGNED: dict[str, Any] = {"steps": 2, "latent": 2, "hidden": 6, "features": 3, "state": 4}


def test_words_are_attended_to_and_padding_is_not(captioned: Data) -> None:
    """Weights sum to 1; whatever stands beyond the end of a caption changes nothing."""
    model = build(recipes.align_draw, captioned, ALIGNED, 0).double()
    given = {n: v.double() for n, v in captioned.batch("train", slice(8)).items()}
    longer = {**given, "caption": torch.cat([given["caption"], torch.zeros(8, 2)], 1)}
    ends = (longer["caption"] == 0).int().argmax(1)
    longer["caption"] = torch.where(
        torch.arange(longer["caption"].shape[1]) > ends[:, None], 3.0, longer["caption"]
    )
    found = []
    for each in (given, longer):
        torch.manual_seed(0)
        found.append(model.evidence(each, particles=3))
    torch.testing.assert_close(found[0].log_weight, found[1].log_weight, rtol=0, atol=1e-12)
    weights = found[0].p["a"].value
    assert weights.shape == (3, 8, 2, given["caption"].shape[1])
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 8, 2))
    beyond = torch.arange(weights.shape[-1]) > ends[:, None]
    assert not weights[beyond[:, None].expand(weights.shape)].any()
    assert (weights[~beyond[:, None].expand(weights.shape)] > 0).all()


def test_pictures_follow_their_caption_also_one_never_seen(captioned: Data) -> None:
    """Trained a little, each half is lit as the words say, which q alone cannot know."""
    model = build(recipes.align_draw, captioned, ALIGNED | {"attention": False}, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    given = captioned.batch("train", slice(None))
    for _ in range(60):
        loss = -elbo(model.evidence(given, missing=()), "analytic").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vocabulary = vocabulary_of(captioned.description, "caption")
    left, right, new = [
        torch.tensor([[*map(vocabulary.index.get, text.split()), 0, 0, 0][:3]]).float()  # type: ignore[arg-type]
        for text in ("red", "the green", "the red")
    ]
    means = []
    for each in (left, right, new):
        torch.manual_seed(0)
        drawn = model.sample(200, {"caption": each.expand(200, -1)})["x"].distribution.mean
        means.append(drawn.mean((0, 1, 2)))
    assert means[0][:2].mean() > 0.8 > 0.2 > means[0][2:].mean()
    assert means[1][2:].mean() > 0.8 > 0.2 > means[1][:2].mean()
    assert not torch.allclose(means[2], means[0])


def test_images_without_a_text_are_refused(digits: Data, captioned: Data) -> None:
    with pytest.raises(RecipeError, match=r"align_draw draws images of a caption each, but dig"):
        recipes.align_draw(digits)
    with pytest.raises(RecipeError, match="x and caption; align_draw draws x from caption"):
        recipes.draw(captioned)
    x = captioned.batch("test", slice(None))["x"].numpy()
    with pytest.raises(DataError, match="reads a text of each row, caption, which is not here"):
        load({"x": x}, like=captioned.description)
    with pytest.raises(DataError, match="row 2: caption is empty"):
        load({"x": x[:3], "caption": ["red", "", "blue"]}, group="caption=caption")
    long = load({"x": x[:2], "caption": ["red", "the green"]}, like=captioned.description)
    assert long.test["caption"].shape == (2, 3)
    with pytest.raises(DataError, match="row 1: caption has 4 tokens, but in the training data"):
        load({"x": x[:2], "caption": ["the the red", "red"]}, like=captioned.description)


def test_pictures_of_a_table_have_its_text(tmp_path: Path) -> None:
    rng, said = np.random.default_rng(0), ["dark", "rather light"]
    for each in range(30):
        pixels = rng.integers(0, 120, (4, 5)) + 120 * (each % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{each}.png")
    table = pd.DataFrame(
        {"file": [f"{each}.png" for each in range(30)], "says": 15 * said, "other": 1}
    )
    table.to_csv(tmp_path / "all.csv", index=False)
    table[["says", "file"]].head(4).to_parquet(tmp_path / "few.parquet")
    data = load(tmp_path / "all.csv", group="x=file", text="says")
    assert [*data.variables] == ["x", "caption"]
    x, words = data.test["x"][:], data.test["caption"][:]
    assert ((x.double().mean((1, 2, 3)) > 120) == (words > 0).sum(1).sub(1).bool()).all()
    few = load(tmp_path / "few.parquet", like=data.description)
    assert few.test["x"].shape == (4, 1, 4, 5)
    assert (few.test["caption"] > 0).sum(1).tolist() == [1, 2, 1, 2]
    assert recipes.align_draw(data, **ALIGNED).p.inputs == ("caption",)
    with pytest.raises(DataError, match="'say'"):
        load(tmp_path / "all.csv", group="x=file", text="say")


def test_what_is_said_is_drawn_or_refused(captioned: Data) -> None:
    opened = SimpleNamespace(description=captioned.description, data=captioned)
    model = build(recipes.align_draw, captioned, ALIGNED, 0)
    assert caption_of(captioned.description, model) == "caption"
    said = captions(opened, "caption", "caption = the red", 3, 0)["caption"]
    values = sampled(
        model, captioned.description, 3, seed=0, mean=None, conditions={"caption": said}
    )
    assert given(values, captioned.description)["caption"].tolist() == ["the red"] * 3
    rows = captions(opened, "caption", None, 20, 0)["caption"]
    assert {*map(tuple, rows.tolist())} == {*map(tuple, captioned.train["caption"].tolist())}
    for words, wrong in (
        ("caption=the cat", "no training row says cat; the words are green, red, the"),
        ("the red", 'write --given "caption=some words"'),
        ("caption=the the red", "3 words, but no training row has more than 2"),
    ):
        with pytest.raises(ValueError, match=wrong):
            captions(opened, "caption", words, 3, 0)
