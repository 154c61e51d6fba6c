"""What decides that recipes of texts are what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deeplvm import Enumerated
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import Data, load
from deeplvm.learning import controlled
from deeplvm.objectives import semi_supervised_elbo
from deeplvm.recipes import (
    RecipeError,
    controllable_text_vae,
    dilated_text_vae,
    hybrid_text_vae,
    semi_supervised_text,
)

ROWS = ["a b c d a b c d a b c", "b b a", "d", "c a b d", "a a", "d c b a"] * 10


@pytest.fixture(scope="module")
def texts() -> Data:
    return load({"x": ROWS, "y": [len(row) > 5 for row in ROWS]})


def words(model: LatentVariableModel, x: Tensor, z: Tensor, **given: Tensor) -> Tensor:
    """The log-probabilities of all words at each step, given the code."""
    site = model.p({"x": x, "z": z, **given}, x.shape[:1])["x"]
    distribution: Any = site.distribution
    return distribution.base.logits


@pytest.mark.parametrize("dilations", [(1,), (1, 2)])
def test_dilations_set_how_many_words_are_seen(texts: Data, dilations: tuple[int, ...]) -> None:
    """The derivative of a word's density is zero beyond them, and nowhere within."""
    model = dilated_text_vae(texts, latent=2, features=3, width=16, dilations=dilations, hidden=4)
    x, z = torch.full((1, 12), 2), torch.randn(1, 2)
    seen = 1 + 2 * sum(dilations)
    plain = words(model, x, z)
    for at in range(11):
        changed = words(model, x.index_fill(1, torch.tensor([at]), 3), z) != plain
        within = torch.arange(12).sub(at).clamp(-1, seen + 1)
        expected = (within >= 1) & (within <= seen)
        assert changed[0].any(-1).tolist() == expected.tolist()


@pytest.mark.parametrize("recipe", [dilated_text_vae, hybrid_text_vae, semi_supervised_text])
def test_a_decoder_that_keeps_no_word_sees_none(recipe: Any, texts: Data) -> None:
    """The gradient to its inputs is zero, and changed words change the density of no other."""
    model = recipe(texts, latent=2, keep=0.0)
    given = {"y": torch.tensor([1.0])} if recipe is semi_supervised_text else {}
    x, z = torch.full((1, 6), 2), torch.randn(1, 2)
    table = model.p["x"].table.weight
    (slope,) = torch.autograd.grad(
        words(model, x, z, **given)[..., 0].sum(), table, allow_unused=True
    )
    assert slope is None or not bool(slope.any())
    other = words(model, torch.full((1, 6), 3), z, **given)
    assert torch.equal(words(model, x, z, **given), other)


def test_unlabelled_texts_are_summed_over_their_labels(texts: Data) -> None:
    model = semi_supervised_text(texts, latent=2, features=3, hidden=4).eval()
    given = texts.batch("train", slice(8))
    known = torch.arange(8) % 2 == 0
    label = given.pop("y").double()
    y = torch.where(known, label, torch.nan)
    evidence = model.evidence({**given, "y": y}, draw={"y": Enumerated()})
    found = semi_supervised_elbo(evidence, weight=0.5)
    z, bound = evidence.q["z"].value, []
    log_q = torch.stack([evidence.q["y"].distribution.log_prob(torch.tensor(k)) for k in (0, 1)])
    for k in (0, 1):
        each = {**given, "y": torch.where(known, label, float(k)), "z": z[k]}
        sites = {name: model.site(name, value) for name, value in each.items()}
        p, q = model.p(sites, (8,)), model.q(sites, (8,))
        bound.append(p.log_prob - q["z"].log_prob)
    by_hand = (log_q.exp() * (torch.stack(bound) - log_q)).sum(0)
    # of a row with a label every value of the sum is that one, each with a code of its own
    own = (log_q.exp() * torch.stack(bound)).sum(0)
    labelled = own + 0.5 * log_q.gather(0, label.long()[None])[0]
    torch.testing.assert_close(found, torch.where(known, labelled, by_hand))


def test_soft_words_of_low_temperature_are_the_likeliest(texts: Data) -> None:
    """Then q says of them what it says of those words, and the decoder alone is moved."""
    model = controllable_text_vae(texts, latent=2, features=3, hidden=4).eval()
    _, soft, drawn = controlled(temperature=1e-6, weight=1.0, latent_weight=0.5)
    torch.manual_seed(1)
    judged = soft.evidence(model, texts.batch("train", slice(20)))
    read = {name: judged[name].value for name in ("y", "z")}
    x = torch.zeros(20, 0, dtype=torch.long)
    for _ in range(12):
        padded = torch.cat([x, torch.full((20, 1), 2)], 1)
        now = model.p({"x": padded, "n": torch.full((20,), x.shape[1] + 1), **read}, (20,))["x"]
        x = torch.cat([x, now.distribution.base.logits[:, -1:].argmax(-1)], 1)
    n = ((x > 0).long().cumprod(1).sum(1) + 1).clamp(max=12)
    again = model.q({"x": model.site("x", x), "n": n, **read}, (20,))
    torch.testing.assert_close(judged["y"].log_prob, again["y"].log_prob)
    expected = again["y"].log_prob + 0.5 * again["z"].log_prob
    torch.testing.assert_close(soft.objective(judged), expected)
    moved = {id(each) for each in soft.parameters(model)}
    assert moved == {id(each) for each in model.p.conditional("x").parameters()}
    assert {id(each) for each in drawn.parameters(model)} == {
        id(each) for name in ("y", "l", "b") for each in model.q.conditional(name).parameters()
    }
    assert drawn.objective(drawn.evidence(model, texts.batch("train", slice(20)))).shape == (20,)


def test_other_data_are_refused() -> None:
    with pytest.raises(RecipeError, match="models texts, but digits has"):
        dilated_text_vae(load("digits"))
    with pytest.raises(RecipeError, match="has no labels"):
        semi_supervised_text(load(ROWS))
    with pytest.raises(RecipeError, match="width must be even, found 7"):
        dilated_text_vae(load(ROWS), width=7)
    with pytest.raises(RecipeError, match="share of the words that stay, 0 to 1, not 2"):
        hybrid_text_vae(load(ROWS), keep=2.0)
