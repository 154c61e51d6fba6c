"""What decides that recipes of dialogues and of answers are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deeplvm.cli.scoring import meaning_of
from deeplvm.data import Data, DataError, load
from deeplvm.evaluation import evaluate
from deeplvm.inference.texts import as_texts
from deeplvm.likelihood.bits_per_dimension import count_elements
from deeplvm.objectives import auxiliary_elbo, elbo
from deeplvm.recipes import RecipeError, answer_selection, dialogue_cvae, sentence_vae, vhred

TURNS = [["a b", "b c a", "d"], ["c", "a a"], ["d d b a", "b"], ["b a", "c c", "a", "d"]] * 8
SMALL = {"latent": 2, "features": 3, "state": 4, "hidden": (6,)}


@pytest.fixture(scope="module")
def dialogues() -> Data:
    return load(TURNS)


def test_a_later_turn_says_nothing_of_an_earlier_one(dialogues: Data) -> None:
    """The density of each turn given those before; words of the third change order."""
    model = vhred(dialogues, **SMALL).eval()
    x = torch.tensor([[[2, 3, 0, 0], [4, 0, 0, 0], [2, 3, 5, 0], [3, 0, 0, 0]]]).double()
    other = x.clone()
    other[0, 2, :3] = x[0, 2, [2, 0, 1]]
    z, found = torch.randn(1, 4, 2), []
    for each in (x, other):
        trace = model.p({"x": each, "z": z, "n": torch.tensor([4])}, (1,))
        own = [trace[name].distribution.log_prob(trace[name].value)[0] for name in ("z", "x")]
        found.append(own[0] + own[1].sum(-1))  # of each turn
    assert torch.equal(found[0][:2], found[1][:2])
    assert bool((found[0][2:] != found[1][2:]).all())


def test_what_lies_beyond_a_turn_and_a_dialogue_counts_for_nothing(dialogues: Data) -> None:
    model = vhred(dialogues, **SMALL).eval()
    given = dialogues.batch("train", slice(6))
    x, n = given["x"], given["n"]
    ended = (x == 0).cumsum(-1) - (x == 0).long() > 0
    beyond = ended | (torch.arange(x.shape[1]) >= n[:, None])[..., None]
    noisy = torch.where(beyond, torch.randint(0, 5, x.shape), x)
    bounds = []
    for each in (x, noisy):
        torch.manual_seed(0)
        bounds.append(elbo(model.evidence({"x": each, "n": n})))
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-12)


def test_the_bag_of_words_of_each_turn(dialogues: Data) -> None:
    """By brute force: each word of each turn by itself, the end among them."""
    model = dialogue_cvae(dialogues, **SMALL).eval()
    given = dialogues.batch("train", slice(4))
    evidence = model.evidence(given)
    bag = model.p.conditional("x").step["a"]
    total = torch.zeros(4)
    for row in range(4):
        for turn in range(int(given["n"][row])):
            read = [evidence.p[name].value[row, turn] for name in ("z", "c")]
            odds = bag.head(*read).log_softmax(-1)
            for word in given["x"][row, turn].long():
                total[row] += odds[word]
                if word == 0:
                    break
    torch.testing.assert_close(auxiliary_elbo(evidence) - elbo(evidence), total)


def test_the_score_of_an_answer_is_that_of_its_label() -> None:
    rows = [["a b c", "b a"], ["b", "c c a d"], ["d a", "a"]] * 20
    data = load({"x": rows, "y": [each % 2 for each in range(60)]})
    assert meaning_of(answer_selection(data, **SMALL), data, "test") == ("y | x", 0)


def test_an_answer_is_read_to_its_end() -> None:
    rows = [["a b c", "b a"], ["b", "c c a d"], ["d a", "a"]] * 20
    data = load({"x": rows, "y": [each % 2 for each in range(60)]})
    model = answer_selection(data, **SMALL).eval()
    x = torch.tensor([[[2, 3, 0, 0, 0], [4, 0, 0, 0, 0]]]).double()
    z = torch.randn(1, 2)
    logits = [
        model.p({"x": each, "z": z, "y": torch.tensor([1])}, (1,))["y"].log_prob
        for each in (x, x.index_fill(2, torch.tensor([3, 4]), 3.0), x.flip(1))
    ]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_dialogues_are_read_alike_from_lists_and_lines(tmp_path: Path, dialogues: Data) -> None:
    texts, words = tmp_path / "texts.jsonl", tmp_path / "words.jsonl"
    texts.write_text("\n".join([json.dumps(row) for row in TURNS]))
    words.write_text("\n".join([json.dumps([t.split() for t in row]) for row in TURNS]))
    assert load(texts).fingerprint == load(words).fingerprint == dialogues.fingerprint
    again = load(texts, like=dialogues.description)
    assert torch.equal(again.test["n"][:], torch.tensor([len(row) for row in TURNS]))
    # one end a turn, whatever is padded
    turns, said = sum(map(len, TURNS)), sum([len(turn.split()) for row in TURNS for turn in row])
    ends = dialogues.variables["x"].shares[0][0]
    assert abs(ends - turns / (turns + said)) < 0.05


def test_questions_and_answers_are_columns(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("q,a,right\n" + "a b,b c,yes\nc a,b,no\n" * 20)
    data = load(table, text="q,a", label="right")
    assert data.variables["x"].shape == (3,)
    assert data.classes == ("no", "yes")
    assert set(data.train["n"][:].tolist()) == {2}


def test_other_rows_are_refused(dialogues: Data) -> None:
    with pytest.raises(DataError, match="some rows are one text, and others several"):
        load([*TURNS, "a b"])
    with pytest.raises(DataError, match="a row is one text, but in the training data several"):
        load(["a b"], like=dialogues.description)
    with pytest.raises(DataError, match="row 1 has a text of 6 tokens, but in the training data"):
        load([["a a a a a"]], like=dialogues.description)
    with pytest.raises(RecipeError, match="models rows of several texts"):
        vhred(load(["a b", "b a"] * 10))
    with pytest.raises(RecipeError, match="sentence_vae models texts, but memory has x: several"):
        sentence_vae(dialogues)
    with pytest.raises(RecipeError, match="a question and an answer, but rows of memory have 2 t"):
        answer_selection(load({"x": TURNS, "y": [each % 2 for each in range(32)]}))


def test_perplexity_is_of_tokens_and_not_of_turns(dialogues: Data) -> None:
    model = vhred(dialogues, **SMALL).eval()
    found = evaluate(model, dialogues.train[:8], particles=2)
    rows = dialogues.train[:8]["x"][:]
    said = int((rows > 0).sum()) + int(dialogues.train[:8]["n"][:].sum())  # and their ends
    told = found.log_px_a_step
    assert (told["tokens"], told["steps"]) == (said, int(dialogues.train[:8]["n"][:].sum()))
    expected = torch.exp(-torch.tensor(found.log_px["value"] * 8 / said))
    torch.testing.assert_close(torch.tensor(told["perplexity"]), expected, rtol=1e-5, atol=0)
    texts = as_texts({"x": rows}, dialogues.description)["x"]
    assert {*texts} <= {" | ".join(row) for row in TURNS}


def test_bits_are_of_tokens_and_not_of_padding(dialogues: Data) -> None:
    model = vhred(dialogues, **SMALL).eval()
    given = dialogues.batch("test", slice(None))
    inside = torch.arange(given["x"].shape[1]) < given["n"][:, None]
    words = ((given["x"] != 0).sum(-1) + 1) * inside  # with the end of each turn
    assert torch.equal(count_elements(model, given, ("x",)), words.sum(1))
