"""What p computes beside its densities, by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deeplvm import Joint, LatentVariableModel, Recurrent, elbo
from deeplvm.conditionals import BagOfWords, Categorical, Gaussian, LogDensity, StandardNormal
from deeplvm.networks import GRU, MLP
from deeplvm.objectives import auxiliary_elbo

WORDS = 5


@pytest.fixture
def bag() -> BagOfWords:
    return BagOfWords(WORDS, MLP(2, 4))


def test_a_bag_of_words_is_a_sum_over_words_in_any_order(bag: BagOfWords) -> None:
    step = {"x | h[-1], z": Categorical(WORDS, MLP(8)), "h | x, h[-1]": GRU(WORDS, 6)}
    words = Recurrent(
        {**step, "a | z, x": bag}, start={"h": 6}, outside=["z"], length="n", end={"x": 0}
    )
    p = Joint({"z": StandardNormal(2), "x, h, a, n | z": words})
    q = Joint({"s | x": nn.Flatten(-2), "z | s": Gaussian(2, nn.Linear(4 * WORDS, 3))})
    x = torch.tensor([[1, 3, 3, 0], [2, 0, 1, 1]])
    evidence = LatentVariableModel(p, q).evidence({"x": x}, particles=3)
    by_hand = torch.zeros(3, 2)
    for particle in range(3):
        for row, text in enumerate([[1, 3, 3, 0], [2, 0]]):
            odds = bag.head(evidence.q["z"].value[particle, row]).exp().tolist()
            by_hand[particle, row] = sum([math.log(odds[w] / sum(odds)) for w in text])
    torch.testing.assert_close(evidence.p["a"].value.sum(-1), by_hand)
    found = auxiliary_elbo(evidence, 0.3)
    torch.testing.assert_close(found, elbo(evidence) + 0.3 * by_hand.mean(0))
    assert bool((found < elbo(evidence)).all())


def test_one_step_is_what_all_are(bag: BagOfWords) -> None:
    z, x = torch.randn(3, 4, 1, 2), torch.randint(-1, WORDS, (4, 6))
    steps = [bag(z.squeeze(-2), x[:, t]) for t in range(6)]
    torch.testing.assert_close(bag(z, x), torch.stack(steps, -1))
    torch.testing.assert_close(bag(z.expand(-1, -1, 6, -1), x), bag(z, x))


def test_a_log_density_is_that_of_its_conditional() -> None:
    node, z, x = LogDensity(Gaussian(3, nn.Linear(2, 4))), torch.randn(5, 2), torch.randn(5, 3)
    torch.testing.assert_close(node(z, x), node.conditional(z).log_prob(x))


def test_a_name_that_nothing_computes_is_refused() -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))
    with pytest.raises(ValueError, match="p computes no 'x' for the auxiliary objective"):
        auxiliary_elbo(model.evidence({"x": torch.zeros(4, 3)}), name="x")
