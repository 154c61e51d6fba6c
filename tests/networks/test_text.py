"""Decoders of text: scored in one pass as they are drawn; word dropout; what is padding."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deeplvm.conditionals import StandardNormal, Tokens
from deeplvm.core.joint import Joint
from deeplvm.distributions.temperature import tempered
from deeplvm.gradients import Sampled
from deeplvm.networks import GRU, LSTM, MLP, Features, Output, WordDropout
from deeplvm.recurrent import Recurrent

VOCABULARY = 6


def decoder(cell: str = "gru", keep: float = 1.0) -> Joint:
    """p(z) p(x | z), whose rows end with 0."""
    made = GRU(3 + 2, 4) if cell == "gru" else LSTM(3 + 2, 4)
    out = Features(nn.Identity(), 4) if cell == "gru" else Features(Output(), 4)
    step = {
        "e | x[-1]": WordDropout(3, keep),
        "h | e, z, h[-1]": made,
        "x | h": Tokens(VOCABULARY, out, features=3),
    }
    start = {"x": torch.tensor(0), "h": "s"}
    steps = Recurrent(step, start=start, outside=["z"], length="n", end={"x": 0})
    begin = MLP(2, 4 if cell == "gru" else 8)
    return Joint({"z": StandardNormal(2), "s | z": begin, "e, h, x, n | z, s": steps})


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_what_is_drawn_step_by_step_is_scored_in_one_pass(cell: str) -> None:
    torch.manual_seed(0)
    p = decoder(cell).eval()
    drawn = p({}, (7,), default=Sampled())
    x, n = drawn["x"].value, drawn["n"].value
    assert all([row[k - 1] == 0 and (row[: k - 1] > 0).all() for row, k in zip(x, n, strict=True)])
    calls: list[object] = []
    p["h"].register_forward_hook(lambda *_: calls.append(0))
    for given in ({"x": x, "z": drawn["z"]}, {"x": x, "z": drawn["z"], "n": n}):
        scored = p(given)
        assert torch.allclose(scored["x"].log_prob, drawn["x"].log_prob, atol=1e-12)
        assert torch.equal(scored["n"].value, n)
    assert len(calls) == 2


def test_texts_of_at_most_three_tokens_sum_to_what_ends() -> None:
    """All texts, and those that go on: the mass of a language model is 1."""
    torch.manual_seed(0)
    p, z = decoder().eval(), torch.randn(1, 2)
    total = torch.zeros(())
    for steps in (1, 2, 3):
        words = itertools.product(range(1, VOCABULARY), repeat=steps - 1)
        x = torch.tensor([[*each, 0] for each in words]).double()
        total = total + p({"x": x, "z": z.expand(len(x), 2)})["x"].log_prob.exp().sum()
    x = torch.tensor([*itertools.product(range(1, VOCABULARY), repeat=3)]).double()
    n = torch.full((len(x),), 3)
    rest = p({"x": x, "z": z.expand(len(x), 2), "n": n})["x"].log_prob.exp().sum()
    assert torch.allclose(total + rest, torch.ones(()), atol=1e-12)


def test_padding_and_neighbours_change_nothing() -> None:
    torch.manual_seed(0)
    p = decoder().eval()
    x, n = torch.tensor([[3, 2, 0, 0, 0], [1, 4, 5, 2, 0], [0] * 5]), torch.tensor([3, 5, 1])
    z = torch.randn(3, 2)
    for row, k in enumerate(n.tolist()):
        alone = p({"x": x[row : row + 1, :k].double(), "z": z[row : row + 1]})["x"].log_prob
        padded = torch.cat([x, torch.randint(0, VOCABULARY, (3, 4))], 1).double()
        beside = p({"x": padded, "n": n, "z": z})["x"].log_prob[row]
        assert torch.allclose(alone, beside, atol=1e-12)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_words_that_are_left_out_say_nothing(keep: float) -> None:
    """Without any the gradient to the decoder's inputs is exactly 0."""
    torch.manual_seed(0)
    p, x = decoder(keep=keep).train(), torch.randint(1, VOCABULARY, (4, 5)).double()
    words = p["x"].table.weight
    (p({"x": x, "n": torch.full((4,), 5), "z": torch.randn(4, 2)})["x"].log_prob.sum()).backward()
    assert words.grad is None or bool((words.grad == 0).all()) == (keep == 0)
    assert (words.grad is None) == (keep == 0)
    assert bool(p["e"].nothing.grad.any())


def test_the_rate_of_words_that_stay() -> None:
    """2,000 words: outside 5 standard errors once in 2 million seeds."""
    torch.manual_seed(0)
    words, node = torch.ones(40, 50, 3), WordDropout(3, 0.7)
    kept = node(words).detach()
    assert torch.equal(kept, kept[..., :1].expand(40, 50, 3))
    assert abs(float(kept.mean()) - 0.7) < 5 * (0.21 / 2000) ** 0.5
    assert torch.equal(node.eval()(words), words)
    with pytest.raises(ValueError, match="rate keep of 0 to 1"):
        WordDropout(3, 1.5)


def test_tokens_are_their_cross_entropy_and_padding_is_nothing() -> None:
    torch.manual_seed(0)
    word = Tokens(VOCABULARY, Features(nn.Identity(), 4), features=3)
    h, x = torch.randn(2, 5, 7, 4, requires_grad=True), torch.randint(-1, VOCABULARY, (5, 7))

    def dense(h: Tensor) -> Any:
        logits = word.head.layer(h).movedim(-1, 1)
        target = x.expand(2, 5, 7)
        return -cross_entropy(logits, target, reduction="none", ignore_index=-1)

    scored = word(h).log_prob(x.double())
    assert torch.allclose(scored, dense(h), atol=1e-12)
    ours, theirs = [torch.autograd.grad(each.sum(), h)[0] for each in (scored, dense(h))]
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert not ours[:, x < 0].any()
    assert not word.embed(x.double())[x < 0].any()
    with torch.no_grad():
        assert torch.allclose(word(h).log_prob(x), scored, atol=1e-12)
    with pytest.raises(NotImplementedError, match="no mean"):
        _ = word(h).mean
    cold = tempered(word(h), 0.5)
    assert torch.allclose(cold.logits, (2 * word(h).logits).log_softmax(-1), atol=1e-12)


def test_unigram_probabilities_are_where_tokens_start() -> None:
    shares = torch.tensor([0.5, 0.25, 0.25])
    word = Tokens(3, MLP(2, 4), features=2, probabilities=shares)
    word.head.layer.weight.data.zero_()
    assert torch.allclose(word(torch.randn(4, 2)).logits.exp(), shares.expand(4, 3), atol=1e-12)
