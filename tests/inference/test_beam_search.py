"""Beam search: as exact as it is wide."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from deeplvm.conditionals import Bernoulli, StandardNormal, Tokens
from deeplvm.core.joint import Joint
from deeplvm.inference.beam_search import beam_search
from deeplvm.networks import GRU, MLP, DilatedConvolutions, Features
from deeplvm.recurrent import Recurrent


def texts(kind: str) -> Joint:
    """Short texts of three words given z, drawn before or after the state, or by convolutions."""
    word = Tokens(4, Features(nn.Linear(6, 6), 6), features=3)
    step: dict[str, Any] = {"h | x[-1], z, h[-1]": GRU(5, 6), "x | h": word}
    start: dict[str, Any] = {"h": 6, "x": torch.tensor(0)}
    if kind == "after":
        step, start = {"x | h[-1]": word, "h | x, z, h[-1]": GRU(5, 6)}, {"h": 6}
    if kind == "convolutions":
        step = {"h | x[-1], z": DilatedConvolutions(5, 6, dilations=(1,)), "x | h": word}
        start = {"x": torch.tensor(0)}
    steps = Recurrent(step, start=start, outside=["z"], length="n", end={"x": 0})
    with torch.no_grad():
        word.head.layer.weight.mul_(4)
    return Joint({"z": StandardNormal(2), f"{', '.join(steps.names)} | z": steps}).eval()


@pytest.mark.parametrize("kind", ["before", "after", "convolutions"])
def test_all_beginnings_find_the_most_probable_text(kind: str) -> None:
    torch.manual_seed(0)
    p, z = texts(kind), torch.randn(5, 2)
    every = [
        torch.tensor([*words, 0])
        for many in range(3)
        for words in itertools.product((1, 2, 3), repeat=many)
    ]
    unfinished = [torch.tensor(each) for each in itertools.product((1, 2, 3), repeat=3)]
    found, score = beam_search(p, {"z": z}, width=64, longest=3)
    for row in range(5):
        each = []
        for text in (*every, *unfinished):
            n = torch.tensor([len(text)])
            trace = p({"x": text[None].double(), "n": n, "z": z[row : row + 1]})
            each.append(float(trace["x"].log_prob.detach()))
        assert abs(max(each) - float(score[row])) < 1e-10
        best = (*every, *unfinished)[each.index(max(each))]
        assert found[row, : len(best)].tolist() == best.tolist()
        assert not found[row, len(best) :].any()


def test_one_beginning_is_the_greedy_choice_and_more_are_no_worse() -> None:
    torch.manual_seed(1)
    p, z = texts("before"), torch.randn(20, 2)
    greedy, low = beam_search(p, {"z": z}, width=1, longest=8)
    _, high = beam_search(p, {"z": z}, width=4, longest=8)
    state, word = torch.zeros(1, 6), torch.tensor([0])
    for t in range(greedy.shape[1]):
        state = p["h"](p["x"].embed(word), z[:1], state)
        word = p["x"](state).mode
        assert word == greedy[0, t]
        if word == 0:
            break
    assert (high - low).mean() > 0


def test_what_has_no_end_is_refused() -> None:
    endless = Recurrent({"x | x[-1]": Bernoulli(1, MLP(1))}, start={"x": 1})
    with pytest.raises(ValueError, match="whose rows end by 'x'"):
        beam_search(endless, {}, rows=2)
    with pytest.raises(ValueError, match="at least 1 beginning"):
        beam_search(texts("before"), {"z": torch.zeros(1, 2)}, width=0)
